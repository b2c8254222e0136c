"""Servers in containers of Docker or Podman: the member ``docker`` of the runtime family."""
