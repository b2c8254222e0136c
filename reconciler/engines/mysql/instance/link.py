"""The way into an instance: sessions of its administrator and of accounts of ours, and its errors as ours.

Used by every module of this package. The URL is the value of a secret: its password is in no
message, argument, log or ``repr``.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines.mysql import failures, primary
from reconciler.engines.mysql.failures import SqlError, lost
from reconciler.engines.mysql.product import release
from reconciler.errors import BusyError, PermanentError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import InstanceReach
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.primary import Primary
    from reconciler.errors import ReconcilerError
    from reconciler.proc import CancelToken

OLDEST = (10, 6)
"""As for servers of our own: older ones do not rename tables in a way that survives a crash."""
SETTINGS = (
    "SET SESSION time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION',"
    " foreign_key_checks = 0, unique_checks = 0, check_constraint_checks = 0"
)
"""What our sessions work with: rows are taken as they are, and a table in its own engine or not at all."""
_LOOK_SECONDS = 5
_CONNECT_SECONDS = 30
_DENIED = frozenset({1044, 1045, 1142, 1143, 1227, 1370, 1410, 1419})
_BUSY = frozenset({1205, 1213})
RIGHTS_HINT = "docs/instances.md says which rights its user needs"


class InstanceLink:
    """One instance: where it is, and how to get in. Safe to use from several threads."""

    def __init__(self, reach: InstanceReach) -> None:
        self.reach = reach
        self.exporting = threading.Lock()
        """Held while tables are locked for their files to be copied."""

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"the instance {self.reach.name}"

    def server(self) -> Primary:
        """Return what its URL says now.

        Raises:
            SecretError: there is no such secret, or it holds no URL.

        """
        return primary.parse(self.reach.url(), self.reach.secret)

    def address(self) -> tuple[str, int]:
        """Return its host and port, as the URL has them."""
        found = self.server()
        return found.host or "localhost", found.port

    @contextmanager
    def session(self, *, look: bool = False, cancel: CancelToken | None = None) -> Iterator[Link]:
        """Have a session of the administrator; for a ``look`` it is bounded in time.

        Statements end when ``cancel`` is given and the work is cancelled.

        Raises:
            UnavailableError: the instance does not answer, or does not let us in.
            UnsupportedError: it is too old, or of another product.
            ReconcilerError: what went wrong in the block, without any value of a row.

        """
        with self._opened(self.server(), look=look, cancel=cancel) as link, self.told():
            self._require_product(link)
            yield link

    @contextmanager
    def session_as(self, account: str, password: str, cancel: CancelToken | None = None) -> Iterator[Link]:
        """Have a session of an account of ours; errors of its statements are left to the caller."""
        with self._opened(replace(self.server(), user=account, password=password), cancel=cancel) as link:
            yield link

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell errors of the instance as ours."""
        try:
            yield
        except SqlError as error:
            raise self.failure(error) from None

    def failure(self, error: SqlError) -> ReconcilerError:
        """Return the error for one of the instance's."""
        if lost(error) or failures.interrupted(error):
            return UnavailableError(f"the connection to {self.where} was lost", reason="InstanceUnavailable")
        if error.code in _BUSY:
            return BusyError(f"{self.where}: a session of its own is in the way: {error}", reason="InUse")
        hint = RIGHTS_HINT if error.code in _DENIED else None
        return PermanentError(f"{self.where}: {error}", reason="InstanceRefused", hint=hint)

    @contextmanager
    def _opened(self, server: Primary, *, look: bool = False, cancel: CancelToken | None = None) -> Iterator[Link]:
        try:
            link = primary.opened(
                server,
                cancel,
                connect_seconds=_LOOK_SECONDS if look else _CONNECT_SECONDS,
                answer_seconds=_LOOK_SECONDS if look else None,
            )
        except SqlError as error:
            raise self._unreachable(server.redacted(str(error))) from None
        with link:
            with self.told():
                if primary.is_too_open(server, link):
                    raise self._unreachable("it takes no TLS")
                link.rows(SETTINGS)
            yield link

    def _unreachable(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"{self.where} cannot be reached: {why}",
            reason="InstanceUnavailable",
            hint=f"look at the secret {self.reach.secret}, and at what its user may do",
        )

    def _require_product(self, link: Link) -> None:
        found = str(link.value("SELECT @@version"))
        if "MariaDB" not in found:
            raise UnsupportedError(
                f"{self.where} is MySQL {found}, not MariaDB",
                reason="OtherProduct",
                hint="clones of MySQL on an instance are not supported in this version",
            )
        if release(found) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise UnsupportedError(f"{self.where} is MariaDB {found}", hint=f"the oldest version is {oldest}")
