"""What SQL of specs and dumps may not do: reach other files, load code, or change what this process is.

Installed by :mod:`.scripts` and :mod:`.dumps` on their connections (the authorizer of
https://sqlite.org/c3ref/set_authorizer.html). SQLite runs in this process, so everything
that is not known to stay within the database is refused, by what it is and not by how it
is written.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MODULES = frozenset({"fts3", "fts4", "fts5", "fts5vocab", "fts4aux", "rtree", "rtree_i32", "geopoly"})
"""Modules of virtual tables that keep their rows in the database and open nothing else."""
_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "sqlite_dbpage"})
_PRAGMAS = frozenset(
    {"application_id", "auto_vacuum", "cache_size", "case_sensitive_like", "cell_size_check", "collation_list"}
    | {"compile_options", "data_version", "database_list", "defer_foreign_keys", "encoding", "foreign_key_check"}
    | {"foreign_key_list", "foreign_keys", "freelist_count", "function_list", "ignore_check_constraints"}
    | {"incremental_vacuum", "index_info", "index_list", "index_xinfo", "integrity_check", "journal_mode"}
    | {"legacy_alter_table", "module_list", "optimize", "page_count", "page_size", "pragma_list", "query_only"}
    | {"quick_check", "read_uncommitted", "recursive_triggers", "reverse_unordered_selects", "schema_version"}
    | {"synchronous", "table_info", "table_list", "table_xinfo", "temp_store", "user_version", "wal_checkpoint"}
    | {"analysis_limit", "automatic_index", "busy_timeout", "count_changes", "full_column_names"}
    | {"short_column_names", "locking_mode", "cache_spill", "journal_size_limit", "secure_delete"}
)
_READ_ONLY_PRAGMAS = frozenset({"schema_version", "secure_delete", "locking_mode", "temp_store"})
"""Pragmas that may be asked, not set: they change how safe this program's own work is."""
_ATTACH, _DETACH = sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH


class Guard:
    """An authorizer that remembers what it refused; ``dump`` allows what the shell writes into dumps."""

    def __init__(self, *, dump: bool = False) -> None:
        self.refused = ""
        self._pragmas = _PRAGMAS | {"writable_schema"} if dump else _PRAGMAS

    def install(self, conn: sqlite3.Connection) -> None:
        """Watch over a connection from now on."""
        conn.set_authorizer(self._authorize)

    def __call__(self) -> str:
        """Return what was refused since the last call; empty: nothing."""
        found, self.refused = self.refused, ""
        return found

    def _authorize(
        self, action: int, first: str | None, second: str | None, _database: str | None, _by: str | None
    ) -> int:
        refused = self._refusal(action, first, second)
        if not refused:
            return sqlite3.SQLITE_OK
        self.refused = refused
        return sqlite3.SQLITE_DENY

    def _refusal(self, action: int, first: str | None, second: str | None) -> str:
        match action:
            case sqlite3.SQLITE_ATTACH if first != "":  # VACUUM attaches a file without a name
                return "reaching another file (ATTACH, VACUUM INTO)"
            case sqlite3.SQLITE_FUNCTION if (second or "").lower() in _FUNCTIONS:
                return f"the function {second}"
            case sqlite3.SQLITE_CREATE_VTABLE if (second or "").lower() not in _MODULES:
                return f"virtual tables of the module {second}"
            case sqlite3.SQLITE_PRAGMA:
                name = (first or "").lower()
                if name not in self._pragmas or (second is not None and name in _READ_ONLY_PRAGMAS):
                    return f"PRAGMA {first}"
        return ""


def watch(conn: sqlite3.Connection, *, dump: bool = False) -> Callable[[], str]:
    """Let SQL of others run on a connection; what is returned says what was refused last."""
    guard = Guard(dump=dump)
    guard.install(conn)
    return guard
