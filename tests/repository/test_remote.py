"""Against real git repositories on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from base64 import b64encode
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from reconciler.errors import ConfigError, InputError, SecretError, UnavailableError
from reconciler.ids import Revision
from reconciler.repository import Limits, Repository, open_repository
from reconciler.repository.remote import Access
from tests.repository.shared import TlsServer


class Origin:
    """A git repository with a work tree, as its authors see it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "protocol.file.allow=always")
        argv = ["git", "-C", str(self.path), *identity, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, files: dict[str, str] | None = None, *, author: str = "Ada <ada@example.org>") -> str:
        for name, text in (files or {}).items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=change", f"--author={author}")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "state" / "repository.git"


def opened(origin: Origin, mirror: Path, *, path: str = ".", limits: Limits | None = None) -> Repository:
    return open_repository(mirror=mirror, url=str(origin.path), path=path, limits=limits)


def test_hands_out_the_files_of_the_newest_commit(origin: Origin, mirror: Path) -> None:
    commit = origin.commit({"shop.yaml": "kind: Image\n", "sql/trim.sql": "SELECT 1;\n"})

    tree = opened(origin, mirror).fetch()

    assert tree.revision == f"main@sha1:{commit}"
    assert list(tree.entries()) == ["shop.yaml", "sql/trim.sql"]
    assert tree.entries()["sql/trim.sql"].size == 10
    assert tree.read("sql/trim.sql") == b"SELECT 1;\n"
    assert dict(tree.read_many(["sql/trim.sql", "shop.yaml"])) == {
        "sql/trim.sql": b"SELECT 1;\n",
        "shop.yaml": b"kind: Image\n",
    }
    assert tree.object_id("sql/trim.sql") == origin.git("rev-parse", "HEAD:sql/trim.sql")
    assert tree.object_id("./sql/") == origin.git("rev-parse", "HEAD:sql")
    assert tree.object_id(".") == origin.git("rev-parse", "HEAD^{tree}")
    assert tree.object_id("absent.sql") is None
    assert tree.rewrite == ""


@pytest.mark.parametrize("content", ["", "\n", "no newline", "a\0b\r\n\n", "x" * 300_000])
def test_bytes_arrive_unchanged_from_between_other_blobs(origin: Origin, mirror: Path, content: str) -> None:
    origin.commit({"a.yaml": "first", "b.yaml": content, "c.yaml": "last"})
    tree = opened(origin, mirror).fetch()

    assert [data for _, data in tree.read_many(["a.yaml", "b.yaml", "b.yaml", "c.yaml"])] == [
        b"first",
        content.encode(),
        content.encode(),
        b"last",
    ]


def test_an_unchanged_branch_gives_the_same_tree_object(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    first = repository.fetch()

    assert repository.fetch() is first

    origin.commit({"a.yaml": "2"})
    assert repository.fetch().read("a.yaml") == b"2"
    assert first.read("a.yaml") == b"1"


def test_only_the_sub_path_is_handed_out_and_nothing_leaves_it(origin: Origin, mirror: Path) -> None:
    origin.commit({"specs/a.yaml": "in", "specs/sql/x.sql": "x", "secret.txt": "out", "specs2/b.yaml": "out"})
    tree = opened(origin, mirror, path="./specs/").fetch()

    assert list(tree.entries()) == ["a.yaml", "sql/x.sql"]
    for path in ("../secret.txt", "sql/../../secret.txt", "/secret.txt", "", "-a", "a\nb"):
        with pytest.raises(InputError):
            tree.read(path)


def test_a_sub_path_that_does_not_exist_is_named(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})

    with pytest.raises(InputError, match="the directory specs does not exist at main@sha1:"):
        opened(origin, mirror, path="specs").fetch()


