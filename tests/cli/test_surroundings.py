"""The program at home everywhere: narrow terminals, pipes, no colour, no locale, no git, no home, no rights."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import struct
import subprocess
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.script import environment
from tests.support import PROGRAM, end_installations, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIG = """\
repository: {path: ./specs}
state: ./state
pools: {default: {driver: copy, path: ./pool, reserve: 1Mi}}
"""
SPECS = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: sqlite
  source: {empty: {}}
  databases: [shop]
  scripts: [{inline: "CREATE TABLE product (name TEXT); INSERT INTO product VALUES ('tea');", database: shop}]
---
apiVersion: reconciler/v1
kind: Clone
metadata: {name: dev-of-somebody-with-a-long-name}
spec: {image: shop, runtime: none, owner: Größe-東京}
"""
NAME = "dev-of-somebody-with-a-long-name"
ORDINARY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
COLUMNS = 60
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a configuration and specs, which every account can write to; clones are files."""
    world = new_world()
    world.root.chmod(0o777)
    shutil.rmtree(world.root / "specs")
    (world.root / "reconciler.yaml").write_text(CONFIG)
    (world.root / "specs").mkdir()
    (world.root / "specs" / "shop.yaml").write_text(SPECS, encoding="utf-8")
    try:
        yield world.root
    finally:
        end_installations(world.root)
        world.close()


def run(
    place: Path, *words: str, become: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    surroundings = environment() if env is None else dict(env)
    argv = [*become, str(PROGRAM), *words]
    return subprocess.run(argv, cwd=place, env=surroundings, capture_output=True, check=False, timeout=120)


def life(place: Path, become: tuple[str, ...] = (), env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Do everything that a person does with a clone; return what was written, by command."""
    said = {}
    for command in ("apply", f"reset {NAME}", "status"):
        done = run(place, *command.split(), become=become, env=env)
        assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
        said[command.split()[0]] = (done.stdout + done.stderr).decode()
    assert NAME in said["status"]
    return said


def on_a_terminal(place: Path, *words: str, columns: int = COLUMNS, **env: str) -> tuple[int, str]:
    """Run the program on a terminal of its own; return how it ended and what stood on the screen."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    known = {name: value for name, value in environment().items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [PROGRAM, *words], cwd=place, env={**known, "TERM": "xterm", **env}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # EIO: the other side is closed
        pass
    os.close(ours)
    return process.wait(), written.decode()


def lines(screen: str) -> list[str]:
    return ESCAPES.sub("", screen).replace("\r", "").splitlines()


def test_everything_that_has_tables_or_paragraphs_fits_a_narrow_terminal(place: Path) -> None:
    assert run(place, "apply").returncode == 0
    for command in ("status", "events", f"history Clone/{NAME}", "doctor", "apply --help"):
        _, screen = on_a_terminal(place, *command.split())
        assert lines(screen), command
        too_long = [line for line in lines(screen) if len(line) > COLUMNS and " " in line.strip()]
        assert too_long == [], command


def test_colours_are_for_terminals_whose_people_want_them(place: Path) -> None:
    assert run(place, "apply").returncode == 0
    assert "\x1b[" in on_a_terminal(place, "status")[1]
    assert "\x1b[" not in on_a_terminal(place, "status", NO_COLOR="1")[1]
    assert "\x1b[" not in on_a_terminal(place, "status", TERM="dumb")[1]


def test_into_a_pipe_nothing_is_coloured_cut_or_wrapped(place: Path) -> None:
    wants_colours = {name: value for name, value in environment().items() if name != "NO_COLOR"}
    said = life(place, env={**wants_colours, "COLUMNS": "40", "TERM": "xterm"})
    assert [name for name, text in said.items() if "\x1b" in text] == []
    (row,) = [line for line in said["status"].splitlines() if line.startswith(NAME)]
    assert row.split()[:3] == [NAME, "ready", "shop"]
    assert "Größe-東京" in row


def test_a_reader_that_goes_away_ends_it_without_a_traceback(place: Path) -> None:
    argv = ["bash", "-c", f"{PROGRAM} --help | true; {PROGRAM} explain R012 | head -1"]
    done = subprocess.run(argv, cwd=place, env=environment(), capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "locale",
    [{}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}, {"LANG": "de_DE.does-not-exist"}],
    ids=["none", "c", "posix", "unknown"],
)
def test_without_a_locale_names_are_as_they_are_written(place: Path, locale: dict[str, str]) -> None:
    bare = {name: value for name, value in environment().items() if not name.startswith(("LC_", "LANG"))}
    said = life(place, env={**bare, **locale})
    assert "Größe-東京" in said["status"]


def test_a_terminal_that_cannot_show_a_character_shows_another_one(place: Path) -> None:
    ascii_only = {**environment(), "PYTHONIOENCODING": "ascii"}
    assert "Gr\\xf6\\xdfe-\\u6771\\u4eac" in life(place, env=ascii_only)["status"]
    document = json.loads(run(place, "status", "-o", "json", env=ascii_only).stdout)
    assert [clone["owner"] for clone in document["clones"]] == ["Größe-東京"]
    broken = (place / "specs" / "shop.yaml").read_text(encoding="utf-8").replace("runtime: none", "rutime: none")
    (place / "specs" / "shop.yaml").write_text(broken, encoding="utf-8")
    refused = run(place, "validate", "specs", env=ascii_only)
    assert (refused.returncode, b"Traceback" in refused.stderr) == (1, False)


@pytest.fixture
def without_git(tmp_path: Path) -> dict[str, str]:
    """An environment with every program of the host but git."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for directory in map(Path, os.environ["PATH"].split(os.pathsep)):
        for program in directory.iterdir() if os.access(directory, os.R_OK | os.X_OK) else ():
            link = programs / program.name
            if not program.name.startswith("git") and not link.is_symlink():
                link.symlink_to(program)
    return {**environment(), "PATH": str(programs)}


