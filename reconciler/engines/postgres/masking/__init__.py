"""Masking on PostgreSQL: reading the schema, values as SQL, rewriting tables, and the proof."""
