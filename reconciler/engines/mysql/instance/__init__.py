"""Clones of MariaDB as databases on a server that exists already."""
