"""The contract of runtimes: how servers are run, found again and stopped.

Called by ``observe`` and ``apply`` only. A runtime knows nothing of engines: a
:class:`~reconciler.state.servers.ServerSpec` says what to run.

**Survival.** Servers outlive the reconciler: its end, upgrade or kill stops none. A
later reconciler finds them again by marks that travel with the server itself, never
by a record that could be stale.

**Idempotence.** ``start`` of a running server and ``stop`` of an absent one do nothing.

**Only ours.** Only servers that carry the mark of this installation are listed,
signalled or counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from reconciler.ids import RuntimeName, ServerName, VolumeId
    from reconciler.proc import Account, CancelToken
    from reconciler.state.observed import ObservedServer
    from reconciler.state.servers import ProductImage, ServerSpec, Software


@dataclass(frozen=True, slots=True)
class RuntimeTraits:
    """What a runtime promises; asked instead of its name."""

    resources: frozenset[str]
    """Names of the resource limits that it can hold a server to: memory, cpus, disk."""
    own_accounts: bool
    """Whether a clone can run under an account of its own."""
    containers: bool = False
    """Whether servers run in containers: with programs of an image and a network of their own, and with nothing of
    the host in sight but their own files. So a superuser needs no account of its own there, and a server runs under
    whatever account owns its files."""
    databases: bool = False
    """Whether its servers exist already, and a clone is databases on one (``ServerSpec.hosted``): it has no files,
    no port, settings or limits of its own, and to start it is to let its users in."""
    servers: bool = True
    """Whether it runs servers at all: one that does not hands out files, and has no ports, logs or logins."""


class Runtime(Protocol):
    """One way of running servers on this host. Safe to call from several threads for different servers."""

    name: RuntimeName
    traits: RuntimeTraits

    def servers(self) -> Mapping[ServerName, ObservedServer]:
        """Return every running server of this installation in one look.

        Raises:
            UnavailableError: the runtime cannot be asked; nothing may be concluded.

        """
        ...

    def software(
        self, engine: str, major: str | None, default: ProductImage, *, asked: str | None = None
    ) -> Software | None:
        """Return the programs that serve a version of an engine here; None: those of the host, which the engine finds.

        ``default`` is the image of containers that is taken where the host's configuration names no other;
        ``asked`` is one that a document names.

        Raises:
            NotInstalledError: there is no such image, and none can be had; the message says why.
            UnavailableError: the runtime, or where it gets images from, does not answer.

        """
        ...

    def start(self, spec: ServerSpec, *, fresh: bool = False, cancel: CancelToken | None = None) -> None:
        """Start a server and return once it answers.

        A server of this name that runs already is left alone. ``fresh`` promises that the
        directory was made a moment ago: nobody is looked for who might use it.

        Raises:
            BusyError: its port or its directory is used by somebody else.
            TransientError: the server ended while starting; the message carries the end of its log. Whether the
                cause is the host's (a shutdown, a full disk) or a setting's, only a person can tell from it.
            TimeoutExceededError: it did not answer in time; it was stopped again.
            UnsupportedError: the spec is not of the kind that this runtime runs (``containers``).

        """
        ...

    def stop(
        self, name: ServerName, *, spec: ServerSpec | None = None, own: Account | None = None, at_once: bool = False
    ) -> None:
        """Stop a server in an orderly way, at the latest by force, and wait for its end.

        Without ``spec`` the server gets the signals that its start named. What
        remained of a server that died is ended as well. ``own`` is the account of its
        own that it has, if it has one: whatever runs under that is ended, too, by a runtime
        that gives own accounts. ``at_once``: its data is thrown away, so of its signals it
        gets the last one only.

        Raises:
            BusyError: it does not end, not even by force.

        """
        ...

    def forget(self, name: ServerName) -> None:
        """Remove what is kept of a stopped server (its logs)."""
        ...

    def logs(self, name: ServerName, *, lines: int = 100) -> list[str]:
        """Return the last lines that the server wrote, oldest first; empty when there are none."""
        ...

    def free_port(self, taken: AbstractSet[int]) -> int:
        """Return a port of the runtime's range that is not in ``taken`` and nobody listens on.

        Raises:
            RefusedError: the range is exhausted.

        """
        ...

    def account(
        self, purpose: Literal["build", "clone", "own"], volume: VolumeId, taken: AbstractSet[int]
    ) -> Account | None:
        """Return the account to run under; None is the reconciler's own.

        ``build`` and ``clone`` are shared accounts of their purpose; ``own`` is an
        account that no other volume has (``taken`` are user ids in use) and no process
        that lives.

        Raises:
            UnsupportedError: ``own`` where the reconciler cannot change accounts.

        """
        ...

    def rotate_logs(self) -> None:
        """Keep the logs of running servers within their bounds; called now and then."""
        ...
