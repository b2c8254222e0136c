"""A live server that images are copied from: its connection URL, sessions on it, and what it answers.

Used by what copies a primary, by SQL or by its files. The URL is the value of a secret: its
password is in no message, argument, log or ``repr``. Sessions are this process's own; what
runs under the account of a build never has a way in.
"""

from __future__ import annotations

import re
import ssl
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql

from reconciler.engines.mysql.failures import SqlError, lost, sql_error
from reconciler.engines.mysql.link import Link
from reconciler.errors import BusyError, SecretError, SourceError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import LocalSource
    from reconciler.errors import ReconcilerError
    from reconciler.proc import CancelToken

TlsMode = Literal["DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"]

PORT = 3306
CONNECT_SECONDS = 10
_PATIENT_SECONDS = 30
"""For each step of the log-in of a build: a primary may look up names, or be far away."""
LOOK_SECONDS = 3
"""The same, and the time for an answer, where a pass waits for it: a primary can hang without closing a connection."""
_ANSWER_SECONDS = 300
"""Without a byte of an answer for so long, the connection was cut without anybody being told."""
_WRITE_SECONDS = 60
LOCK_SECONDS = 20
_SESSION = (
    "SET SESSION sql_mode = '', time_zone = '+00:00', sql_quote_show_create = 1, wait_timeout = 28800,"
    f" net_read_timeout = 600, net_write_timeout = 3600, lock_wait_timeout = {LOCK_SECONDS}"
    " /*M!, max_statement_time = 0 */"
)
_OPTIONS = frozenset({"ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket"})
"""As MySQL's manual has them ("Connecting Using URI-Like Strings"); with underscores as well."""
_REFUSED = frozenset({1044, 1045, 1049, 1129, 1130, 1251, 1524, 1698, 1862, 2026, 2054, 2059, 3118, 3159, 3955, 4151})
"""What no second try changes: accounts, hosts, plug-ins for passwords, TLS."""
_DENIED = frozenset({1044, 1142, 1143, 1227, 1345, 1370, 1419})
_CHANGED = frozenset({1049, 1054, 1146, 1305, 1360, 1412, 1539})
"""Something that was there is not there any more, or is another one: its definition changed after the moment."""
_LOCKED = frozenset({1205, 1213, 3572})
_NOT_USABLE = 2059
_NO_TLS = "it takes no TLS"
_MOST_CHARACTERS = 600
_CERTIFICATE = re.compile(r"certificate|CERTIFICATE|SSL|TLS")


@dataclass(frozen=True, slots=True)
class Primary:
    """Where a primary is and how to log in, from a secret of the host."""

    secret: str
    """Name of the secret; what messages call the primary by, beside its host."""
    user: str
    host: str
    port: int = PORT
    socket: str | None = None
    tls: TlsMode = "PREFERRED"
    ca: str | None = None
    """File with certificates that are trusted; None: those of the system."""
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @property
    def where(self) -> str:
        """Host and port, for people."""
        return self.socket or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")

    def redacted(self, text: str) -> str:
        """Return a text of a program or server without the password, on one line, of bounded length."""
        if self.password:
            text = text.replace(self.password, "…")
        return " ".join(text.split())[:_MOST_CHARACTERS]


def of_source(source: LocalSource) -> Primary:
    """Return the primary of a source.

    Raises:
        SecretError: its secret holds no connection URL.

    """
    if source.primary is None:
        raise SourceError("the source names no primary")
    return parse(source.primary.url, source.primary.secret)


