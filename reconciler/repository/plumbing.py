"""The one place where git runs: hardened plumbing commands on a bare mirror.

Called by the trees and repositories of this package. It must not use GitPython's
``Repo`` or its object database: they keep processes and memory maps alive, which
GitPython's own documentation calls a leak in long-running processes ("Leakage of
System Resources"). Only ``git.cmd.Git`` is used, made for one command and dropped.

What keeps an untrusted repository from doing harm:

* No work tree, no checkout: no filters (LFS), no hooks, no symlinks, no submodules.
* The environment is cut down: no ``GIT_*`` variable of ours but those for certificates,
  no configuration of the host but its ``safe.directory`` list, no prompts, no secrets
  but this command's own.
* Only https, ssh and file are allowed as transports, also after a redirect.
* Values stand behind ``--end-of-options`` or ``--``, or are hexadecimal ids.
* Every command has a time limit and ends with its children.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, cast

from reconciler.clock import SystemClock
from reconciler.errors import (
    CommandError,
    ReconcilerError,
    TimeoutExceededError,
    UnavailableError,
    UnsupportedError,
)
from reconciler.repository.packing import write_pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from git.cmd import Git

_KEPT_ENVIRONMENT = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK", "SUDO_UID"}
    | {"GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "LC_ALL", "LANGUAGE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"}
)
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",  # set but empty: git then does not fall back to SSH_ASKPASS
    "GIT_ALLOW_PROTOCOL": "https:ssh:file",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
}
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.bigFileThreshold=16m",  # no delta search over dumps
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "gc.autoDetach=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "maintenance.auto=false",
    "submodule.recurse=false",
)
_STDERR_CHARACTERS = 2000
_PACKS_KEPT = 2
_STALE_SECONDS = 600
"""After this time nobody is at work any more with a file that he does not write to: no fetch takes longer."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command that may fail gave back."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text, stripped."""
        return self.stdout.decode("utf-8", "replace").strip()


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob within a batch; ``content`` must be read to its end before the next one is asked for."""

    object_id: str
    size: int
    content: BinaryIO


class _Process(Protocol):
    """What is used of the process that GitPython starts."""

    stdout: BinaryIO | None
    stderr: BinaryIO | None
    returncode: int

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def kill(self) -> None: ...


