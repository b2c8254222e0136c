"""Planning: pure functions from desired and observed to a plan."""
