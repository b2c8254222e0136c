"""Masking of SQLite databases."""
