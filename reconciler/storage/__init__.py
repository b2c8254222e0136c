"""Storage drivers: how volumes of a pool are made, copied and sealed."""
