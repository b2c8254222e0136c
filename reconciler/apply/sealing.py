"""From a finished build to a sealed snapshot: search its files, attest it, lock it away.

Called by :mod:`.images`: :func:`compare` and :func:`prove` at the end of the session, the rest when the build's
server is gone and the engine has finished. It writes nothing into the data; whatever it
finds wrong, the caller throws the build away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.apply.delivery import refuse_quarantined
from reconciler.errors import RefusedError
from reconciler.handover import lock_away
from reconciler.ids import VolumeId
from reconciler.masking import attestation, digests
from reconciler.plan.schedule import started_at
from reconciler.state.observed import SnapshotManifest, VolumeState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.apply.context import Work
    from reconciler.engines.base import BuildSession, BuildWork
    from reconciler.masking.dsse import Signer
    from reconciler.masking.evidence import Base, Evidence, Exposure, Scan, Wiped
    from reconciler.masking.lineage import Lineage
    from reconciler.masking.report import Masked
    from reconciler.plan.actions import BuildSnapshot
    from reconciler.state.desired import DesiredImage
    from reconciler.state.observed import Attestation

_NOTES = 20
_NAMED = 5
"""Columns that are named for one masked column."""


@dataclass(frozen=True, slots=True)
class Proved:
    """What masked a build, and what was proved of that while its server ran; None where nothing masks it."""

    masked: Masked | None = None
    evidence: Evidence | None = None
    rules: str = ""
    lineage: Lineage | None = None
    """None: everything was to be searched."""
    wiped: Wiped | None = None


def compare(work: Work, image: DesiredImage, action: BuildSnapshot, masked: Masked) -> Proved:
    """Return what a masked build can be compared with, so that wiping and proof need not read what they read then."""
    from reconciler.masking import lineage  # noqa: PLC0415 - large, and only builds need it

    rules = lineage.rules(image.spec_digest, action.key_id, masked)
    return Proved(masked, rules=rules, lineage=_lineage(work, image, rules))


def wipe(session: BuildSession, proved: Proved, stopped: Callable[[], AbstractContextManager[None]]) -> Proved:
    """Wipe what was removed from the data before the build; what went through that for the last one is not read."""
    known = proved.lineage
    return replace(proved, wiped=session.wipe(stopped, known.wiped if known is not None else None))


def prove(session: BuildSession, proved: Proved) -> Proved:
    """Prove through the server that masking left nothing; what the last snapshot's scan found clean is not searched.

    Raises:
        MaskingError: it left something (``MaskingLeak``).

    """
    if proved.masked is None:
        return proved
    known = proved.lineage
    return replace(proved, evidence=session.prove(proved.masked, known.base if known is not None else None))


def _lineage(work: Work, image: DesiredImage, rules: str) -> Lineage | None:
    """Return what the image's last snapshot in the pool allows; see :mod:`reconciler.masking.lineage`."""
    from reconciler.masking.lineage import lineage  # noqa: PLC0415 - as above

    last = None if image.maskers else _last(work, image)
    if last is None:
        return None
    trust = work.host.trust
    return lineage(
        work.storage(image.pool).path(VolumeId(last.snapshot)),
        last,
        trust.keys,
        signed=bool(trust.keys or trust.problems),
        rules=rules,
        now=work.host.clock.now(),
        begun_at=started_at(last),
    )


def _last(work: Work, image: DesiredImage) -> SnapshotManifest | None:
    """Return the image's last snapshot in the pool, unless it is quarantined."""
    volumes = work.storage(image.pool).volumes()
    manifests = [volume.manifest for volume in volumes if volume.state is VolumeState.COMPLETE]
    sealed = [one for one in manifests if isinstance(one, SnapshotManifest) and one.image == image.name]
    last = max(sealed, key=lambda one: one.created_at, default=None)
    if last is not None:
        try:
            refuse_quarantined(work, last.snapshot)
        except RefusedError:
            return None
    return last


