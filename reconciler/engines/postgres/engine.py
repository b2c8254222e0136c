"""The PostgreSQL engine: the front of this package.

Made by the registry; called by ``observe``, ``apply`` and the command line through
:class:`reconciler.engines.base.Engine`. It decides nothing about storage or runtimes.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from reconciler.engines import files
from reconciler.engines.base import BuildWork
from reconciler.engines.postgres import (
    activity,
    bootstrap,
    collations,
    contained,
    copying,
    finish,
    identify,
    parameters,
    physical,
    scripts,
    server,
    settings,
    users,
)
from reconciler.engines.postgres.control import data_major
from reconciler.engines.postgres.failures import translated
from reconciler.engines.postgres.instance.front import PostgresInstances
from reconciler.engines.postgres.mirror import PostgresMirrors
from reconciler.engines.postgres.session import PostgresSession
from reconciler.errors import NotInstalledError, UnsupportedError
from reconciler.handover import give_tree
from reconciler.state.servers import ProductImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.engines.base import (
        BuildSession,
        CloneWork,
        DatabaseFiles,
        InstalledServer,
        Instances,
        LocalSource,
        Mirrors,
        Sealed,
        SourceIdentity,
        UserWish,
    )
    from reconciler.state.desired import Script
    from reconciler.state.observed import Activity
    from reconciler.state.servers import Endpoint, ServerSpec

BUILD_STOP = ((signal.SIGINT, 600.0), (signal.SIGQUIT, 30.0))
CLONE_STOP = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 15.0))
_RECOVERY_SECONDS = 3600.0


class PostgresEngine:
    """PostgreSQL on this host."""

    name = "postgres"
    install_hint = "apt-get install postgresql"
    mirrors: Mirrors | None = PostgresMirrors()
    instances: Instances | None = PostgresInstances()
    files: DatabaseFiles | None = None

    def servers(self) -> tuple[InstalledServer, ...]:
        return server.installed_servers()

    def container_image(self, major: str | None) -> ProductImage:
        return ProductImage(f"postgres:{major or contained.NEWEST_MAJOR}", "postgres")

    def identify(self, source: LocalSource) -> SourceIdentity:
        return identify.identify(source)

    def built_size(self, path: str, stored_bytes: int) -> int:
        return identify.built_size(stored_bytes, packed=not path.lower().endswith(".sql"))

    @translated()
    def prepare(self, work: BuildWork) -> None:
        parameters.check_parameters(work.parameters)
        installed = _installed_for(work)
        settings.check_values(installed, work.parameters, work.account)
        if work.source.kind == "mirror":
            physical.open_mirrored(work, installed)
        elif work.source.physical:
            physical.open_physical(work, installed)
        elif work.source.kind == "clone" and work.source.base is not None:
            collations.check(work.source.base.facts, installed)
            physical.prepare_clone(work, installed)
        elif work.source.base is not None:
            collations.check(work.source.base.facts, installed)
            give_tree(work.directory, work.account)
            server.note_build_facts(work, {"preload": work.source.base.facts.get("preload", "")})
        else:
            bootstrap.initialise(work, installed)

    @translated()
    def build_server(self, work: BuildWork) -> ServerSpec:
        installed = _installed_for(work)
        physical.forget_replication(server.data_directory(work))
        required = bootstrap.required(work, installed)
        preload = server.read_build_facts(work).get("preload")
        if preload:
            required[parameters.PRELOAD] = preload
        settings.write_build(work, installed, required)
        return _server_spec(work, installed, _RECOVERY_SECONDS, BUILD_STOP)

    @contextmanager
    def session(self, work: BuildWork) -> Iterator[BuildSession]:
        session = PostgresSession(work, _installed_for(work))
        with translated():  # all that its caller does with the session, too
            session.open()
            yield session

    @translated()
    def finish(self, work: BuildWork) -> Sealed:
        return finish.finish_build(work, _installed_for(work))

    @translated()
    def clone_server(self, work: CloneWork) -> ServerSpec:
        parameters.check_parameters(work.parameters)
        major = work.snapshot.major
        image = work.software
        installed = server.choose(major) if image is None else contained.installed(image, major)
        collations.check(work.snapshot.facts, installed)
        if dict(work.parameters) != dict(work.snapshot.parameters):  # those of the snapshot served its build
            settings.check_values(installed, work.parameters, work.account)
        data = server.data_directory(work)
        if not (files.owned_by(data, work.account) and files.owned_by(work.directory, work.account)):
            give_tree(work.directory, work.account)
        required = dict(work.snapshot.required)
        if "preload" in work.snapshot.facts:
            required[parameters.PRELOAD] = work.snapshot.facts["preload"]
        settings.write_clone(work, installed, parameters.raise_to_required(work.parameters, required))
        return _server_spec(work, installed, _RECOVERY_SECONDS, CLONE_STOP)

    @translated()
    def deliver(self, work: CloneWork, users_wanted: Sequence[UserWish], drop: Sequence[str]) -> None:
        users.deliver_users(work, users_wanted, drop)

    @translated()
    def run_scripts(self, work: CloneWork, wanted: Sequence[Script]) -> None:
        _run_scripts(work, wanted)

    @translated()
    def activity(self, work: CloneWork) -> Activity:
        return activity.activity_of(work)

    def url(self, endpoint: Endpoint, password: str | None) -> str:
        secret = "" if password is None else ":" + quote(password, safe="")
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        user, database = quote(endpoint.user, safe=""), quote(endpoint.database, safe="")
        return f"postgresql://{user}{secret}@{host}:{endpoint.port}/{database}"

    def shell(self, endpoint: Endpoint, password: str, major: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
        argv = (str(server.program(_client(major), "psql")),)
        return argv, {
            "PGHOST": endpoint.host,
            "PGPORT": str(endpoint.port),
            "PGDATABASE": endpoint.database,
            "PGUSER": endpoint.user,
            "PGPASSWORD": password,
        }


def _client(major: str) -> InstalledServer:
    """Return where to take client programs from; of a server in a container the host may have no programs.

    psql works with servers from 9.2 on, whatever its own version (its manual, "Notes").
    """
    try:
        return server.choose(major)
    except NotInstalledError:
        return server.choose()


def _run_scripts(work: CloneWork, wanted: Sequence[Script]) -> None:
    with server.connect(work, "template1") as conn:
        server.ensure_builder(conn)
        databases = server.user_databases(conn)
        logins = users.logins(conn)
    try:
        for script in wanted:
            work.cancel.check()
            scripts.run_script(work, script, databases=databases)
    finally:
        server.retire_builder(work)
        users.settle_after_scripts(work, logins)


def _installed_for(work: BuildWork) -> InstalledServer:
    """Return the installation that must run a build; its server may be an image's, beside programs for files here."""
    found = _installed_here(work)
    if work.software is None:
        return found
    contained.installed(work.software, found.major)
    return replace(found, software=work.software)


