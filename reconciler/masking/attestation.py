"""What a sealed snapshot is, and how that was proved: its attestation, written, read and checked.

``apply`` writes one into every volume before it is sealed, and checks it before a clone
is delivered where the host asks for that; ``reconciler attest`` shows it. The statement
has the layout of in-toto (Statement v1, https://github.com/in-toto/attestation/tree/main/spec/v1),
in an envelope of :mod:`.dsse`; its subject are the files of the volume (:mod:`.digests`). The manifest
keeps the digest of the envelope, so that nobody who can write to a volume can exchange it.

It holds names, counts and digests: never a value of a row, never a key.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from reconciler import durable
from reconciler.errors import UnavailableError
from reconciler.masking import digests, dsse
from reconciler.state.observed import Attestation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from reconciler.masking.evidence import Wiped
    from reconciler.masking.lineage import Lineage
    from reconciler.masking.report import Masked, TableCounts
    from reconciler.state.observed import SnapshotManifest

NAME = "attestation.json"
"""The file in a volume, beside what the engine keeps there; it is no subject of itself."""
_OURS = frozenset({NAME, digests.PIECES_NAME})

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:reconciler:snapshot:v1"
"""Version of the predicate: a new one when a field changes its meaning. Fields are added without one."""

_LARGEST = 1 << 30
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was looked at before sealing.

    ``digests``: SHA-256, as in :mod:`.digests`, of every file of the volume by its path
    relative to it. ``bytes`` and ``files`` were searched for ``samples`` originals, by what
    ``rules`` is a digest of; ``skipped`` files and bytes were left out, because they are as
    in the snapshot of ``lineage``. In the files of ``holding`` something was found that may
    be there. ``excluded``: how many values were not looked for, by reason. ``checks`` are those of
    the image that were true, by where they are written. ``wiped``: what the engine wiped; what
    it left out is as in the snapshot of ``compared``.
    """

    digests: Mapping[str, str]
    rules: str = ""
    lineage: Lineage | None = None
    skipped: tuple[int, int] = (0, 0)
    holding: tuple[str, ...] = ()
    files: int = 0
    bytes: int = 0
    samples: int = 0
    excluded: Mapping[str, int] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    wiped: Wiped | None = None
    compared: Lineage | None = None


def statement(
    manifest: SnapshotManifest,
    proof: Proof,
    *,
    masked: Masked | None = None,
    unmasked_reason: str | None = None,
    base: Attestation | None = None,
) -> bytes:
    """Return the statement about a snapshot as canonical JSON: equal arguments give equal bytes.

    ``manifest`` is the one that it is sealed with, ``base`` the attestation of the
    snapshot that it is built on. Without ``masked`` nothing masked it (but its base may
    be masked), and ``unmasked_reason`` is why, where its document says so.
    """
    predicate: Json = {
        **_facts(manifest),
        "image": manifest.image,
        "builder": {"name": "reconciler", "version": version("reconciler")},
        "scan": _scan(manifest, proof),
        "checks": list(proof.checks),
    }
    if proof.wiped is not None:
        predicate["wipe"] = _wipe(manifest, proof.wiped, proof.compared)
    if manifest.clone is not None:
        predicate["point"] = {"clone": manifest.clone, "origins": list(manifest.origins)}
    if base is not None:
        predicate["baseAttestation"] = {"sha256": base.digest}
    if masked is not None:
        predicate["masking"] = {
            "tables": [_table(table) for table in sorted(masked.tables, key=lambda t: (t.database, t.table))],
            "notes": list(masked.reports),
        }
    if unmasked_reason is not None:
        predicate["unmasked"] = {"reason": unmasked_reason}
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": digests.as_set(digest)}
            for name, digest in sorted(proof.digests.items())
            if name not in _OURS
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return _CANONICAL.encode(document).encode()


def write(directory: Path, content: bytes, signer: dsse.Signer | None) -> Attestation:
    """Put a statement into a volume that nobody else gets into any more, durably, and return what its manifest keeps.

    What lies there, of a base, is replaced. The volume is to be sealed with that manifest next.

    Raises:
        OSError: there is no room, or the volume is gone.

    """
    data = dsse.seal(content, signer)
    durable.write(directory / NAME, data)
    return Attestation(hashlib.sha256(data).hexdigest(), signer.public.id if signer is not None else None)


