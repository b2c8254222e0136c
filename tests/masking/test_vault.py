"""What is kept is had again, and on disk nobody else can read it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import UnavailableError
from reconciler.masking.vault import Vault

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("anna.berg-7731@example.org", "", "Jürgen Groß", "李小龍", "odd \udcff text", "x" * 64)


@pytest.mark.parametrize("room", [1 << 20, 0])
def test_texts_are_as_they_were(room: int) -> None:
    vault = Vault(room)
    kept = [vault.keep(TEXTS), vault.keep(()), vault.keep(TEXTS[::-1])]
    assert [tuple(one) for one in kept] == [TEXTS, (), TEXTS[::-1]]
    assert [kept[0][at] for at in range(len(TEXTS))] == list(TEXTS)
    assert (kept[2][-1], kept[0][1:3], len(kept[2])) == (TEXTS[0], TEXTS[1:3], len(TEXTS))
    with pytest.raises(IndexError):
        kept[0][len(TEXTS)]


def test_several_threads_may_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    vault = Vault(room=0)
    kept = [vault.keep(f"value {number} {n}" for n in range(20)) for number in range(50)]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(tuple, kept * 4))
    assert read == [tuple(f"value {number} {n}" for n in range(20)) for number in range(50)] * 4


def test_a_file_has_no_name_and_nothing_that_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    vault = Vault(room=0)
    kept = [vault.keep(TEXTS), vault.keep(TEXTS)]
    assert vault._file is not None
    assert list(tmp_path.iterdir()) == []
    vault._file._file.seek(0)
    content = vault._file._file.read()
    assert len(content) > 2 * sum(map(len, TEXTS))
    assert content[: len(content) // 2] != content[len(content) // 2 :]
    assert b"anna" not in content
    assert TEXTS[0] not in repr([vault, *kept, vault._file])


def test_few_originals_never_leave_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    vault = Vault()
    assert tuple(vault.keep(TEXTS)) == TEXTS
    with pytest.raises(UnavailableError, match="temporary file"):
        Vault(room=0).keep(TEXTS)
