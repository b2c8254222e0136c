"""Make a stopped build fit for sealing.

Called by ``engine.finish``. Works on files only, with the server program in a mode in
which it talks to nobody.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.base import Sealed
from reconciler.engines.mysql import bootstrap, notes, server, settings
from reconciler.errors import CommandError, PermanentError
from reconciler.handover import give_tree, take_tree

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.mysql.product import Product

_GONE = re.compile(
    r"""
      auto\.cnf | mysqld-auto\.cnf | master\.info | relay-log\.info | (?:multi-)?master\S*\.info | relay-log\S*\.info
    | .*[.-]relay-bin\S* | relay\S*\.index | .*-bin\.(?:\d{6,}|index|state) | mysql-bin\S* | binlog\.(?:\d{6,}|index)
    | .*\.(?:pid|err|log|pem|sock|lock|isl|key|tmp) | grastate\.dat | gvwstate\.dat | galera\.cache | tc\.log
    | ib_buffer_pool | ibtmp\d+ | ddl_recovery(?:-backup)?\.log | (?:xtrabackup|mariadb_backup|mariabackup|backup-my)\S*
    | debian-\S*\.flag | aria_recovery\.trace | \#innodb_temp | \#ib_16384_\d+\.dblwr | core(?:\.\d+)?
    """,
    re.VERBOSE,
)
"""Files of a data directory that are no data: identities, logs, keys, where replication and backups stood."""
_UNCLEAN = re.compile(
    r"crash recovery|starting recovery|not clean|Starting final batch|read.only.*(?:recover|redo)", re.IGNORECASE
)


def finish_build(work: BuildWork, product: Product, installed: InstalledServer) -> Sealed:
    """Scrub the stopped build and hand its files over.

    Raises:
        PermanentError: it is not cleanly shut down, or a link leads out of it.

    """
    data = server.data_directory(work)
    _require_clean(work, product, installed)
    _renew_log(work, product, installed)
    take_tree(work.directory)
    if links := sorted(files.links_in(data)):
        raise PermanentError(f"the data directory has symbolic links, which clones would share: {', '.join(links[:5])}")
    for entry in data.iterdir():
        if _GONE.fullmatch(entry.name):
            _remove(entry)
    facts = notes.read(work)
    for entry in work.directory.iterdir():
        if entry != data:
            _remove(entry)
    data.chmod(0o700)
    give_tree(work.directory, work.final_account or work.account)
    return Sealed(
        version=installed.version,
        major=installed.major,
        databases=notes.lines(facts, "databases"),
        facts={name: facts[name] for name in settings.LAYOUT if name in facts},
        source_notes=notes.lines(facts, "left_out"),
    )


def _require_clean(work: BuildWork, product: Product, installed: InstalledServer) -> None:
    """Insist that the server ended in an orderly way: its file of process is gone, and nothing would be recovered."""
    if server.pid_file(work).exists():
        raise PermanentError("the build's server did not end in an orderly way: its data is not cleanly shut down")
    try:
        done = bootstrap.run(work, product, installed, "", "--innodb-read-only=ON")
    except CommandError as error:
        told = bootstrap.first_error(error.stderr)
        raise PermanentError(f"the build's database is not cleanly shut down: {told}") from error
    if _UNCLEAN.search(done.stderr) is not None:
        raise PermanentError("the build's database is not cleanly shut down: it would be recovered")


def _renew_log(work: BuildWork, product: Product, installed: InstalledServer) -> None:
    """Have InnoDB make its log anew, as small as clones have it: the one of the build holds rows of everything."""
    size = f"--innodb-log-file-size={settings.SEALED_LOG_MIB}M"
    try:
        bootstrap.run(work, product, installed, "", size, "--innodb-fast-shutdown=0")
    except CommandError as error:
        raise PermanentError(f"the build's log cannot be made anew: {bootstrap.first_error(error.stderr)}") from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
