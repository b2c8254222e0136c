"""The engine for MariaDB and MySQL: the front of this package.

Made by the registry; called by ``observe``, ``apply`` and the command line through
:class:`reconciler.engines.base.Engine`. It decides nothing about storage or runtimes.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from reconciler.engines import files
from reconciler.engines.base import BuildWork
from reconciler.engines.mysql import (
    activity,
    binlogs,
    bootstrap,
    contained,
    copying,
    finish,
    identify,
    notes,
    parameters,
    physical,
    scripts,
    server,
    settings,
    streams,
    users,
)
from reconciler.engines.mysql.failures import translated
from reconciler.engines.mysql.instance.front import MariaDbInstances
from reconciler.engines.mysql.mirror import MariaDbMirrors
from reconciler.engines.mysql.product import MARIADB, MYSQL
from reconciler.engines.mysql.session import MysqlSession
from reconciler.errors import UnsupportedError
from reconciler.handover import give_tree
from reconciler.state.servers import ProductImage, ServerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

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
    from reconciler.engines.mysql.product import Product
    from reconciler.state.desired import Script
    from reconciler.state.observed import Activity
    from reconciler.state.servers import Endpoint

_BUILD_STOP = ((signal.SIGTERM, 1800.0),)
_CLONE_STOP = ((signal.SIGTERM, 60.0),)
_READY_SECONDS = 3600.0
"""A copy that was not shut down is recovered first."""


class MysqlEngine:
    """One of the two products on this host."""

    mirrors: Mirrors | None = None
    instances: Instances | None = None
    files: DatabaseFiles | None = None

    def __init__(self, product: Product = MYSQL) -> None:
        self.product = product
        self.name = product.name
        self.install_hint = product.install_hint

    def servers(self) -> tuple[InstalledServer, ...]:
        return server.installed_servers(self.product)

    def container_image(self, major: str | None) -> ProductImage:
        if self.product.container is None:
            raise UnsupportedError(
                f"{self.product.title} {major or ''}".rstrip() + " in containers is not supported in this version",
                reason="RuntimeUnsupported",
                hint="write runtime: process",
            )
        here = next((one.major for one in self.servers()), contained.NEWEST_MAJOR)  # a build works on files with it
        return ProductImage(f"{self.product.container}:{major or here}", "mysql")

    def identify(self, source: LocalSource) -> SourceIdentity:
        return identify.identify(source, self.product)

    def built_size(self, path: str, stored_bytes: int) -> int:
        return identify.built_size(stored_bytes, packed=not path.lower().endswith(".sql"))

    @translated()
    def prepare(self, work: BuildWork) -> None:
        parameters.check_parameters(work.parameters)
        work = streams.unpacked(work, self.product)
        if work.source.kind == "mirror":
            physical.note_mirrored(work)
        installed = self._installed_for(work)
        settings.check_values(self.product, installed, work.parameters)
        if work.source.kind == "mirror":
            physical.open_mirrored(work, self.product, installed)
        elif work.source.physical:
            physical.open_physical(work, self.product, installed)
        elif work.source.base is not None:
            give_tree(work.directory, work.account)
        else:
            bootstrap.initialise(work, self.product, installed)
            notes.add(work, {"major": installed.major})

    @translated()
    def build_server(self, work: BuildWork) -> ServerSpec:
        installed = self._installed_for(work)
        settings.write_build(work, self.product, _layout(work), binlogs.settings_of(work))
        server.prepare_admin(work, self.product)
        return self._spec(work, installed)

    @contextmanager
    def session(self, work: BuildWork) -> Iterator[BuildSession]:
        session = MysqlSession(work, self.product)
        with translated():  # all that its caller does with the session, too
            session.open()
            yield session

    @translated()
    def finish(self, work: BuildWork) -> Sealed:
        return finish.finish_build(work, self.product, self._installed_for(work))

    @translated()
    def clone_server(self, work: CloneWork) -> ServerSpec:
        parameters.check_parameters(work.parameters)
        users.check_hosts(work)
        major, image = work.snapshot.major, work.software
        if image is None:
            installed = server.choose(self.product, major)
        else:
            installed = contained.installed(image, self.product, major)
        if dict(work.parameters) != dict(work.snapshot.parameters):  # those of the snapshot served its build
            settings.check_values(self.product, installed, work.parameters)
        data = server.data_directory(work)
        if not (files.owned_by(data, work.account) and files.owned_by(work.directory, work.account)):
            give_tree(work.directory, work.account)
        files.remove(data, "auto.cnf")  # MySQL makes another one: no two servers are the same
        settings.write_clone(work, self.product, _layout(work))
        server.prepare_admin(work, self.product)
        return self._spec(work, installed)

    @translated()
    def deliver(self, work: CloneWork, users_wanted: Sequence[UserWish], drop: Sequence[str]) -> None:
        users.deliver_users(work, self.product, users_wanted, drop)

    @translated()
    def run_scripts(self, work: CloneWork, wanted: Sequence[Script]) -> None:
        for script in wanted:
            work.cancel.check()
            scripts.run_script(work, self.product, script)

    @translated()
    def activity(self, work: CloneWork) -> Activity:
        return activity.activity_of(work)

    def url(self, endpoint: Endpoint, password: str | None) -> str:
        secret = "" if password is None else ":" + quote(password, safe="")
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        user, database = quote(endpoint.user, safe=""), quote(endpoint.database, safe="")
        return f"mysql://{user}{secret}@{host}:{endpoint.port}/{database}"

    def shell(self, endpoint: Endpoint, password: str, major: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
        client = server.client(self.product, major)
        where = ("--protocol=tcp", f"--host={endpoint.host}", f"--port={endpoint.port}", f"--user={endpoint.user}")
        argv = (str(client), "--no-defaults", *where, "--default-character-set=utf8mb4", endpoint.database)
        return argv, {"MYSQL_PWD": password}

    def _installed_for(self, work: BuildWork) -> InstalledServer:
        """Return what must run a build; its server may be an image's, beside programs of this host for files."""
        found = self._installed_here(work)
        if work.software is None:
            return found
        contained.installed(work.software, self.product, found.major)
        return replace(found, software=work.software)

    def _installed_here(self, work: BuildWork) -> InstalledServer:
        """Return the installation on this host that a build needs: what exists already decides, then the document."""
        found = work.source.base.major if work.source.base is not None else None
        if work.source.kind == "primary":
            made = notes.read(work).get("major")
            return server.choose(self.product, made) if made else copying.choose_server(work, self.product)
        if work.source.physical:
            found = notes.read(work).get("major") or physical.major_of(work.source, self.product)
        if found is not None and work.version is not None and not f"{found}.".startswith(f"{work.version}."):
            raise UnsupportedError(
                f"the source was written by {self.product.title} {found}; the image asks for version {work.version}",
                hint="a physical source is served by the version that wrote it; use a dump to change versions",
            )
        return server.choose(self.product, found or work.version)

    def _spec(self, work: server.Work, installed: InstalledServer) -> ServerSpec:
        socket, pid = server.socket(work), server.pid_file(work)
        build = isinstance(work, BuildWork)
        image = work.software
        program = self.product.servers[0] if image else str(server.server_program(self.product, installed))
        return ServerSpec(
            name=work.server,
            argv=(program, f"--defaults-file={server.settings_file(work)}"),
            directory=work.directory,
            env={} if image else server.environment(),
            contained=contained.place(work, image) if image else None,
            account=work.account,
            host=None if isinstance(work, BuildWork) else work.host,
            port=None if isinstance(work, BuildWork) else work.port,
            ready=partial(_answers, work, self.product, pid),
            ready_timeout=_READY_SECONDS,
            stale_files=(pid, socket, socket.with_name(socket.name + ".lock")),
            stop_signals=_BUILD_STOP if build else _CLONE_STOP,
        )


class MariaDbEngine(MysqlEngine):
    """MariaDB on this host."""

    def __init__(self) -> None:
        super().__init__(MARIADB)
        self.mirrors = MariaDbMirrors(MARIADB)
        self.instances = MariaDbInstances()


@translated()
def _answers(work: server.Work, product: Product, pid: Path) -> bool:
    """Whether a server takes connections; of a clone that was delivered, from those that the host lets in now."""
    if not pid.exists():
        return False
    if isinstance(work, BuildWork) or work.port is None or not work.users:
        return True
    return users.admitted(work, product)


def _layout(work: server.Work) -> dict[str, str]:
    """Return the settings that belong to the data directory."""
    base = work.source.base if isinstance(work, BuildWork) else work.snapshot
    facts = dict(base.facts) if base is not None else {}
    if isinstance(work, BuildWork):
        facts |= notes.read(work)
    return {name: facts[name] for name in settings.LAYOUT if name in facts}
