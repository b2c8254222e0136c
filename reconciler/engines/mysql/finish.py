"""Make a stopped build fit for sealing.

Called by ``engine.finish``. Works on files only, with the server program in a mode in
which it talks to nobody.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.base import Sealed
from reconciler.engines.mysql import bootstrap, leftovers, notes, server, settings
from reconciler.errors import CommandError, PermanentError
from reconciler.handover import give_tree, take_tree

if TYPE_CHECKING:
    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.mysql.product import Product

_UNCLEAN = re.compile(
    r"crash recovery|starting recovery|not clean|Starting final batch|read.only.*(?:recover|redo)", re.IGNORECASE
)
_OF_THE_PRIMARY = ("binary_log", "gtid")
"""Where it stood: for people, and for whoever goes on from there."""


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
    leftovers.remove_all(data)
    facts = notes.read(work)
    for entry in work.directory.iterdir():
        if entry != data:
            leftovers.remove(entry)
    data.chmod(0o700)
    give_tree(work.directory, work.final_account or work.account)
    return Sealed(
        version=installed.version,
        major=installed.major,
        databases=notes.lines(facts, "databases"),
        facts={name: facts[name] for name in (*settings.LAYOUT, *_OF_THE_PRIMARY) if name in facts},
        data_as_of=datetime.fromisoformat(facts["as_of"]) if "as_of" in facts else None,
        position=facts.get("position"),
        input_id=facts.get("input_id"),
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
    """Have InnoDB make its log anew, as small as clones have it: the one of the build holds rows of everything.

    The log of Aria, which the server's own tables are in, cannot be made anew; it is written on until what it
    held (accounts of production with hashes of their passwords) is in a part that the server removes.
    """
    options = [f"--innodb-log-file-size={settings.SEALED_LOG_MIB}M", "--innodb-fast-shutdown=0"]
    renewing = product.renew_log() if work.source.physical or work.source.kind == "clone" else ("", ())
    try:
        bootstrap.run(work, product, installed, renewing[0], *options, *renewing[1])
    except CommandError as error:
        raise PermanentError(f"the build's log cannot be made anew: {bootstrap.first_error(error.stderr)}") from error
