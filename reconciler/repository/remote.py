"""A branch of a git repository, followed through a bare mirror.

Made by :mod:`.opening`. One fetch is one command; when the branch did not move, the
same tree object is returned and nothing is listed again. Whatever happens to the
remote, what the mirror holds stays readable.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reconciler.errors import InputError, SecretError, TimeoutExceededError, UnavailableError
from reconciler.ids import Revision
from reconciler.repository.committed import GitTree
from reconciler.repository.history import History
from reconciler.repository.plumbing import Mirror
from reconciler.repository.signatures import Verifier
from reconciler.repository.writing import write_commit, write_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from reconciler.repository.base import Author, Change, Edit, Limits, SourceTree
    from reconciler.repository.plumbing import Output
    from reconciler.repository.signatures import Signature, Signers

LAST_GOOD = "refs/reconciler/last-good"
_FOLLOWED = "refs/reconciler/followed"
"""The head of the branch that was marked good last. Unlike the mirror's own branch, looking does not move it."""
ASKED_FOR = "refs/reconciler/asked-for"
"""What somebody asked to plan and is not on the branch; fetched anew each time."""
_WRITTEN = "refs/reconciler/written"
"""The head that a commit of ours goes upon; not the mirror's own branch, which a pass may be fetching meanwhile."""
_PUBLISHED = "refs/reconciler/published"
"""Where the ref that we publish to was when it was last looked at."""
_COMMIT_TRIES = 5
_SHOWN_BRANCHES = 10
_FETCHABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}")
_ID_DIGITS = 40
_REVISION = re.compile(r"[^@]*@sha1:([0-9a-f]{40})")
_CREDENTIAL_HELPER = (
    '!f() { test "$1" = get && '
    'printf "username=%s\\npassword=%s\\n" "$RECONCILER_GIT_USER" "$RECONCILER_GIT_TOKEN"; }; f'
)
_ANY_USER = "git"
"""GitHub and GitLab take any user name beside a token."""
_FETCH = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--force")
_NO_SUCH_REF = "couldn't find remote ref"
_CAUSES = (
    (_NO_SUCH_REF, "BranchNotFound"),
    ("detected dubious ownership", "RepositoryNotTrusted"),
    ("Host key verification failed", "HostKeyRefused"),
    ("Permission denied", "AuthenticationFailed"),
    ("could not read Username", "AuthenticationFailed"),
    ("Authentication failed", "AuthenticationFailed"),
    ("not appear to be a git repository", "RepositoryNotFound"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the remote is reached; see :func:`~reconciler.repository.opening.open_repository`."""

    url: str
    scheme: str
    credentials: Callable[[], str] | None = None
    known_hosts: Path | None = None

    @contextmanager
    def environment(self, limits: Limits) -> Iterator[dict[str, str]]:
        """Hand over what one fetch may know; secrets are in no argument and, for ssh, in a private file only."""
        if self.scheme == "https" and self.credentials is not None:
            yield self._https(self.credentials())
        elif self.scheme == "ssh":
            with self._key_file() as key:
                yield {"GIT_SSH_COMMAND": self._ssh(key, limits), "GIT_SSH_VARIANT": "ssh"}
        else:
            yield {}

    def _https(self, secret: str) -> dict[str, str]:
        user, colon, token = secret.strip().partition(":")
        if not colon:
            user, token = _ANY_USER, user
        if not user or not token or not (user + token).isprintable():
            raise SecretError("the repository's credentials must be one line: a token, or user:token")
        host = urlsplit(self.url).netloc.rpartition("@")[2]
        return {
            "GIT_CONFIG_COUNT": "1",
            # Bound to the host: after a redirect to another one, nothing is sent.
            "GIT_CONFIG_KEY_0": f"credential.https://{host}.helper",
            "GIT_CONFIG_VALUE_0": _CREDENTIAL_HELPER,
            "RECONCILER_GIT_USER": user,
            "RECONCILER_GIT_TOKEN": token,
        }

    @contextmanager
    def _key_file(self) -> Iterator[Path | None]:
        if self.credentials is None:
            yield None
            return
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "key")
            write_key(file, self.credentials(), of="the repository's credentials for ssh")
            yield file

    def _ssh(self, key: Path | None, limits: Limits) -> str:
        """Return the ssh command; git runs it through a shell, so every word is quoted."""
        options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"ConnectTimeout={min(30, int(limits.fetch_seconds))}",
            "ServerAliveInterval=15",
            "ForwardAgent=no",
            "PermitLocalCommand=no",
        ]
        if key is not None:
            options += [f"IdentityFile={key}", "IdentitiesOnly=yes"]
        if self.known_hosts is not None:
            options += [f'UserKnownHostsFile="{self.known_hosts.absolute()}"', f"GlobalKnownHostsFile={os.devnull}"]
        return shlex.join(["ssh", *(word for option in options for word in ("-o", option))])


class GitRepository:
    """One branch of one remote; see :class:`~reconciler.repository.base.Repository`."""

    def __init__(
        self, access: Access, *, branch: str, path: str, mirror: Path, limits: Limits, signers: Signers | None = None
    ) -> None:
        self._access = access
        self._branch = branch
        self._ref = f"refs/heads/{branch}"
        self._path = path
        self._limits = limits
        self._mirror = Mirror(mirror, timeout=limits.command_seconds)
        self._history = History(self._mirror, path=path, limits=limits)
        keys = mirror.with_name("signers")
        self._verifier = Verifier(self._mirror, signers, directory=keys) if signers is not None else None
        self._newest: GitTree | None = None
        self._good: GitTree | None = None
        self._followed: str | None = None

    def fetch(self) -> GitTree:
        newest = self._follow()
        newest.entries()
        return newest

    def tree(self, revision: str) -> GitTree:
        match = _REVISION.fullmatch(revision)
        name = match[1] if match else revision
        if not name.isprintable() or name.startswith("-") or ":" in name:
            raise InputError(f"{revision!r} is not the name of a commit")
        commit = self._mirror.commit(name) if self._mirror.exists else None
        if commit is None:
            self._follow()
            commit = self._mirror.commit(name)
        if commit is None:
            commit = self._elsewhere(name)
        if commit is None:
            raise InputError(f"the repository has no commit, branch or tag {revision}", reason="RevisionNotFound")
        return self._kept(commit)

    def last_good(self) -> GitTree | None:
        if self._good is None and self._mirror.exists:
            commit = self._mirror.commit(LAST_GOOD)
            self._good = None if commit is None else self._kept(commit)
        return self._good

    def mark_good(self, revision: Revision) -> None:
        good = self.last_good()
        if good is None or good.revision != revision:
            good = self.tree(revision)
            self._mirror.update_ref(LAST_GOOD, good.treeish)
            self._good = good
        if self._newest is not None and self._newest.treeish == good.treeish != self._followed:
            self._mirror.update_ref(_FOLLOWED, good.treeish)
            self._followed = good.treeish

    def verify(self, tree: SourceTree) -> Signature | None:
        if self._verifier is None:
            return None
        return self._verifier.verify(tree.revision.rpartition(":")[2])

    def history(self, paths: Iterable[str]) -> Mapping[str, Change]:
        head = self._newest.treeish if self._newest else self._mirror.exists and self._mirror.commit(self._ref)
        return self._history.changes(head, paths) if head else {}

    def change(self, revision: Revision) -> Change | None:
        return self._history.made(revision.rpartition(":")[2]) if self._mirror.exists else None

    def commit(self, edit: Callable[[SourceTree], Edit | None], *, author: Author) -> Revision | None:
        self._mirror.prepare()

        def make(head: str | None) -> str | None:
            if head is None:
                raise self._unavailable(f"{self._branch} is not a branch of commits")
            newest = self._at(head, rewrite=self._moved(self._mirror.commit(_FOLLOWED), head))
            self.verify(newest)
            change = edit(newest)
            if change is None:
                return None
            files = {posixpath.normpath(posixpath.join(self._path, path)): data for path, data in change.files.items()}
            return write_commit(self._mirror, head, files, message=change.message, author=author)

        made = self._push_what(make, self._ref, lambda: self._fetch_aside(self._ref, _WRITTEN))
        return None if made is None else Revision(f"{self._branch}@sha1:{made}")

    def publish(
        self, ref: str, path: str, edit: Callable[[bytes | None], Edit | None], *, author: Author
    ) -> Revision | None:
        self._mirror.prepare()

        def make(head: str | None) -> str | None:
            change = edit(self._content(head, path))
            if change is None:
                return None
            return write_commit(self._mirror, head, change.files, message=change.message, author=author, alone=True)

        made = self._push_what(make, ref, lambda: self._fetch_aside(ref, _PUBLISHED, optional=True))
        if made is not None:
            self._mirror.tidy(kept="1.hour.ago")  # nothing refers to what was published before
        return None if made is None else Revision(f"{ref.removeprefix('refs/heads/')}@sha1:{made}")

    def _push_what(
        self, make: Callable[[str | None], str | None], ref: str, head_of: Callable[[], str | None]
    ) -> str | None:
        """Push what ``make`` makes over the newest head of a ref, again when somebody else was quicker."""
        tried: str | None = ""
        refusal = "others were quicker each time"
        for _ in range(_COMMIT_TRIES):
            head = head_of()
            if head == tried:  # nobody was quicker: the remote does not want it
                break
            made = make(head)
            if made is None:
                return None
            output = self._push(made, ref, over=head or "")
            if output.status == 0:
                return made
            tried, refusal = head, _one_line(output.stderr)
        reason = next((reason for text, reason in _CAUSES if text in refusal), "PushRefused")
        raise UnavailableError(f"{self._access.url} does not take a commit of ours: {refusal}", reason=reason)

    def _fetch_aside(self, ref: str, aside: str, *, optional: bool = False) -> str | None:
        """Fetch a ref aside, and return its head; None where it is ``optional`` and not there."""
        output = self._run_fetch(f"+{ref}:{aside}")
        if optional and output.status != 0 and _NO_SUCH_REF in output.stderr:
            return None
        head = self._mirror.commit(aside) if output.status == 0 else None
        if head is None:
            raise self._unavailable(output.stderr)
        return head

    def _content(self, head: str | None, path: str) -> bytes | None:
        """Return what a file holds in a commit; None where there is none, or more than is read into memory."""
        if head is None:
            return None
        size = self._mirror.attempt("cat-file", "-s", f"{head}:{path}")
        if size.status != 0 or int(size.text) > self._limits.read_bytes:
            return None
        found = self._mirror.attempt("cat-file", "blob", f"{head}:{path}")
        return found.stdout if found.status == 0 else None

    def _push(self, commit: str, ref: str, *, over: str) -> Output:
        """Push a commit to a ref, if that is still where it was (empty: absent) when the commit was made."""
        lease = f"--force-with-lease={ref}:{over}"
        words = ("push", "--quiet", lease, "--end-of-options", self._access.url, f"{commit}:{ref}")
        with self._access.environment(self._limits) as env, self._mirror.trusting(self._access.scheme) as trust:
            return self._mirror.attempt(*words, env=env | trust)

    def _follow(self) -> GitTree:
        """Fetch the branch; return the tree of its head, which is the one of before when it did not move."""
        self._mirror.prepare()
        before = self._mirror.commit(self._ref)
        output = self._run_fetch()
        if output.status != 0:
            raise self._unavailable(output.stderr)
        head = self._mirror.commit(self._ref)
        if head is None:
            raise self._unavailable(f"{self._branch} is not a branch of commits")
        if self._newest is None or self._newest.treeish != head:
            self._followed = self._mirror.commit(_FOLLOWED)
            self._newest = self._at(head, rewrite=self._moved(self._followed, head))
            if before != head:
                self._mirror.tidy()
        return self._newest

    def _at(self, commit: str, *, rewrite: str = "") -> GitTree:
        return GitTree(
            self._mirror,
            commit,
            revision=Revision(f"{self._branch}@sha1:{commit}"),
            path=self._path,
            limits=self._limits,
            rewrite=rewrite,
        )

    def _kept(self, commit: str) -> GitTree:
        """Return the tree object that was handed out for a commit already, with its listing, or a new one."""
        for tree in (self._newest, self._good):
            if tree is not None and tree.treeish == commit:
                return tree
        return self._at(commit)

    def _elsewhere(self, name: str) -> str | None:
        """Fetch another branch, a tag or a commit by its id, as pull requests name them."""
        if not _FETCHABLE.fullmatch(name) or ".." in name:
            return None
        ids = (name,) if len(name) == _ID_DIGITS else ()
        for source in (f"refs/heads/{name}", f"refs/tags/{name}", *ids):
            if self._run_fetch(f"+{source}:{ASKED_FOR}").status == 0:
                return self._mirror.commit(ASKED_FOR)
        return None

    def _run_fetch(self, refspec: str | None = None) -> Output:
        words = (*_FETCH, "--end-of-options", self._access.url, refspec or f"+{self._ref}:{self._ref}")
        with self._access.environment(self._limits) as env, self._mirror.trusting(self._access.scheme) as trust:
            try:
                return self._mirror.attempt(*words, env=env | trust, timeout=self._limits.fetch_seconds)
            except TimeoutExceededError as error:
                self._mirror.drop_remains()
                raise self._unavailable(error.message) from error

    def _branches(self) -> str:
        """Name the branches that there are, for whoever wrote down another one; nothing where that cannot be told."""
        words = ("ls-remote", "--heads", "--end-of-options", self._access.url)
        with self._access.environment(self._limits) as env, self._mirror.trusting(self._access.scheme) as trust:
            try:
                listed = self._mirror.attempt(*words, env=env | trust).text
            except TimeoutExceededError:
                return ""
        names = (line.rpartition("refs/heads/")[2] for line in listed.splitlines())
        shown = [name for name in names if name.isprintable()][:_SHOWN_BRANCHES]
        return f"; it has {', '.join(shown)}" if shown else ""

    def _moved(self, before: str | None, head: str) -> str:
        if before is None or before == head or self._mirror.is_ancestor(before, head):
            return ""
        return f"branch {self._branch} was force-pushed: {before[:12]} is no ancestor of {head[:12]}"

    def _unavailable(self, stderr: str) -> UnavailableError:
        good = self.last_good()
        force = f"{good.revision} stays in force" if good else "there is no earlier good commit, so nothing is changed"
        reason = next((reason for text, reason in _CAUSES if text in stderr), "RepositoryUnavailable")
        if reason == "BranchNotFound":
            what = f"{self._access.url} has no branch {self._branch} (any more){self._branches()}"
        else:
            what = f"{self._access.url} cannot be fetched: {_one_line(stderr)}"
        return UnavailableError(f"{what}; {force}", reason=reason)


def _one_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return " ".join(lines)[:500] or "no reason given"
