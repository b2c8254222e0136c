"""What a failure or a delivered setting was made from, as short digests.

Called by planning to compare and by ``apply`` to record: both sides must use these
functions, so that "what was applied" and "what is asked for" can never be computed in
two ways. Digests never cover the value of a secret, only its keyed fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from reconciler.ids import instance_of
from reconciler.state.observed import AppliedUser

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reconciler.ids import CloneName, RuntimeName, SecretName, SnapshotId, VolumeId
    from reconciler.state.desired import DesiredClone, DesiredImage
    from reconciler.state.observed import CloneManifest

GENERATED = "generated"
"""Fingerprint of a password that the reconciler made itself."""


def digest(*parts: object) -> str:
    """Return a short digest of values that JSON can write; equal values give equal digests."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings_digest(clone: DesiredClone, image: DesiredImage) -> str:
    """Return the digest of what a restart applies, ``<parameters>.<resources>``, with what a container runs.

    The port is not part of it: a clone without one keeps what it was given.
    """
    resources = clone.resources
    held = digest(resources.memory, resources.cpus, resources.disk, *_container(clone))
    return f"{digest(effective_parameters(clone, image))}.{held}"


def effective_parameters(clone: DesiredClone, image: DesiredImage) -> dict[str, str]:
    """Return the server settings of a clone: those of its image, overridden by its own; an instance has its own."""
    if instance_of(clone.runtime) is not None:
        return {}
    return {**image.parameters, **clone.parameters}


def changed_settings(applied: str, wanted: str) -> tuple[str, ...]:
    """Return which of parameters and resources differ between two settings digests."""
    names = ("parameters", "resources")
    pairs = zip(names, applied.partition(".")[::2], wanted.partition(".")[::2], strict=True)
    return tuple(name for name, was, now in pairs if was != now)


def applied_users(clone: DesiredClone, secrets: Mapping[SecretName, str]) -> tuple[AppliedUser, ...]:
    """Return a clone's users as its manifest records them once delivered, by name.

    Raises:
        KeyError: a password's secret does not exist; see :func:`missing_secrets`.

    """
    users = (
        AppliedUser(user.name, user.role, GENERATED if user.password is None else secrets[user.password])
        for user in clone.users
    )
    return tuple(sorted(users, key=lambda user: user.name))


def missing_secrets(clone: DesiredClone, secrets: Mapping[SecretName, str]) -> tuple[SecretName, ...]:
    """Return the secrets that a clone's users name and that do not exist."""
    named = {user.password for user in clone.users if user.password is not None}
    return tuple(sorted(name for name in named if name not in secrets))


def key_id(image: DesiredImage, secrets: Mapping[SecretName, str]) -> str | None:
    """Return the keyed fingerprint of an image's masking keys; None without keys or while one is missing."""
    if not image.masking_keys or any(name not in secrets for name in image.masking_keys):
        return None
    prints = [secrets[name] for name in image.masking_keys]
    return prints[0] if len(prints) == 1 else digest(prints)


def build_fingerprint(
    image: DesiredImage, *, input_id: str, key: str | None, base: SnapshotId | None, asked: str | None = None
) -> str:
    """Return the fingerprint of a build's inputs: while it is the same, a permanent failure stands.

    Wider than the spec digest: server settings, pool and runtime can make a build fail too.
    ``asked`` is the value of an annotation that asks for this build and that nothing has
    answered yet: each new one is worth one more try.
    """
    return _fingerprint(
        "build",
        image.spec_digest,
        input_id,
        key,
        base,
        dict(image.parameters),
        image.pool,
        image.runtime,
        image.superuser_scripts,
        *(() if asked is None else (asked,)),
        *_container(image),
    )


def point_digest(clone: CloneName, volume: VolumeId) -> str:
    """Return what stands for the spec digest of a point in a clone's life: which clone, and which volume of it."""
    return f"sha256:{hashlib.sha256(f'point {clone} {volume}'.encode()).hexdigest()}"


def cut_fingerprint(volume: VolumeId, now: datetime) -> str:
    """Return the fingerprint of cutting a point.

    What a clone holds changes all the time, so that a permanent failure stands for an hour at most.
    """
    return _fingerprint("cut", volume, now.strftime("%Y-%m-%d %H"))


