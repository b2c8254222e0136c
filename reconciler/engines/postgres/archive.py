"""Restore an archive of pg_dump (custom, directory or tar format) with pg_restore.

Called by :mod:`.logical`. An archive is SQL as well, and not to be trusted with a
superuser's rights. So it is restored in three steps:

1. what comes before the data, as a script through :class:`.restore_target.RestoreTarget`:
   databases, roles, extensions, owners, tables;
2. data, indexes and constraints by ``pg_restore --jobs``, as the builder, which is a
   member of every owner: all of the work that takes time, read once;
3. the rest (triggers, policies, privileges, event triggers) as a script again, then
   materialized views in parallel.

Steps 1 and 3 read only the table of contents.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.postgres import server
from reconciler.engines.postgres.failures import without_values
from reconciler.engines.postgres.handout import Handout, handed_out
from reconciler.engines.postgres.lexer import SqlReader
from reconciler.engines.postgres.runner import Runner
from reconciler.errors import CommandError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.postgres.formats import Format
    from reconciler.engines.postgres.restore_target import RestoreTarget

# What pg_restore leaves out unless it is told to create the database.
_DATABASE = ("DATABASE ", "DATABASE PROPERTIES ", "ACL - DATABASE ")
_BULK = (
    "TABLE DATA",
    "SEQUENCE SET",
    "BLOB METADATA",
    "BLOBS",
    "BLOB",
    "INDEX ATTACH",
    "INDEX",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "STATISTICS DATA",
)
_PRIVILEGES = ("ACL", "DEFAULT ACL")
_LAST = ("EVENT TRIGGER", "PUBLICATION TABLES IN SCHEMA", "PUBLICATION TABLE", "PUBLICATION", "SUBSCRIPTION")
_REFRESH = ("MATERIALIZED VIEW DATA",)
_LATE = ("TRIGGER", "RULE", "POLICY", "ROW SECURITY", "STATISTICS", "SECURITY LABEL", *_PRIVILEGES, *_LAST)
_ENTRY = re.compile(r"(\d+); \d+ \d+ (.+)")
_DEPENDS = re.compile(r";\s+depends on: ([\d ]+)")
_FACT = re.compile(r";\s+([A-Za-z ]+): (.*)")
_MORE = re.compile(r"\n(?:DETAIL|CONTEXT|HINT|Command was)\b.*", re.DOTALL)
_OF_CODE = re.compile(r"^(?:CONTEXT:  )?PL/\w+ function [^\n]+ line \d+ at (?:RAISE|ASSERT)$", re.MULTILINE)
# pg_restore adds the last error of the system, which is "Success" when it was none of the system's.
_BROKEN_FILE = re.compile(
    r"could not (?:close data file|read from input file|uncompress data|decompress data)(?: \"[^\n]+\"(?=:|$))?",
    re.MULTILINE,
)
_LIST = "restore.list"
_COPY_END = b"\\.\n\n\n"


@dataclass(slots=True)
class Contents:
    """An archive's table of contents: which entries are restored in which step, by id in order."""

    facts: dict[str, str] = field(default_factory=dict)
    early: list[int] = field(default_factory=list)
    bulk: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    privileges: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    refresh: list[int] = field(default_factory=list)
    owners: set[str] = field(default_factory=set)
    """Owners of large objects, which pg_restore gives away by itself."""
    has_database: bool = False


def parse_contents(listing: str) -> Contents:
    """Sort the entries of ``pg_restore --list --verbose`` into steps.

    An entry goes into the step of its kind, or into a later one when something that it
    needs does (a view that needs a primary key, an index on such a view).
    """
    contents = Contents()
    entries: list[tuple[int, str]] = []
    needs: dict[int, set[int]] = {}
    for line in listing.splitlines():
        if (found := _ENTRY.fullmatch(line)) is not None:
            entries.append((int(found[1]), found[2]))
        elif entries and (found := _DEPENDS.fullmatch(line)) is not None:
            needs[entries[-1][0]] = {int(number) for number in found[1].split()}
        elif not entries and (found := _FACT.fullmatch(line)) is not None:
            contents.facts[found[1]] = found[2]
    bulk: set[int] = set()
    late: set[int] = set()
    for number, text in entries:
        _sort(contents, number, text, needs.get(number, set()), bulk, late)
    return contents