def read(directory: Path) -> bytes | None:
    """Return the attestation that lies in a volume, unchecked; None when there is none.

    Raises:
        UnavailableError: there is something that cannot be read.

    """
    path = directory / NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, no path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnavailableError(f"{path} is not a regular file")
        return file.read(_LARGEST)


@dataclass(frozen=True, slots=True)
class Examination:
    """What an attestation says, and what is wrong with it.

    ``signer`` is the trusted key that signed it; ``claimed`` are the ids of keys that
    its signatures name. ``problems`` are for people; without any it can be relied on,
    as far as an unsigned one can.
    """

    statement: Json = field(default_factory=dict)
    signer: dsse.PublicKey | None = None
    claimed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def predicate(self) -> Json:
        """What is said of the snapshot; empty when it cannot be read."""
        found = self.statement.get("predicate")
        return found if isinstance(found, dict) else {}

    @property
    def subjects(self) -> Mapping[str, str]:
        """SHA-256, as in :mod:`.digests`, by path."""
        return {row["name"]: digests.from_set(row["digest"]) for row in self.statement.get("subject", ())}


def examine(data: bytes, manifest: SnapshotManifest | None, keys: Mapping[str, dsse.PublicKey]) -> Examination:
    """Check an attestation: its form, its signatures against trusted keys, its facts against the manifest.

    Without a manifest (the snapshot is gone, a clone of it is left) only a signature vouches for it.
    """
    try:
        envelope = dsse.unseal(data)
        document = _document(envelope)
    except dsse.MalformedError as error:
        return Examination(problems=(str(error),))
    signer = envelope.signed_by(keys)
    claimed = tuple(signature.key for signature in envelope.signatures)
    problems = [*_about_signatures(claimed, signer, keys)]
    if manifest is not None:
        problems += _about_manifest(data, document["predicate"], manifest)
    return Examination(document, signer, claimed, tuple(problems))


def differences(directory: Path, subjects: Mapping[str, str]) -> Iterator[str]:
    """Yield how the files of a sealed volume differ from the subjects of its attestation; reads all of them.

    Raises:
        UnavailableError: the volume cannot be read.

    """
    try:
        names, strange = _listed(directory)
        yield from (f"{name} is not a regular file" for name in strange)
        yield from (f"{name} is missing" for name in sorted(subjects.keys() - names))
        yield from (f"{name} was not there when it was sealed" for name in sorted(names - subjects.keys()))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            common = sorted(names & subjects.keys())
            found = pool.map(lambda name: digests.of_file(directory / name, like=subjects[name]), common)
            for name, digest in zip(common, found, strict=True):
                if digest != subjects[name]:
                    yield f"{name} has changed"
    except OSError as error:
        raise UnavailableError(f"the files of {directory} cannot be read: {error.strerror}") from error


def _facts(manifest: SnapshotManifest) -> Json:
    """Return what manifest and statement both say; the name of an image may change, and is not among it.

    A point in the life of a clone says nothing of masking, whatever its base says: its users have worked in it.
    """
    return {
        "snapshot": manifest.snapshot,
        "installation": manifest.installation,
        "revision": manifest.revision,
        "specDigest": manifest.spec_digest,
        "inputId": manifest.input_id,
        "keyId": manifest.key_id,
        "maskedBy": list(manifest.masked_by) if manifest.clone is None else [],
        "base": manifest.base,
        "engine": manifest.engine,
        "version": manifest.version,
        "databases": list(manifest.databases),
        "createdAt": _time(manifest.created_at),
        "dataAsOf": _time(manifest.data_as_of),
    }


def _scan(manifest: SnapshotManifest, proof: Proof) -> Json:
    known, (files, size) = proof.lineage, proof.skipped
    last = (manifest.snapshot, manifest.created_at) if known is None else (known.last_full.snapshot, known.last_full.at)
    said: Json = {
        "full": known is None,
        "files": proof.files,
        "bytes": proof.bytes,
        "samples": proof.samples,
        "excluded": dict(proof.excluded),
        "rules": proof.rules,
        "holding": sorted(set(proof.holding)),
        "lastFull": {"snapshot": last[0], "at": _time(last[1])},
    }
    if files or known is not None:
        said["skipped"] = {"files": files, "bytes": size}
    if known is not None:
        said["comparedWith"] = {"snapshot": known.snapshot, "sha256": known.attestation.digest}
    return said


