"""One moment of a primary: several sessions, all of which see the same rows.

Called by :mod:`.copying`. Commits are held back for as long as it takes the sessions to begin
their transactions, some milliseconds (``BACKUP STAGE``; MySQL: ``FLUSH TABLES WITH READ LOCK``).
MariaDB tells each session where in the binary log its snapshot is (its manual, "Enhancements
for START TRANSACTION WITH CONSISTENT SNAPSHOT"): equal places are equal moments, so that where
commits may not be held back, the sessions begin anew until they are.

Nothing is written at the primary, and nothing stays there: the end of a session takes
its transaction and its locks with it.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.engines.mysql import primary
from reconciler.engines.mysql.failures import SqlError, lost
from reconciler.errors import BusyError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.primary import Primary
    from reconciler.engines.mysql.product import Product
    from reconciler.errors import ReconcilerError
    from reconciler.proc import CancelToken

_TRIES = 400
"""Looks for a moment that is the same everywhere, where commits are not held back."""
_BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
_ISOLATED = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_RIGHTS = frozenset({1044, 1045, 1227})
_SYNTAX = 1064


@dataclass(frozen=True, slots=True)
class Place:
    """Where a primary stands: in its binary log and by global transaction ids, as far as it has them."""

    file: str = ""
    offset: int = 0
    gtid: str = ""
    """Of the last transaction of each domain in the log."""
    followed: str = ""
    """The same of the server that it follows itself, if it does."""
    other: str = ""
    """Where it has none of these: how far the log of InnoDB goes, which also moves when no row changes."""

    @property
    def text(self) -> str:
        """What is equal as long as nothing was committed."""
        told = filter(None, (self.file and f"{self.file}:{self.offset}", self.gtid, self.followed))
        return "/".join(told) or f"lsn:{self.other}"


@dataclass(frozen=True, slots=True)
class Moment:
    """Sessions in transactions that see the same moment."""

    place: Place
    as_of: datetime
    """By the clock of the primary: what was committed before is there."""
    identity: str
    """Equal ones mean equal data, as in :class:`~reconciler.engines.base.SourceIdentity`."""
    sessions: tuple[Link, ...] = field(repr=False)


def state(link: Link, here: Primary, product: Product) -> str:
    """Return the identity of a primary's data as it is now, from a session that is in no transaction."""
    link.rows(_ISOLATED)
    link.rows(_BEGIN)
    try:
        return _identity(here, _place(link, product))
    finally:
        link.rows("ROLLBACK")


@contextmanager
def opened(
    here: Primary,
    product: Product,
    count: int,
    cancel: CancelToken,
    *,
    while_held: Callable[[Moment], None] | None = None,
) -> Iterator[Moment]:
    """Have ``count`` sessions at one moment; they end with the block.

    ``while_held`` is called while nothing can be committed, and insists on that.

    Raises:
        UnavailableError: the primary is gone, or does not take that many sessions.
        SourceError: it may not be held, and does not tell its moments.
        BusyError: somebody holds it, or too much is committed to find a moment without holding it.

    """
    with ExitStack() as stack:
        sessions = tuple(stack.enter_context(primary.connect(here, cancel)) for _ in range(count))
        with primary.told(here):
            for one in sessions:
                one.rows(_ISOLATED)
            with primary.connect(here, cancel) as holder:
                found = _find(here, product, sessions, holder, while_held)
        yield found


def _find(
    here: Primary,
    product: Product,
    sessions: Sequence[Link],
    holder: Link,
    while_held: Callable[[Moment], None] | None,
) -> Moment:
    refused = _hold(product, holder)
    if refused is None:
        try:
            found = _begin(here, product, sessions, holder)
            if while_held is not None:
                while_held(found)
        finally:
            _release(product, holder)
        return found
    log = while_held is None and product.log_place(holder)[0] != ""
    for _ in range(_TRIES if log else 0):
        found = _begin(here, product, sessions, holder)
        if all(_place(one, product) == found.place for one in sessions):
            return found
    raise _not_held(here, refused, told_by_log=log)


def _begin(here: Primary, product: Product, sessions: Sequence[Link], holder: Link) -> Moment:
    as_of = _now(holder)
    for one in sessions:
        one.rows(_BEGIN)
    place = _place(sessions[0], product)
    return Moment(place, as_of, _identity(here, place), tuple(sessions))


def _hold(product: Product, holder: Link) -> SqlError | None:
    """Hold commits back; return why that is not possible: not allowed, or a backup of theirs holds them already."""
    refused = None
    for statements in product.holds:
        try:
            for statement in statements:
                holder.rows(statement)
        except SqlError as error:
            if lost(error):
                raise
            _release(product, holder)
            refused = error
            if error.code == _SYNTAX:  # older than the statement
                continue
            return error
        return None
    return refused


def _release(product: Product, holder: Link) -> None:
    for statement in product.release:
        with suppress(SqlError):  # of those one was not needed; and the end of the session releases all
            holder.rows(statement)


def _not_held(here: Primary, refused: SqlError | None, *, told_by_log: bool) -> ReconcilerError:
    if refused is not None and refused.code not in _RIGHTS:
        return BusyError(
            f"a session of the primary {here.where} holds it, so no moment of it can be taken: {refused}",
            reason="PrimaryBusy",
        )
    if told_by_log:
        return BusyError(
            f"the primary {here.where} commits too often to find a moment without holding it",
            reason="PrimaryBusy",
            hint="GRANT RELOAD ON *.* TO its user",
        )
    return SourceError(
        f"the user of the secret {here.secret} lacks RELOAD at the primary {here.where}, which has to be held for a"
        " moment: no binary log tells its moments, or a mirror is copied",
        reason="PrimaryRefused",
        hint="GRANT RELOAD ON *.* TO its user",
    )


def _now(holder: Link) -> datetime:
    found = holder.value("SELECT UTC_TIMESTAMP(6)")
    return found.replace(tzinfo=UTC) if isinstance(found, datetime) else datetime.now(UTC)


def _place(link: Link, product: Product) -> Place:
    """Return where the transaction of a session stands."""
    file, offset = product.log_place(link)
    gtid, followed = product.gtid(link, file, offset), product.followed(link)
    if file or gtid or followed:
        return Place(file, offset, gtid, followed)
    found = link.rows("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'")
    return Place(other=str(found[0][1]) if found else "")


def _identity(here: Primary, place: Place) -> str:
    server = hashlib.sha256(here.where.encode()).hexdigest()[:16]
    return f"{server}:{place.text}"
