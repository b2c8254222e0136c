"""Engines: one package per database product."""
