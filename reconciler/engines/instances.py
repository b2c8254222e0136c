"""What every engine asks of a snapshot before it is loaded into a server that exists already.

Called by the fronts of instances, whose contract is :class:`reconciler.engines.base.Instance`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import PermanentError, UnsupportedError

if TYPE_CHECKING:
    from reconciler.state.observed import SnapshotManifest


def require_fit(snapshot: SnapshotManifest, where: str, *, engine: str, product: str) -> None:
    """Insist that there is something in a snapshot to load, and that it is of the ``product`` of the server.

    Raises:
        UnsupportedError: it is of another product.
        PermanentError: it has no database that could be on an instance.

    """
    if snapshot.engine != engine:
        raise UnsupportedError(
            f"{where} is {product}, and snapshot {snapshot.snapshot} is of {snapshot.engine}",
            reason="OtherProduct",
            hint="use an instance of the image's product",
        )
    if not snapshot.databases:
        raise PermanentError(
            f"snapshot {snapshot.snapshot} has no database that could be on an instance",
            reason="NothingToLoad",
            hint="make one in a script of the image",
        )


def too_old(snapshot: SnapshotManifest, where: str, server: str) -> UnsupportedError:
    """Return the error of a ``server`` (product and version) that is older than what wrote a snapshot."""
    return UnsupportedError(
        f"{where} is {server}, and snapshot {snapshot.snapshot} is of {snapshot.major}",
        reason="InstanceTooOld",
        hint="use a newer instance, or build the image with an older version",
    )
