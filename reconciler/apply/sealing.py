"""From a finished build to a sealed snapshot: search its files, attest it, lock it away.

Called by :mod:`.images` when the build's server is gone and the engine has finished. It
writes nothing into the data; whatever it finds wrong, the caller throws the build away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.handover import lock_away
from reconciler.masking import attestation

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.apply.context import Work
    from reconciler.engines.base import BuildWork
    from reconciler.masking.dsse import Signer
    from reconciler.masking.leaks import Evidence, Scan
    from reconciler.masking.report import Masked
    from reconciler.state.desired import DesiredImage
    from reconciler.state.observed import Attestation, SnapshotManifest

_NOTES = 20


@dataclass(frozen=True, slots=True)
class Proved:
    """What masked a build, and what was proved of that while its server ran; None where nothing masks it."""

    masked: Masked | None = None
    evidence: Evidence | None = None


def search(work: Work, directory: Path, proved: Proved) -> Scan:
    """Read every file of a build: its digests, and whether an original is left in it.

    Raises:
        MaskingError: one is (``MaskingLeak``).

    """
    from reconciler.masking import leaks  # noqa: PLC0415 - large, and only builds need it

    work.progress("searching the files")
    samples = proved.masked.samples if proved.masked is not None else ()
    earlier = proved.evidence
    scanned = leaks.scan(
        directory,
        samples,
        threads=work.host.jobs,
        cancel=work.cancel,
        progress=work.progress,
        earlier=earlier.scan if earlier is not None else None,
        matcher=earlier.matcher if earlier is not None else None,
    )
    leaks.judge(scanned, earlier.accepted if earlier is not None else {})
    return scanned


def attest(
    work: Work,
    image: DesiredImage,
    job: BuildWork,
    manifest: SnapshotManifest,
    scanned: Scan,
    proved: Proved,
    signer: Signer | None,
) -> SnapshotManifest:
    """Lock the build away from its account, write its attestation, and return the manifest to seal it with."""
    manifest = replace(manifest, notes=_notes(proved))
    found = attestation.Proof(
        digests=scanned.digests,
        full=scanned.full,
        files=scanned.searched_files,
        bytes=scanned.searched_bytes,
        samples=sum(column.searched for column in scanned.columns),
        excluded=proved.evidence.excluded if proved.evidence is not None else {},
        checks=tuple(f"{check.origin}:{check.first_line}" for check in image.checks),
    )
    content = attestation.statement(
        manifest,
        found,
        masked=_told(proved),
        unmasked_reason=image.unmasked_reason,
        base=_of_base(work, manifest),
    )
    lock_away(job.directory, job.final_account)
    return replace(manifest, attestation=attestation.write(job.directory, content, signer))


def attest_point(
    job: BuildWork, manifest: SnapshotManifest, scanned: Scan, base: Attestation | None, signer: Signer | None
) -> SnapshotManifest:
    """Attest a point in the life of a clone: what its files are and where they come from, and nothing else."""
    found = attestation.Proof(digests=scanned.digests, full=scanned.full)
    content = attestation.statement(manifest, found, base=base)
    lock_away(job.directory, job.final_account)
    return replace(manifest, attestation=attestation.write(job.directory, content, signer))


def _told(proved: Proved) -> Masked | None:
    """Return what was masked, with where originals were found that may be there."""
    if proved.masked is None or proved.evidence is None:
        return proved.masked
    return replace(proved.masked, reports=(*proved.masked.reports, *map(str, proved.evidence.exposed)))


def _notes(proved: Proved) -> tuple[str, ...]:
    """Return what a person should look at: what nobody decided about. Not more than fits a status."""
    told = list(proved.masked.reports) if proved.masked is not None else []
    if proved.evidence is not None:
        told += [str(one) for one in proved.evidence.exposed if not one.decided]
    return tuple(told[:_NOTES]) + (
        (f"and {len(told) - _NOTES} more, in the attestation",) if len(told) > _NOTES else ()
    )


def _of_base(work: Work, manifest: SnapshotManifest) -> Attestation | None:
    if manifest.base is None:
        return None
    return work.snapshot(manifest.base)[1].attestation
