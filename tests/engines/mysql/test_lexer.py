"""Ends of statements, as the mysql client finds them."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engines.mysql.lexer import SqlReader
from reconciler.errors import ScriptError


class _Slow:
    """A stream that hands out a few bytes at a time, so that every piece is cut somewhere."""

    def __init__(self, content: bytes, step: int) -> None:
        self._stream, self._step = io.BytesIO(content), step

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._step))


def _read(content: bytes, *, step: int = 1 << 20, backslashes: bool = True) -> list[tuple[int, bytes, bool]]:
    reader = SqlReader(_Slow(content, step), origin="x.sql", error=ScriptError)
    reader.backslash_escapes = backslashes
    found = []
    while (one := reader.next()) is not None:
        found.append((one.line, one.text, one.complete))
    return found


def test_statements_end_at_semicolons_outside_of_strings_names_and_comments() -> None:
    script = b'-- a; b\nSELECT \';\\\';\', ";"";", `a;b`; # c;\n/* d; */ SELECT 5-3/2--1 -- ;\n;'
    assert _read(script) == [
        (2, b'SELECT \';\\\';\', ";"";", `a;b`', True),
        (3, b"SELECT 5-3/2--1 -- ;", True),
    ]


def test_delimiter_decides_where_bodies_end() -> None:
    script = b"DELIMITER $$\nCREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END$$\ndelimiter ;\nSELECT 3;\n"
    assert _read(script) == [
        (2, b"CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END", True),
        (4, b"SELECT 3", True),
    ]


def test_delimiters_of_two_equal_characters_do_not_end_at_one() -> None:
    assert _read(b"DELIMITER ;;\nBEGIN a; b; END ;;\nDELIMITER ;\nc;") == [
        (2, b"BEGIN a; b; END", True),
        (4, b"c", True),
    ]


def test_comments_for_versions_are_code_and_other_comments_are_none() -> None:
    script = b"/*M!999999\\- enable the sandbox mode */ ;\n/*!40101 SET NAMES utf8mb4 */;\n/* ' */ SELECT 1;"
    assert [text for _line, text, _complete in _read(script)] == [
        b"/*M!999999\\- enable the sandbox mode */",
        b"/*!40101 SET NAMES utf8mb4 */",
        b"SELECT 1",
    ]


def test_a_delimiter_can_be_the_end_of_a_line() -> None:
    reader = SqlReader(
        io.BytesIO(b"BEGIN a; b; END;\nSELECT ';\n';\n"), origin="x.sql", error=ScriptError, delimiter=b";\n"
    )
    assert [one.text for one in iter(reader.next, None)] == [b"BEGIN a; b; END", b"SELECT ';\n'"]


def test_use_needs_no_delimiter_and_vertical_output_is_one() -> None:
    assert [text for _line, text, _c in _read(b"use `a b`\nSELECT 1\\G\nSELECT \\N;")] == [
        b"USE `a b`",
        b"SELECT 1",
        b"SELECT \\N",
    ]


def test_without_backslash_escapes_a_backslash_hides_nothing() -> None:
    assert [text for _line, text, _c in _read(b"SELECT '\\'; SELECT 2;", backslashes=False)] == [
        b"SELECT '\\'",
        b"SELECT 2",
    ]


def test_what_follows_the_last_delimiter_is_not_complete() -> None:
    assert _read(b"SELECT 1;\nSELECT 2\n") == [(1, b"SELECT 1", True), (2, b"SELECT 2", False)]


@pytest.mark.parametrize(
    "script", [b"\\! id\n", b"SELECT 1 \\! id;", b"source /etc/passwd\n", b"\\. /etc/passwd", b"system id;", b"tee x\n"]
)
def test_client_commands_that_reach_files_or_programs_are_refused(script: bytes) -> None:
    with pytest.raises(ScriptError, match=r"x\.sql:1: the client command .* is refused"):
        _read(script)


@pytest.mark.parametrize("script", [b"SELECT 'abc", b"SELECT `abc\n", b"SELECT 1; /* abc", b'SELECT "abc\\"'])
def test_the_end_within_a_string_name_or_comment_is_an_error(script: bytes) -> None:
    with pytest.raises(ScriptError, match="truncated"):
        _read(script)


_PIECES = st.sampled_from(
    [b"SELECT", b" ", b"'a;b'", b"'it''s'", b"'\\''", b'";"', b"`;`", b"\n", b"-- ;\n", b"# '\n", b"/* ; */", b"1-2"]
)


@given(st.lists(st.lists(_PIECES, max_size=8), max_size=6), st.integers(1, 9))
def test_it_does_not_matter_how_the_file_is_read(parts: list[list[bytes]], step: int) -> None:
    script = b";\n".join(b"x" + b"".join(part) for part in parts) + b";\n"
    assert _read(script, step=step) == _read(script)
