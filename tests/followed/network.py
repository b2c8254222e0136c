"""A network between an installation and its primary that can be cut: everything passes through a port of ours."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 1 << 16


class Network:
    """Passes bytes on until it is cut; then nobody is connected, and nobody gets through, until it is mended."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._left: int | None = None
        self.is_cut = threading.Event()
        self.pause = 0.0
        """Seconds that each piece of 64 KiB takes."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, size: int) -> None:
        """Cut it as soon as the primary has sent so many bytes from now on."""
        self._left = size

    def cut(self) -> None:
        """Drop every connection, as a firewall does that forgets them, and refuse new ones."""
        self.is_cut.set()
        self._left = None
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.is_cut.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.is_cut.is_set():
                    client.close()
                    continue
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            with self._lock:
                self._connections |= {client, server}
            try:
                self._pump(client, server)
            finally:
                with self._lock:
                    self._connections -= {client, server}

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self.is_cut.is_set():
                for key, _ in selector.select():
                    piece = key.fileobj.recv(_PIECE)  # type: ignore[union-attr] # they are sockets
                    if not piece:
                        return
                    self._count(len(piece) if key.fileobj is server else 0)
                    key.data.sendall(piece)
                    time.sleep(self.pause)

    def _count(self, size: int) -> None:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                self.cut()


@contextmanager
def network(target: int) -> Iterator[Network]:
    """Have a network to a port of this host in the block."""
    made = Network(target)
    try:
        yield made
    finally:
        made.close()