def _wipe(manifest: SnapshotManifest, wiped: Wiped, compared: Lineage | None) -> Json:
    known = None if compared is None or wiped.full else compared
    last = None if known is None else known.last_full_wipe
    at = (manifest.snapshot, manifest.created_at) if last is None else (last.snapshot, last.at)
    said: Json = {
        "version": wiped.version,
        "full": wiped.full,
        "pages": wiped.pages,
        "bytes": wiped.read_bytes,
        "lastFull": {"snapshot": at[0], "at": _time(at[1])},
    }
    if known is not None:
        said["skipped"] = {"bytes": wiped.same_bytes}
        said["comparedWith"] = {"snapshot": known.snapshot, "sha256": known.attestation.digest}
    return said


def _table(counts: TableCounts) -> Json:
    return {
        "database": counts.database,
        "table": str(counts.table),
        "columns": [
            {
                "name": column.column,
                "method": column.method,
                "policy": column.policy,
                "rows": column.rows,
                "selected": column.selected,
                "nulls": column.nulls,
                "equal": column.equal,
            }
            for column in counts.columns
        ],
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat()


def _document(envelope: dsse.Envelope) -> Json:
    """Return the statement in an envelope, with the form that everything here relies on."""
    if envelope.type != dsse.PAYLOAD_TYPE:
        raise dsse.MalformedError("the envelope does not hold an in-toto statement")
    try:
        document = json.loads(envelope.payload)
        known = (document["_type"], document["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
        subjects = [(row["name"] + "", digests.from_set(row["digest"])) for row in document["subject"]]
        formed = isinstance(document["predicate"], dict) and len(dict(subjects)) == len(subjects)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise dsse.MalformedError("it is not an in-toto statement") from None
    if not known:
        raise dsse.MalformedError(f"it is not a statement of the kind {PREDICATE_TYPE}")
    if not formed:
        raise dsse.MalformedError("its predicate or its subjects are malformed")
    return dict(document)


def _about_signatures(
    claimed: tuple[str, ...], signer: dsse.PublicKey | None, keys: Mapping[str, dsse.PublicKey]
) -> Iterator[str]:
    """Yield what is wrong with signatures that are there; none at all is no fault of an envelope."""
    if signer is not None or not claimed:
        return
    known = [key for key in claimed if key in keys]
    if known:
        yield f"the signature of key {short(known[0])} is wrong: it is not what that key signed"
    else:
        yield f"it is signed by a key that this host does not trust: {', '.join(map(short, claimed))}"


def _about_manifest(data: bytes, predicate: Json, manifest: SnapshotManifest) -> Iterator[str]:
    if manifest.attestation is None:
        yield f"the manifest of {manifest.snapshot} knows of no attestation"
    elif hashlib.sha256(data).hexdigest() != manifest.attestation.digest:
        yield f"it is not the one that {manifest.snapshot} was sealed with: its digest is not in the manifest"
    facts = _facts(manifest)
    wrong = [name for name, value in facts.items() if predicate.get(name) != value]
    if wrong:
        yield f"it is about something else than the manifest of {manifest.snapshot}: {', '.join(wrong)}"


def short(key: str) -> str:
    """Return as much of a key's id as people compare."""
    return key[:16] or "without a name"


def _listed(directory: Path) -> tuple[set[str], list[str]]:
    """Return the regular files of a volume but the attestation, and what is neither file nor directory."""
    names: set[str] = set()
    strange: list[str] = []
    for path, directories, files in os.walk(directory, onerror=_raise):
        for entry in (*directories, *files):
            full = os.path.join(path, entry)  # noqa: PTH118 - thousands of files
            mode = os.lstat(full).st_mode
            name = os.path.relpath(full, directory)
            if stat.S_ISREG(mode):
                names.add(name)
            elif not stat.S_ISDIR(mode):
                strange.append(name)
    return names - _OURS, sorted(strange)


def _raise(error: OSError) -> None:
    raise error
