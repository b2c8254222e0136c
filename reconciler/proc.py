"""The only gateway to subprocesses.

Commands are argument vectors, never shell lines. :func:`run` runs a tool: in a session
of its own, so that a timeout, a cancellation or its own end ends everything that it
started, and bound to the calling thread, so that a reconciler killed with SIGKILL does
not leave, say, a ``pg_restore`` at work behind. :func:`spawn` starts a server, which
must outlive the reconciler and so gets none of that.

Called by engines, storage drivers, runtimes and the repository. It must not know what
it runs, and it never puts arguments, input or environment into a message or a log.
"""

from __future__ import annotations

import functools
import math
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from reconciler.errors import (
    CancelledError,
    CommandError,
    NotInstalledError,
    PermanentError,
    TimeoutExceededError,
    UnavailableError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOOL_MARK = "RECONCILER_TOOL"
"""Environment variable of every tool; its value is :func:`tool_owner` of the process that ran it."""

_POLL_SECONDS = 0.05
_TERMINATE_GRACE_SECONDS = 5.0
_MAX_OUTPUT_BYTES = 64 * 1024 * 1024
_MAX_ERROR_BYTES = 1024 * 1024
_BASE_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSH_AUTH_SOCK")
_spawned: set[subprocess.Popen[bytes]] = set()
_spawned_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Account:
    """The operating-system account that a process runs under."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Completed:
    """Output of a finished command."""

    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text, with undecodable bytes replaced."""
        return self.stdout.decode("utf-8", "replace")


class CancelToken:
    """Tells long work that it became pointless; safe to share between threads."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next opportunity."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise :class:`CancelledError` when somebody asked."""
        if self.cancelled:
            raise CancelledError("the work was cancelled")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a small, predictable environment: a few of ours, plus ``extra``."""
    base = {key: os.environ[key] for key in _BASE_ENVIRONMENT if key in os.environ}
    return base | dict(extra or {})


def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    timeout: float | None = None,
    cancel: CancelToken | None = None,
) -> Completed:
    """Run a command to its end.

    ``env`` is the complete environment (default: :func:`environment`). ``stdout``
    sends the output to an open file instead of memory; without it a command may write
    64 MiB. Of standard error the last MiB is kept; it goes through the open file ``stderr``,
    if there is one, that somebody else may read meanwhile. ``stdin`` given as bytes stays in
    memory, since it may hold a secret. ``cwd`` defaults to the current directory, and
    to ``/`` under another account, which may have no access to the current one. What
    the command left running in its process group is killed when it ends.

    Raises:
        CommandError: the exit code is not zero.
        TimeoutExceededError: it ran longer than ``timeout`` seconds; it was ended.
        CancelledError: ``cancel`` was set; it was ended.
        PermanentError: it wrote more than fits in memory.
        NotInstalledError: the program is not installed.
        UnsupportedError: the account cannot be used.

    """
    words = [os.fspath(word) for word in argv]
    with ExitStack() as stack:
        errors = stderr or stack.enter_context(tempfile.TemporaryFile())
        output = stdout or stack.enter_context(tempfile.TemporaryFile())
        source = stack.enter_context(_in_memory(stdin)) if isinstance(stdin, bytes) else stdin
        variables = {**(environment() if env is None else env), TOOL_MARK: tool_owner()}
        switching = _switching(account)
        process = _popen(
            [*_prefix(switching, bound=True), require_program(words[0], env=variables, cwd=cwd), *words[1:]],
            stdin=subprocess.DEVNULL if source is None else source,
            stdout=output,
            stderr=errors,
            env=variables,
            cwd=Path("/") if cwd is None and switching else cwd,
            account=switching,
        )
        _await(process, words[0], timeout=timeout, cancel=cancel)
        complaint = _tail(errors)
        if process.returncode != 0:
            raise CommandError(words, process.returncode, complaint)
        return Completed(b"" if stdout else _content(output, words[0]), complaint)


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    account: Account | None = None,
    launcher: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start a server that outlives this process: own session, output appended to ``log`` (mode 0600).

    ``launcher`` is put before the command and runs with the rights of this process
    (``systemd-run --scope …``). Files that the server makes are private to its account
    (umask 077). It is reaped by :func:`reap`, whether the caller keeps it or not.

    Raises:
        NotInstalledError: the program is not installed.
        UnsupportedError: the account cannot be used.

    """
    words = [os.fspath(word) for word in argv]
    switching = _switching(account)
    reap()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as out:
        process = _popen(
            [*launcher, *_prefix(switching, bound=False), require_program(words[0], env=env, cwd=cwd), *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            account=switching,
            umask=0o077,
        )
    with _spawned_lock:
        _spawned.add(process)
    return process


def require_program(name: str, *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Return the path of a program, looked up as :func:`run` does (relative to ``cwd`` when it contains a slash).

    Raises:
        NotInstalledError: there is none, or it must not be executed.

    """
    place = Path(cwd or ".") / name if os.sep in name else name
    path = shutil.which(place, path=(environment() if env is None else env).get("PATH", os.defpath))
    if path is None:
        raise NotInstalledError(f"the program {name} is not installed on this host, or must not be executed")
    return os.fspath(path)


def reap() -> None:
    """Collect the exit codes of spawned servers that ended, so that none stays a zombie."""
    with _spawned_lock:
        _spawned.difference_update({process for process in _spawned if process.poll() is not None})


def terminate_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything in its group: SIGTERM, after a grace time SIGKILL, and reap it."""
    if process.returncode is not None:
        return
    _signal_group(process, signal.SIGTERM)
    with _Ending(process) as ending:
        ending.within(_TERMINATE_GRACE_SECONDS)
    _finish_group(process)


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that stays bound to this very process, to be closed by the caller.

    None where there is no such thing: before Linux 5.3, or forbidden by a sandbox.

    Raises:
        ProcessLookupError: there is no process of this number.

    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (OSError, AttributeError):  # AttributeError: Python built against an old C library
        return None


def ended_within(pidfd: int, seconds: float | None) -> bool:
    """Wait until the process of a pidfd has ended (a zombie has), at most ``seconds``; return whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else math.ceil(max(0.0, seconds) * 1000)))


def tool_owner() -> str:
    """Return this process as the value of :data:`TOOL_MARK`: PID namespace, number and start time.

    The namespace is part of it since the numbers of a container mean nothing on its host.
    """
    return _tool_owner(os.getpid())


@functools.lru_cache(maxsize=1)
def _tool_owner(pid: int) -> str:
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError as error:
        raise UnavailableError("/proc cannot be read", hint="it has to be mounted") from error
    return f"{namespace}.{pid}.{fields[19]}"


class _Ending:
    """Waits for the end of a child without reaping it, so that its number stays its group's own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pidfd = open_pidfd(process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)

    def within(self, seconds: float | None) -> bool:
        if self._pidfd is not None:
            return ended_within(self._pidfd, seconds)
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def _await(process: subprocess.Popen[bytes], name: str, *, timeout: float | None, cancel: CancelToken | None) -> None:
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    try:
        with _Ending(process) as ending:
            while not ending.within(_slice(deadline, polling=cancel is not None)):
                if cancel is not None:
                    cancel.check()
                if time.monotonic() >= deadline:
                    raise TimeoutExceededError(f"{name} took longer than {timeout:g} s")
    except BaseException:
        terminate_group(process)
        raise
    _finish_group(process)


def _slice(deadline: float, *, polling: bool) -> float | None:
    left = deadline - time.monotonic()
    if polling:
        return min(left, _POLL_SECONDS)
    return None if math.isinf(left) else left


def _finish_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group, then reap its leader: in this order, or the number could be another's."""
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return  # PermissionError: all that is left took other rights (a setuid program); it is not ours to end


def _popen(
    words: list[str],
    *,
    stdin: int | IO[bytes],
    stdout: IO[bytes],
    stderr: int | IO[bytes],
    env: Mapping[str, str],
    cwd: Path | None,
    account: Account | None,
    umask: int = -1,
) -> subprocess.Popen[bytes]:
    by_python = account if account is not None and _setpriv() is None else None
    try:
        return subprocess.Popen(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=_without_private(env) if account else dict(env),
            cwd=cwd,
            start_new_session=True,
            umask=umask,
            user=by_python.uid if by_python else None,
            group=by_python.gid if by_python else None,
            extra_groups=[] if by_python else None,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise PermanentError(f"the directory {cwd} in which {words[0]} should run does not exist") from error
        raise NotInstalledError(f"the program {words[0]} is not installed on this host") from error
    except PermissionError as error:
        who = f"user id {account.uid if account else os.geteuid()}"
        raise UnsupportedError(f"{who} must not execute {words[0]} in {cwd or Path.cwd()}") from error


def _without_private(env: Mapping[str, str]) -> dict[str, str]:
    """Drop what belongs to our own account: another one can use neither our home nor our ssh agent."""
    ours = {key: os.environ.get(key) for key in ("HOME", "SSH_AUTH_SOCK")}
    return {key: value for key, value in env.items() if ours.get(key) != value}


def _switching(account: Account | None) -> Account | None:
    """Return the account if it is not our own.

    Raises:
        UnsupportedError: only root can become somebody else.

    """
    if account is None or account.uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise UnsupportedError(
            f"cannot run a program as user id {account.uid}", hint="only a reconciler started as root can"
        )
    return account


def _prefix(account: Account | None, *, bound: bool) -> list[str]:
    """Return the setpriv(1) words that take another account and bind the command to the calling thread.

    Not ``preexec_fn``, which is unsafe with threads. One call does both, in the right
    order: a change of credentials clears the parent-death signal (prctl(2),
    PR_SET_PDEATHSIG). Empty where setpriv is missing: then Python switches, and only
    the mark finds a tool that was left behind.
    """
    setpriv = _setpriv()
    options = [] if account is None else _switch_options(account)
    if bound:
        options += ["--pdeathsig", "KILL"]
    return [setpriv, *options, "--"] if setpriv and options else []


def _switch_options(account: Account) -> list[str]:
    return ["--reuid", str(account.uid), "--regid", str(account.gid), "--clear-groups", "--no-new-privs"]


@functools.cache
def _setpriv() -> str | None:
    """Return the path of util-linux's setpriv; BusyBox has one that knows less."""
    path = shutil.which("setpriv")
    if path is None:
        return None
    probe = subprocess.run([path, "--pdeathsig", "KILL", "--", path, "--version"], capture_output=True, check=False)
    return path if probe.returncode == 0 else None


def _in_memory(content: bytes) -> IO[bytes]:
    """Return an open file that never reaches a disk, at its start."""
    spool = os.fdopen(os.memfd_create("stdin"), "w+b")
    spool.write(content)
    spool.seek(0)
    return spool


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MAX_ERROR_BYTES))
    return file.read().decode("utf-8", "replace")


def _content(file: IO[bytes], name: str) -> bytes:
    size = file.seek(0, os.SEEK_END)
    if size > _MAX_OUTPUT_BYTES:
        raise PermanentError(f"{name} wrote {size} bytes, more than the {_MAX_OUTPUT_BYTES} that are read into memory")
    file.seek(0)
    return file.read()
