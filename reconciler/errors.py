"""The whole error tree.

The class of an error decides what happens to the object that it concerns; nothing
else does. Messages are shown to users: they say what is wrong and what to do about
it, and never carry the value of a secret or a row of data.

::

    ReconcilerError
    ├── InputError            git or the configuration must change; refused before anything runs; exit 1
    │   ├── SpecError         documents of a commit are invalid (carries diagnostics)
    │   └── ConfigError       the host configuration is invalid
    ├── TransientError        tried again with growing delays
    │   ├── UnavailableError  an outside thing does not answer: remote, pool, runtime, server
    │   ├── BusyError         somebody else holds it: a lock, a port, a file being written
    │   ├── DependencyError   something that it needs failed in the same pass
    │   └── TimeoutExceededError  a command or wait took longer than its limit
    ├── PermanentError        stalls the object until one of its inputs changes
    │   ├── SourceError       a source is missing, truncated, corrupt, of another product or version
    │   ├── ScriptError       SQL of a script or a check failed (file, line, statement)
    │   ├── CheckFailedError  a check did not return true
    │   ├── MaskingError      a rule does not fit the data, something is not covered, or an original was left
    │   ├── SecretError       a secret is missing, unreadable or not granted
    │   └── UnsupportedError  this host or version cannot do what the document asks for
    │       └── NotInstalledError  a program, library or locale is missing; looked at again now and then
    ├── RefusedError          capacity or policy says no, with figures; looked at again every pass
    ├── CommandError          a subprocess failed (argv, exit code, bounded tail of stderr)
    └── CancelledError        the work became pointless or the process is stopping
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class ReconcilerError(Exception):
    """Base of everything that this package raises on purpose.

    ``reason`` is the CamelCase word that conditions and events carry; a class has a
    default, and a raise can be more exact.
    """

    reason = "Failed"

    def __init__(self, message: str, *, reason: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(ReconcilerError):
    """What a person wrote is wrong; nothing was applied."""

    reason = "InvalidInput"


class SpecError(InputError):
    """Documents of a commit are invalid; ``diagnostics`` holds every finding."""

    reason = "InvalidSpec"

    def __init__(self, message: str, diagnostics: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.diagnostics = tuple(diagnostics)


class ConfigError(InputError):
    """The host configuration is invalid or contradicts the state on disk."""

    reason = "InvalidConfig"


class TransientError(ReconcilerError):
    """May work when tried again, without anybody changing anything."""

    reason = "TransientFailure"


class UnavailableError(TransientError):
    """An outside thing does not answer; what it holds is unknown, not gone."""

    reason = "Unavailable"


class BusyError(TransientError):
    """Somebody else holds what is needed."""

    reason = "Busy"


class DependencyError(TransientError):
    """Something that it needs failed in the same pass."""

    reason = "DependencyNotReady"


class TimeoutExceededError(TransientError):
    """A command or a wait took longer than its limit."""

    reason = "Timeout"


class PermanentError(ReconcilerError):
    """Will fail in the same way until an input changes."""

    reason = "PermanentFailure"


class SourceError(PermanentError):
    """The source of an image cannot be used as it is."""

    reason = "SourceInvalid"


class ScriptError(PermanentError):
    """A statement of a script failed."""

    reason = "ScriptFailed"


class CheckFailedError(PermanentError):
    """A check of an image did not return true."""

    reason = "CheckFailed"


class MaskingError(PermanentError):
    """Masking could not be done or not be proved: nothing is sealed.

    Reasons: ``MaskingUncovered`` (policy and schema do not fit together), ``MaskingFailed``
    (the database refused), ``MaskingLeak`` (an original value is left). The message names
    tables and columns, never a value.
    """

    reason = "MaskingFailed"


class SecretError(PermanentError):
    """A secret is missing, unreadable or not granted to the object."""

    reason = "SecretUnavailable"


class UnsupportedError(PermanentError):
    """This host or this version cannot do what the document asks for."""

    reason = "Unsupported"


class NotInstalledError(UnsupportedError):
    """Software is missing on this host; installing it changes no input, so time has to bring another look."""


class RefusedError(ReconcilerError):
    """Capacity or policy forbids it now; the message carries the figures."""

    reason = "Refused"


class CommandError(ReconcilerError):
    """A subprocess ended with an exit code other than zero.

    Boundaries (engines, storage, repository) translate it into a class above;
    one that escapes counts as transient.
    """

    reason = "CommandFailed"

    def __init__(self, argv: Sequence[str], returncode: int, stderr: str) -> None:
        tail = stderr.strip()[-2000:]
        super().__init__(f"{argv[0]} ended with exit code {returncode}: {tail}")
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr


class CancelledError(ReconcilerError):
    """The work was abandoned on purpose."""

    reason = "Cancelled"
