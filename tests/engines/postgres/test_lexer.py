"""Splitting scripts: every token that can hide a semicolon, wherever blocks end."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engines.postgres import lexer
from reconciler.engines.postgres.lexer import MetaCommand, SqlReader, Statement
from reconciler.errors import SourceError

Item = Statement | MetaCommand


class Trickle:
    """A stream that hands out blocks of given sizes, whatever is asked for."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._stream = io.BytesIO(content)
        self._sizes = sizes

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._sizes.pop(0)) if self._sizes else size)


def read(content: bytes, sizes: list[int] | None = None) -> list[Item | bytes | str]:
    """Return all items; COPY … FROM stdin is followed by its rows as one value; an error by its text."""
    found: list[Item | bytes | str] = []
    try:
        reader = SqlReader(Trickle(content, list(sizes or [])), origin="dump.sql", error=SourceError)
        while (item := reader.next()) is not None:
            found.append(item)
            if isinstance(item, Statement) and item.text.upper().endswith(b"FROM STDIN"):
                found.append(b"".join(reader.copy_data()))
    except SourceError as error:
        found.append(str(error))
    return found


def texts(content: str) -> list[str]:
    return [item.text.decode() for item in read(content.encode()) if isinstance(item, Statement)]


@pytest.mark.parametrize(
    "first",
    [
        "SELECT ';'",
        "SELECT 'it''s; fine'",
        r"SELECT 'C:\'",
        r"SELECT E'it\'s; fine'",
        r"SELECT e'\\'",
        "SELECT E'a'\n  '\\';'",
        r"SELECT U&'\0041;'",
        "SELECT B'1', X'1F', N';'",
        'SELECT 1 AS ";"',
        'SELECT 1 AS "a"";"',
        "SELECT $$;$$",
        "SELECT $a$ ; $b$ ; $$ $a$",
        "SELECT $ä$;$ä$",
        "SELECT a$b, c$d$e",
        "SELECT $1, $2",
        "SELECT 1 -- ; not here\n, 2",
        "SELECT 1 /* ; /* ; */ ; */, 2",
        "SELECT 4 - -2 / 1",
        "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END",
        "create or replace procedure p() begin atomic select 1; end",
        "CREATE TABLE begin (a int)",
        "BEGIN",
        "INSERT INTO t VALUES (1, 'a;', NULL), (2, ';(', E'\\'')",
    ],
)
def test_a_statement_ends_at_its_own_semicolon(first: str) -> None:
    assert texts(f"{first};\nSELECT 'next';") == [first, "SELECT 'next'"]


def test_with_old_strings_a_backslash_escapes() -> None:
    reader = SqlReader(io.BytesIO(rb"SELECT 'it\'; on'; SELECT 2;"), origin="x", error=SourceError)
    reader.standard_strings = False

    first, second = reader.next(), reader.next()

    assert isinstance(first, Statement)
    assert isinstance(second, Statement)
    assert (first.text, second.text) == (rb"SELECT 'it\'; on'", b"SELECT 2")


def test_lines_are_those_of_the_statements_first_words() -> None:
    content = "\ufeff-- head\n\n/* a\nb */ SELECT 1;\n\n\\echo x\nSELECT\n2;;\nSELECT 3".encode()

    lines = [(item.line, isinstance(item, MetaCommand)) for item in read(content) if isinstance(item, Item)]

    assert lines == [(4, False), (6, True), (7, False), (9, False)]


def test_client_commands_come_with_their_line() -> None:
    assert read(b"\\c shop\nSELECT 1 \\g out.txt\n\\! rm -rf x") == [
        MetaCommand("c", "shop", 1),
        MetaCommand("g", "out.txt", 2, b"SELECT 1 "),
        MetaCommand("!", "rm -rf x", 3),
    ]


def test_a_backslash_within_quotes_is_no_command() -> None:
    assert texts("SELECT '\\! x', \"\\! y\", $$\\! z$$; -- \\! c\n/* \\! d */") == [
        "SELECT '\\! x', \"\\! y\", $$\\! z$$"
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_of_copy_are_passed_as_they_are(end: str) -> None:
    rows = f"1\t\\N{end}2\t';$$ \\\\.{end}\\.x{end}".encode()
    content = f"COPY t FROM stdin;{end}".encode() + rows + f"\\.{end}SELECT 1;".encode()

    assert [item for item in read(content) if isinstance(item, bytes)] == [rows]
    assert [item.text for item in read(content) if isinstance(item, Statement)] == [b"COPY t FROM stdin", b"SELECT 1"]


def test_a_copy_without_rows() -> None:
    assert read(b"COPY t FROM stdin;\n\\.\n") == [Statement(b"COPY t FROM stdin", 1), b""]


@pytest.mark.parametrize("rest", ["", "\n", "\n1\ta\n", "\n1\ta\n2\tb", "\n1\ta\n\\"])
def test_a_file_that_ends_inside_of_rows_is_truncated(rest: str) -> None:
    assert "inside the rows of the COPY of line 1" in str(read(f"COPY t FROM stdin;{rest}".encode())[-1])


@pytest.mark.parametrize(
    "text", ["SELECT 'a", "SELECT E'a\\", 'SELECT "a', "SELECT $$a", "SELECT 1 /* a", "/* a /* */"]
)
def test_a_file_that_ends_inside_of_quotes_is_truncated(text: str) -> None:
    assert "dump.sql:2: the text ends inside" in str(read(f"\n{text}".encode())[-1])


def test_a_statement_without_its_semicolon_is_marked() -> None:
    assert read(b"SELECT 1; SELECT 2") == [Statement(b"SELECT 1", 1), Statement(b"SELECT 2", 1, complete=False)]


@pytest.mark.parametrize("content", ["SELECT 1;".encode("utf-16"), b"SELECT '\0';"])
def test_what_is_no_text_is_refused(content: bytes) -> None:
    assert isinstance(read(content)[-1], str)


_FRAGMENTS = st.sampled_from(
    [
        *("SELECT 1", ";", "\n", " ", "'", "''", '"', "$$", "$a$", "$1", "E'", "\\'", "\\", "--", "/*", "*/", "-", "/"),
        *("(", ")", "CREATE FUNCTION f()", "BEGIN ATOMIC", "END", "CASE", "é", "a$b", "COPY t FROM stdin;\n"),
        *("1\t2\n", "\\.\n", "\r\n", "E'a'\n'b'", "INSERT INTO t VALUES (1, 'x')", "\\c db\n", "\\echo 'x\n"),
    ]
)


@given(st.lists(_FRAGMENTS, max_size=40).map("".join), st.lists(st.integers(1, 9), max_size=60))
def test_where_blocks_end_changes_nothing(content: str, sizes: list[int]) -> None:
    assert read(content.encode(), sizes) == read(content.encode())


def test_a_statement_longer_than_many_blocks_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexer, "_BLOCK", 64)
    statement = b"INSERT INTO t VALUES " + b",\n".join(b"(%d, 'x;y')" % number for number in range(2000))

    assert read(statement + b";\nSELECT 1;") == [Statement(statement, 1), Statement(b"SELECT 1", 2001)]


def test_no_group_is_repeated_possessively_because_older_pythons_match_that_wrongly() -> None:
    patterns = [value.pattern for value in vars(lexer).values() if isinstance(value, re.Pattern)]
    assert len(patterns) > 5
    assert [pattern for pattern in patterns if re.search(rb"(?<!\\)\)[*+?]\+", pattern)] == []
