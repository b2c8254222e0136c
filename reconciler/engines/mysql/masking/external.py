"""Masking programs of the host, which change a build's databases by themselves.

Called by :mod:`.run`. A program gets the connection in its environment: ``MYSQL_UNIX_PORT``,
``MYSQL_USER``, ``MYSQL_PWD`` and ``MYSQL_DATABASE``. It works as the account that has rights on
databases of users only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines import maskers
from reconciler.engines.mysql import accounts, server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import BuildWork, Masker
    from reconciler.engines.mysql.product import Product


def run_masker(work: BuildWork, product: Product, name: str, masker: Masker, databases: Sequence[str]) -> None:
    """Run a masker once per database, one after the other, to its end. Raises as :func:`.maskers.run`."""
    for database in databases:
        with accounts.opened_owner(work, product) as password:
            maskers.run(work, name, masker, database, _environment(work, database, password))


def _environment(work: BuildWork, database: str, password: str) -> dict[str, str]:
    return {
        "MYSQL_UNIX_PORT": str(server.socket(work)),
        "MYSQL_USER": server.OWNER,
        "MYSQL_PWD": password,
        "MYSQL_DATABASE": database,
    }
