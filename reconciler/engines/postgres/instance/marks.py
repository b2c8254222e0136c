"""Marks: how databases and roles on an instance tell that they are ours, and what they are.

Used by every module of this package. A mark is the comment of a database or role, which only
its owner or a superuser can change, and travels with it. It is one line of JSON behind a
sentence for people. What bears no mark of this installation is nobody's business here.

A database cannot be made and marked in one transaction. Until it bears its own mark it is
known by its owner, a role that bears one and that nothing but our databases belongs to.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from psycopg import sql

if TYPE_CHECKING:
    import psycopg

    from reconciler.ids import CloneName, InstallationId, SnapshotId, VolumeId

_SENTENCE = "Made by reconciler, which goes by this comment: "


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateMark:
    """A database that clones are copied from; ``complete`` once all of it is there.

    ``instant``: whether copies share its blocks; None: that cannot be told.
    """

    installation: InstallationId
    snapshot: SnapshotId
    database: str
    complete: bool
    instant: bool | None = None
    kind: Literal["template"] = "template"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneMark:
    """A database of one generation of a clone; ``database`` is its name in the snapshot."""

    installation: InstallationId
    volume: VolumeId
    clone: CloneName
    snapshot: SnapshotId
    database: str
    kind: Literal["clone"] = "clone"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleMark:
    """A role: a ``group`` of ours, the login of a clone's ``user``, or a ``worker`` that exists for one piece of work.

    ``clone`` and ``user`` are those of a login; ``purpose`` says which group it is, or what the worker works on.
    """

    installation: InstallationId
    kind: Literal["group", "user", "worker"]
    clone: CloneName | None = None
    user: str = ""
    purpose: str = ""


Mark = TemplateMark | CloneMark | RoleMark
_KINDS: dict[str, type[Mark]] = {
    "template": TemplateMark,
    "clone": CloneMark,
    "group": RoleMark,
    "user": RoleMark,
    "worker": RoleMark,
}


def written(mark: Mark) -> str:
    """Return the comment of a mark."""
    return _SENTENCE + json.dumps(asdict(mark), sort_keys=True)


def read(comment: str | None) -> Mark | None:
    """Return the mark of a comment; None for any other comment."""
    if comment is None or not comment.startswith(_SENTENCE):
        return None
    try:
        found: dict[str, Any] = json.loads(comment.removeprefix(_SENTENCE))
        return _KINDS[found["kind"]](**found)
    except (ValueError, TypeError, KeyError):
        return None


def put(conn: psycopg.Connection, kind: Literal["DATABASE", "ROLE"], name: str, mark: Mark) -> None:
    """Mark a database or role."""
    text = sql.SQL(f"COMMENT ON {kind} {{}} IS {{}}").format(sql.Identifier(name), sql.Literal(written(mark)))
    conn.execute(text)
