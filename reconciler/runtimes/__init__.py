"""Runtimes: how servers are run."""
