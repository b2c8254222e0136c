"""Public conformance suites, one per family, for authors of drivers."""