def _sort(contents: Contents, number: int, text: str, needs: set[int], bulk: set[int], late: set[int]) -> None:
    is_bulk = _is(text, _BULK)
    if text.startswith(_DATABASE):
        contents.has_database = True
        contents.early.append(number)
    elif _is(text, _REFRESH):
        contents.refresh.append(number)
    elif _is(text, _PRIVILEGES):
        contents.privileges.append(number)
    elif _is(text, _LAST) or not needs.isdisjoint(contents.last):
        contents.last.append(number)
    elif _is(text, _LATE) or needs & late or (not is_bulk and needs & bulk):
        contents.late.append(number)
        late.add(number)
    elif is_bulk:
        contents.bulk.append(number)
        bulk.add(number)
        if text.startswith("BLOB") and not text.endswith(" "):
            contents.owners.add(text.rsplit(" ", 1)[-1])
    else:
        contents.early.append(number)


def _is(text: str, kinds: Iterable[str]) -> bool:
    return any(text.startswith(kind + " ") for kind in kinds)


def restore_archive(work: BuildWork, installed: InstalledServer, target: RestoreTarget, found: Format) -> None:
    """Restore an archive into the build's server.

    Raises:
        SourceError: it is truncated, damaged, of a newer version, or its SQL failed.

    """
    if work.source.path is None:
        raise SourceError("the source has no path")
    with handed_out(work, work.source.path, found) as handout:
        _restore(work, installed, target, found, _Tool(work, installed, found, work.source.path, handout))


def _restore(work: BuildWork, installed: InstalledServer, target: RestoreTarget, found: Format, tool: _Tool) -> None:
    contents = tool.contents()
    _refuse_newer(tool.path, contents, installed)
    _require_whole(tool.path, found)
    if contents.has_database:
        _run_script(work, target, tool.script(contents.early, create=True))
    else:
        _connect(target, contents.facts.get("dbname") or tool.path.stem, work.databases)
        _run_script(work, target, tool.script(contents.early))
    for owner in contents.owners:
        target.roles.ensure(owner)
    database = target.database or server.ADMIN
    keep_owners = not any(target.roles.is_superuser(owner) for owner in contents.owners)
    tool.load(database, contents.bulk, keep_owners=keep_owners)
    after = [*contents.late, *contents.privileges, *contents.last]
    if after:
        _run_script(work, target, tool.script(after))
    if contents.refresh:
        tool.load(database, contents.refresh)


def _connect(target: RestoreTarget, name: str, wanted: tuple[str, ...]) -> None:
    """Go into the database that an archive of single tables is to be restored into."""
    target.connect(wanted[0] if len(wanted) == 1 else name)


def _run_script(work: BuildWork, target: RestoreTarget, script: IO[bytes]) -> None:
    with script:
        reader = SqlReader(script, origin=f"{work.source.path} (as SQL)", error=SourceError)
        Runner(reader, target, cancel=work.cancel, whole=True, superuser=work.superuser_scripts).run()


def _refuse_newer(path: Path, contents: Contents, installed: InstalledServer) -> None:
    version = contents.facts.get("Dumped from database version", "")
    major = version.split(".")[0]
    if major.isdigit() and int(major) > int(installed.major):
        raise SourceError(
            f"the dump {path} is of PostgreSQL {version}, and the server is {installed.version}",
            hint=f'set version: "{major}" and install postgresql-{major}',
        )


def _require_whole(path: Path, found: Format) -> None:
    """Find what pg_restore itself takes for complete: cut-off data files and tar members.

    Raises:
        SourceError: something is missing.

    """
    if found.layout == "tar":
        try:
            with tarfile.open(path, "r:") as archive:
                last = archive.getmembers()[-1]
        except (tarfile.TarError, IndexError, OSError) as error:
            raise SourceError(f"the dump {path} is damaged or truncated: {error}") from error
        if last.offset_data + last.size > path.stat().st_size:
            raise SourceError(f"the dump {path} is truncated inside {last.name}")
    if found.layout == "directory":
        for file in path.glob("[0-9]*.dat"):
            _require_copy_end(file)
        for file in path.glob("[0-9]*.dat.*"):
            if file.stat().st_size == 0:  # pg_restore takes it for a table without rows
                raise SourceError(f"the dump is truncated: {file} is empty")


