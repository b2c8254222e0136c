"""The runtime of one instance: clones are databases on a server that exists already.

Made by the host, one for each instance of its configuration. What the server is asked and
told is the business of the engine, behind :class:`DatabaseServer`. A clone runs while its
users are let in; nothing here makes, fills or drops a database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from reconciler.errors import UnsupportedError
from reconciler.ids import ServerName, VolumeId
from reconciler.runtimes.base import RuntimeTraits
from reconciler.state.observed import ObservedServer, ServerState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from reconciler.ids import RuntimeName
    from reconciler.proc import Account, CancelToken
    from reconciler.state.servers import Hosted, ProductImage, ServerSpec, Software


class DatabaseServer(Protocol):
    """What the runtime needs of a server; an engine's ``Instance`` fits it."""

    def served(self) -> frozenset[VolumeId]:
        """Return the generations of clones whose users, or we alone, are let in now.

        Raises:
            UnavailableError: the server does not answer.

        """
        ...

    def serve(self, hosted: Hosted) -> None:
        """Let the users of a clone in, under its own names, or us alone if it is private."""
        ...

    def refuse(self, volume: VolumeId) -> None:
        """Let nobody in, and end the sessions that there are; absent is fine."""
        ...


class InstanceRuntime:
    """One instance as a runtime."""

    def __init__(self, name: RuntimeName, server: DatabaseServer) -> None:
        self.name = name
        self.traits = RuntimeTraits(resources=frozenset(), own_accounts=False, databases=True)
        self._server = server

    def servers(self) -> Mapping[ServerName, ObservedServer]:
        return {
            ServerName(volume): ObservedServer(ServerName(volume), self.name, ServerState.RUNNING)
            for volume in self._server.served()
        }

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
        """Let a clone's users in.

        Raises:
            UnsupportedError: it has files, or a server of its own.
            PermanentError: its databases are not there any more.
            BusyError: somebody else's database has its name.

        """
        if cancel is not None:
            cancel.check()
        if spec.hosted is None:
            raise UnsupportedError(
                f"{spec.name} needs a server of its own, and the runtime {self.name} has none to give",
                hint="write runtime: process",
            )
        self._server.serve(spec.hosted)

    def stop(
        self,
        name: ServerName,
        *,
        spec: ServerSpec | None = None,  # noqa: ARG002 - part of the contract
        own: Account | None = None,  # noqa: ARG002 - as above
        at_once: bool = False,  # noqa: ARG002 - as above
    ) -> None:
        self._server.refuse(VolumeId(name))

    def forget(self, name: ServerName) -> None:
        """Nothing is kept on this host."""

    def logs(self, name: ServerName, *, lines: int = 100) -> list[str]:  # noqa: ARG002 - part of the contract
        """Return nothing: what the server writes is of all its databases."""
        return []

    def free_port(self, taken: AbstractSet[int]) -> int:  # noqa: ARG002 - part of the contract
        raise UnsupportedError(f"the runtime {self.name} has no ports to give")

    def account(
        self, purpose: Literal["build", "clone", "own"], volume: VolumeId, taken: AbstractSet[int]
    ) -> Account | None:
        del taken
        if purpose == "own":
            raise UnsupportedError(f"{volume} needs an account of its own, which the runtime {self.name} cannot give")
        return None

    def rotate_logs(self) -> None:
        """There are none."""
