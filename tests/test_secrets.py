"""Values of secrets and their fingerprints."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import SecretError
from reconciler.ids import SecretName
from reconciler.secrets import SecretStore, fingerprint_of

if TYPE_CHECKING:
    from pathlib import Path

APP = SecretName("shop-app")
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return SecretStore(tmp_path, "TEST_SECRET_")


def _write(tmp_path: Path, value: bytes, *, mode: int = 0o600) -> Path:
    path = tmp_path / APP
    path.write_bytes(value)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"s3cret\n", "s3cret"), (b"s3cret", "s3cret"), (b"s3\n\n", "s3\n"), (b" s3 \r\n", " s3 "), ("é".encode(), "é")],
)
def test_a_file_gives_its_text_without_one_final_newline(
    store: SecretStore, tmp_path: Path, data: bytes, value: str
) -> None:
    _write(tmp_path, data)
    assert store.get(APP) == value


def test_the_environment_is_asked_when_there_is_no_file(
    store: SecretStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SECRET_SHOP_APP", "from-environment")
    assert store.get(APP) == "from-environment"
    assert SecretStore(None, "TEST_SECRET_").get(APP) == "from-environment"
    assert SecretStore(tmp_path / "absent", "TEST_SECRET_").get(APP) == "from-environment"
    _write(tmp_path, b"from-file")
    assert store.get(APP) == "from-file"


def test_a_missing_secret_says_where_it_was_looked_for(store: SecretStore, tmp_path: Path) -> None:
    with pytest.raises(SecretError) as caught:
        store.get(APP)
    assert str(tmp_path / APP) in str(caught.value)
    assert "TEST_SECRET_SHOP_APP" in str(caught.value)
    assert store.fingerprint(APP, KEY) is None


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "/etc/passwd", ".hidden", "a\nb", "a b", "x" * 200])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "up").write_text("outside")
    (tmp_path / "secrets").mkdir()
    store = SecretStore(tmp_path / "secrets", "TEST_SECRET_")
    with pytest.raises(SecretError, match="cannot be the name"):
        store.get(SecretName(name))
    assert store.fingerprint(SecretName(name), KEY) is None


def test_a_value_that_is_no_text_is_refused_without_showing_it(store: SecretStore, tmp_path: Path) -> None:
    _write(tmp_path, b"s3cret\xff")
    with pytest.raises(SecretError, match="not UTF-8") as caught:
        store.get(APP)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_empty_and_huge_values_are_refused(store: SecretStore, tmp_path: Path) -> None:
    _write(tmp_path, b"\n")
    with pytest.raises(SecretError, match="is empty"):
        store.get(APP)
    _write(tmp_path, b"x" * 100_000)
    with pytest.raises(SecretError, match="larger than 64 KiB"):
        store.get(APP)


def test_a_pipe_or_a_directory_is_refused_and_holds_nobody_up(store: SecretStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / APP)
    with pytest.raises(SecretError, match="not a regular file"):
        store.get(APP)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SecretError, match="not a regular file"):
        store.get(SecretName("folder"))


def test_a_symlink_of_the_host_is_followed(store: SecretStore, tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "value").write_text("mounted")
    (tmp_path / APP).symlink_to("..data/value")
    assert store.get(APP) == "mounted"


def test_a_file_that_others_can_read_is_used_with_a_warning_until_it_is_mended(
    store: SecretStore, tmp_path: Path
) -> None:
    path = _write(tmp_path, b"s3cret", mode=0o644)
    assert store.get(APP) == "s3cret"
    (warning,) = store.warnings
    assert str(path) in warning
    assert "s3cret" not in warning
    path.chmod(0o600)
    store.get(APP)
    assert store.warnings == ()


def test_a_fingerprint_depends_on_value_and_key_alone(store: SecretStore, tmp_path: Path) -> None:
    _write(tmp_path, b"s3cret\n")
    fingerprint = store.fingerprint(APP, KEY)
    assert fingerprint == fingerprint_of("s3cret", KEY)
    assert fingerprint is not None
    assert len(fingerprint) == 32
    assert store.fingerprint(APP, OTHER_KEY) == fingerprint_of("s3cret", OTHER_KEY) != fingerprint


def test_a_rotated_secret_has_another_fingerprint(
    store: SecretStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, b"s3cret-1")
    before = store.fingerprint(APP, KEY)
    assert store.fingerprint(APP, KEY) == before
    (tmp_path / "new").write_bytes(b"s3cret-2")
    (tmp_path / "new").rename(tmp_path / APP)
    assert store.fingerprint(APP, KEY) == fingerprint_of("s3cret-2", KEY) != before
    (tmp_path / APP).unlink()
    assert store.fingerprint(APP, KEY) is None
    monkeypatch.setenv("TEST_SECRET_SHOP_APP", "s3cret-3")
    assert store.fingerprint(APP, KEY) == fingerprint_of("s3cret-3", KEY)
