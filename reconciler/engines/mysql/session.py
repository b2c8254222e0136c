"""One build's work on its running server, step by step.

Opened by ``engine.session``; ``apply`` calls the steps. It only puts the other modules in
their order: files that came from elsewhere are isolated before any SQL of a spec runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql import (
    accounts,
    binlogs,
    copying,
    damage,
    following,
    isolate,
    logical,
    notes,
    scripts,
    server,
    settle,
)
from reconciler.engines.mysql.link import quoted
from reconciler.errors import BusyError, MaskingError, SourceError
from reconciler.state.desired import Policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.engines.mysql.product import Product
    from reconciler.masking.classify.profiles import DatabaseProfile
    from reconciler.masking.evidence import Base, Evidence
    from reconciler.masking.report import Masked
    from reconciler.state.desired import Check, Script

_FROM_ELSEWHERE = frozenset({"backup", "files", "clone", "mirror"})


class MysqlSession:
    """An open build server."""

    def __init__(self, work: BuildWork, product: Product) -> None:
        self._work = work
        self._product = product
        self._written: frozenset[tuple[str, str]] = frozenset()
        """Tables that masking made anew, if nothing else wrote to them since."""

    def open(self) -> None:
        """Make the server safe for the work of a spec."""
        if self._work.source.kind == "mirror":
            self._require_position()
        if self._work.source.wal is not None:
            binlogs.replay(self._work)
        if self._work.source.kind in _FROM_ELSEWHERE:
            self._work.progress("isolating from production")
            isolate.isolate_server(self._work, self._product)
        with server.connect(self._work) as admin:
            accounts.ensure_owner(admin, self._product)

    def _require_position(self) -> None:
        """Insist that a copy of a mirror holds what the mirror said when it was at rest."""
        with server.connect(self._work) as admin:
            found = following.position(admin)
        if found != notes.read(self._work).get("position"):
            raise BusyError("the copy of the mirror is of another moment than it says", reason="MirrorMoved")

    def restore(self) -> None:
        if self._work.source.kind == "dump":
            logical.restore_dump(self._work, self._product)
        if self._work.source.kind == "primary":
            copying.restore_primary(self._work, self._product)
        if self._work.source.kind == "empty":
            with server.connect(self._work) as admin:
                for name in self._work.databases:
                    admin.rows(f"CREATE DATABASE {quoted(name)}")

    def keep_databases(self) -> None:
        wanted = self._work.databases
        with server.connect(self._work, patient=True) as admin:
            present = server.user_databases(admin)
            missing = sorted(set(wanted) - set(present))
            if missing:
                here = ", ".join(present) or "none"
                raise SourceError(f"the source has no database {', '.join(missing)}; it has: {here}")
            for name in present if wanted else ():
                if name not in wanted:
                    self._work.progress(f"dropping database {name}")
                    admin.rows(f"DROP DATABASE {quoted(name)}")

    def look_for_damage(self, *, final: bool) -> int:  # noqa: ARG002 - nothing is sorted anew in between
        return damage.look_for_damage(self._work)

    def run(self, script: Script) -> None:
        scripts.run_script(self._work, self._product, script)

    def mask(self, masking: MaskingWork) -> Masked:
        if not self._product.masks:
            raise MaskingError(
                f"this version does not mask {self._product.title}",
                reason="MaskingUnsupported",
                hint="give the image unmasked: {reason: …} if that is what it is",
            )
        from reconciler.engines.mysql.masking import run  # noqa: PLC0415 - what masks is large, and only builds need it

        masked = run.mask_server(self._work, self._product, masking)
        if all(isinstance(step, Policy) for step in masking.steps):
            self._written = frozenset((table.database, table.table.name) for table in masked.tables)
        return masked

    def profile(self) -> tuple[DatabaseProfile, ...]:
        from reconciler.engines.mysql.masking import profile  # noqa: PLC0415 - as above

        with server.connect(self._work, patient=True) as admin:
            names = server.user_databases(admin)
            return tuple(profile.profile_database(admin, name, self._work.cancel) for name in names)

    def check(self, check: Check) -> None:
        scripts.run_check(self._work, self._product, check)

    def isolate(self) -> None:
        isolate.isolate_server(self._work, self._product)

    def settle(self) -> None:
        notes.add(self._work, settle.settle_server(self._work))

    def wipe(self, stopped: Callable[[], AbstractContextManager[None]], base: Base | None = None) -> None:  # noqa: ARG002 - all of it is moved
        from reconciler.engines.mysql.masking import fresh  # noqa: PLC0415 - as above

        fresh.move(self._work, self._product, self._written, stopped)

    def prove(self, masked: Masked, base: Base | None = None) -> Evidence:  # noqa: ARG002 - as above
        from reconciler.engines.mysql.masking import prove  # noqa: PLC0415 - as above

        return prove.prove(self._work, masked)
