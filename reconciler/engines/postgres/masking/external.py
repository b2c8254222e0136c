"""Run a masking program of the host against a build.

Called by :mod:`.run`. The program is the host's, its connection is the builder's: without
superuser rights, over the private socket. It gets nothing of the spec repository, and
what it prints is thrown away, because it may be rows of people.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines.postgres import server
from reconciler.errors import CommandError, MaskingError, TimeoutExceededError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import BuildWork, Masker


def run_masker(work: BuildWork, name: str, masker: Masker, databases: Sequence[str]) -> None:
    """Run a masker once per database, one after the other, to its end.

    Raises:
        MaskingError: it ended with another exit code than 0.
        TimeoutExceededError: it took longer than the host allows; it was ended.
        NotInstalledError: there is no such program.

    """
    for database in databases:
        work.progress(f"masking {database} with {name}")
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
            try:
                proc.run(
                    masker.argv,
                    stdout=nowhere,
                    env=server.socket_environment(work, database, server.BUILDER),
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
