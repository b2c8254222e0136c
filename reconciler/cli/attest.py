"""``attest``: what a snapshot is and how that was proved, shown and verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reconciler.cli.clones import missing, visible
from reconciler.cli.output import Context, Output, note, write, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.host import Host
    from reconciler.masking.attestation import Examination
    from reconciler.masking.dsse import PublicKey
    from reconciler.state.observed import CloneManifest, SnapshotManifest


def register(app: typer.Typer) -> None:
    """Add the command of this module to the program."""
    app.command("attest")(attest)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a name means: a snapshot, maybe of a clone; ``manifest`` is None when only the clone is left."""

    snapshot: str
    directory: Path
    manifest: SnapshotManifest | None
    clone: str | None = None


def attest(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT|CLONE", help="Id of a snapshot, or name of a clone.")],
    files: Annotated[bool, typer.Option("--files", help="Read every file of the snapshot and compare it.")] = False,
    output: Annotated[Output, typer.Option("-o", "--output", help="How the result is written.")] = Output.TEXT,
) -> int:
    """Show and verify what a snapshot is, what was masked, and how that was proved.

    Of a clone, the snapshot that it was made of: the clone itself has changed since.
    Ends with 0 only when all of it holds.
    """
    from reconciler.masking.attestation import read
    from reconciler.masking.attestation_text import attestation_text

    context: Context = ctx.obj
    with context.host() as host:
        found = _find(host, name)
        trust = host.trust
        for problem in trust.problems:
            note(f"warning: a key of attestations is not used: {problem}")
        data = read(found.directory)
        document = _document(host, found, data, trust.keys, files=files)
    if output is Output.JSON:
        write_json(document)
    else:
        write(attestation_text(document))
    return 0 if document["verified"] else 1


def _find(host: Host, name: str) -> _Found:
    from reconciler.ids import CloneName
    from reconciler.state.observed import SnapshotManifest
    from reconciler.status.report import current_volume

    volumes, away = visible(host)
    snapshots = {v.id: v for v in volumes if isinstance(v.manifest, SnapshotManifest)}
    clone = None if name in snapshots else current_volume(volumes, CloneName(name))
    if name not in snapshots and clone is None:
        clones = {str(v.manifest.clone) for v in volumes if v.manifest.kind == "clone"}
        raise missing("snapshot or clone", name, {*map(str, snapshots), *clones}, away)
    wanted = name if clone is None else clone[1].snapshot
    volume = next((v for known, v in snapshots.items() if known == wanted), None)
    if volume is not None and isinstance(volume.manifest, SnapshotManifest):
        path = host.pools[volume.pool].path(volume.id)
        return _Found(wanted, path, volume.manifest, None if clone is None else name)
    return _left_in(host, clone, name, away)


def _left_in(host: Host, clone: tuple[Any, CloneManifest] | None, name: str, away: list[str]) -> _Found:
    """Return what a clone still has of a snapshot that cannot be seen."""
    if clone is None or away:
        raise missing("snapshot", name if clone is None else clone[1].snapshot, set(), away)
    volume, manifest = clone
    return _Found(manifest.snapshot, host.pools[volume.pool].path(volume.id), None, name)


def _document(
    host: Host, found: _Found, data: bytes | None, keys: Mapping[str, PublicKey], *, files: bool
) -> dict[str, Any]:
    """Return what ``attest -o json`` writes."""
    from reconciler.masking.attestation import Examination, differences, examine

    seen = Examination(problems=(_absent(found),)) if data is None else examine(data, found.manifest, keys)
    problems = [*seen.problems, *_alone(found, seen)]
    compared = files and found.manifest is not None and bool(seen.statement)
    if compared:
        note(f"comparing {len(seen.subjects)} files")
    different = list(differences(found.directory, seen.subjects)) if compared else []
    return {
        "snapshot": found.snapshot,
        "clone": found.clone,
        "verified": not (problems or different),
        "problems": [*problems, *different],
        "signature": _signature(seen),
        "files": {"subjects": len(seen.subjects), "compared": compared, "differences": different},
        "quarantined": _quarantined(host, found),
        "statement": seen.statement,
    }


def _absent(found: _Found) -> str:
    if found.manifest is not None and found.manifest.attestation is not None:
        return f"snapshot {found.snapshot} was sealed with an attestation, and it is gone"
    return f"snapshot {found.snapshot} has no attestation: it was built before there were any"


def _alone(found: _Found, seen: Examination) -> list[str]:
    """Return why the copy in a clone, which its users may have written to, is not enough."""
    if found.manifest is not None or not seen.statement:
        return []
    if seen.signer is None:
        return [f"snapshot {found.snapshot} is gone, and what clone {found.clone} has of it is not signed"]
    if seen.predicate.get("snapshot") != found.snapshot:
        return [f"what clone {found.clone} has is the attestation of another snapshot"]
    return []


def _signature(seen: Examination) -> dict[str, str | None]:
    if seen.signer is not None:
        return {"status": "valid", "key": seen.signer.id}
    return {"status": "invalid" if seen.claimed else "none", "key": next(iter(seen.claimed), None)}


def _quarantined(host: Host, found: _Found) -> str | None:
    from reconciler.ids import Revision, SnapshotId
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed, SnapshotManifest
    from reconciler.state.quarantine import quarantined

    desired = host.commits().in_force().desired or Desired(Revision(""), {}, {})
    asked = Observed(installation=host.installation, requests=host.state.requests.pending())
    manifests = [volume.manifest for volume in visible(host)[0]]
    known = quarantined(desired, asked, [m for m in manifests if isinstance(m, SnapshotManifest)])
    return known.get(SnapshotId(found.snapshot))
