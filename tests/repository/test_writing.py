"""Commits of ours, into real bare repositories that others push to as well."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import SecretError, UnavailableError, UnsupportedError
from reconciler.repository import Author, Edit, Repository, open_repository
from tests.repository.shared import Remote, signing_key

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.repository import SourceTree

AUTHOR = Author(name="reconciler", email="reconciler@db.example")


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


def opened(remote: Remote, *, path: str = "specs") -> Repository:
    return open_repository(mirror=remote.path.with_name("mirror.git"), url=str(remote.path), path=path)


def without_a(tree: SourceTree) -> Edit | None:
    return Edit({"a.yaml": None}, "Remove a\n") if "a.yaml" in tree.entries() else None


def changed_a(tree: SourceTree) -> Edit:
    return Edit({"a.yaml": tree.read("a.yaml") + b"more: 2\n"}, "Change a\n\nWhy.\n")


def test_a_commit_changes_its_files_and_nothing_else(remote: Remote) -> None:
    (remote.desk / "link").symlink_to("specs/a.yaml")
    (remote.desk / "specs/a.yaml").chmod(0o755)
    before = remote.push({"-odd name/ü.sql": "x", "specs/sql/x.sql": "x"})
    modes = remote.git("ls-tree", "-r", "-z", "--format=%(objectmode) %(path)", "main")

    made = opened(remote).commit(changed_a, author=AUTHOR)

    head = remote.git("rev-parse", "main")
    assert made == f"main@sha1:{head}"
    assert remote.git("rev-parse", "main~1") == before
    assert remote.git("ls-tree", "-r", "-z", "--format=%(objectmode) %(path)", "main") == modes
    assert remote.git("diff", "--name-only", "main~1", "main") == "specs/a.yaml"
    assert remote.read("specs/a.yaml") == "a: 1\nmore: 2"
    shown = remote.git("show", "--no-patch", "--format=%an <%ae>|%cn <%ce>|%B|%G?", "main")
    who = "reconciler <reconciler@db.example>"
    assert shown == f"{who}|{who}|Change a\n\nWhy.\n|N"


def test_a_file_can_go_and_with_nothing_to_change_there_is_no_commit(remote: Remote) -> None:
    repository = opened(remote)

    assert repository.commit(without_a, author=AUTHOR) is not None
    head = remote.git("rev-parse", "main")
    assert repository.commit(without_a, author=AUTHOR) is None

    assert remote.files() == ["specs/b.yaml"]
    assert remote.git("rev-parse", "main") == head


def test_the_newest_commit_is_seen_afterwards(remote: Remote) -> None:
    repository = opened(remote)
    repository.mark_good(repository.fetch().revision)

    made = opened(remote).commit(without_a, author=AUTHOR)

    tree = repository.fetch()
    assert (tree.revision, tree.rewrite, list(tree.entries())) == (made, "", ["b.yaml"])


def test_what_others_push_meanwhile_is_kept_and_the_change_made_again_on_top(remote: Remote) -> None:
    seen: list[str] = []

    def edit(tree: SourceTree) -> Edit:
        seen.append(tree.revision)
        if len(seen) < 3:
            remote.push({"specs/b.yaml": f"b: {len(seen) + 1}\n", "specs/a.yaml": f"a: {len(seen) + 1}\n"})
        return changed_a(tree)

    opened(remote).commit(edit, author=AUTHOR)

    assert len(set(seen)) == 3
    assert (remote.read("specs/a.yaml"), remote.read("specs/b.yaml")) == ("a: 3\nmore: 2", "b: 3")
    assert remote.git("log", "--format=%s", "main").splitlines() == ["Change a", "theirs", "theirs", "theirs"]


def test_after_five_commits_of_others_it_is_given_up_for_now(remote: Remote) -> None:
    seen: list[str] = []

    def edit(tree: SourceTree) -> Edit:
        seen.append(tree.revision)
        remote.push({"specs/b.yaml": f"b: {len(seen) + 1}\n"})
        return changed_a(tree)

    with pytest.raises(UnavailableError) as caught:
        opened(remote).commit(edit, author=AUTHOR)

    assert (len(seen), caught.value.reason) == (5, "PushRefused")
    assert set(remote.git("log", "--format=%s", "main").splitlines()) == {"theirs"}


def test_a_commit_that_others_took_back_meanwhile_does_not_come_back(remote: Remote) -> None:
    remote.push({"specs/b.yaml": "b: secret\n"})
    tries: list[str] = []

    def edit(tree: SourceTree) -> Edit:
        if not tries:
            remote.push({"specs/b.yaml": "b: 1\n", "specs/c.yaml": "c: 1\n"}, "--amend")
        tries.append(tree.revision)
        return changed_a(tree)

    opened(remote).commit(edit, author=AUTHOR)

    assert len(tries) == 2
    assert remote.git("log", "--format=%s", "main").splitlines() == ["Change a", "theirs", "theirs"]
    assert "secret" not in remote.git("log", "--patch", "main")


def test_a_branch_that_takes_no_commit_of_ours_says_why_and_stays(remote: Remote) -> None:
    remote.hook("pre-receive", "echo 'main is protected: open a pull request' >&2; exit 1")
    head = remote.git("rev-parse", "main")

    with pytest.raises(UnavailableError, match="main is protected: open a pull request") as caught:
        opened(remote).commit(without_a, author=AUTHOR)

    assert caught.value.reason == "PushRefused"
    assert remote.git("rev-parse", "main") == head


def test_a_remote_that_is_away_is_unavailable(remote: Remote) -> None:
    remote.path.rename(remote.path.with_name("away"))

    with pytest.raises(UnavailableError, match="cannot be fetched"):
        opened(remote).commit(without_a, author=AUTHOR)


def test_a_plain_directory_is_changed_by_people_only(tmp_path: Path) -> None:
    repository = open_repository(mirror=tmp_path / "mirror.git", path=str(tmp_path))

    with pytest.raises(UnsupportedError, match="plain directory"):
        repository.commit(lambda _: None, author=AUTHOR)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return signing_key(tmp_path)


def test_a_signed_commit_is_verified_with_the_public_key(remote: Remote, key: Path, tmp_path: Path) -> None:
    author = Author(name="reconciler", email="reconciler@db.example", key=key.read_text)

    opened(remote).commit(without_a, author=author)

    signers = tmp_path / "signers"
    signers.write_text(f"{author.email} {key.with_suffix('.pub').read_text()}")
    trust = ("-c", f"gpg.ssh.allowedSignersFile={signers}")
    remote.git(*trust, "verify-commit", "main")
    assert remote.git(*trust, "show", "--no-patch", "--format=%G? %GS", "main") == f"G {author.email}"
    with pytest.raises(subprocess.CalledProcessError):
        remote.git(*trust, "verify-commit", "main~1")


def test_without_a_key_that_can_be_used_nothing_is_pushed_and_no_secret_shown(remote: Remote, key: Path) -> None:
    head = remote.git("rev-parse", "main")
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "passphrase", "-f", key], check=True)
    damaged = key.read_text().replace("OPENSSH", "SOME", 1)

    for secret in ("s3cret", damaged, key.read_text()):
        author = Author(name="r", email="r@e", key=partial(str, secret))
        with pytest.raises(SecretError) as caught:
            opened(remote).commit(without_a, author=author)
        assert "private key without passphrase" in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert secret.splitlines()[-1] not in str(caught.value)
    assert remote.git("rev-parse", "main") == head


KILLED = """
import sys
from pathlib import Path
from reconciler.repository import Author, Edit, open_repository
remote = Path(sys.argv[1])
repository = open_repository(mirror=remote.with_name("mirror.git"), url=str(remote), path="specs")
repository.commit(lambda tree: Edit({"a.yaml": None}, "Remove a\\n"), author=Author(name="r", email="r@e"))
"""


@pytest.mark.parametrize(("hook", "pushed"), [("pre-receive", False), ("post-receive", True)])
def test_killed_before_or_after_the_push_the_next_try_converges(remote: Remote, hook: str, *, pushed: bool) -> None:
    remote.hook(hook, "kill -9 $(cat pid); exit 1")
    with subprocess.Popen(
        ["/bin/sh", "-c", 'echo $$ >pid; exec "$@"', "sh", sys.executable, "-c", KILLED, remote.path], cwd=remote.path
    ) as process:
        assert process.wait() == -9
    (remote.path / "hooks" / hook).unlink()
    assert (remote.files() == ["specs/b.yaml"]) == pushed

    assert (opened(remote).commit(without_a, author=AUTHOR) is None) == pushed

    assert remote.files() == ["specs/b.yaml"]
    assert len(remote.git("log", "--format=%s", "main").splitlines()) == 2
