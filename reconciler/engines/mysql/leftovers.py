"""Files of a data directory that are no data: identities, logs, keys, where replication and backups stood.

Called by :mod:`.physical` before a copy is opened, and by :mod:`.finish`.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

_FOLLOWING = re.compile(
    r"""
      auto\.cnf | mysqld-auto\.cnf | (?:multi-)?master\S*\.info | relay-log\S*\.info | .*-relay-bin\S* | relay\S*\.index
    | .*-bin\.(?:\d{6,}|index|state) | mysql-bin\S* | binlog\.(?:\d{6,}|index|state) | gvwstate\.dat | grastate\.dat
    | galera\.cache | (?:xtrabackup|mariadb_backup|mariabackup|backup-my)\S* | debian-\S*\.flag
    | .*\.(?:pid|err|log|pem|sock|lock|key|cnf)
    """,
    re.VERBOSE,
)
_NEEDED_TO_RECOVER = frozenset({"tc.log", "ddl_recovery.log", "ddl.log", "ddl_recovery-backup.log"})
_WORTHLESS = re.compile(
    r"""
      ib_buffer_pool | ibtmp\d+ | tc\.log | ddl\S*\.log | aria_recovery\.trace | \#innodb_temp | \#ib_\d+_\d+\.dblwr
    | core(?:\.\d+)?
    """,
    re.VERBOSE,
)


def remove_following(data: Path) -> None:
    """Remove what would make a server go on with what production's did; what it recovers from stays."""
    for entry in list(data.iterdir()):
        if _FOLLOWING.fullmatch(entry.name) and entry.name not in _NEEDED_TO_RECOVER:
            remove(entry)


def remove_all(data: Path) -> None:
    """Remove everything that is no data, from what was cleanly shut down."""
    for entry in list(data.iterdir()):
        if _FOLLOWING.fullmatch(entry.name) or _WORTHLESS.fullmatch(entry.name):
            remove(entry)


def refuse_links(data: Path) -> None:
    """Insist that all of it is in one place.

    Raises:
        SourceError: tables lie elsewhere (symbolic links, ``DATA DIRECTORY``).

    """
    found = sorted(files.links_in(data)) + sorted(str(path.relative_to(data)) for path in data.rglob("*.isl"))
    if found:
        raise SourceError(
            f"parts of the source lie outside of it: {', '.join(found[:5])}",
            hint="move these tables into the data directory, or use a dump",
        )


def remove(path: Path) -> None:
    """Remove a file or a whole directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