def _same_files(work: Work, image: DesiredImage) -> Base | None:
    """Return what the files of an unmasked build are compared with: the image's last snapshot."""
    from reconciler.masking.lineage import same_files  # noqa: PLC0415 - as above

    last, trust = _last(work, image), work.host.trust
    if last is None:
        return None
    directory = work.storage(image.pool).path(VolumeId(last.snapshot))
    signed = bool(trust.keys or trust.problems)
    return same_files(directory, last, trust.keys, signed=signed, begun_at=started_at(last))


def search(work: Work, directory: Path, proved: Proved, image: DesiredImage | None = None) -> Scan:
    """Read every file of a build: its digests, and whether an original is left in it.

    Files that are one with those of the last snapshot of ``image`` need not be read.

    Raises:
        MaskingError: one is (``MaskingLeak``).

    """
    from reconciler.masking import leaks  # noqa: PLC0415 - large, and only builds need it

    work.progress("searching the files")
    samples = proved.masked.samples if proved.masked is not None else ()
    earlier = proved.evidence
    base = earlier.base if earlier is not None else None
    if earlier is None and image is not None:
        base = _same_files(work, image)
    scanned = leaks.scan(
        directory,
        samples,
        threads=work.host.jobs,
        cancel=work.cancel,
        progress=work.progress,
        earlier=earlier.scan if earlier is not None else None,
        matcher=earlier.matcher if earlier is not None else None,
        base=base,
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
    known = None if scanned.full else proved.lineage
    found = attestation.Proof(
        digests=scanned.digests,
        rules=proved.rules,
        lineage=known,
        skipped=(len(scanned.files) - scanned.searched_files, scanned.skipped_bytes),
        holding=(*scanned.holding, *(proved.evidence.packed if proved.evidence is not None else ())),
        files=scanned.searched_files,
        bytes=scanned.searched_bytes,
        samples=sum(column.searched for column in scanned.columns),
        excluded=proved.evidence.excluded if proved.evidence is not None else {},
        checks=tuple(f"{check.origin}:{check.first_line}" for check in image.checks),
        wiped=proved.wiped,
        compared=proved.lineage,
    )
    content = attestation.statement(
        manifest,
        found,
        masked=_told(proved),
        unmasked_reason=image.unmasked_reason,
        base=_of_base(work, manifest),
    )
    lock_away(job.directory, job.final_account)
    digests.write(job.directory, scanned.pieces)
    written = attestation.write(job.directory, content, signer)
    if known is not None:
        written = replace(written, full_scan=known.last_full.snapshot)
    return replace(manifest, attestation=written)


def attest_point(
    job: BuildWork, manifest: SnapshotManifest, scanned: Scan, base: Attestation | None, signer: Signer | None
) -> SnapshotManifest:
    """Attest a point in the life of a clone: what its files are and where they come from, and nothing else."""
    found = attestation.Proof(digests=scanned.digests)
    content = attestation.statement(manifest, found, base=base)
    lock_away(job.directory, job.final_account)
    digests.write(job.directory, scanned.pieces)
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
        told += _by_place(one for one in proved.evidence.exposed if not one.decided)
    return tuple(told[:_NOTES]) + (
        (f"and {len(told) - _NOTES} more, in the attestation",) if len(told) > _NOTES else ()
    )


def _by_place(exposed: Iterable[Exposure]) -> Iterator[str]:
    """Yield one line for each masked column whose originals others have: those that have most of them first."""
    places: dict[str, list[Exposure]] = {}
    for one in exposed:
        places.setdefault(one.place, []).append(one)
    for place, found in places.items():
        most = sorted(found, key=lambda one: (-one.values, one.column))
        named = [f"{one.column} ({one.values})" for one in most[:_NAMED]]
        more = f" and {len(most) - _NAMED} more columns" if len(most) > _NAMED else ""
        drawn = max(one.drawn for one in found)
        yield f"of {drawn} originals of {place}, some are in columns that no rule names: {', '.join(named)}{more}"


def _of_base(work: Work, manifest: SnapshotManifest) -> Attestation | None:
    if manifest.base is None:
        return None
    return work.snapshot(manifest.base)[1].attestation
