"""Search of every byte of every file of a volume for originals, with the digests of the files from the same pass.

Called by ``apply`` when a build is stopped and scrubbed, before it is sealed; and by
engines before that, to find out in time what is left where. It reads files and changes
nothing. It never shows a value: results name columns and files, and count.

What it cannot see is what files hold in another form: compressed or encrypted values,
numbers and dates. Engines prove those through SQL (``session.prove``). So that nobody
takes blindness for a proof, masked values are looked for as well, which must be found.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from reconciler.errors import MaskingError
from reconciler.masking.evidence import NOTHING, ColumnScan, Hit, Scan
from reconciler.masking.matcher import KEY, Matcher, is_control
from reconciler.masking.reader import Reader, list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from reconciler.masking.evidence import Accepted, Base, FileScan
    from reconciler.masking.matcher import ValueId
    from reconciler.masking.report import Sample
    from reconciler.proc import CancelToken

VERSION = 2
"""Of what is searched for and how: raised when a scan finds more than before, so that the next one is full."""
_NAMED = 5
"""Columns and files that a message names; the result has all of them."""


def scan(
    directory: Path,
    samples: Sequence[Sample],
    *,
    threads: int = 1,
    cancel: CancelToken | None = None,
    progress: Callable[[str], None] = lambda _text: None,
    below: Sequence[str] = ("",),
    earlier: Scan | None = None,
    base: Base | None = None,
    matcher: Matcher | None = None,
    running: bool = False,
) -> Scan:
    """Read every file below ``directory`` and take digests; look for the values of ``samples``.

    Memory is bounded, whatever the size of files and the number of columns: see
    :mod:`.matcher` and :mod:`.reader`. Files are read once; with so many values that not
    all are looked for together, as often as the matcher has parts. ``below`` limits it to
    some of the directories. Files that ``earlier`` read, of the same volume and for the
    same samples, are not read again when nothing wrote to them since; those that are as in
    ``base`` are read for their digest, and not searched. ``matcher`` saves compiling the
    samples again. ``running``: a server may write meanwhile, so that another scan has to
    follow, which reads such files again.

    Raises:
        MaskingError: a file is no regular one or (unless ``running``) changes while it is
            read, or the search is blind.
        CancelledError: ``cancel`` was set.
        OSError: a file cannot be read.

    """
    matcher = matcher or Matcher(samples)
    reader = Reader(directory, matcher, cancel, progress, earlier, base, running=running)
    files = reader.read_all(sorted(list_files(directory, below), key=lambda entry: -entry[1]), threads)
    return Scan(
        files=tuple(sorted(files, key=lambda file: file.path)),
        columns=_columns(samples, files, matcher),
        full=all(file.searched and not file.left_out for file in files),
        patterns=matcher.patterns,
    )


def judge(scanned: Scan, accepted: Accepted = NOTHING) -> None:
    """Refuse a volume with originals in it that are not ``accepted`` where they are.

    Raises:
        MaskingError: an original is left, or the search was blind (``MaskingLeak``).

    """
    keys = [file.path for file in scanned.files if KEY in file.found]
    if keys:
        raise MaskingError(
            f"a masking key, or what is derived from it, is in {', '.join(keys[:_NAMED])}",
            hint="an expression of the policy, or a function of the source, has written it there",
            reason="MaskingLeak",
        )
    left: dict[int, dict[str, int]] = {}
    for file in scanned.files:
        fine = accepted.get(file.path, frozenset())
        for number, _ in (value for value in file.found if not is_control(value) and value not in fine):
            places = left.setdefault(number, {})
            places[file.path] = places.get(file.path, 0) + 1
    if left:
        named = "; ".join(_leak(scanned.columns[number], left[number]) for number in sorted(left)[:_NAMED])
        more = f"; and {len(left) - _NAMED} more columns" if len(left) > _NAMED else ""
        raise MaskingError(f"original values are left in files: {named}{more}", reason="MaskingLeak")
    controls = sum(column.controls for column in scanned.columns)
    if controls and not any(column.controls_found for column in scanned.columns):
        raise MaskingError(
            f"the search of files found none of {controls} masked values, which are there: it proves nothing",
            reason="MaskingLeak",
        )


def _leak(column: ColumnScan, places: Mapping[str, int]) -> str:
    files = sorted(places, key=lambda path: -places[path])
    more = f" and {len(files) - _NAMED} more files" if len(files) > _NAMED else ""
    where = ", ".join(f"{path} ({places[path]})" for path in files[:_NAMED])
    return f"{column.place}: of {column.searched} originals some are in {where}{more}"


def _columns(samples: Sequence[Sample], files: Sequence[FileScan], matcher: Matcher) -> tuple[ColumnScan, ...]:
    seen: set[ValueId] = set()
    for file in files:
        seen |= file.found
    controls = Counter(value[0] for value in seen if is_control(value))
    hits: dict[int, list[Hit]] = {}
    for file in files:
        for number, count in Counter(value[0] for value in file.found if not is_control(value)).items():
            hits.setdefault(number, []).append(Hit(file.path, count))
    return tuple(
        ColumnScan(
            place=sample.place,
            drawn=len(sample.originals),
            searched=matcher.counts(number)[0],
            controls=matcher.counts(number)[1],
            controls_found=controls[number],
            hits=tuple(sorted(hits.get(number, ()), key=lambda hit: (-hit.values, hit.path))),
        )
        for number, sample in enumerate(samples)
    )
