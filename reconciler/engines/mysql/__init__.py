"""MariaDB and MySQL: one engine; what differs between the two is a :class:`.product.Product`."""
