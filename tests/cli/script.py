"""Runs sessions that are written down as a user sees them.

A script is text: prose after ``#`` and a blank, files between ``>>> PATH`` and ``<<<``, commands
after ``$``, and under each command what it writes and how it ends:

    # A clone appears when it is asked for.
    >>> specs/dev.yaml
    apiVersion: reconciler/v1
    <<<
    $ reconciler apply
    Clones
      + create dev from shop-{id}
    ...
    2> a line on standard error
    [exit 1]

Runs of spaces count as one. ``...`` stands for any lines, ``{name}`` for what ``_FORMS``
says, ``@PORT@`` for a port that is free. Every command runs in the world's directory
with ``reconciler`` on the PATH. The same text is checked to the last line, so what is
not expected fails too.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import World

_FORMS = {
    "id": r"[0-9]{8}t[0-9]{6}z-[0-9a-f]{8}",
    "time": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|\+00:00)",
    "age": r"[0-9]+ (s|min)",
    "ago": r"just now|[0-9]+ s ago",
    "size": r"[0-9.]+ (B|KiB|MiB|GiB|bytes)",
    "number": r"[0-9]+",
    "version": r"[0-9]+\.[0-9]+",
    "hash": r"[0-9a-f]{8,64}",
    "revision": r"([a-z]+@sha1:)?[0-9a-f]{7,40}",
    "password": r"[A-Za-z0-9_-]{20,}",
    "text": r".*",
}
_TIMEOUT = 120.0
_CHANGING = ("RECONCILER_", "PG", "GIT_", "GITHUB_", "PYTHONUNBUFFERED")
"""Variables that change what commands do or how they write."""


@dataclass
class Step:
    """One command, the files to write before it, and what is expected."""

    line: int
    command: str
    files: dict[str, str]
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    code: int = 0


def steps(text: str) -> Iterator[Step]:
    """Read a script."""
    files: dict[str, str] = {}
    step: Step | None = None
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if line.startswith(">>> "):
            files[line[4:]] = "".join(f"{content}\n" for content in _until(lines, "<<<"))
        elif line.startswith("$ "):
            if step is not None:
                yield step
            step, files = Step(number, line[2:], files), {}
        elif line.startswith("# ") or step is None:
            continue
        elif match := re.fullmatch(r"\[exit (\d+)\]", line):
            step.code = int(match[1])
        elif line.startswith("2> "):
            step.errors.append(line[3:])
        else:
            step.output.append(line)
    if step is not None:
        yield step


def run_script(path: Path, world: World) -> None:
    """Run a script in a world; fail at the first command that does something else, and show what it did."""
    text = path.read_text().replace("@PORT@", str(world.ports[30]))
    for step in steps(text):
        for name, content in step.files.items():
            target = world.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        result = subprocess.run(
            ["bash", "-c", step.command],
            cwd=world.root,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        ok = (
            result.returncode == step.code
            and matches(step.output, result.stdout)
            and matches(step.errors, result.stderr)
        )
        assert ok, f"{path.name}:{step.line}: $ {step.command}\n{_shown(result)}"


def matches(expected: list[str], actual: str) -> bool:
    """Whether output is as expected, line by line; blank lines and runs of spaces do not count."""
    lines = [_single_spaced(line) for line in actual.splitlines() if line.strip()]
    pattern = "".join(_pattern(_single_spaced(line)) for line in expected if line.strip())
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def _pattern(line: str) -> str:
    if line == "...":
        return r"(?:.*\n)*"
    parts = re.split(r"\{([a-z]+)\}", line)
    return "".join(re.escape(part) if index % 2 == 0 else _form(part) for index, part in enumerate(parts)) + r"\n"


def _form(name: str) -> str:
    return f"(?:{_FORMS[name]})" if name in _FORMS else re.escape(f"{{{name}}}")


def _single_spaced(line: str) -> str:
    return re.sub(r" +", " ", line.rstrip())


def _until(lines: Iterator[tuple[int, str]], end: str) -> Iterator[str]:
    for _, line in lines:
        if line == end:
            return
        yield line
    raise AssertionError(f"there is no {end}")


def environment() -> dict[str, str]:
    """Return the user's environment, without what would change the meaning of a script."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CHANGING)}
    git = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "tester",
        "GIT_AUTHOR_EMAIL": "tester@example.com",
        "GIT_COMMITTER_NAME": "tester",
        "GIT_COMMITTER_EMAIL": "tester@example.com",
    }
    return {**kept, **git, "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}


def _shown(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a command did, as a script says it."""
    errors = "".join(f"2> {line}\n" for line in result.stderr.splitlines())
    return f"{result.stdout}{errors}[exit {result.returncode}]"
