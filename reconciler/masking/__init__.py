"""Masking that can be proved, without an engine: the vocabulary of rules, values, coverage, leak scan, attestation."""
