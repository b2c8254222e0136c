"""Recognise the statements of a dump that need a treatment of their own.

Called by :mod:`.restore_target`. Pure text. What is not recognised runs as it is with
the builder's rights, so a miss costs a clear error of the server and never safety.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

_NAME = r"(?:\"(?:[^\"]|\"\")+\"|[\w$]+)"
_NAMES = rf"{_NAME}(?:\s*,\s*{_NAME})*"
_HEAD_BYTES = 2000
_SHOWN = 100
_LITERAL = re.compile(r"[eE]?'(?:[^']|'')*'?|\$(\w*)\$.*", re.DOTALL)


class Kind(Enum):
    """What is done with a statement of a dump."""

    PLAIN = auto()
    """Run as the builder."""
    SETTING = auto()
    """Belongs to the session; repeated after a change of database."""
    SKIP = auto()
    """Of no use in a clone, or would reach out: subscriptions, tablespaces, user mappings, rights on parameters."""
    CREATE_ROLE = auto()
    ROLE_SETTING = auto()
    GRANT_ROLE = auto()
    CREATE_DATABASE = auto()
    DROP_DATABASE = auto()
    DATABASE_OWNER = auto()
    DATABASE_SETTING = auto()
    AUTHORIZATION = auto()
    """SET SESSION AUTHORIZATION, which becomes SET ROLE."""
    EXTENSION = auto()
    LANGUAGE = auto()
    DESCRIBE = auto()
    """COMMENT ON something that an ordinary owner cannot own: run by the administrator."""
    PUBLISH = auto()
    LATE = auto()
    """Event triggers: made by the administrator when everything else is there."""
    PRIVILEGE = auto()
    """GRANT and REVOKE on objects: one on an object of the server's own is left out."""
    OWNER = auto()
    COLUMN_OPTION = auto()
    """What planning knows of a column; servers of some versions keep a mark of their own there."""


@dataclass(frozen=True, slots=True)
class Classified:
    """A kind, and the names that its treatment needs."""

    kind: Kind
    names: tuple[str, ...] = ()
    members: tuple[str, ...] = ()