def _installed_here(work: BuildWork) -> InstalledServer:
    """Return the installation on this host that a build needs: what exists already decides, then the document."""
    found = data_major(server.data_directory(work))
    if found is None and work.source.physical:
        found = identify.source_major(work.source)
    if work.source.base is not None:
        found = work.source.base.major
    if found is not None and work.version is not None and found != work.version:
        raise UnsupportedError(
            f"the source was written by PostgreSQL {found}; the image asks for version {work.version}",
            hint="a physical source is served by the version that wrote it; use a dump to change versions",
        )
    if found is None and work.source.primary is not None:
        return copying.choose_server(work)
    return server.choose(found or work.version)


def _server_spec(
    work: server.Work, installed: InstalledServer, timeout: float, stop: tuple[tuple[signal.Signals, float], ...]
) -> ServerSpec:
    data = server.data_directory(work)
    spec = server.private_spec(installed, work.server, data, work.run_directory, work.account, server.socket_port(work))
    host, tcp = (None, None) if isinstance(work, BuildWork) else (work.host, work.port)
    spec = replace(spec, host=host, port=tcp, ready_timeout=timeout, stop_signals=stop)
    if work.software is None:
        return spec
    argv = ("postgres", "-D", str(contained.data_path(work.software)))
    return replace(spec, argv=argv, env={}, contained=contained.place(work, data, work.software))
