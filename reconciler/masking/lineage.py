"""Which files of a build need not be searched, because an earlier scan of the same bytes found nothing in them.

Called by ``apply`` between the masking of a build and its proof. It reads the attestation of
the image's last snapshot and decides; it changes nothing.

**The argument.** A file that holds an original of a row has got it by being written to
after that row came to be. The last scan in which this very content was searched (by the
same rules, for originals drawn in the same way) found nothing in it, neither an original
nor a masked value. Whatever came to be after that scan cannot be in the file, unless the
file had it first: see below. So these are never left out, and always searched:

- files whose content is not the same, by their SHA-256, which is taken of every file;
- files that are no relations, and those of tables with rules (the engine says which);
- files in which anything was found, though it may be there: whether it may is asked again;
- everything, when the rules differ (:func:`rules`), when a masker of the host takes part
  (what a program does may change without anybody saying so), when the last snapshot has no
  attestation that this host believes, and when the last full scan is a week ago.

What an engine wipes from files (rows that were removed before) follows the same rule, with
its own version: ``Lineage.wiped``. There every file of the snapshot counts, for all went
through it; whatever was searched in them.

**Its limits.** A scan looks for a sample of what columns had. A file that it found clean may
hold an original that was not among that sample, or one that was in a table without rules
before it came into a masked column. A full scan with a new sample can find it where one that
leaves the file out cannot: that is what the full scan of each week is for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from reconciler.errors import UnavailableError
from reconciler.ids import SnapshotId
from reconciler.masking import attestation, leaks
from reconciler.masking.evidence import Base
from reconciler.masking.vocabulary import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reconciler.masking.dsse import PublicKey
    from reconciler.masking.report import Masked
    from reconciler.state.observed import Attestation, SnapshotManifest

FULL_EVERY = timedelta(days=7)
"""A scan that leaves out unchanged files has a full one behind it that is at most so old."""


@dataclass(frozen=True, slots=True)
class FullScan:
    """When all files were searched last, and of which snapshot."""

    snapshot: SnapshotId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The sealed ``snapshot`` with whose files those of a build are compared, and the full scan behind it."""

    snapshot: SnapshotId
    attestation: Attestation
    last_full: FullScan
    base: Base
    wiped: Base
    """All files of the snapshot, with the version of the wiping that they went through."""
    last_full_wipe: FullScan | None
    """When all of them were last read for that; None: not yet."""


def rules(spec_digest: str, key_id: str | None, masked: Masked) -> str:
    """Return a digest of what decides which originals are looked for, and how: the spec, the keys, the columns, us.

    The columns are those of the real schema that the rules apply to; a new one is a change of the rules.
    """
    counted = (
        [table.database, *table.table, column.column, column.method, column.policy]
        for table in masked.tables
        for column in table.columns
    )
    drawn = ([one.database, *one.table, one.masking.column.name, name_of(one.masking.method)] for one in masked.samples)
    said = [version("reconciler"), leaks.VERSION, spec_digest, key_id, sorted(counted), sorted(drawn)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def must_be_full(last_full: datetime | None, now: datetime, *, same_rules: bool) -> bool:
    """Tell whether every file has to be searched: the rules changed, or the last time is a week ago, or not yet."""
    return last_full is None or not same_rules or not timedelta(0) <= now - last_full < FULL_EVERY


def lineage(
    directory: Path,
    manifest: SnapshotManifest,
    keys: Mapping[str, PublicKey],
    *,
    signed: bool,
    rules: str,
    now: datetime,
    begun_at: datetime | None = None,
) -> Lineage | None:
    """Return what need not be searched again of the snapshot in ``directory``; None when a scan has to be full.

    ``signed``: only a signature of one of the ``keys`` makes its attestation credible, which
    has to be the one that the manifest means in any case. ``begun_at`` is when that snapshot was begun.
    """
    seen = _believed(directory, manifest, keys, signed=signed)
    if seen is None or manifest.attestation is None:
        return None
    scan = _Scan.of(seen.predicate)
    wiped, last_full_wipe = _wiping(seen.predicate)
    if scan is None or must_be_full(scan.last_full.at, now, same_rules=scan.rules == rules):
        return None
    if last_full_wipe is None or must_be_full(last_full_wipe.at, now, same_rules=True):
        wiped = None
    return Lineage(
        snapshot=manifest.snapshot,
        attestation=manifest.attestation,
        last_full=scan.last_full,
        base=Base(
            directory=directory,
            digests={path: digest for path, digest in seen.subjects.items() if path not in scan.holding},
            begun_at=begun_at,
        ),
        wiped=Base(directory=directory, digests=seen.subjects, begun_at=begun_at, wiped=wiped),
        last_full_wipe=last_full_wipe,
    )


def same_files(
    directory: Path,
    manifest: SnapshotManifest,
    keys: Mapping[str, PublicKey],
    *,
    signed: bool,
    begun_at: datetime,
) -> Base | None:
    """Return what the files of a build that is not masked are compared with, so that their digests need no reading.

    As :func:`lineage`; there is nothing to search for.
    """
    seen = _believed(directory, manifest, keys, signed=signed)
    return None if seen is None else Base(directory=directory, digests=seen.subjects, begun_at=begun_at)


def _believed(
    directory: Path, manifest: SnapshotManifest, keys: Mapping[str, PublicKey], *, signed: bool
) -> attestation.Examination | None:
    try:
        data = attestation.read(directory)
    except UnavailableError:
        return None
    seen = attestation.examine(data, manifest, keys) if data is not None else None
    if seen is None or seen.problems or (signed and seen.signer is None) or manifest.attestation is None:
        return None
    return seen


def _wiping(predicate: Mapping[str, Any]) -> tuple[int | None, FullScan | None]:
    """Return what an attestation says of wiping: its version, and when every page was read last."""
    try:
        said = predicate["wipe"]
        return int(said["version"]), _full_scan(said["lastFull"])
    except (KeyError, TypeError, ValueError):
        return None, None


def _full_scan(said: Mapping[str, Any]) -> FullScan:
    at = datetime.fromisoformat(said["at"])
    if at.tzinfo is None:
        raise ValueError("a time without an offset")
    return FullScan(SnapshotId(said["snapshot"]), at)


@dataclass(frozen=True, slots=True)
class _Scan:
    """What an attestation says of its scan."""

    rules: str
    last_full: FullScan
    holding: frozenset[str]

    @classmethod
    def of(cls, predicate: Mapping[str, Any]) -> _Scan | None:
        """Return it; None for what was written before there was anything of the kind."""
        try:
            scan = predicate["scan"]
            return cls(str(scan["rules"]), _full_scan(scan["lastFull"]), frozenset(scan["holding"]))
        except (KeyError, TypeError, ValueError):
            return None
