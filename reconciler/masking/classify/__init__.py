"""Discovery: which columns of a database look personal, by their names and by drawn values, and a policy for them."""
