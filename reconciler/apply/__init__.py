"""Applying plans: the only place that changes the world."""
