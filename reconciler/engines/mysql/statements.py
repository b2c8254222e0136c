"""Recognise the statements of a dump that need a treatment of their own.

Called by :mod:`.restore_target` and :mod:`.runner`. Pure text. What is not recognised runs
as it is, without any right beyond databases of users, so a miss costs a clear error of the
server and never safety.
"""

from __future__ import annotations

import re
from enum import Enum, auto

_HEAD_BYTES = 4000
_SHOWN = 100
_NAME = r"(?:`(?:[^`]|``)+`|\"[^\"]+\"|'[^']*'|[\w$.-]+)"
_GAP = rb"(?:\s|\*/|/\*M?!\d*|OR\s+REPLACE\b|AGGREGATE\b|ALGORITHM\s*=\s*\w+)*"
_WHO = rb"(?:`(?:[^`]|``)*`|'[^']*'|\"[^\"]*\"|[\w$.%-]+)"
_DEFINER = re.compile(
    rb"(?is)\A(?P<before>(?:\s|/\*M?!\d*)*CREATE\b" + _GAP + rb")DEFINER\s*=\s*" + _WHO + rb"(?:\s*@\s*" + _WHO + rb")?"
    rb"(?:\s*\(\s*\))?"
)
_WRAPPING = re.compile(r"/\*M?!\d*\s*|\*/")
_LITERAL = re.compile(r"'(?:[^'\\]|\\.|'')*'?|\"(?:[^\"\\]|\\.)*\"?", re.DOTALL)
_FAST = re.compile(rb"(?i)\s*(?:INSERT|REPLACE|/\*!40000 ALTER TABLE|LOCK TABLES|UNLOCK TABLES)\b")


class Kind(Enum):
    """What is done with a statement of a dump."""

    PLAIN = auto()
    """Run, without the definer that it names: its maker becomes that."""
    USE = auto()
    CREATE_DATABASE = auto()
    SKIP = auto()
    """Of no use in a clone, or it would reach out: accounts, replication, settings of the server, plug-ins."""


_RULES: tuple[tuple[Kind, str], ...] = (
    (Kind.USE, rf"USE (?P<name>{_NAME})$"),
    (Kind.CREATE_DATABASE, rf"CREATE (?:OR REPLACE )?(?:DATABASE|SCHEMA) (?:IF NOT EXISTS )?(?P<name>{_NAME})"),
    (Kind.SKIP, r"SET (?:@@GLOBAL\.|GLOBAL )|SET (?:@@SESSION\.|SESSION |@@)?SQL_LOG_BIN\b"),
    (Kind.SKIP, r"(?:CHANGE|START|STOP|RESET) (?:ALL )?(?:MASTER|SLAVES?|REPLICAS?|REPLICATION|GROUP_REPLICATION)\b"),
    (Kind.SKIP, r"(?:CREATE|ALTER|DROP|RENAME) (?:OR REPLACE )?(?:USER|ROLE|SERVER)\b|GRANT\b|REVOKE\b"),
    (Kind.SKIP, r"SET (?:PASSWORD|DEFAULT ROLE|ROLE)\b|FLUSH\b"),
    (Kind.SKIP, r"(?:INSTALL|UNINSTALL) (?:PLUGIN|SONAME|COMPONENT)\b"),
    (Kind.SKIP, rf"CREATE (?:OR REPLACE )?(?:AGGREGATE )?FUNCTION (?:IF NOT EXISTS )?{_NAME} RETURNS \w+ SONAME\b"),
    (Kind.SKIP, r"(?:CREATE|ALTER|DROP) (?:UNDO )?TABLESPACE\b|(?:CREATE|ALTER) LOGFILE GROUP\b"),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _RULES)


def classify(text: bytes) -> tuple[Kind, str]:
    """Return what must be done with a statement, and the database that it names, if that matters."""
    if _FAST.match(text) is not None:
        return Kind.PLAIN, ""
    head = _WRAPPING.sub("", normalised(text)).strip()
    for kind, pattern in _PATTERNS:
        found = pattern.match(head)
        if found is not None:
            return kind, unquoted(found.groupdict().get("name") or "")
    return Kind.PLAIN, ""


def without_definer(text: bytes) -> bytes:
    """Return a statement without the definer that it names."""
    found = _DEFINER.match(text[:_HEAD_BYTES])
    return text if found is None else found["before"] + text[found.end() :]


def normalised(text: bytes) -> str:
    """Return the beginning of a statement on one line."""
    return " ".join(text[:_HEAD_BYTES].decode("utf-8", "replace").split())


def shown(text: bytes) -> str:
    """Return a statement's head for an error message, without literals, which may be data."""
    head = _LITERAL.sub("'…'", normalised(text))
    values = re.search(r"\bVALUES?\b", head, re.IGNORECASE)
    if values is not None and re.match(r"(?:INSERT|REPLACE)\b", head, re.IGNORECASE):
        head = head[: values.end()] + " …"
    return head if len(head) <= _SHOWN else head[:_SHOWN] + "…"


def unquoted(name: str) -> str:
    """Return an identifier as the name that it stands for."""
    if name[:1] in ("`", '"', "'"):
        return name[1:-1].replace(name[0] * 2, name[0])
    return name