def _require_copy_end(file: Path) -> None:
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - len(_COPY_END)))
        end = stream.read()
    if end != _COPY_END and not end.endswith(b";\n\n\n"):
        raise SourceError(f"the dump is truncated: {file} does not end as pg_dump ends its files")


class _Tool:
    """pg_restore on one archive, always as the build's account: it opens whatever files an archive names."""

    def __init__(
        self, work: BuildWork, installed: InstalledServer, found: Format, path: Path, handout: Handout
    ) -> None:
        self.path = path
        self._handout = handout
        self._work = work
        self._program = server.program(installed, "pg_restore")
        self._installed = installed
        # Members of a tar are read in order; standard input cannot be shared by processes.
        self._parallel = work.jobs > 1 and found.layout != "tar" and not handout.as_stdin

    def contents(self) -> Contents:
        return parse_contents(self._run(["--list", "--verbose"], None).text)

    def script(self, entries: list[int], *, create: bool = False) -> IO[bytes]:
        """Return the SQL of some entries, none of which holds data, as a file without a name."""
        words = [*(["--create"] if create else []), "--file=-", self._list(entries)]
        with ExitStack() as stack:
            script = stack.enter_context(tempfile.TemporaryFile())
            self._run(words, None, stdout=script)
            script.seek(0)
            stack.pop_all()
            return script

    def load(self, database: str, entries: list[int], *, keep_owners: bool = True) -> None:
        """Restore entries as the builder, in parallel where the format can."""
        words = ["--exit-on-error", "--no-tablespaces", "--no-security-labels", f"--dbname={database}"]
        if not keep_owners:
            words.append("--no-owner")
        if self._parallel:
            words.append(f"--jobs={self._work.jobs}")
        role = server.admin_role(self._work) if self._work.superuser_scripts else server.BUILDER
        self._work.progress(f"restoring {len(entries)} tables, indexes and constraints into {database}")
        self._run([*words, self._list(entries)], server.socket_environment(self._work, database, role))

    def _run(self, words: list[str], env: dict[str, str] | None, stdout: IO[bytes] | None = None) -> proc.Completed:
        with ExitStack() as stack:
            handout = self._handout
            content = stack.enter_context(handout.path.open("rb")) if handout.as_stdin else None
            try:
                return proc.run(
                    [self._program, *words, *([] if handout.as_stdin else [handout.path])],
                    stdin=content,
                    stdout=stdout,
                    env=env,
                    account=self._work.account,
                    cancel=self._work.cancel,
                )
            except CommandError as error:
                raise self._failure(error) from error

    def _list(self, entries: list[int]) -> str:
        directory = self._work.run_directory  # it belongs to the server, which may have put links there
        files.write_file(directory, _LIST, "".join(f"{number};\n" for number in entries), self._work.account)
        return f"--use-list={directory / _LIST}"

    def _failure(self, error: CommandError) -> SourceError:
        if "unsupported version" in error.stderr:
            return SourceError(
                f"the dump {self.path} was made by a pg_dump newer than {self._installed.version}",
                hint="set version: to that version and install it, or dump with an older pg_dump",
            )
        stderr = error.stderr.replace(str(self._handout.path), str(self.path))
        broken = _BROKEN_FILE.search(stderr)
        if broken is not None:
            return SourceError(f"the dump {self.path} is damaged or truncated: {broken[0]}")
        return SourceError(f"{self.path}: {complaint(stderr)}")


def complaint(stderr: str) -> str:
    """Return what pg_restore says went wrong, with the entry concerned and without any value of a row."""
    entry = re.search(r"from TOC entry \d+; \d+ \d+ (.+)", stderr)
    found = re.search(r"pg_restore: error: (.*?)(?=\npg_restore: |\Z)", stderr, re.DOTALL)
    whole = found[1] if found else stderr.strip().splitlines()[-1] if stderr.strip() else "failed"
    message = _safe(whole, entry[1].split() if entry else [])
    return f"{entry[1]}: {message}" if entry else message


def _safe(whole: str, names: list[str]) -> str:
    """Return a message of pg_restore with the server's, without values; ``names`` are of the entry concerned."""
    own, refused, told = _MORE.sub("", whole).partition("ERROR:  ")
    if not refused:
        return own
    if _OF_CODE.search(whole):
        return f"{own}raised by code; its text may quote rows"
    return f"{own}{refused}{without_values(told, names)}"
