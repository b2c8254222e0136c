"""One build's work on its databases, step by step.

Opened by ``engine.session``; ``apply`` calls the steps. There is no server: each step
opens the files that it works on and leaves them closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.sqlite import damage, databases, dumps, scripts, sealing
from reconciler.errors import CheckFailedError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.masking.classify.profiles import DatabaseProfile
    from reconciler.masking.evidence import Base, Evidence
    from reconciler.masking.report import Masked
    from reconciler.state.desired import Check, Script


class SqliteSession:
    """An open build."""

    def __init__(self, work: BuildWork) -> None:
        self._work = work
        self._masked: Masked | None = None

    def restore(self) -> None:
        source = self._work.source
        if source.kind != "dump" or source.path is None:
            return
        name = dump_name(self._work)
        path = databases.file_of(self._work.directory, name)
        databases.make(path)
        dumps.load(self._work, source.path, path)
        damage.require_whole(path, what=f"what the dump {source.path} makes", cancel=self._work.cancel)

    def keep_databases(self) -> None:
        wanted, present = self._work.databases, databases.databases_in(self._work.directory)
        missing = sorted(set(wanted) - set(present))
        if missing:
            here = ", ".join(present) or "none"
            raise SourceError(f"the source has no database {', '.join(missing)}; it has: {here}")
        for name in present if wanted else ():
            if name not in wanted:
                self._work.progress(f"dropping database {name}")
                databases.file_of(self._work.directory, name).unlink()

    def look_for_damage(self, *, final: bool) -> int:  # noqa: ARG002 - nothing is sorted differently on another host
        relations = 0
        for name in databases.databases_in(self._work.directory):
            path = databases.file_of(self._work.directory, name)
            found = damage.problems(path, cancel=self._work.cancel)
            if found:
                raise CheckFailedError(f"database {name} is damaged: {found[0]}", reason="DataDamaged")
            relations += damage.relations(path)
        return relations

    def run(self, script: Script) -> None:
        scripts.run_script(self._work, script)

    def mask(self, masking: MaskingWork) -> Masked:
        from reconciler.engines.sqlite.masking import run  # noqa: PLC0415 - what masks is large, and only builds need it

        self._masked = run.mask_databases(self._work, masking)
        return self._masked

    def profile(self) -> tuple[DatabaseProfile, ...]:
        from reconciler.engines.sqlite.masking.profile import profile_database  # noqa: PLC0415 - as above

        found = []
        for name in databases.databases_in(self._work.directory):
            self._work.progress(f"looking at database {name}")
            with databases.connect(databases.file_of(self._work.directory, name), cancel=self._work.cancel) as conn:
                found.append(profile_database(conn, name, self._work.cancel))
        return tuple(found)

    def check(self, check: Check) -> None:
        scripts.run_check(self._work, check)

    def isolate(self) -> None:
        """A file reaches nobody: there are no logins, jobs, links or servers in it."""

    def settle(self) -> None:
        source = self._work.source
        sealing.settle(self._work, anew=self._masked is not None or source.base is None)

    def wipe(self, stopped: Callable[[], AbstractContextManager[None]], base: Base | None = None) -> None:
        """Nothing is left to be wiped: masked databases were written anew."""

    def prove(self, masked: Masked, base: Base | None = None) -> Evidence:  # noqa: ARG002 - a database is one file, which was written anew
        from reconciler.engines.sqlite.masking import prove  # noqa: PLC0415 - as above

        return prove.prove(self._work, masked)


def dump_name(work: BuildWork) -> str:
    """Return what the database of a dump is called: as the image says, or as its file."""
    if len(work.databases) == 1:
        return work.databases[0]
    path = work.source.path
    return (work.source.name or (path.name if path is not None else "")).partition(".")[0]
