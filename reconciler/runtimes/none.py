"""The runtime ``none``: databases that are files, and nobody who serves them.

Made by the host. There is no process, port or log: a clone is there when its files are.
Whoever may read them opens them with a library of their own; so the only thing that it
decides is whose they are.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING, Literal

from reconciler.errors import PermanentError, UnsupportedError
from reconciler.proc import Account
from reconciler.runtimes.base import RuntimeTraits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from reconciler.ids import RuntimeName, ServerName, VolumeId
    from reconciler.proc import CancelToken
    from reconciler.state.observed import ObservedServer
    from reconciler.state.servers import ProductImage, ServerSpec, Software


class FilesRuntime:
    """Files of clones; ``account`` is the name of whom they belong to, where that can be somebody else."""

    def __init__(self, name: RuntimeName, *, account: str | None = None) -> None:
        self.name = name
        self.traits = RuntimeTraits(resources=frozenset(), own_accounts=False, servers=False)
        self._account = account

    def servers(self) -> Mapping[ServerName, ObservedServer]:
        return {}

    def software(
        self,
        engine: str,  # noqa: ARG002 - part of the contract
        major: str | None,  # noqa: ARG002 - as above
        default: ProductImage,  # noqa: ARG002 - as above
        *,
        asked: str | None = None,  # noqa: ARG002 - as above
    ) -> Software | None:
        return None

    def start(self, spec: ServerSpec, *, fresh: bool = False, cancel: CancelToken | None = None) -> None:  # noqa: ARG002 - part of the contract
        """Insist that there is nothing to run, and that what is to be handed out is there.

        Raises:
            UnsupportedError: the engine needs a server.
            PermanentError: a file is missing or cannot be read.

        """
        if cancel is not None:
            cancel.check()
        if spec.argv:
            raise UnsupportedError(
                f"{spec.name} needs a server, and the runtime {self.name} has none", hint="write runtime: process"
            )
        if not spec.ready():
            raise PermanentError(f"the files of {spec.name} in {spec.directory} cannot be used")

    def stop(
        self, name: ServerName, *, spec: ServerSpec | None = None, own: Account | None = None, at_once: bool = False
    ) -> None:
        """Nothing runs."""

    def forget(self, name: ServerName) -> None:
        """Nothing is kept."""

    def logs(self, name: ServerName, *, lines: int = 100) -> list[str]:  # noqa: ARG002 - part of the contract
        return []

    def free_port(self, taken: AbstractSet[int]) -> int:  # noqa: ARG002 - part of the contract
        raise UnsupportedError(f"the runtime {self.name} has no ports")

    def account(
        self, purpose: Literal["build", "clone", "own"], volume: VolumeId, taken: AbstractSet[int]
    ) -> Account | None:
        """Return whom the files of clones belong to; builds are this process's own, which opens them itself.

        Raises:
            UnsupportedError: there is no such account, or one of its own is asked for.

        """
        del taken
        if purpose == "own":
            raise UnsupportedError(f"{volume} needs an account of its own, which the runtime {self.name} cannot give")
        if purpose == "build" or self._account is None or os.geteuid() != 0:
            return None
        try:
            found = pwd.getpwnam(self._account)
        except KeyError as error:
            raise UnsupportedError(
                f"there is no account {self._account} on this host", hint="correct runtimes.none.account"
            ) from error
        return Account(found.pw_uid, found.pw_gid)

    def rotate_logs(self) -> None:
        """There are none."""
