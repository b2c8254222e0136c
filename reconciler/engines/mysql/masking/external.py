"""Masking programs of the host, which change a build's databases by themselves.

Called by :mod:`.run`. A program gets the connection in its environment: ``MYSQL_UNIX_PORT``,
``MYSQL_USER``, ``MYSQL_PWD`` and ``MYSQL_DATABASE``. It works as the account that has rights on
databases of users only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines.mysql import accounts, server
from reconciler.errors import CommandError, MaskingError, TimeoutExceededError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import BuildWork, Masker
    from reconciler.engines.mysql.product import Product


def run_masker(work: BuildWork, product: Product, name: str, masker: Masker, databases: Sequence[str]) -> None:
    """Run a masker once per database, one after the other, to its end.

    Raises:
        MaskingError: it ended with another exit code than 0.
        TimeoutExceededError: it took longer than the host allows; it was ended.
        NotInstalledError: there is no such program.

    """
    for database in databases:
        work.progress(f"masking {database} with {name}")
        with accounts.opened_owner(work, product) as password, open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
            try:
                proc.run(
                    masker.argv,
                    stdout=nowhere,
                    env=_environment(work, database, password),
                    account=work.account,
                    timeout=masker.timeout_seconds,
                    cancel=work.cancel,
                )
            except CommandError as error:
                raise MaskingError(
                    f"the masker {name} ended with exit code {error.returncode} in database {database}",
                    hint="what it printed is not kept, as it may be personal data: let it write a log of its own",
                ) from None  # the other error quotes what it printed
            except TimeoutExceededError as error:
                raise TimeoutExceededError(
                    f"the masker {name} took longer than {masker.timeout_seconds:g} s in database {database}",
                    hint=f"its limit is masking.maskers.{name}.timeout of the host's configuration",
                ) from error


def _environment(work: BuildWork, database: str, password: str) -> dict[str, str]:
    return {
        "MYSQL_UNIX_PORT": str(server.socket(work)),
        "MYSQL_USER": server.OWNER,
        "MYSQL_PWD": password,
        "MYSQL_DATABASE": database,
    }
