"""Dictionaries as package data: words of column names, and given names, family names and cities."""