def test_hidden_files_are_no_part_of_the_tree(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1", ".pre-commit-config.yaml": "x", ".github/workflows/ci.yaml": "x", "b/.c/d.yaml": "x"})

    assert list(opened(origin, mirror).fetch().entries()) == ["a.yaml"]


def test_a_symlink_is_refused_by_name(origin: Origin, mirror: Path) -> None:
    (origin.path / "sql").mkdir()
    (origin.path / "sql/passwd.sql").symlink_to("/etc/passwd")
    origin.commit({"a.yaml": "1"})

    with pytest.raises(InputError, match=r"sql/passwd\.sql is a symlink"):
        opened(origin, mirror).fetch()


def test_a_directory_symlink_is_not_followed_by_the_sub_path(origin: Origin, mirror: Path) -> None:
    (origin.path / "specs").symlink_to("real")
    origin.commit({"real/a.yaml": "1"})

    with pytest.raises(InputError, match="specs does not exist"):
        opened(origin, mirror, path="specs").fetch()


def test_a_submodule_is_refused_by_name(origin: Origin, mirror: Path, tmp_path: Path) -> None:
    other = Origin(tmp_path / "other")
    other.commit({"x": "1"})
    origin.git("submodule", "--quiet", "add", str(other.path), "vendor")
    origin.commit()

    with pytest.raises(InputError, match="vendor is a submodule"):
        opened(origin, mirror).fetch()


def test_a_forced_push_is_followed_and_reported_once_per_head(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    old = origin.commit({"a.yaml": "2"})
    repository = opened(origin, mirror)
    repository.mark_good(repository.fetch().revision)
    origin.git("reset", "--quiet", "--hard", "HEAD~1")
    new = origin.commit({"a.yaml": "3"})

    tree = repository.fetch()

    assert tree.revision == f"main@sha1:{new}"
    assert tree.rewrite == f"branch main was force-pushed: {old[:12]} is no ancestor of {new[:12]}"
    repository.mark_good(tree.revision)
    origin.commit({"a.yaml": "4"})
    assert repository.fetch().rewrite == ""


def test_a_forced_push_that_somebody_only_looked_at_is_still_reported(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    old = origin.commit({"a.yaml": "2"})
    repository = opened(origin, mirror)
    repository.mark_good(repository.fetch().revision)
    origin.git("reset", "--quiet", "--hard", "HEAD~1")
    new = origin.commit({"a.yaml": "3"})
    opened(origin, mirror).fetch()

    reported = opened(origin, mirror).fetch()

    assert reported.rewrite == f"branch main was force-pushed: {old[:12]} is no ancestor of {new[:12]}"


def test_a_commit_of_another_branch_that_was_asked_for_is_no_forced_push(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    repository.mark_good(repository.fetch().revision)
    origin.git("checkout", "--quiet", "-b", "proposal")
    origin.commit({"a.yaml": "2"})
    asking = opened(origin, mirror)
    asking.mark_good(asking.tree("proposal").revision)

    assert opened(origin, mirror).fetch().rewrite == ""


def test_a_deleted_branch_leaves_the_last_good_commit_in_force(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    good = repository.fetch()
    repository.mark_good(good.revision)
    origin.git("branch", "--move", "main", "trunk")

    with pytest.raises(
        UnavailableError, match=f"has no branch main .any more.; it has trunk; {good.revision} stays in force"
    ) as caught:
        repository.fetch()

    assert caught.value.reason == "BranchNotFound"
    after_restart = opened(origin, mirror).last_good()
    assert after_restart is not None
    assert (after_restart.revision, after_restart.read("a.yaml")) == (good.revision, b"1")


def test_an_unreachable_remote_leaves_the_last_good_commit_in_force(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    good = repository.fetch()
    repository.mark_good(good.revision)
    origin.path.rename(origin.path.with_name("away"))

    with pytest.raises(UnavailableError, match=f"cannot be fetched: .*; {good.revision} stays in force"):
        repository.fetch()


def test_without_a_last_good_commit_an_unreachable_remote_says_so(tmp_path: Path, mirror: Path) -> None:
    repository = open_repository(mirror=mirror, url=str(tmp_path / "absent"))

    assert repository.last_good() is None
    with pytest.raises(UnavailableError, match="no earlier good commit"):
        repository.fetch()


def test_a_remote_that_never_answers_is_unavailable_after_the_time_limit(mirror: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/x.git"
        repository = open_repository(mirror=mirror, url=url, limits=Limits(fetch_seconds=0.3))

        with pytest.raises(UnavailableError, match=r"took longer than 0\.3 s"):
            repository.fetch()


def test_an_empty_repository_is_reported_as_a_missing_branch(origin: Origin, mirror: Path) -> None:
    with pytest.raises(UnavailableError, match="has no branch main"):
        opened(origin, mirror).fetch()


def test_the_last_good_commit_outlives_a_force_push(origin: Origin, mirror: Path) -> None:
    first = origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    repository.mark_good(repository.fetch().revision)
    origin.git("checkout", "--quiet", "--orphan", "fresh")
    origin.commit({"a.yaml": "2"})
    origin.git("branch", "--force", "main", "fresh")
    repository.fetch()

    good = opened(origin, mirror).last_good()

    assert good is not None
    assert good.revision == f"main@sha1:{first}"
    assert good.read("a.yaml") == b"1"


def test_a_mirror_that_a_crash_left_half_made_or_locked_is_repaired(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    mirror.mkdir(parents=True)
    (mirror / "HEAD").write_text("ref: refs/heads/main\n")
    opened(origin, mirror).fetch()
    origin.commit({"a.yaml": "2"})
    lock = mirror / "refs/heads/main.lock"
    lock.touch()
    os.utime(lock, (1, 1))

    assert opened(origin, mirror).fetch().read("a.yaml") == b"2"


def test_a_lock_that_may_be_in_use_is_left_alone(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    opened(origin, mirror).fetch()
    origin.commit({"a.yaml": "2"})
    lock = mirror / "refs/heads/main.lock"
    lock.touch()

    with pytest.raises(UnavailableError, match=r"main\.lock"):
        opened(origin, mirror).fetch()
    assert lock.exists()


def test_another_revision_is_found_by_commit_name_or_revision(origin: Origin, mirror: Path) -> None:
    first = origin.commit({"a.yaml": "1"})
    origin.commit({"a.yaml": "2"})
    repository = opened(origin, mirror)
    newest = repository.fetch()

    for name in (first, first[:10], "main~1", f"main@sha1:{first}"):
        assert repository.tree(name).read("a.yaml") == b"1"
    assert repository.tree("main") is newest


def test_a_revision_that_is_not_here_yet_is_fetched(origin: Origin, mirror: Path) -> None:
    first = origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    assert repository.tree(first).read("a.yaml") == b"1"
    second = origin.commit({"a.yaml": "2"})
    origin.commit({"a.yaml": "3"})

    assert repository.tree(second).read("a.yaml") == b"2"
    origin.path.rename(origin.path.with_name("away"))
    assert repository.tree(first).read("a.yaml") == b"1"


@pytest.mark.parametrize(
    "name", ["absent", "0" * 40, "--upload-pack=touch x", "--all", "main:a.yaml", "main^{tree}", "", "a\nb"]
)
def test_a_revision_that_is_no_commit_is_refused(origin: Origin, mirror: Path, name: str) -> None:
    origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    repository.fetch()

    with pytest.raises(InputError):
        repository.tree(name)


def test_marking_a_revision_that_was_never_fetched_is_refused(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    repository.fetch()

    with pytest.raises(InputError):
        repository.mark_good(Revision(f"main@sha1:{'0' * 40}"))


def test_no_hook_runs_and_no_setting_of_the_repository_counts(origin: Origin, mirror: Path, tmp_path: Path) -> None:
    origin.commit({"a.yaml": "1", ".gitattributes": "* filter=evil\n"})
    repository = opened(origin, mirror)
    repository.fetch()
    proof = tmp_path / "proof"
    (mirror / "hooks").mkdir()
    for directory in (mirror / "hooks", origin.path / ".git/hooks"):
        for name in ("post-checkout", "reference-transaction", "pre-auto-gc", "update", "post-update"):
            hook = directory / name
            hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
            hook.chmod(0o755)
    origin.git("-c", "core.hooksPath=/dev/null", "commit", "--quiet", "--allow-empty", "--message=x")
    origin.git("config", "filter.evil.smudge", f"touch {proof}")
    origin.git("config", "uploadpack.packObjectsHook", f"touch {proof}; exec")

    tree = repository.fetch()
    repository.mark_good(tree.revision)
    tree.extract(".", tmp_path / "out")

    assert not proof.exists()


def test_variables_of_git_in_our_environment_do_not_lead_it_astray(
    origin: Origin, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.commit({"a.yaml": "1"})
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nonexistent")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.sshCommand")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "false")

    assert opened(origin, mirror).fetch().read("a.yaml") == b"1"


def test_secrets_in_our_environment_do_not_reach_git(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_SECRET_SHOP", "hush")
    repository = open_repository(mirror=mirror, url="ssh://host.invalid/x")
    access = repository._access  # type: ignore[attr-defined]  # the concrete class has it
    with access.environment(Limits()) as env:
        shown = repository._mirror.attempt(  # type: ignore[attr-defined]  # as above
            "-c", "alias.show-env=!env", "show-env", env=env
        )

    assert "GIT_TERMINAL_PROMPT=0" in shown.text
    assert "RECONCILER_SECRET_SHOP" not in shown.text


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch x",
        "-oProxyCommand=x",
        "ext::sh -c id",
        "fd::17",
        "http://example.org/x.git",
        "git://example.org/x.git",
        "ftp://example.org/x",
        "ssh://-oProxyCommand=x/y",
        "-oProxyCommand=x:y",
        "https:///x",
        "https://user:token@example.org/x.git",
        "a\nb",
        "",
    ],
)
def test_a_url_that_could_run_something_or_show_a_password_is_refused(mirror: Path, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_repository(mirror=mirror, url=url)

    assert "token@" not in str(caught.value)
    assert not mirror.exists()


@pytest.mark.parametrize(
    "url", ["https://e.org/x.git", "ssh://git@e.org:22/x", "git@e.org:x/y.git", "file:///x", "/x", "x"]
)
def test_ordinary_urls_are_accepted(mirror: Path, url: str) -> None:
    open_repository(mirror=mirror, url=url)


@pytest.mark.parametrize(
    "branch",
    ["--upload-pack=x", "-x", "a..b", "a b", "a:b", "a^", "x.lock", "a/.b", "@", "a@{1}", "", "/a", "a/", "a\n"],
)
def test_a_branch_that_is_no_branch_name_is_refused(mirror: Path, branch: str) -> None:
    with pytest.raises(ConfigError):
        open_repository(mirror=mirror, url="/x", branch=branch)


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../b", "--x", "a\0b"])
def test_a_sub_path_outside_of_the_repository_is_refused(mirror: Path, path: str) -> None:
    with pytest.raises(ConfigError):
        open_repository(mirror=mirror, url="/x", path=path)


def test_git_itself_refuses_other_transports_too(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1"})
    repository = opened(origin, mirror)
    repository.fetch()

    output = repository._mirror.attempt("fetch", "ext::sh -c id", "main")  # type: ignore[attr-defined]  # the gateway

    assert output.status != 0
    assert "transport 'ext' not allowed" in output.stderr


def test_a_file_that_is_too_large_is_refused_by_name(origin: Origin, mirror: Path) -> None:
    origin.commit({"a.yaml": "1", "dump.sql": "x" * 1000})

    with pytest.raises(InputError, match=r"dump\.sql has 1,000 bytes; the limit is 999"):
        opened(origin, mirror, limits=Limits(file_bytes=999)).fetch()


def test_a_file_too_large_for_memory_can_be_extracted_only(origin: Origin, mirror: Path, tmp_path: Path) -> None:
    origin.commit({"a.yaml": "1", "dump.sql": "x" * 1000})
    tree = opened(origin, mirror, limits=Limits(read_bytes=999)).fetch()

    with pytest.raises(InputError, match=r"dump\.sql has 1,000 bytes; documents and scripts may have 999"):
        tree.read("dump.sql")
    tree.extract("dump.sql", tmp_path / "dump.sql")
    assert (tmp_path / "dump.sql").read_text() == "x" * 1000


def test_too_many_files_or_bytes_are_refused(origin: Origin, mirror: Path) -> None:
    origin.commit({f"{number}.yaml": "12345" for number in range(11)})

    with pytest.raises(InputError, match="11 files; the limit is 10"):
        opened(origin, mirror, limits=Limits(files=10)).fetch()
    with pytest.raises(InputError, match="55 bytes in all; the limit is 54"):
        opened(origin, mirror, limits=Limits(total_bytes=54)).fetch()


def test_a_tree_that_unfolds_to_billions_of_files_is_cut_off(origin: Origin, mirror: Path) -> None:
    blob = origin.git("hash-object", "-w", "--stdin")
    rows, kind, mode = blob, "blob", "100644"
    for _ in range(10):
        listing = "".join(f"{mode} {kind} {rows}\t{name}\n" for name in "abcdefghij")
        argv = ["git", "-C", str(origin.path), "mktree"]
        rows = subprocess.run(argv, check=True, input=listing, capture_output=True, text=True).stdout.strip()
        kind, mode = "tree", "040000"
    commit = origin.git("commit-tree", "-m", "bomb", rows)
    origin.git("update-ref", "refs/heads/main", commit)

    with pytest.raises(InputError, match="more than 50,000 files"):
        opened(origin, mirror).fetch()


def test_a_pointer_of_git_lfs_is_refused_instead_of_being_taken_for_the_file(
    origin: Origin, mirror: Path, tmp_path: Path
) -> None:
    origin.commit({"a.sql": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"})
    tree = opened(origin, mirror).fetch()

    with pytest.raises(InputError, match=r"a\.sql is a pointer of Git LFS"):
        tree.read("a.sql")
    with pytest.raises(InputError, match=r"a\.sql is a pointer of Git LFS"):
        tree.extract("a.sql", tmp_path / "a.sql")


def test_a_directory_is_extracted_with_everything_below_it(origin: Origin, mirror: Path, tmp_path: Path) -> None:
    origin.commit({"dump/toc.dat": "t", "dump/data/1.dat": "1", "dumps/x": "x", "dump/empty": ""})
    tree = opened(origin, mirror).fetch()

    tree.extract("dump", tmp_path / "out")

    found = {str(file.relative_to(tmp_path / "out")): file.read_text() for file in (tmp_path / "out").rglob("*.*")}
    assert found == {"toc.dat": "t", "data/1.dat": "1"}
    assert (tmp_path / "out/empty").read_bytes() == b""
    with pytest.raises(InputError, match="nothing does not exist"):
        tree.extract("nothing", tmp_path / "nothing")


def test_history_tells_who_changed_each_file_last(origin: Origin, mirror: Path) -> None:
    first = origin.commit({"specs/a.yaml": "1", "specs/b.yaml": "1", "c.yaml": "1"}, author="Ada <a@example.org>")
    second = origin.commit({"specs/b.yaml": "2"}, author="Grace <g@example.org>")
    repository = opened(origin, mirror, path="specs")
    tree = repository.fetch()

    changes = repository.history(tree.entries())

    assert {path: (change.commit, change.author) for path, change in changes.items()} == {
        "a.yaml": (first, "Ada"),
        "b.yaml": (second, "Grace"),
    }
    third = origin.commit({"specs/a.yaml": "3"}, author="Edsger <e@example.org>")
    later = repository.history(repository.fetch().entries())
    assert (later["a.yaml"].commit, later["b.yaml"].commit) == (third, second)
    assert later["a.yaml"].at.utcoffset() is not None


def test_history_is_bounded_and_says_nothing_beyond_its_bound(origin: Origin, mirror: Path) -> None:
    origin.commit({"old.yaml": "1"})
    for number in range(3):
        origin.commit({"new.yaml": str(number)})
    repository = opened(origin, mirror, limits=Limits(history_commits=2))

    assert set(repository.history(repository.fetch().entries())) == {"new.yaml"}


def test_history_starts_over_after_a_forced_push(origin: Origin, mirror: Path) -> None:
    first = origin.commit({"a.yaml": "1"})
    origin.commit({"a.yaml": "2"})
    repository = opened(origin, mirror)
    repository.history(repository.fetch().entries())
    origin.git("reset", "--quiet", "--hard", first)

    assert repository.history(repository.fetch().entries())["a.yaml"].commit == first


def test_a_repository_of_another_account_needs_the_administrators_word(
    origin: Origin, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: gives files to another account")
    origin.commit({"a.yaml": "1"})
    for path in (origin.path, *origin.path.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    with pytest.raises(UnavailableError, match="dubious ownership") as caught:
        opened(origin, mirror).fetch()
    assert caught.value.reason == "RepositoryNotTrusted"

    quoted = str(origin.path / ".git")
    (tmp_path / ".gitconfig").write_text(f'[safe]\n\tdirectory = "{origin.path}"\n\tdirectory = "{quoted}"\n')

    assert opened(origin, mirror).fetch().read("a.yaml") == b"1"


def test_https_credentials_reach_git_by_its_helper_and_only_for_their_host(mirror: Path) -> None:
    access = Access(url="https://git.example/x.git", scheme="https", credentials=lambda: "app:t0k:en\n")
    repository = open_repository(mirror=mirror, url="https://git.example/x.git")
    gateway = repository._mirror  # type: ignore[attr-defined]  # the concrete class has it

    with access.environment(Limits()) as env:
        asked = gateway.attempt("credential", "fill", stdin=b"protocol=https\nhost=git.example\n\n", env=env)
        elsewhere = gateway.attempt("credential", "fill", stdin=b"protocol=https\nhost=evil.example\n\n", env=env)

    assert asked.text.splitlines()[-2:] == ["username=app", "password=t0k:en"]
    assert elsewhere.status != 0
    assert "t0k" not in elsewhere.text + elsewhere.stderr


class WebServer(TlsServer):
    """Serves a directory by HTTPS to those who know the password; or sends everybody elsewhere."""

    def __init__(self, root: Path, certificate: Path, *, elsewhere: str = "") -> None:
        seen = self.authorizations = list[str | None]()

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                authorization = self.headers["Authorization"]
                seen.append(authorization)
                if elsewhere:
                    self.send_response(302)
                    self.send_header("Location", elsewhere + self.path)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif authorization == f"Basic {b64encode(b'app:t0ken').decode()}":
                    super().do_GET()
                else:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="specs"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(partial(Handler, directory=str(root)), certificate)


def test_a_private_repository_is_fetched_by_https_with_the_secret(
    origin: Origin, mirror: Path, certificate: Path
) -> None:
    origin.commit({"a.yaml": "1"})
    origin.git("update-server-info")
    with WebServer(origin.path, certificate) as server:
        url = f"{server.url}/.git"
        tree = open_repository(mirror=mirror, url=url, credentials=lambda: "app:t0ken\n").fetch()
        assert tree.read("a.yaml") == b"1"

        for credentials in (None, lambda: "app:wr0ng"):
            refused = open_repository(mirror=mirror.with_name("other.git"), url=url, credentials=credentials)
            with pytest.raises(UnavailableError) as caught:
                refused.fetch()
            assert caught.value.reason == "AuthenticationFailed"
            assert "wr0ng" not in str(caught.value)
    kept = b"".join(file.read_bytes() for file in mirror.rglob("*") if file.is_file())
    assert b"t0ken" not in kept


def test_the_secret_does_not_follow_a_redirect_to_another_server(
    origin: Origin, mirror: Path, certificate: Path
) -> None:
    origin.commit({"a.yaml": "1"})
    origin.git("update-server-info")
    with (
        WebServer(origin.path, certificate) as other,
        WebServer(origin.path, certificate, elsewhere=other.url) as server,
    ):
        repository = open_repository(mirror=mirror, url=f"{server.url}/.git", credentials=lambda: "app:t0ken")
        with pytest.raises(UnavailableError):
            repository.fetch()

    assert set(other.authorizations) == {None}


def test_a_server_with_a_certificate_of_nobody_is_not_trusted(
    origin: Origin, mirror: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIT_SSL_CAINFO")
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    with WebServer(origin.path, certificate) as server, pytest.raises(UnavailableError, match="certificate"):
        open_repository(mirror=mirror, url=f"{server.url}/.git").fetch()


@pytest.mark.parametrize("secret", ["", ":", "app:", ":token", "two\nlines:x"])
def test_malformed_https_credentials_are_refused_without_showing_them(secret: str) -> None:
    access = Access(url="https://git.example/x.git", scheme="https", credentials=lambda: secret)

    with pytest.raises(SecretError, match="must be one line"), access.environment(Limits()):
        pytest.fail("they were accepted")


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed: nobody says what it would do")
def test_an_ssh_key_is_in_a_private_file_while_git_runs_and_gone_after(tmp_path: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----"
    hosts = tmp_path / "known hosts"
    access = Access(url="git@e.org:x", scheme="ssh", credentials=lambda: key, known_hosts=hosts)

    with access.environment(Limits()) as env:
        command = env["GIT_SSH_COMMAND"]
        file = Path(next(word for word in command.split() if word.startswith("IdentityFile=")).partition("=")[2])
        assert file.read_text() == key + "\n"
        assert file.stat().st_mode & 0o777 == 0o600
        assert "StrictHostKeyChecking=yes" in command
        assert "BatchMode=yes" in command
        shown = subprocess.run(f"{command} -G e.org", shell=True, check=True, capture_output=True, text=True).stdout

    assert f"userknownhostsfile {hosts}" in shown.replace('"', "")
    assert not file.exists()
