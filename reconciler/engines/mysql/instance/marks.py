"""Marks: how we know which databases and accounts on an instance are ours, and what they are.

Used by every module of this package. Owners of clones may alter their databases, comments
included, and no account has a comment. So marks are rows of a database of our own, the
registry, that nobody else has rights in; and what a row is about bears its token:

- a database in its comment, which the statement that makes it gives it;
- a login in a limit that only an administrator can change (``MAX_QUERIES_PER_HOUR``, a number
  that nobody reaches), given likewise;
- a worker in its name, which nobody else could have come upon.

The row is there before what it is about. So whatever bears the token of its row is ours from its
first moment on, and all else is not, whatever it is called.
"""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.link import quoted, text
from reconciler.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from reconciler.engines.mysql.link import Link
    from reconciler.ids import CloneName, InstallationId, SnapshotId, VolumeId

_SENTENCE = "Made by reconciler, which goes by this comment: "
_FEWEST_QUERIES = 1 << 30
"""Tokens of logins begin here: more queries than any server answers in an hour, and still a limit."""
_MARKS = """
CREATE TABLE IF NOT EXISTS {}.mark (
    what varchar(8) NOT NULL, name varchar(128) NOT NULL, token varchar(32) NOT NULL, mark text NOT NULL,
    PRIMARY KEY (what, name)
) ENGINE=InnoDB CHARSET=utf8mb4 COLLATE=utf8mb4_bin
"""
_CODE = """
CREATE TABLE IF NOT EXISTS {}.code (
    volume varchar(128) NOT NULL, name varchar(64) NOT NULL, number int NOT NULL, broken bool NOT NULL,
    kind varchar(8) NOT NULL, code longtext NOT NULL, PRIMARY KEY (volume, name, number)
) ENGINE=InnoDB CHARSET=utf8mb4 COLLATE=utf8mb4_bin
"""
_TABLES = (_MARKS, _CODE)
_MADE = "SELECT count(*) FROM information_schema.tables WHERE table_schema = %s"
What = Literal["database", "login", "worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateMark:
    """A database that clones are copied from; ``complete`` once all of it is there."""

    snapshot: SnapshotId
    database: str
    complete: bool = False
    kind: Literal["template"] = "template"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneMark:
    """A database of one generation of a clone; ``database`` is its name in the snapshot.

    ``open``: somebody is let in, or we alone.
    """

    volume: VolumeId
    clone: CloneName
    snapshot: SnapshotId
    database: str
    open: bool = False
    kind: Literal["clone"] = "clone"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginMark:
    """The login of a clone's user."""

    clone: CloneName
    user: str
    role: Literal["owner", "readonly"]
    kind: Literal["login"] = "login"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMark:
    """The account that owns what is in a generation of a clone, or in what clones are copied from; locked but for work.

    ``subject``: the volume or the snapshot.
    """

    subject: VolumeId | SnapshotId
    kind: Literal["worker"] = "worker"


Mark = TemplateMark | CloneMark | LoginMark | WorkerMark
_KINDS: Mapping[str, type[Mark]] = {
    "template": TemplateMark,
    "clone": CloneMark,
    "login": LoginMark,
    "worker": WorkerMark,
}


@dataclass(frozen=True, slots=True)
class Row:
    """What is noted of a database or account."""

    name: str
    token: str
    mark: Mark


class Registry:
    """The database with the marks of one installation."""

    def __init__(self, installation: InstallationId, where: str) -> None:
        self._installation, self.where = installation, where
        self.short = installation.replace("-", "")[:8]
        self.name = f"reconciler_{self.short}"

    def ensure(self, link: Link) -> None:
        """Make it, if it or a part of it is missing; others may do so at the same time.

        Raises:
            BusyError: somebody else has a database of the name.

        """
        self._require_ours(link)
        if link.value(_MADE, self.name) != len(_TABLES):
            link.rows(f"CREATE DATABASE IF NOT EXISTS {quoted(self.name)} COMMENT {text(self.comment())}")
            self._require_ours(link)
            for table in _TABLES:
                link.rows(table.format(quoted(self.name)))

    def exists(self, link: Link) -> bool:
        """Tell whether there can be marks in it.

        Raises:
            BusyError: somebody else has a database of the name.

        """
        self._require_ours(link)
        return bool(link.value(f"{_MADE} AND table_name = 'mark'", self.name))

    def _require_ours(self, link: Link) -> None:
        found = comments(link).get(self.name)
        if found is not None and not self.bears(found):
            raise BusyError(f"{self.where} has a database {self.name} that is not ours", reason="NameTaken")

    def rows(self, link: Link, what: What) -> dict[str, Row]:
        """Return what is noted, by name."""
        found = link.rows(f"SELECT name, token, mark FROM {quoted(self.name)}.mark WHERE what = %s", what)  # noqa: S608 - our own name
        return {str(name): Row(str(name), str(token), _read(str(mark))) for name, token, mark in found}

    def put(self, link: Link, what: What, rows: Iterable[Row]) -> None:
        """Note marks, all of them or none."""
        values = [(what, row.name, row.token, json.dumps(asdict(row.mark), sort_keys=True)) for row in rows]
        if values:
            with transaction(link):
                insert = f"REPLACE INTO {quoted(self.name)}.mark (what, name, token, mark)"
                link.insert(f"{insert} VALUES (%s, %s, %s, %s)", values)

    def forget(self, link: Link, what: What, name: str) -> None:
        """Note nothing of a database or account any more."""
        link.rows(f"DELETE FROM {quoted(self.name)}.mark WHERE what = %s AND name = %s", what, name)  # noqa: S608 - as above

    def comment(self, token: str = "") -> str:
        """Return the comment of a database."""
        return _SENTENCE + json.dumps({"installation": self._installation, "token": token}, sort_keys=True)

    def bears(self, comment: str, token: str = "") -> bool:
        """Tell whether a comment is ours, and has a token."""
        return comment == self.comment(token)


@contextmanager
def transaction(link: Link) -> Iterator[None]:
    """Have a transaction of a session in the block."""
    link.rows("START TRANSACTION")
    try:
        yield
    except BaseException:
        with suppress(SqlError):  # the session may be gone, and the transaction with it
            link.rows("ROLLBACK")
        raise
    link.rows("COMMIT")


def comments(link: Link) -> dict[str, str]:
    """Return the comments of all databases of an instance, by their names."""
    found = link.rows("SELECT schema_name, schema_comment FROM information_schema.schemata")
    return {str(name): str(comment) for name, comment in found}


def token() -> str:
    """Return a new token of a database or worker."""
    return secrets.token_hex(8)


def login_token() -> str:
    """Return a new token of a login."""
    return str(_FEWEST_QUERIES + secrets.randbelow(_FEWEST_QUERIES))


def _read(mark: str) -> Mark:
    found: dict[str, Any] = json.loads(mark)
    return _KINDS[found["kind"]](**found)
