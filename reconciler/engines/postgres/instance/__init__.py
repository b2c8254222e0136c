"""Clones as databases on a PostgreSQL server that exists already."""