def mirror_settings(
    url: SecretName, secrets: Mapping[SecretName, str | None], *, keep_log: bool, archived: bool = False
) -> str:
    """Return the digest of what a mirror is started with: whom it follows, how it gets in, and whether it keeps log.

    From an archive it is handed what it replays, and its server knows of no primary.
    """
    return digest(url, "archive", keep_log) if archived else digest(url, secrets.get(url), keep_log)


def mirror_input(system: str, position: str) -> str:
    """Return the input id of what a mirror has replayed."""
    return f"primary:{system}:{position}"


def mirror_fingerprint(work: str, image: DesiredImage, secrets: Mapping[SecretName, str]) -> str:
    """Return the fingerprint of copying (``copy``) or following (``follow``) an image's primary."""
    source = image.mirrored
    way_in = "" if source is None else mirror_settings(source.url, secrets, keep_log=False)
    return _fingerprint(work, image.engine, image.version, image.pool, way_in)


def template_fingerprint(runtime: RuntimeName, snapshot: SnapshotId, now: datetime) -> str:
    """Return the fingerprint of loading a snapshot into an instance.

    What is installed and allowed there changes without our notice, so that a permanent failure stands for an hour.
    """
    return _fingerprint("load", runtime, snapshot, now.strftime("%Y-%m-%d %H"))


def delivery_fingerprint(
    clone: DesiredClone, image: DesiredImage, *, snapshot: SnapshotId, secrets: Mapping[SecretName, str]
) -> str:
    """Return the fingerprint of making a clone from a snapshot (create and replace)."""
    return _fingerprint(
        "deliver",
        snapshot,
        clone.runtime,
        clone.port,
        _rows(applied_users(clone, secrets)),
        clone.scripts_digest,
        settings_digest(clone, image),
        clone.superuser_scripts,
    )


def update_fingerprint(clone: DesiredClone, secrets: Mapping[SecretName, str]) -> str:
    """Return the fingerprint of an update in place."""
    return _fingerprint("update", _rows(applied_users(clone, secrets)), clone.owner, clone.protected)


def serve_fingerprint(clone: DesiredClone, image: DesiredImage | None, volume: VolumeId) -> str:
    """Return the fingerprint of starting or restarting a clone's server."""
    settings = settings_digest(clone, image) if image is not None else ""
    return _fingerprint("serve", volume, clone.runtime, clone.port, settings)


def start_fingerprint(manifest: CloneManifest, volume: VolumeId) -> str:
    """Return the fingerprint of starting a clone's server as it ran before, while other settings are asked for.

    Work of its own: neither its success nor its failure says anything about those.
    """
    return _fingerprint("start", volume, manifest.port, manifest.parameters)


def document_digest(clone: DesiredClone) -> str:
    """Return the digest of what a clone's document asks for, wherever it is written."""
    return digest(
        clone.image,
        clone.snapshot,
        clone.runtime,
        clone.owner,
        clone.port,
        clone.running,
        clone.idle,
        clone.ttl,
        clone.expires,
        clone.on_refresh,
        clone.protected,
        [(user.name, user.role, user.password) for user in clone.users],
        clone.scripts_digest,
        dict(clone.parameters),
        dict(clone.labels),
        [clone.resources.memory, clone.resources.cpus, clone.resources.disk],
        *([clone.source_clone] if clone.source_clone is not None else []),
        *_container(clone),
    )


def _container(of: DesiredClone | DesiredImage) -> list[str]:
    """Return what a container runs, if a document says; without, digests are what they were before there was any."""
    return [] if of.container_image is None else [f"container image {of.container_image}"]


def _fingerprint(work: str, *inputs: object) -> str:
    """Return ``<work>:<digest of its inputs>``; each kind of work has its own failures (see Failure)."""
    return f"{work}:{digest(*inputs)}"


def _rows(users: tuple[AppliedUser, ...]) -> list[tuple[str, str, str]]:
    return [(user.name, user.role, user.password) for user in users]
