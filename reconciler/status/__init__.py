"""What the host remembers and reports: state directory, status store, documents, text, logs."""
