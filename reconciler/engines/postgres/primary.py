"""A live server that images are copied from: its connection URL, sessions on it, and what it answers.

Used by what copies a primary, physically or logically. The URL is the value of a secret:
its password is in no message, argument, log or ``repr``, and reaches programs in their
environment only. They run under our own account, never under that of a build, whose
server runs SQL of users and could look into its neighbours' environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo, pq

from reconciler import proc
from reconciler.engines.postgres import failures
from reconciler.engines.postgres.cancellable import CancellableConnection
from reconciler.errors import PermanentError, SecretError, SourceError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.engines.base import LocalSource
    from reconciler.errors import ReconcilerError

CONNECT_SECONDS = 10
LOOK_SECONDS = 3
ANSWER_SECONDS = 5
"""Of what passes wait for: how long a connection may take, and then each statement."""
_NO_FILE = "/nonexistent"  # libpq warns about /dev/null
_DEFAULTS = {
    "application_name": "reconciler",
    "client_encoding": "UTF8",
    "connect_timeout": str(CONNECT_SECONDS),
    "passfile": _NO_FILE,
    # A connection that was cut is noticed after a minute and not after hours.
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_NOT_TAKEN = frozenset(
    {
        "service",  # leads to settings, and secrets, that are not in the URL
        "replication",  # decided here
        "sslpassword",  # no variable of the environment carries these to programs
        "scram_client_key",
        "scram_server_key",
        "oauth_client_secret",
        "sslkeylogfile",
    }
)
_REFUSED = re.compile(
    r"authentication failed|authentication method|no password supplied|password required|no pg_hba\.conf entry"
    r"|pg_hba\.conf rejects|role \"[^\"]*\" (?:does not exist|is not permitted)|database \"[^\"]*\" does not exist"
    r"|not currently accepting connections|permission denied for database|certificate|SSL was required"
    r"|does not support SSL|no encryption|invalid (?:connection option|sslmode)"
)
"""What no second try changes: libpq gives no SQLSTATE for what a server says before the session begins."""
_MOST_CHARACTERS = 600
_SESSION = (
    "SET search_path = pg_catalog; SET statement_timeout = {statement}; SET lock_timeout = 0;"
    " SET idle_in_transaction_session_timeout = 0"
)
_IDLE_SESSION_TIMEOUT = 140000
_TRANSACTION_TIMEOUT = 170000


@dataclass(frozen=True, slots=True)
class Primary:
    """Where a primary is and how to log in, from a secret of the host."""

    secret: str
    """Name of the secret; what messages call the primary by, beside its host."""
    settings: Mapping[str, str] = field(repr=False)
    """Parameters of libpq by keyword (PostgreSQL's manual, section 34.1.2), without the password."""
    password: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """Host and port, for people."""
        host = self.settings.get("host") or self.settings.get("hostaddr") or "the local socket"
        return f"{host}:{self.settings['port']}" if "port" in self.settings else host

    @property
    def database(self) -> str:
        """The database that the URL names, or that libpq takes without one."""
        return self.settings.get("dbname") or self.settings.get("user") or "postgres"

    def keywords(self, database: str | None = None, **more: str) -> dict[str, str]:
        """Return everything that ``psycopg.connect`` takes, the password among it."""
        found = {**_DEFAULTS, **self.settings, "dbname": database or self.database, **more}
        return found if self.password is None else {**found, "password": self.password}

    def environment(self, database: str | None = None, **more: str) -> dict[str, str]:
        """Return the complete environment for PostgreSQL's client programs, the password in it.

        What libpq has no variable for goes into :meth:`argument`.
        """
        known = _variables()
        found = {known[key]: value for key, value in self.keywords(database, **more).items() if key in known}
        return proc.environment({**found, "PGSERVICEFILE": _NO_FILE, "LC_ALL": "C.UTF-8"})

    def argument(self, database: str | None = None, **more: str) -> str:
        """Return the ``--dbname`` argument for the same programs: the database, and what no variable can carry."""
        known = _variables()
        wanted = {key: value for key, value in self.keywords(database, **more).items() if key not in known}
        return conninfo.make_conninfo("", dbname=database or self.database, **wanted)

    def redacted(self, text: str) -> str:
        """Return a text of a program or server without the password, on one line, of bounded length."""
        if self.password:
            text = text.replace(self.password, "…")
        return " ".join(text.split())[:_MOST_CHARACTERS]

    def pinned(self, conn: psycopg.Connection) -> Primary:
        """Return this primary as the very server that ``conn`` is connected to, where the URL names several."""
        info = conn.info
        at = {"host": info.host, "port": str(info.port)}
        if info.hostaddr and not info.host.startswith("/"):
            at["hostaddr"] = info.hostaddr
        kept = {key: value for key, value in self.settings.items() if key not in ("hostaddr", "load_balance_hosts")}
        return replace(self, settings={**kept, **at})


def of_source(source: LocalSource) -> Primary:
    """Return the primary of a source.

    Raises:
        SecretError: its secret holds no connection URL.

    """
    if source.primary is None:
        raise SourceError("the source names no primary")
    return parse(source.primary.url, source.primary.secret)


def parse(url: str, secret: str) -> Primary:
    """Return what a connection URL, or a string of ``keyword=value``, says.

    Raises:
        SecretError: it is none, or has what is not taken. No message quotes it.

    """
    try:
        found = {key: str(value) for key, value in conninfo.conninfo_to_dict(url.strip()).items() if value is not None}
    except psycopg.Error:
        found = {}  # its message quotes the URL
    if not found or _is_ambiguous(url.strip()) or not _are_ports(found.get("port", "")):
        raise SecretError(
            f"the secret {secret} holds no connection URL of PostgreSQL",
            hint="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; write what is special in a password as %XX",
        )
    refused = sorted(_NOT_TAKEN & found.keys())
    if refused:
        raise SecretError(f"the connection URL of the secret {secret} has {', '.join(refused)}, which is not taken")
    password = found.pop("password", None)
    return Primary(secret, found, password)


def connect(
    primary: Primary, database: str | None = None, *, statement_seconds: float = 0, look: bool = False, **more: str
) -> CancellableConnection:
    """Open a session in autocommit mode, with names resolved in pg_catalog only and without limits of the primary's.

    ``look``: for a session that passes wait for; a primary that hangs is one that does not answer.
    ``more`` are further parameters of libpq; with ``replication`` the session is left as it is.

    Raises:
        UnavailableError: the primary does not answer, or cannot take a session now (``PrimaryUnavailable``).
        SourceError: it lets us not in: password, role, database, pg_hba.conf, TLS (``PrimaryRefused``).

    """
    if look:
        more = {"connect_timeout": str(LOOK_SECONDS), **more}
    way_in = conninfo.make_conninfo("", **primary.keywords(database, **more))
    try:
        conn = CancellableConnection.connect(way_in, autocommit=True)
    except psycopg.Error as error:
        raise refusal(primary, str(error)) from None
    conn.patience = ANSWER_SECONDS if look else None
    if "replication" in more:
        return conn
    try:
        conn.execute(_session(conn.info.server_version, statement_seconds).encode())
    except psycopg.Error as error:
        conn.close()
        raise failure(primary, error) from None
    return conn


def refusal(primary: Primary, text: str) -> ReconcilerError:
    """Return the error for what libpq, in this process or in a program, says of a connection that was not made."""
    told = primary.redacted(text.removeprefix("connection failed: "))
    if _REFUSED.search(told):
        return SourceError(
            f"the primary {primary.where} does not let us in: {told}",
            reason="PrimaryRefused",
            hint=f"look at the secret {primary.secret}, and at what its user may do",
        )
    return UnavailableError(f"the primary {primary.where} cannot be reached: {told}", reason="PrimaryUnavailable")


def failure(primary: Primary, error: psycopg.Error) -> ReconcilerError:
    """Return the error for one that psycopg raised in a session, without any value of a row."""
    found = failures.translation(error)
    what = f"the primary {primary.where}: {primary.redacted(found.message)}"
    if isinstance(found, PermanentError):
        denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
        hint = "GRANT pg_read_all_data TO its user" if denied else None
        return SourceError(what, reason="PrimaryRefused", hint=hint)
    return UnavailableError(what, reason="PrimaryUnavailable")


def _session(version: int, statement_seconds: float) -> str:
    text = _SESSION.format(statement=round(statement_seconds * 1000))
    if version >= _IDLE_SESSION_TIMEOUT:
        text += "; SET idle_session_timeout = 0"
    return text + "; SET transaction_timeout = 0" if version >= _TRANSACTION_TIMEOUT else text


def _variables() -> dict[str, str]:
    """Return libpq's variables of the environment by keyword."""
    return {
        option.keyword.decode(): option.envvar.decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar is not None
    }


def _is_ambiguous(url: str) -> bool:
    """Whether a password's own characters may have ended up in the host or the database, which messages show."""
    _scheme, is_url, rest = url.partition("://")
    if not is_url:
        return False
    user, has_user, place = rest.partition("@")
    if not has_user or "/" in user:
        place = rest
    return "@" in place.partition("?")[0]


def _are_ports(text: str) -> bool:
    return all(not port or port.isdigit() for port in text.split(","))
