"""Names that must not mix, as types of their own."""

from __future__ import annotations

from typing import NewType

ImageName = NewType("ImageName", str)
CloneName = NewType("CloneName", str)
PolicyName = NewType("PolicyName", str)
PoolName = NewType("PoolName", str)
RuntimeName = NewType("RuntimeName", str)
SecretName = NewType("SecretName", str)

InstallationId = NewType("InstallationId", str)
"""Random id of one state directory; every volume and server carries it."""

Revision = NewType("Revision", str)
"""``main@sha1:<40 hex>`` for git, ``dir@sha1:<40 hex>`` for a plain directory."""

VolumeId = NewType("VolumeId", str)
"""Name of a volume in its pool; for a build and the snapshot it becomes, the snapshot's id."""

SnapshotId = NewType("SnapshotId", str)
"""``<image>-<UTC time>-<first 8 of specDigest>``, for example ``shop-20261122t020000z-1a2b3c4d``."""

ServerName = NewType("ServerName", str)
"""Name of a server in a runtime: the id of the volume that it serves."""

DEFAULT_POOL = PoolName("default")
DEFAULT_RUNTIME = RuntimeName("process")
FILES = RuntimeName("none")
"""The runtime of databases that are files, which no server serves."""
_INSTANCE = "instance/"


def on_instance(name: str) -> RuntimeName:
    """Return the runtime of clones that are databases on the instance of this name: each instance is one of its own."""
    return RuntimeName(f"{_INSTANCE}{name}")


def instance_of(runtime: RuntimeName) -> str | None:
    """Return the name of the instance that a runtime stands for; None for any other runtime."""
    return runtime.removeprefix(_INSTANCE) if runtime.startswith(_INSTANCE) else None
