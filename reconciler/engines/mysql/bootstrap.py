"""A data directory without a server: made, or opened by a server program that talks to nobody.

Called by ``engine`` and ``finish``. ``--bootstrap`` reads statements from its standard
input, with no network, no accounts, no plug-ins of the data and no replication: what
PostgreSQL has in its single-user mode.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines.mysql import server
from reconciler.errors import CommandError, PermanentError
from reconciler.handover import give

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.mysql.product import Product

_SECONDS = 3600.0
_ERROR = re.compile(r"(?:\[ERROR\]|^ERROR:?)\s*(.*)", re.MULTILINE)


def initialise(work: BuildWork, product: Product, installed: InstalledServer, *options: str) -> None:
    """Make an empty data directory; ``options`` are further ones of the server."""
    data = server.data_directory(work)
    data.mkdir(mode=0o700)
    give(data, work.account)
    tools = server.tool(installed, product.clients, product.install_hint).parent
    argv = [*product.initialise(tools, server.server_program(product, installed), data), *options]
    try:
        proc.run(argv, account=work.account, env=server.environment(), cwd=data, timeout=_SECONDS, cancel=work.cancel)
    except CommandError as error:
        raise PermanentError(f"{argv[0]} failed: {first_error(error.stderr)}") from error


def run(
    work: BuildWork, product: Product, installed: InstalledServer, statements: str = "", *options: str
) -> proc.Completed:
    """Open the data directory, run statements, and close it in an orderly way.

    Raises:
        CommandError: it cannot be opened, or a statement failed.

    """
    program = server.server_program(product, installed)
    argv: list[str | Path] = [program, f"--defaults-file={server.settings_file(work)}", "--bootstrap"]
    return proc.run(
        [*argv, "--init-file=", "--log-warnings=2", *_on_host(work), *options],
        stdin=statements.encode(),
        account=work.account,
        env=server.environment(),
        cwd=server.data_directory(work),
        timeout=_SECONDS,
        cancel=work.cancel,
    )


def _on_host(work: BuildWork) -> tuple[str, str]:
    """Return where programs of the host find what the settings of a server in a container have elsewhere."""
    return f"--socket={server.socket(work)}", f"--pid-file={server.pid_file(work)}"


def first_error(stderr: str) -> str:
    """Return the first error that a program of the product wrote."""
    found = _ERROR.search(stderr)
    return (found[1] if found is not None else stderr.strip())[-500:]
