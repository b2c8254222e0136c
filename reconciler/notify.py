"""Telling the service manager how things are: sd_notify(3), one datagram each.

Used by the loop and the command ``run``. Without a service manager (no NOTIFY_SOCKET)
nothing happens, and nothing that is told here may fail a pass.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

_MICROSECONDS = 1_000_000
_STATUS_CHARACTERS = 200


def ready(status: str) -> None:
    """Tell that start-up is over."""
    _send("READY=1", f"STATUS={_line(status)}")


def alive(status: str | None = None) -> None:
    """Tell the watchdog that the loop still turns, and people what it does."""
    _send("WATCHDOG=1", *([f"STATUS={_line(status)}"] if status is not None else []))


def stopping() -> None:
    """Tell that the end has begun."""
    _send("STOPPING=1", "STATUS=ending the work under way; clones go on")


def longest_silence() -> float | None:
    """Return after how many seconds at the latest the watchdog wants to hear something; None: there is none.

    A third of its own time, so that one lost word costs nothing.
    """
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / _MICROSECONDS / 3 if text.isdigit() and int(text) > 0 else None


def _send(*lines: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    path = f"\0{address[1:]}" if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as messenger:
        messenger.settimeout(1)
        messenger.sendto("\n".join(lines).encode(), path)


def _line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:_STATUS_CHARACTERS]
