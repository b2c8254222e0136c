"""The search of files finds every original, tells where, and never what."""

from __future__ import annotations

import hashlib
import logging
import os
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import CancelledError, MaskingError
from reconciler.masking import matcher, reader
from reconciler.masking.evidence import Base, Hit
from reconciler.masking.leaks import judge, scan
from reconciler.masking.matcher import Matcher
from reconciler.masking.reader import BLOCK
from reconciler.proc import CancelToken

from .originals import sample_of

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "anna.berg-7731@example.org"
OTHER = "+49 30 5550-1234"
CONTROL = "u-3f9a0c77d2@example.com"


def old(path: Path) -> Path:
    """Make a file one that was written long ago."""
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def write(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return old(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_an_original_is_found_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, "base/1/2", b"\x01" * 999 + SECRET.encode(encoding) + b"\x02" * 99)
    (column,) = scan(tmp_path, [sample_of([SECRET, OTHER])]).columns
    assert column.hits == (Hit("base/1/2", 1),)
    assert column.searched == 2


@pytest.mark.parametrize("border", [8192, BLOCK, 2 * BLOCK])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_an_original_across_a_border_is_found(tmp_path: Path, border: int, encoding: str) -> None:
    data = SECRET.encode(encoding)
    for before in (1, 9, len(data) // 2, len(data) - 1):
        content = bytearray(2 * BLOCK + 10_000)
        content[border - before : border - before + len(data)] = data
        write(tmp_path, f"base/{before}", bytes(content))
    found = scan(tmp_path, [sample_of([SECRET])], threads=2)
    assert {hit.path for hit in found.columns[0].hits} == {f"base/{n}" for n in (1, 9, len(data) // 2, len(data) - 1)}


@given(st.integers(0, 300), st.integers(0, 300), st.text("abc@.xyz0123", min_size=8, max_size=40))
def test_whatever_is_around_it_an_original_is_found(before: int, after: int, text: str) -> None:
    made = Matcher([sample_of([text])])
    data = b"\xab" * before + text.encode() + b"\xcd" * after
    assert made.search(0).find(data) == ({(0, 0)} if made.looks_for((0, 0)) else set())


def test_one_pass_gives_the_digest_of_every_file(tmp_path: Path) -> None:
    contents = {"a": b"", "b/c": b"x" * (BLOCK + 17), "b/d/e.bak": SECRET.encode()}
    for name, content in contents.items():
        write(tmp_path, name, content)
    found = scan(tmp_path, [sample_of([SECRET])], threads=3)
    assert found.digests == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    assert found.full
    assert found.searched_bytes == sum(map(len, contents.values()))


def test_without_anything_to_look_for_digests_are_taken(tmp_path: Path) -> None:
    write(tmp_path, "a", b"abc")
    found = scan(tmp_path, [])
    assert found.digests == {"a": hashlib.sha256(b"abc").hexdigest()}
    judge(found)


def test_a_sparse_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = write(tmp_path, "sparse", b"")
    with path.open("r+b") as file:
        file.truncate(64 * BLOCK)
        file.seek(50 * BLOCK - 5)
        file.write(SECRET.encode())
    assert scan(tmp_path, [sample_of([SECRET])]).columns[0].hits == (Hit("sparse", 1),)


def test_a_leak_is_refused_by_column_and_file(tmp_path: Path) -> None:
    write(tmp_path, "data/base/5/16400", SECRET.encode() + b"\x00" + OTHER.encode() + CONTROL.encode())
    found = scan(tmp_path, [sample_of([SECRET, OTHER], controls=[CONTROL])])
    with pytest.raises(
        MaskingError, match=r"shop: public\.customer\.email: of 2 originals .* data/base/5/16400 \(2\)"
    ) as e:
        judge(found)
    assert e.value.reason == "MaskingLeak"


def test_an_original_is_accepted_only_in_the_file_that_it_is_accepted_in(tmp_path: Path) -> None:
    write(tmp_path, "one", SECRET.encode() + CONTROL.encode())
    samples = [sample_of([SECRET], controls=[CONTROL])]
    judge(scan(tmp_path, samples), {"one": frozenset({(0, 0)})})
    write(tmp_path, "two", SECRET.encode())
    with pytest.raises(MaskingError, match="two"):
        judge(scan(tmp_path, samples), {"one": frozenset({(0, 0)})})


def test_a_scan_that_finds_no_control_proves_nothing(tmp_path: Path) -> None:
    write(tmp_path, "compressed", b"nothing that anybody could read")
    found = scan(tmp_path, [sample_of([SECRET], controls=[CONTROL])])
    assert found.columns[0].blind
    with pytest.raises(MaskingError, match="proves nothing"):
        judge(found)


def test_a_column_whose_control_is_not_found_is_named_as_blind(tmp_path: Path) -> None:
    write(tmp_path, "plain", CONTROL.encode())
    found = scan(tmp_path, [sample_of([SECRET], controls=[CONTROL]), sample_of([OTHER], controls=["compressed value"])])
    judge(found)
    assert [column.blind for column in found.columns] == [False, True]


def test_a_search_that_misses_what_was_planted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Matcher([sample_of([SECRET])])
    (database,) = made.compiled(0)._databases
    monkeypatch.setattr(database, "planted", (b"never compiled",))
    with pytest.raises(MaskingError, match="planted"):
        made.search(0)


def test_many_values_are_searched_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "_ROOM", 0)
    monkeypatch.setattr(matcher, "_FEWEST", 100)
    monkeypatch.setattr(matcher, "_PER_PART", 500)
    originals = [f"person-{number:05}@example.org" for number in range(600)]
    samples = [sample_of(originals[start : start + 100], controls=[f"masked-{start}"]) for start in range(0, 600, 100)]
    write(tmp_path, "all", b"\x00".join(text.encode() for text in originals) + b"masked-300")
    write(tmp_path, "some", b"\x00".join(text.encode("utf-16-le") for text in originals[450:470]))
    made = Matcher(samples)
    assert (len(made.parts), len(made.compiled(0)._databases)) == (3, 5)
    found = scan(tmp_path, samples, threads=2, matcher=made)
    assert [column.hits for column in found.columns[:4]] == [(Hit("all", 100),)] * 4
    assert found.columns[4].hits == (Hit("all", 100), Hit("some", 20))
    assert [column.controls_found for column in found.columns] == [0, 0, 0, 1, 0, 0]
    assert found.digests == scan(tmp_path, []).digests
    (tmp_path / "some").unlink()
    again = scan(tmp_path, samples, matcher=made, earlier=found)  # nothing wrote to it since
    assert again.columns[4].hits == (Hit("all", 100),)


def test_one_value_of_several_columns_is_found_for_each(tmp_path: Path) -> None:
    write(tmp_path, "a", SECRET.encode())
    found = scan(tmp_path, [sample_of([SECRET]), sample_of([OTHER, SECRET])])
    assert [column.hits for column in found.columns] == [(Hit("a", 1),), (Hit("a", 1),)]


# -- what need not be read again ------------------------------------------------------------


def test_a_file_that_nothing_wrote_to_is_not_read_again(tmp_path: Path) -> None:
    samples = [sample_of([SECRET])]
    path = write(tmp_path, "kept", b"first content")
    write(tmp_path, "changed", b"first content")
    first = scan(tmp_path, samples)
    path.write_bytes(b"other content")
    old(path)
    write(tmp_path, "changed", SECRET.encode())
    second = scan(tmp_path, samples, earlier=first)
    assert second.digests["kept"] == first.digests["kept"]  # its size and time are the same: it was not looked at
    assert second.columns[0].hits == (Hit("changed", 1),)
    assert second.full


def test_a_file_that_was_written_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"12345678")
    first = scan(tmp_path, [])
    status = (tmp_path / "new").stat()
    (tmp_path / "new").write_bytes(b"87654321")
    os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert scan(tmp_path, [], earlier=first).digests["new"] == hashlib.sha256(b"87654321").hexdigest()


def refreshed(tmp_path: Path) -> tuple[Path, Base]:
    """A volume that is a copy of a base, two files of which were found to hold nothing."""
    base, volume = tmp_path / "base", tmp_path / "volume"
    contents = {"same": b"abc", "touched": b"def", "large": bytes(5 << 20), "other": b"ghi"}
    for directory in (base, volume):
        for name, content in contents.items():
            write(directory, name, content)
    digests = scan(base, []).digests
    return volume, Base(directory=base, digests={name: digests[name] for name in ("same", "touched", "large")})


def test_on_a_refresh_only_what_changed_or_is_not_known_to_be_clean_is_searched(tmp_path: Path) -> None:
    volume, base = refreshed(tmp_path)
    (volume / "touched").write_bytes(SECRET.encode())
    write(volume, "new", b"jkl")
    found = scan(volume, [sample_of([SECRET])], base=base)
    assert {file.path for file in found.files if not file.searched} == {"same", "large"}
    assert (found.full, found.searched_files, found.skipped_bytes) == (False, 3, 3 + (5 << 20))
    assert found.columns[0].hits == (Hit("touched", 1),)
    assert found.holding == ("touched",)
    assert found.digests["same"] == hashlib.sha256(b"abc").hexdigest()


def test_a_changed_file_with_the_old_size_and_time_is_searched(tmp_path: Path) -> None:
    volume, base = refreshed(tmp_path)
    write(base.directory, "same", b"x" * len(SECRET))
    digests = {**base.digests, "same": hashlib.sha256(b"x" * len(SECRET)).hexdigest()}
    write(volume, "same", SECRET.encode())
    found = scan(volume, [sample_of([SECRET])], base=replace(base, digests=digests))
    assert found.columns[0].hits == (Hit("same", 1),)


def test_a_large_file_that_differs_between_the_pages_that_are_compared_is_searched(tmp_path: Path) -> None:
    volume, base = refreshed(tmp_path)
    with (volume / "large").open("r+b") as file:
        file.seek(100_000)
        file.write(SECRET.encode())
    found = scan(volume, [sample_of([SECRET])], base=base)
    assert found.columns[0].hits == (Hit("large", 1),)


@pytest.mark.parametrize(
    ("begun", "written", "read"),
    [("after", False, False), ("before", False, True), ("after", True, True), (None, False, True)],
)
def test_a_file_that_is_one_with_that_of_the_base_since_before_it_was_begun_is_not_even_read(
    tmp_path: Path, *, begun: str | None, written: bool, read: bool
) -> None:
    volume, base = refreshed(tmp_path)
    (volume / "same").unlink()
    os.link(base.directory / "same", volume / "same")  # as in a copy on write: one inode, one time, one content
    at = datetime.fromtimestamp((volume / "same").stat().st_mtime, UTC)
    moments = {"after": at + timedelta(hours=1), "before": at - timedelta(hours=1), None: None}
    if written:
        os.utime(volume / "same", (at.timestamp() + 7200, at.timestamp() + 7200))
    known = replace(base, digests={"same": "as it was then"}, begun_at=moments[begun])
    found = scan(volume, [sample_of([SECRET])], base=known)
    assert (found.digests["same"] == "as it was then") is not read


def test_a_base_that_is_gone_meanwhile_only_costs_time(tmp_path: Path) -> None:
    volume, base = refreshed(tmp_path)
    assert scan(volume, [sample_of([SECRET])], base=replace(base, directory=tmp_path / "gone")).full


# -- what is no file ---------------------------------------------------------------------------


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(MaskingError, match="link is neither a directory nor a regular file"):
        scan(tmp_path, [])


def test_a_cancelled_scan_ends(tmp_path: Path) -> None:
    write(tmp_path, "a", b"abc")
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        scan(tmp_path, [], cancel=cancel)


def test_progress_says_how_much_is_left(tmp_path: Path) -> None:
    with write(tmp_path, "a", b"").open("r+b") as file:
        file.truncate(reader._TELL_EVERY)
    told: list[str] = []
    scan(tmp_path, [], progress=told.append)
    assert told == ["searching files for originals: 64.0 MiB of 64.0 MiB"]


# -- secrecy -------------------------------------------------------------------------------------


def test_nothing_that_can_be_shown_has_an_original(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write(tmp_path, "a", SECRET.encode() + OTHER.encode())
    samples = [sample_of([SECRET, OTHER], controls=[CONTROL])]
    made = Matcher(samples)
    found = scan(tmp_path, samples, matcher=made)
    shown = [repr(samples), repr(made), repr(found), repr(made.search(0)), str(found.columns), caplog.text]
    try:
        judge(found)
    except MaskingError as error:
        shown += [str(error), repr(error), "".join(traceback.format_exception(error))]
    assert len(shown) == 9
    for text in (SECRET, OTHER, CONTROL):
        assert not [one for one in shown if text in one or text[4:14] in one]
