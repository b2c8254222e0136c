"""One build's work on its running server, step by step.

Opened by ``engine.session``; ``apply`` calls the steps. It only puts the other modules
in their order: a physical copy is isolated before any SQL of a spec runs on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres import copying, isolate, logical, scripts, server, settle, users
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import psycopg

    from reconciler.engines.base import BuildWork, InstalledServer, MaskingWork
    from reconciler.masking.classify.profiles import DatabaseProfile
    from reconciler.masking.evidence import Base, Evidence, Wiped
    from reconciler.masking.report import Masked
    from reconciler.state.desired import Check, Script


class PostgresSession:
    """An open build server."""

    def __init__(self, work: BuildWork, installed: InstalledServer) -> None:
        self._work = work
        self._installed = installed
        self._masked: Masked | None = None

    def open(self) -> None:
        """Make the server safe for the work of a spec."""
        if self._work.source.physical:
            self._work.progress("isolating from production")
            isolate.isolate_cluster(self._work)
        if self._work.source.kind == "clone":
            self._work.progress("leaving its users behind")
            isolate.isolate_cluster(self._work)
            users.leave_behind(self._work, self._work.source.users)
        with server.connect(self._work, "template1") as conn:
            server.ensure_builder(conn)

    def restore(self) -> None:
        if self._work.source.kind == "dump":
            logical.restore_dump(self._work, self._installed)
        if self._work.source.primary is not None and not self._work.source.physical:
            copying.restore_primary(self._work, self._installed)
        if self._work.source.kind == "empty":
            self._create_databases()

    def keep_databases(self) -> None:
        wanted = self._work.databases
        with server.connect(self._work, "template1") as conn:
            present = server.user_databases(conn)
            missing = sorted(set(wanted) - set(present) - {"postgres"})
            if missing:
                here = ", ".join(present) or "none"
                raise SourceError(f"the source has no database {', '.join(missing)}; it has: {here}")
            for name in present if wanted else ():
                if name not in wanted:
                    self._work.progress(f"dropping database {name}")
                    _drop_database(conn, name)
            if wanted and "postgres" not in wanted:
                _empty_postgres(conn)
            server.grant_memberships(conn)

    def look_for_damage(self, *, final: bool) -> int:
        from reconciler.engines.postgres import damage  # noqa: PLC0415 - only builds that ask for it need it

        return damage.look_for_damage(self._work, self._installed, final=final)

    def run(self, script: Script) -> None:
        scripts.run_script(self._work, script, databases=self._databases())

    def mask(self, masking: MaskingWork) -> Masked:
        from reconciler.engines.postgres.masking import run  # noqa: PLC0415 - what masks is large, and only builds need it

        self._masked = run.mask_cluster(self._work, masking, self._databases())
        return self._masked

    def profile(self) -> tuple[DatabaseProfile, ...]:
        from reconciler.engines.postgres.masking.profile import profile_database  # noqa: PLC0415 - what masks is large, and only builds need it

        found = []
        for name in self._databases():
            self._work.progress(f"looking at database {name}")
            with server.connect(self._work, name) as conn:
                found.append(profile_database(conn, name, self._work.cancel))
        return tuple(found)

    def check(self, check: Check) -> None:
        scripts.run_check(self._work, check, databases=self._databases())

    def isolate(self) -> None:
        if self._masked is not None:
            from reconciler.engines.postgres.masking import run  # noqa: PLC0415 - what masks is large, and only builds need it

            run.scrub_cluster(self._work)
        isolate.isolate_cluster(self._work)
        server.retire_builder(self._work)

    def settle(self) -> None:
        facts = settle.settle_cluster(self._work, self._installed, masked=self._masked is not None)
        server.note_build_facts(self._work, facts | {"databases": "\n".join(self._databases())})

    def wipe(self, stopped: Callable[[], AbstractContextManager[None]], base: Base | None = None) -> Wiped | None:
        if not self._work.source.physical and self._work.source.base is None:
            return None  # nothing was removed but by scripts, and what they wrote was rewritten
        from reconciler.engines.postgres.masking import remains  # noqa: PLC0415 - what masks is large, and only builds need it

        return remains.wipe(self._work, self._installed, stopped, base)

    def prove(self, masked: Masked, base: Base | None = None) -> Evidence:
        from reconciler.engines.postgres.masking import prove  # noqa: PLC0415 - what masks is large, and only builds need it

        return prove.prove(self._work, masked, base)

    def _create_databases(self) -> None:
        """Make the databases that an empty image asks for; they are owned like everything that scripts make."""
        owner = sql.Identifier(server.BUILDER)
        with server.connect(self._work, "template1") as conn:
            for name in self._work.databases:
                if name != "postgres":
                    create = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0")
                    conn.execute(create.format(sql.Identifier(name), owner))

    def _databases(self) -> tuple[str, ...]:
        with server.connect(self._work, "template1") as conn:
            found = server.user_databases(conn)
        return (*found, "postgres") if "postgres" in self._work.databases else found


def _drop_database(conn: psycopg.Connection, name: str) -> None:
    identifier = sql.Identifier(name)
    conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(identifier))
    conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def _empty_postgres(conn: psycopg.Connection) -> None:
    """Make the maintenance database anew: what a source kept in it is not asked for."""
    present = conn.execute("SELECT 1 FROM pg_database WHERE datname = 'postgres'").fetchone()
    if present is not None:
        _drop_database(conn, "postgres")
        conn.execute("CREATE DATABASE postgres TEMPLATE template0")