class Mirror:
    """A bare repository in the state directory, and the commands that run on it."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        self._ready = False

    def prepare(self) -> None:
        """Make the mirror, or repair what a crash left of it; once per process.

        Raises:
            UnavailableError: its directory cannot be written.

        """
        if self._ready:
            return
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"the git mirror {self.path} cannot be made: {error.strerror}") from error
        self.drop_remains()
        # Also on a mirror that exists: it completes one whose making was interrupted, and changes no other.
        self.run("init", "--bare", "--quiet", "--template=", "--initial-branch=main")
        self._ready = True

    def drop_remains(self) -> None:
        """Remove what commands leave that are killed: locks, for which git waits for ever, and parts of packs.

        A pack that a remote stopped sending is as large as what came of it, and there is one of every try.
        """
        oldest = SystemClock().now().timestamp() - _STALE_SECONDS
        locks = (*self.path.glob("*.lock"), *(self.path / "refs").rglob("*.lock"))
        for remains in (*locks, *(self.path / "objects").glob("*/tmp_*")):
            with suppress(FileNotFoundError):
                if remains.stat().st_mtime < oldest:
                    remains.unlink()

    @property
    def exists(self) -> bool:
        """Whether there is something to read."""
        return self._ready or (self.path / "HEAD").is_file()

    def run(
        self,
        *words: str,
        stdin: bytes | BinaryIO | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Output:
        """Run a command that should succeed.

        Raises:
            CommandError: it failed.
            TimeoutExceededError: it took longer than ``timeout`` seconds.

        """
        output = self.attempt(*words, stdin=stdin, timeout=timeout, env=env)
        if output.status != 0:
            raise CommandError(("git", *words), output.status, output.stderr)
        return output

    def attempt(
        self,
        *words: str,
        stdin: bytes | BinaryIO | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Output:
        """Run a command and return what it did, also when it failed.

        Raises:
            TimeoutExceededError: it took longer than ``timeout`` seconds; it was killed with its children.

        """
        seconds = timeout or self._timeout
        until = time.monotonic() + seconds
        with _spool(stdin) as source:
            result = _git().execute(
                self._command(words, env or {}),
                istream=source,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                kill_after_timeout=seconds,
                env=_ENVIRONMENT | dict(env or {}),
                start_new_session=True,
            )
        status, stdout, stderr = result
        # GitPython says in stderr that it ended a command, unless we read that before its watchdog has written it
        if status == -signal.SIGKILL and time.monotonic() >= until:
            raise TimeoutExceededError(f"git {words[0]} took longer than {seconds:g} s and was ended")
        return Output(status, stdout, stderr[-_STDERR_CHARACTERS:])

    @contextmanager
    def stream(self, *words: str, stdin: bytes | None = None, timeout: float | None = None) -> Iterator[BinaryIO]:
        """Run a command and read its output while it runs; it is killed when the block is left early.

        Raises:
            CommandError: it failed and the block had read everything.
            TimeoutExceededError: it took longer than ``timeout`` seconds.

        """
        seconds = timeout or self._timeout
        with _spool(stdin) as source:
            wrapper = _git().execute(
                self._command(words, {}), istream=source, as_process=True, env=_ENVIRONMENT, start_new_session=True
            )
        process = cast("_Process", wrapper.proc)
        overdue = threading.Event()
        watchdog = threading.Timer(seconds, _expire, args=(process, overdue))
        watchdog.daemon = True
        watchdog.start()
        try:
            yield cast("BinaryIO", process.stdout)
            _finish(process, words)
        except ReconcilerError as error:
            if overdue.is_set():
                raise TimeoutExceededError(f"git {words[0]} took longer than {seconds:g} s and was ended") from error
            raise
        finally:
            watchdog.cancel()
            _end(process)

    def blobs(self, object_ids: Iterable[str], *, timeout: float | None = None) -> Iterator[Blob]:
        """Yield blobs in the order asked for, from one process.

        Raises:
            UnavailableError: an object is missing in the mirror, or is no blob.

        """
        wanted = "".join(f"{object_id}\n" for object_id in object_ids).encode()
        with self.stream("cat-file", "--batch", "--buffer", stdin=wanted, timeout=timeout) as out:
            for line in wanted.decode().split():
                header = out.readline().split()
                if len(header) != 3 or header[1] != b"blob":  # noqa: PLR2004 - "<id> <type> <size>", git-cat-file(1)
                    raise UnavailableError(f"the git mirror {self.path} lacks the object {line}")
                yield Blob(line, int(header[2]), out)
                if out.read(1) != b"\n":
                    raise UnavailableError(f"the git mirror {self.path} gave less of the object {line} than it has")

    def commit(self, revision: str) -> str | None:
        """Return the id of the commit that ``revision`` names; None when there is none."""
        return self._object(f"{revision}^{{commit}}")

    def tree(self, commit: str, path: str) -> str | None:
        """Return the id of the tree at ``path`` (``.``: the root) of a commit or tree."""
        object_id = self._object(f"{commit}^{{tree}}" if path == "." else f"{commit}:{path}")
        if object_id is None or path == ".":
            return object_id
        return self._object(f"{object_id}^{{tree}}")

    def update_ref(self, ref: str, object_id: str) -> None:
        """Point a ref of ours at an object, durably."""
        self.run("update-ref", "--no-deref", "--end-of-options", ref, object_id)

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether ``newer`` descends from ``older`` (or is it)."""
        return self.attempt("merge-base", "--is-ancestor", older, newer).status == 0

    def store(self, objects: Iterable[tuple[Literal["blob", "tree"], bytes]]) -> None:
        """Store objects as one pack, and forget the packs before the previous one: their objects are of no use.

        Only for a mirror that is filled in no other way. Two packs stay, for those who are reading the older one.
        """
        with tempfile.TemporaryFile() as file:
            write_pack(file, objects)
            file.seek(0)
            self.run("index-pack", "--stdin", stdin=cast("BinaryIO", file))
        packs = sorted((self.path / "objects" / "pack").glob("*.pack"), key=lambda pack: pack.stat().st_mtime_ns)
        for pack in packs[:-_PACKS_KEPT]:
            for part in (".idx", ".rev", ".pack"):  # the index first: without it git sees no pack
                pack.with_suffix(part).unlink(missing_ok=True)

    def tidy(self, *, kept: str = "2.weeks.ago") -> None:
        """Pack loose objects when there are many; what no ref holds goes when it is older than ``kept``.

        Only housekeeping: when it fails, the next time is soon enough.
        """
        self.drop_remains()
        with suppress(TimeoutExceededError):
            self.attempt("-c", "gc.auto=2000", "-c", f"gc.pruneExpire={kept}", "gc", "--auto", "--quiet")

    @contextmanager
    def trusting(self, scheme: str) -> Iterator[dict[str, str]]:
        """Give git the host's ``safe.directory`` list, for repositories of other accounts on this host.

        git reads such a repository only when the administrator named it there (CVE-2022-24765);
        all other configuration of the host stays unread.
        """
        if scheme != "file":
            yield {}
            return
        listed = self.attempt(
            *("config", "--null", "--get-all", "safe.directory"),
            env={"GIT_CONFIG_NOSYSTEM": "0", "GIT_CONFIG_GLOBAL": f"{os.environ.get('HOME', '')}/.gitconfig"},
        )
        with tempfile.NamedTemporaryFile("wb", suffix=".gitconfig") as file:
            file.write(b"[safe]\n")
            for value in filter(None, listed.stdout.split(b"\0")):
                quoted = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
                file.write(b'\tdirectory = "' + quoted + b'"\n')
            file.flush()
            yield {"GIT_CONFIG_GLOBAL": file.name}

    def _object(self, expression: str) -> str | None:
        output = self.attempt("rev-parse", "--verify", "--quiet", "--end-of-options", expression)
        return output.text if output.status == 0 else None

    def _command(self, words: Sequence[str], env: Mapping[str, str]) -> list[str]:
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        return [*_unset(env), "git", f"--git-dir={self.path}", *settings, *words]


