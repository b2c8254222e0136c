"""YAML bytes to typed documents: models of every kind, loader, diagnostics, references."""
