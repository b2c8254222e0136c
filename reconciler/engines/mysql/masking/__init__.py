"""Masking of MariaDB and MySQL databases."""