_RULES: tuple[tuple[Kind, str], ...] = (
    (Kind.SKIP, r"(?:CREATE|ALTER|DROP) (?:SUBSCRIPTION|TABLESPACE|USER MAPPING)\b"),
    (Kind.SKIP, r"COMMENT ON (?:SUBSCRIPTION|TABLESPACE)\b|SECURITY LABEL\b"),
    (Kind.SKIP, r"(?:GRANT|REVOKE) [^;\"]*? ON (?:TABLESPACE|PARAMETER)\b"),
    (Kind.SKIP, rf"ALTER DATABASE {_NAME} SET TABLESPACE\b|SET default_tablespace\b"),
    (Kind.SKIP, rf"ALTER DATABASE {_NAME} (?:WITH )?CONNECTION LIMIT\b"),
    (Kind.SKIP, r"UPDATE (?:pg_catalog\.)?pg_database SET datistemplate = (?:true|false) WHERE datname = '[^']*'$"),
    (Kind.SKIP, r"DROP (?:ROLE|USER|GROUP)\b|ALTER (?:ROLE|USER) ALL\b"),
    (Kind.SKIP, rf"ALTER EVENT TRIGGER {_NAME} (?:OWNER TO|ENABLE)\b"),
    (Kind.SKIP, rf"ALTER FOREIGN DATA WRAPPER {_NAME} OWNER TO\b"),
    (Kind.ROLE_SETTING, rf"ALTER (?:ROLE|USER) (?P<name>{_NAME}) (?:IN DATABASE {_NAME} )?(?:SET|RESET)\b"),
    (Kind.CREATE_ROLE, rf"(?:CREATE|ALTER) (?:ROLE|USER|GROUP) (?P<name>{_NAME})"),
    (Kind.GRANT_ROLE, rf"GRANT (?P<name>{_NAMES}) TO (?P<members>{_NAMES})"),
    (Kind.SKIP, rf"REVOKE (?:(?:ADMIN|INHERIT|SET) OPTION FOR )?{_NAMES} FROM\b"),
    (Kind.CREATE_DATABASE, rf"CREATE DATABASE (?P<name>{_NAME})"),
    (Kind.DROP_DATABASE, rf"DROP DATABASE (?:IF EXISTS )?(?P<name>{_NAME})"),
    (Kind.DATABASE_OWNER, rf"ALTER DATABASE (?P<name>{_NAME}) OWNER TO (?P<members>{_NAME})"),
    (Kind.DATABASE_SETTING, rf"ALTER DATABASE (?P<name>{_NAME})"),
    (Kind.AUTHORIZATION, rf"(?:SET (?:LOCAL |SESSION )?)SESSION AUTHORIZATION (?P<name>'[^']*'|{_NAME})"),
    (Kind.AUTHORIZATION, r"RESET SESSION AUTHORIZATION"),
    (Kind.EXTENSION, rf"CREATE EXTENSION (?:IF NOT EXISTS )?(?P<name>{_NAME})"),
    (Kind.LANGUAGE, rf"CREATE (?:OR REPLACE )?(?:TRUSTED )?(?:PROCEDURAL )?LANGUAGE (?P<name>{_NAME})"),
    (
        Kind.DESCRIBE,
        r"COMMENT ON (?:EXTENSION|(?:PROCEDURAL )?LANGUAGE|DATABASE|ROLE|PUBLICATION|CAST|SCHEMA public)\b",
    ),
    (Kind.LATE, rf"CREATE EVENT TRIGGER\b|ALTER EVENT TRIGGER {_NAME} DISABLE\b|COMMENT ON EVENT TRIGGER\b"),
    (Kind.PUBLISH, r"(?:CREATE|ALTER) PUBLICATION\b"),
    (Kind.PRIVILEGE, r"(?:GRANT|REVOKE)\b"),
    (Kind.COLUMN_OPTION, rf"ALTER (?:FOREIGN )?TABLE [^;]+ ALTER COLUMN {_NAME} SET \("),
    (Kind.OWNER, rf"ALTER .* OWNER TO (?P<name>{_NAME})$"),
    (Kind.SETTING, r"SET (?!LOCAL\b|CONSTRAINTS\b|TRANSACTION\b)|SELECT (?:pg_catalog\.)?set_config\("),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for kind, pattern in _RULES)
_INTERESTING = re.compile(rb"(?i)(?:CREATE|ALTER|DROP|GRANT|REVOKE|COMMENT|SET|RESET|SELECT|SECURITY|UPDATE)\s")
_SERVER_FILE = re.compile(rb"(?is)COPY\b.*\b(?:FROM|TO)\s+(?:PROGRAM\b|[eE]?'|\$)")


def classify(text: bytes) -> Classified:
    """Return what must be done with a statement."""
    if _INTERESTING.match(text) is None:
        return Classified(Kind.PLAIN)
    head = normalised(text)
    for kind, pattern in _PATTERNS:
        found = pattern.match(head)
        if found is not None:
            groups = found.groupdict()
            return Classified(kind, _names(groups.get("name")), _names(groups.get("members")))
    return Classified(Kind.PLAIN)


def normalised(text: bytes) -> str:
    """Return the beginning of a statement on one line.

    Comments stay, so that a statement is only recognised by words that really are
    its first ones: whoever classifies here may run it as the administrator.
    """
    return " ".join(text[:_HEAD_BYTES].decode("utf-8", "replace").split())


def shown(text: bytes) -> str:
    """Return a statement's head for an error message, without literals, which may be data."""
    head = _LITERAL.sub("'…'", normalised(text))
    values = re.search(r"\bVALUES\b", head, re.IGNORECASE)
    if values is not None:
        head = head[: values.end()] + " …"
    return head if len(head) <= _SHOWN else head[:_SHOWN] + "…"


def uses_server_file(text: bytes) -> bool:
    """Tell whether a COPY names a file or a program of the server."""
    return _SERVER_FILE.match(text) is not None


def unquoted(name: str) -> str:
    """Return an identifier or a string literal as the name it stands for."""
    if name[:1] in ('"', "'"):
        quote = name[0]
        return name[1:-1].replace(quote * 2, quote)
    return name.lower()


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(unquoted(name) for name in re.findall(rf"'[^']*'|{_NAME}", text or ""))
