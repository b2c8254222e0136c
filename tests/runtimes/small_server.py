"""A small real server for tests of the process runtime; a program, not a module of tests.

It listens on TCP (``--port``) or on a unix socket in its directory, in the manner that the options say.
"""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path


def main() -> None:
    options = _options()
    _say("starting")
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, _stop)
    if options.die:
        sys.exit(options.die)
    if options.kill_self:
        os.kill(os.getpid(), signal.Signals[options.kill_self])
    if options.child:
        _fork_child(options.child)
    _serve(_listener(options.port))


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _stop(*_: object) -> None:
    _say("stopping as asked")
    os._exit(0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--die", help="end with this message")
    parser.add_argument("--kill-self", help="end by this signal")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--child", choices=["group", "session", "bare"], help="fork a child that goes on by itself")
    return parser.parse_args()


def _fork_child(kind: str) -> None:
    """Fork a child in our group, in a session of its own, or without a trace of our environment."""
    child = os.fork()
    if child:
        Path("child").write_text(str(child), encoding="ascii")
        return
    if kind != "group":
        os.setsid()
    if kind == "bare":
        os.execve("/bin/sleep", ["sleep", "300"], {})
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def _listener(port: int | None) -> socket.socket:
    if port is not None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("socket")
    listener.listen()
    return listener


def _serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        connection.close()
        _say("served")


if __name__ == "__main__":
    main()
