"""A data directory's first moments: made by initdb, or opened for the first time as a copy of production.

Called by ``engine.prepare``. It leaves what it learns (the superuser's name, libraries
that the data needs) in the build's notes.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.postgres import feeding, parameters, recovery, server, settings
from reconciler.engines.postgres.control import required_settings
from reconciler.engines.postgres.failures import told
from reconciler.errors import CommandError, PermanentError, SourceError
from reconciler.handover import give_tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.postgres.recovery import Recovery

_BUILTIN_LOCALE = 17
_PRELOAD_LINE = re.compile(r"^\s*shared_preload_libraries\s*=?\s*'([^'\n]*)'", re.MULTILINE | re.IGNORECASE)


def initialise(work: BuildWork, installed: InstalledServer) -> None:
    """Make an empty cluster. It sorts by C.UTF-8: the same on every host, with every version of the C library."""
    data = server.data_directory(work)
    data.mkdir(mode=0o700)
    give_tree(data, work.account)
    argv: list[str | Path] = [server.program(installed, "initdb"), "-D", data, "-U", server.ADMIN, "-E", "UTF8"]
    argv += ["--auth=reject", "--no-sync", "--locale=C.UTF-8"]
    if int(installed.major) >= _BUILTIN_LOCALE:
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    try:
        proc.run(argv, account=work.account, env=server.server_environment(), cwd=data, timeout=600, cancel=work.cancel)
    except CommandError as error:
        raise PermanentError(f"initdb failed: {told(error.stderr)}") from error


def open_source(work: BuildWork, installed: InstalledServer, wanted: Recovery | None = None) -> None:
    """Open a physical copy of production for the first time, without a socket: recover it and find its superuser.

    With ``wanted`` it is archive recovery, which ends in a promotion and says what it reached
    (:func:`.recovery.reached`); without, what a crashed server does from the WAL that it has.

    Raises:
        SourceError: it cannot be opened, or does not become consistent.

    """
    note_preload(work)
    recovery.note_start(work, installed)
    source = wanted.source if wanted is not None else None
    try:
        with feeding.feeding(work, installed, source) if source is not None else nullcontext():
            _find_admin(work, installed, recovery.request(work, wanted) if wanted is not None else {})
    except CommandError as error:
        raise recovery.failure(wanted, error.stderr, str(work.source.path or work.source.name)) from error


def required(work: BuildWork, installed: InstalledServer) -> dict[str, str]:
    """Return the settings below which a build's data cannot be served."""
    found = required_settings(installed, server.data_directory(work))
    base = work.source.base
    return found | dict(base.required) if base is not None else found


def _find_admin(work: BuildWork, installed: InstalledServer, asked: Mapping[str, str]) -> None:
    """Find the bootstrap superuser, whose name we do not know, in single-user mode, and let it log in.

    Its own role can lack LOGIN or have expired, and a name for ``peer`` authentication must be known before
    version 16. This runs the recovery of a backup as well.
    """
    data = server.data_directory(work)
    settings.write_build(work, installed, required(work, installed) | dict(asked))
    argv: list[str | Path] = [server.program(installed, "postgres"), "--single", "-j", "-D", data, "template1"]
    query = b"SELECT 'admin:' || encode(convert_to(rolname, 'UTF8'), 'hex') AS name FROM pg_authid WHERE oid = 10;\n\n"
    free = b"UPDATE pg_authid SET rolcanlogin = true, rolvaliduntil = NULL, rolpassword = NULL WHERE oid = 10;\n\n"
    done = proc.run(
        argv,
        stdin=recovery.QUERY + query + free,
        account=work.account,
        env=server.server_environment(),
        cwd=data,
        cancel=work.cancel,
    )
    recovery.note(work, done.text)
    found = re.search(r"admin:([0-9a-f]+)", done.text)
    if found is None:
        raise SourceError(f"the source's superuser cannot be found: {told(done.stderr)}")
    server.note_build_facts(work, {"admin": bytes.fromhex(found[1]).decode()})


def note_preload(work: BuildWork, known: str = "") -> None:
    """Remember which libraries of the source's configuration its data cannot be read without, with those ``known``."""
    found: list[str] = [*parameters.libraries(known)]
    for directory in (work.source.path, server.data_directory(work)):
        for name in ("postgresql.conf", "postgresql.auto.conf"):
            text = files.read_small(directory / name) if directory is not None else None
            for value in _PRELOAD_LINE.findall(text or ""):
                found += [library for library in parameters.libraries(value) if library in parameters.REQUIRED_PRELOADS]
    server.note_build_facts(work, {"preload": ",".join(dict.fromkeys(found))})
