-- Clones need recent orders only.
DELETE FROM orders WHERE placed_at < date '2025-01-01';
