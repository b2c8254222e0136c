"""Copy the databases of a primary into a build with SQL alone, for servers that let nobody at their files.

Called by ``engine`` and :mod:`.session` for ``method: logical``. Every refresh copies
everything: several sessions see one moment (:mod:`.moment`), and their rows go straight into
the build, through the account that has rights on databases of users only, like any dump of
others. Definers become that account.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.base import SourceIdentity
from reconciler.engines.mysql import accounts, catalog, code, moment, notes, primary, rights, server, settings, transfer
from reconciler.engines.mysql.failures import SqlError, lost
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.product import release
from reconciler.errors import NotInstalledError, SourceError, UnavailableError, UnsupportedError
from reconciler.status import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reconciler.engines.base import BuildWork, InstalledServer, LocalSource
    from reconciler.engines.mysql.catalog import Code, Table
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.moment import Moment
    from reconciler.engines.mysql.primary import Primary
    from reconciler.engines.mysql.product import Product
    from reconciler.engines.mysql.transfer import Ends

_NEW_SERVER_BYTES = (64 + settings.BUILD_LOG_MIB + settings.SEALED_LOG_MIB) << 20
_MOST_NAMED = 5
_LOOK_SECONDS = 60
_HELD_BYTES = 1 << 30


def identify(source: LocalSource, product: Product) -> SourceIdentity:
    """Return what a primary holds now, by one session of a second or, with very many tables, a few.

    Raises:
        UnavailableError: it does not answer.
        SourceError: it does not let us in, denies a right, lacks a database, or is another product.
        SecretError: its secret holds no connection URL.

    """
    here = primary.of_source(source)
    with primary.look(here, connect_seconds=primary.CONNECT_SECONDS, seconds=_LOOK_SECONDS) as link:
        _version(link, here, product)
        names = wanted(link, here, product, source.primary.databases if source.primary else ())
        found = moment.state(link, here, product)
        return SourceIdentity(f"primary:{found}", _NEW_SERVER_BYTES + catalog.size(link, names))


def choose_server(work: BuildWork, product: Product) -> InstalledServer:
    """Return the installation that serves a copy: of the primary's version, or else the next newer one.

    Raises:
        UnsupportedError: the image asks for an older version than the primary has.
        NotInstalledError: no installation is new enough.

    """
    here = primary.of_source(work.source)
    with primary.session(here) as link:
        version = _version(link, here, product)
        _note_layout(work, link)
    title = f"{product.title} {version[0]}.{version[1]}"
    if work.version is not None:
        chosen = server.choose(product, work.version)
        if release(chosen.version) < version:
            raise UnsupportedError(
                f"the primary {here.where} is {title}, and the image asks for version {work.version}",
                hint=f'set version: "{version[0]}.{version[1]}" or newer',
            )
        return chosen
    fitting = [one for one in server.installed_servers(product) if release(one.version) >= version]
    if not fitting:
        known = ", ".join(one.version for one in server.installed_servers(product)) or "none"
        raise NotInstalledError(
            f"the primary {here.where} is {title}, and no server here can hold what it holds; found: {known}",
            hint=product.install_hint,
        )
    return min(fitting, key=lambda one: release(one.version))


def wanted(link: Link, here: Primary, product: Product, listed: Sequence[str]) -> tuple[str, ...]:
    """Return the databases to copy, once every right that this takes is there; ``listed`` ones, or all.

    Raises:
        SourceError: a right is missing, or a database.

    """
    grants = [str(row[0]) for row in link.rows("SHOW GRANTS")]
    lacking = rights.missing(grants, listed, product.code_rights)
    if lacking:
        named = "; ".join(lacking[:_MOST_NAMED])
        raise SourceError(
            f"the user of the secret {here.secret} lacks rights at the primary {here.where}, without which parts of"
            f" its databases cannot be seen: {named}",
            reason="PrimaryRefused",
            hint=f"GRANT {lacking[0]} TO it, and so on",
        )
    return catalog.databases(link, here, listed)


def restore_primary(work: BuildWork, product: Product) -> None:
    """Copy all databases that the image wants.

    Raises:
        UnavailableError: the primary went away or was changed; nothing is left there, and another try may work.
        SourceError: it denies something, or what it holds cannot be stored.
        BusyError: no moment of it can be taken now.

    """
    here = primary.of_source(work.source)
    with primary.session(here) as link:
        names = wanted(link, here, product, work.databases)
    work.progress("waiting for a moment of the primary")
    with _target(work, product) as (password, link):
        copy = _Copy(work, here, link, password)
        with moment.opened(here, product, max(work.jobs, 1), work.cancel) as found:
            copy.run(found, names)
        copy.note_other_moments()


def restore_whole(work: BuildWork, product: Product) -> tuple[str, ...]:
    """Copy all databases of the primary so that they can be gone on with from the place that is noted.

    Commits are held back while tables without transactions are copied. Returns the tables
    that are not there, as ``database.table``. Raises as :func:`restore_primary`.
    """
    here = primary.of_source(work.source)
    with primary.session(here) as link:
        names = wanted(link, here, product, ())
    work.progress("waiting for a moment of the primary")
    with _target(work, product) as (password, link):
        copy = _Copy(work, here, link, password)
        held = partial(copy.run_held, names=names)
        with moment.opened(here, product, max(work.jobs, 1), work.cancel, while_held=held) as found:
            copy.run(found, names)
        return tuple(copy.absent)


@contextmanager
def _target(work: BuildWork, product: Product) -> Iterator[tuple[str, Link]]:
    """Have the account in the block that what is copied is made by: its password, and a connection."""
    with (
        accounts.opened_owner(work, product) as password,
        server.link(work, server.OWNER, password, cancel=work.cancel) as link,
    ):
        link.rows(transfer.WRITER)
        yield password, link


def _version(link: Link, here: Primary, product: Product) -> tuple[int, int]:
    found = str(link.value("SELECT @@version"))
    if ("MariaDB" in found) != (product.name == "mariadb"):
        other = "MariaDB" if "MariaDB" in found else "MySQL"
        raise SourceError(
            f"the primary {here.where} is {other} {found}, not {product.title}", hint=f"engine: {other.lower()}"
        )
    return release(found)


def _note_layout(work: BuildWork, link: Link) -> None:
    """Note how the primary treats names of tables: code that calls them otherwise works there alone."""
    if str(link.value("SELECT @@lower_case_table_names")) != "0":
        notes.add(work, {"lower_case_table_names": "1"})


def _note(work: BuildWork, found: Moment) -> None:
    facts = {"input_id": f"primary:{found.identity}", "as_of": found.as_of.isoformat()}
    place = found.place
    if place.file:
        facts["binary_log"] = f"{place.file}:{place.offset}"
    if place.gtid or place.followed:
        facts["gtid"] = place.gtid or place.followed
    notes.add(work, facts)


class _Copy:
    """One copy: read by the sessions of a moment, made by ``link``."""

    def __init__(self, work: BuildWork, here: Primary, link: Link, password: str) -> None:
        self._work = work
        self._here = here
        self._link = link
        self._password = password
        self._made: set[str] = set()
        self._apart: list[Table] = []
        self.absent: list[str] = []

    def run_held(self, found: Moment, names: Sequence[str]) -> None:
        """Copy the tables without transactions.

        Raises:
            SourceError: they are too large for holding back all commits meanwhile.

        """
        tables, _views = catalog.tables(found.sessions[0], names)
        apart = [table for table in tables if _is_apart(table)]
        size = sum(table.bytes for table in apart)
        if size > _HELD_BYTES:
            raise SourceError(
                f"the primary {self._here.where} has {words.size(size)} in tables without transactions, and would be"
                f" held while these are copied: {_named(apart)}",
                reason="PrimaryRefused",
                hint="ALTER TABLE … ENGINE=InnoDB, or method: logical",
            )
        self._copy(found, apart)
        self._made = {table.place for table in apart}

    def run(self, found: Moment, names: Sequence[str]) -> None:
        """Copy all tables that are not there yet, and all code."""
        first = found.sessions[0]
        _note(self._work, found)
        with primary.told(self._here):
            tables, views = catalog.tables(first, names)
            self._apart = [table for table in tables if _is_apart(table)]
            for name in names:
                self._make(f"database {name}", _if_absent(catalog.database_definition(first, name)))
            kept = [table for table in tables if table.place not in self._made and self._is_kept(table)]
            self._copy(found, kept)
            self._work.progress("copying views and code")
            for routine in catalog.routines(first, names):
                self._run(routine)
            self._make_views([catalog.view(first, *view) for view in views])
            for later in (*catalog.triggers(first, names), *catalog.events(first, names)):
                self._run(later)

    def note_other_moments(self) -> None:
        """Name the tables of which no snapshot can be had."""
        if self._apart:
            told = f"without transactions, so of some time after that moment: {_named(self._apart)}"
            notes.add_line(self._work, "left_out", told)

    def _copy(self, found: Moment, tables: Sequence[Table]) -> None:
        first = found.sessions[0]
        for name in sorted({table.database for table in tables}):
            self._make(f"database {name}", _if_absent(catalog.database_definition(first, name)))
        for table in sorted(tables, key=lambda table: not table.sequence):  # defaults of columns call sequences
            self._make_table(first, table)
        history = transfer.takes_history(self._link)
        todo = transfer.parts(first, tables, len(found.sessions), history=history)
        for table in tables:
            if table.versioned and not any(part.history for part in todo if part.table == table):
                notes.add_line(self._work, "left_out", f"the history of {table.database}.{table.name} is not in it")
        transfer.copy(self._ends(), found.sessions, todo)

    def _ends(self) -> Ends:
        work, here = self._work, self._here
        return transfer.Ends(
            source="the primary",
            target="the build's server",
            writer=lambda: server.link(work, server.OWNER, self._password, cancel=work.cancel),
            told=lambda: primary.told(here),
            failure=lambda error: primary.failure(here, error),
            cancel=work.cancel,
            progress=work.progress,
        )

    def _is_kept(self, table: Table) -> bool:
        if table.reaches_out:
            name = f"{table.database}.{table.name}"
            self.absent.append(name)
            notes.add_line(self._work, "left_out", f"table {name} is not in it: its rows are elsewhere")
        return not table.reaches_out

    def _make_table(self, first: Link, table: Table) -> None:
        what = f"table {table.database}.{table.name}"
        self._link.rows(f"USE {quoted(table.database)}")
        self._make(what, catalog.definition(first, table))
        if table.sequence:
            self._make(what, f"SELECT SETVAL({table.place}, {catalog.sequence_value(first, table)}, 0)")

    def _make_views(self, views: list[Code]) -> None:
        """Make views; what reads something that is not here is named."""
        try:
            refused = code.make_views(views, self._execute)
        except SqlError as error:
            raise _gone() from error
        for one, told in refused:
            notes.add_line(self._work, "left_out", f"{one.what} is not in it: {told}")

    def _run(self, one: Code) -> None:
        self._checked(one.what, lambda: self._execute(one))

    def _make(self, what: str, statement: str) -> None:
        self._checked(what, lambda: self._link.execute(statement.encode()))

    def _checked(self, what: str, action: Callable[[], None]) -> None:
        self._work.cancel.check()
        try:
            action()
        except SqlError as error:
            if lost(error):
                raise _gone() from error
            raise SourceError(f"{what} of the primary {self._here.where} cannot be made: {error}") from error

    def _execute(self, one: Code) -> None:
        code.make(self._link, one, one.database, transfer.WRITER)


def _is_apart(table: Table) -> bool:
    """Tell whether a table has rows of which no snapshot can be had."""
    return table.has_rows and not (table.sequence or table.of_the_moment or table.reaches_out)


def _named(tables: Sequence[Table]) -> str:
    more = f" and {len(tables) - _MOST_NAMED} more" if len(tables) > _MOST_NAMED else ""
    return ", ".join(f"{one.database}.{one.name} ({one.engine})" for one in tables[:_MOST_NAMED]) + more


def _if_absent(statement: str) -> str:
    return statement.replace("CREATE DATABASE ", "CREATE DATABASE IF NOT EXISTS ", 1)


def _gone() -> UnavailableError:
    return UnavailableError("the connection to the build's server was lost")
