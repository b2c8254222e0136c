"""Masking programs of the host, which change a build's databases by themselves.

Called by engines. A program gets a connection in its environment, with the rights that the
engine gives it. It gets nothing of the spec repository, and what it prints is thrown away,
because it may be rows of people.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.errors import CommandError, MaskingError, TimeoutExceededError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.engines.base import BuildWork, Masker


def run(work: BuildWork, name: str, masker: Masker, database: str, environment: Mapping[str, str]) -> None:
    """Run a masker in one database, to its end.

    Raises:
        MaskingError: it ended with another exit code than 0.
        TimeoutExceededError: it took longer than the host allows; it was ended.
        NotInstalledError: there is no such program.

    """
    work.progress(f"masking {database} with {name}")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
        try:
            proc.run(
                masker.argv,
                stdout=nowhere,
                env=environment,
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
