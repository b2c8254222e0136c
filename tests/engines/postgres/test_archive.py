"""What is told of an archive that cannot be restored."""

from __future__ import annotations

import pytest

from reconciler.engines.postgres.archive import complaint

_ENTRY = "pg_restore: from TOC entry 3400; 0 16390 TABLE DATA customer app\n"
_VALUE = """\
pg_restore: error: COPY failed for table "customer": ERROR:  value "41"11" is out of range for type integer
CONTEXT:  COPY customer, line 1, column id: "4111"
"""
_RAISED = """\
pg_restore: error: could not execute query: ERROR:  bad 4111
CONTEXT:  PL/pgSQL function public.f() line 3 at RAISE
Command was: ALTER …
"""
_NAME = 'pg_restore: error: could not execute query: ERROR:  relation "customer" does not exist'


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (_VALUE, 'COPY failed for table "customer": ERROR:  value "…" is out of range for type integer'),
        (_RAISED, "could not execute query: raised by code; its text may quote rows"),
        (_NAME, 'could not execute query: ERROR:  relation "customer" does not exist'),
    ],
)
def test_a_complaint_of_pg_restore_names_the_entry_and_quotes_no_value(stderr: str, expected: str) -> None:
    assert complaint(_ENTRY + stderr) == f"TABLE DATA customer app: {expected}"
