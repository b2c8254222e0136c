"""A small shell for hosts that lack the program ``sqlite3``: statements in, rows out.

Run as a program of its own (``python -m reconciler.engines.sqlite.shell FILE``) by
``reconciler connect``. It reads statements from standard input and stops at the first
error when nobody sits there.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING

from reconciler.engines.sqlite.statements import statements

if TYPE_CHECKING:
    from typing import TextIO


def main(path: str, lines: TextIO, out: TextIO, errors: TextIO) -> int:
    """Run every statement of ``lines``; return the exit code of the program."""
    asks = lines.isatty()
    conn = sqlite3.connect(path, isolation_level=None)

    def more(_size: int) -> str:
        if asks:
            errors.write("sqlite> ")
            errors.flush()
        return lines.readline()

    for statement in statements(more):
        try:
            for row in conn.execute(statement.text):
                print(*("" if value is None else value for value in row), sep="|", file=out)
            out.flush()
        except (sqlite3.Error, sqlite3.Warning) as error:
            errors.write(f"line {statement.line}: {error}\n")
            if not asks:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.stdin, sys.stdout, sys.stderr))