def _git() -> Git:
    try:
        from git.cmd import Git  # noqa: PLC0415 - takes 0.1 s, which `validate` and `--help` need not spend
    except ImportError as error:
        raise UnsupportedError("the program git is not installed on this host", hint="apt install git") from error
    return Git(os.sep)


def _unset(kept: Mapping[str, str]) -> list[str]:
    """Return the start of a command that hides all variables of ours that git has no need for.

    GitPython adds to our environment and cannot take away; names in an argument vector are harmless.
    """
    keep = _KEPT_ENVIRONMENT | _ENVIRONMENT.keys() | kept.keys()
    return ["env", *(f"--unset={name}" for name in os.environ if name not in keep)]


@contextmanager
def _spool(data: bytes | BinaryIO | None) -> Iterator[BinaryIO | None]:
    """Hand input over as a file: no writer thread, and no deadlock between two full pipes."""
    if not isinstance(data, bytes):
        yield data
        return
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield cast("BinaryIO", file)


def _expire(process: _Process, overdue: threading.Event) -> None:
    overdue.set()
    process.kill()


def _finish(process: _Process, words: Sequence[str]) -> None:
    if process.stdout is not None and process.stdout.read(1):
        return  # left early on purpose: the rest is not wanted
    errors = process.stderr.read() if process.stderr is not None else b""
    if process.wait() != 0:
        raise CommandError(("git", *words), process.returncode, errors.decode("utf-8", "replace"))


def _end(process: _Process) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