def parse(url: str, secret: str) -> Primary:
    """Return what a connection URL says.

    Raises:
        SecretError: it is none, or has what is not taken. No message quotes it.

    """
    none = SecretError(
        f"the secret {secret} holds no connection URL of MariaDB or MySQL",
        hint="mysql://USER:PASSWORD@HOST:PORT/?ssl-mode=REQUIRED; write what is special in a password as %XX",
    )
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise none from None  # its message quotes the URL
    if parts.scheme not in ("mysql", "mariadb") or not parts.username or "@" in parts.netloc.rpartition("@")[0]:
        raise none
    if parts.fragment or "@" in parts.path or "@" in parts.query:
        raise none  # characters of a password that were not written as %XX
    options = {name.lower().replace("_", "-"): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
    if unknown := sorted(options.keys() - _OPTIONS):
        raise SecretError(f"the connection URL of the secret {secret} has {', '.join(unknown)}, which is not taken")
    mode = options.get("ssl-mode", "VERIFY_CA" if "ssl-ca" in options else "PREFERRED").upper()
    if mode not in get_args(TlsMode):
        raise SecretError(f"ssl-mode in the secret {secret} is none of {', '.join(get_args(TlsMode))}")
    if not host and "socket" not in options:
        raise none
    return Primary(
        secret=secret,
        user=unquote(parts.username),
        host=host,
        port=port or PORT,
        socket=options.get("socket"),
        tls=cast("TlsMode", mode),
        ca=options.get("ssl-ca"),
        certificate=options.get("ssl-cert"),
        key=options.get("ssl-key"),
        password=unquote(parts.password or ""),
    )


def connect(
    primary: Primary,
    cancel: CancelToken | None = None,
    *,
    connect_seconds: int = CONNECT_SECONDS,
    answer_seconds: int = _ANSWER_SECONDS,
) -> Link:
    """Open a session in autocommit mode, in UTC, without limits of the primary's on time.

    With ``cancel`` its statement ends when the work is cancelled. ``connect_seconds`` hold
    for each step of logging in, ``answer_seconds`` for each wait after that.

    Raises:
        UnavailableError: the primary does not answer, or cannot take a session now (``PrimaryUnavailable``).
        SourceError: it lets us not in: password, account, host, TLS (``PrimaryRefused``).

    """
    try:
        link = opened(primary, cancel, connect_seconds=connect_seconds, answer_seconds=answer_seconds)
    except SqlError as error:
        raise refusal(primary, error.code, str(error)) from None
    with ExitStack() as failed:
        failed.callback(link.close)
        with told(primary):
            if is_too_open(primary, link):
                raise refusal(primary, 2026, _NO_TLS)
        failed.pop_all()
    return link


def opened(primary: Primary, cancel: CancelToken | None, *, connect_seconds: int, answer_seconds: int | None) -> Link:
    """Open a session as :func:`connect`, be it private or not; ``answer_seconds`` None: answers take what they take.

    Raises:
        SqlError: it was not opened, with what was said of it.

    """
    try:
        connection = pymysql.connect(
            host=primary.host or None,
            port=primary.port,
            unix_socket=primary.socket,
            user=primary.user,
            password=primary.password,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=connect_seconds,
            read_timeout=connect_seconds,
            write_timeout=connect_seconds,
            program_name="reconciler",
            init_command=_SESSION,
            read_default_file=None,
            local_infile=False,
            ssl_disabled=primary.tls == "DISABLED" or primary.socket is not None,
            ssl=_tls(primary),
        )
    except pymysql.Error as error:
        raise SqlError(*_said(error)) from None
    except (RuntimeError, OSError, ValueError) as error:  # of PyMySQL, for a plug-in or a file that it cannot use
        raise SqlError(_NOT_USABLE, str(error)) from None
    link = Link(connection, cancel, (lambda thread: _kill(primary, thread)) if cancel is not None else None)
    link.wait_for(answer_seconds, min(answer_seconds or _WRITE_SECONDS, _WRITE_SECONDS))
    return link


def is_too_open(primary: Primary, link: Link) -> bool:
    """Tell whether a session is not encrypted although the URL asks for that."""
    return _must_be_private(primary) and not is_private(link)


@contextmanager
def session(primary: Primary, cancel: CancelToken | None = None) -> Iterator[Link]:
    """Have a session in the block; what the primary answers there is translated. Raises as :func:`connect`."""
    with connect(primary, cancel, connect_seconds=_PATIENT_SECONDS) as link, told(primary):
        yield link


@contextmanager
def look(primary: Primary, *, connect_seconds: int = LOOK_SECONDS, seconds: int = LOOK_SECONDS) -> Iterator[Link]:
    """Have a session in the block that a pass waits for: who does not answer within ``seconds`` is away.

    Raises as :func:`session`.
    """
    with connect(primary, connect_seconds=connect_seconds, answer_seconds=seconds) as link, told(primary):
        yield link


@contextmanager
def told(primary: Primary) -> Iterator[None]:
    """Translate what the primary answers within the block.

    Raises:
        UnavailableError: it is gone (``PrimaryUnavailable``), or was changed while it was read (``SourceChanged``).
        BusyError: somebody holds what is needed.
        SourceError: it denies something (``PrimaryRefused``).

    """
    try:
        yield
    except SqlError as error:
        raise failure(primary, error) from None


def is_private(link: Link) -> bool:
    """Tell whether a session is encrypted."""
    found = link.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    return bool(found and found[0][1])


def refusal(primary: Primary, code: int, text: str) -> ReconcilerError:
    """Return the error for a connection that was not made."""
    said = primary.redacted(text)
    if code in _REFUSED or _CERTIFICATE.search(said):
        return SourceError(
            f"the primary {primary.where} does not let us in: {said}",
            reason="PrimaryRefused",
            hint=f"look at the secret {primary.secret}, and at what its user may do",
        )
    return UnavailableError(f"the primary {primary.where} cannot be reached: {said}", reason="PrimaryUnavailable")


def failure(primary: Primary, error: SqlError) -> ReconcilerError:
    """Return the error for one of a session, which quotes no value of a row."""
    what = f"the primary {primary.where}: {primary.redacted(str(error))}"
    if lost(error):
        return UnavailableError(
            f"the connection to the primary {primary.where} was interrupted", reason="PrimaryUnavailable"
        )
    if error.code in _DENIED:
        hint = f"GRANT it to the user of the secret {primary.secret}"
        return SourceError(what, reason="PrimaryRefused", hint=hint)
    if error.code in _CHANGED:
        return UnavailableError(f"it changed while it was read, {what}", reason="SourceChanged")
    if error.code in _LOCKED:
        return BusyError(f"a session of its own is in the way, {what}", reason="PrimaryBusy")
    return SourceError(what, reason="PrimaryRefused")


def _said(error: pymysql.Error) -> tuple[int, str]:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    return code, str(error.args[1]) if len(error.args) > 1 else str(sql_error(error))


def _must_be_private(primary: Primary) -> bool:
    return primary.tls not in ("DISABLED", "PREFERRED") and primary.socket is None


def _tls(primary: Primary) -> ssl.SSLContext | None:
    """Return what makes TLS a must; None: it is used where the server has it, with any certificate.

    The latter is what the product's own clients do.
    """
    if primary.tls == "DISABLED" or primary.socket is not None:
        return None
    if primary.tls == "PREFERRED" and primary.certificate is None:
        return None
    context = ssl.create_default_context(cafile=primary.ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # certificates that servers make for themselves lack extensions
    context.check_hostname = primary.tls == "VERIFY_IDENTITY"
    if primary.tls in ("PREFERRED", "REQUIRED"):
        context.verify_mode = ssl.CERT_NONE
    if primary.certificate is not None:
        context.load_cert_chain(primary.certificate, primary.key)
    return context


def _kill(primary: Primary, thread: int) -> None:
    try:
        with connect(primary) as other:
            other.rows("KILL QUERY %s", thread)
    except (SqlError, SourceError, UnavailableError):
        return  # it is over, or the primary is