def test_without_git_a_directory_of_specs_is_served_and_a_repository_says_what_is_missing(
    place: Path, without_git: dict[str, str]
) -> None:
    life(place, env=without_git)
    doctor = json.loads(run(place, "doctor", "-o", "json", env=without_git).stdout)
    assert [f["message"] for f in doctor if f["level"] == "error"] == ["git is not installed"]

    (place / "reconciler.yaml").write_text(CONFIG.replace("path: ./specs", "url: ./specs.git"))
    refused = run(place, "apply", env=without_git)
    assert refused.returncode == 1
    assert b"git is not installed" in refused.stderr
    assert b"Traceback" not in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize("home", ["/proc", "/nonexistent", "", None])
def test_a_home_that_is_not_there_or_cannot_be_written_is_not_needed(place: Path, home: str | None) -> None:
    bare = {name: value for name, value in environment().items() if name != "HOME"}
    surroundings = bare if home is None else {**bare, "HOME": home}
    life(place, env=surroundings)


@pytest.fixture
def ordinary() -> tuple[str, ...]:
    """The words that make somebody without any rights of the one who runs the tests."""
    if os.geteuid() != 0:
        return ()
    reachable = subprocess.run([*ORDINARY, PROGRAM, "--version"], check=False, capture_output=True, cwd="/")
    if reachable.returncode != 0:
        pytest.skip(f"another user cannot run {PROGRAM}: {reachable.stderr.decode()[-200:].strip()}")
    return ORDINARY


def test_an_ordinary_user_has_all_of_it(place: Path, ordinary: tuple[str, ...]) -> None:
    (place / "specs").chmod(0o755)
    life(place, become=ordinary)
    removed = run(place, "uninstall", "--yes", become=ordinary)  # where HOME is that of root, and not to be looked into
    assert removed.returncode == 0, removed.stderr.decode()
    assert not (place / "state").exists()


def test_an_ordinary_user_whose_home_cannot_be_written_is_told_where_the_state_would_be(
    place: Path, ordinary: tuple[str, ...]
) -> None:
    (place / "reconciler.yaml").write_text(CONFIG.replace("state: ./state\n", ""))
    refused = run(place, "apply", become=ordinary, env={**environment(), "HOME": "/proc"})
    assert refused.returncode == 1
    assert b"/proc/" in refused.stderr
    assert b"Traceback" not in refused.stderr
