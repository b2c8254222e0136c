"""Roles that a dump names: made without any right to log in or to act on the server.

Called by :mod:`.restore_target`. It never copies passwords, dangerous memberships or
attributes of production's roles, save for one thing: whoever could read and write all
rows still can, since views, functions and materialized views of theirs rely on it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres import server

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

_LENDER = "reconciler_lender"
_USUAL_SUPERUSER = "postgres"  # when there are no globals to say so
_SUPERUSER = re.compile(r"\bSUPERUSER\b", re.IGNORECASE)
_BYPASSING = re.compile(r"\bBYPASSRLS\b", re.IGNORECASE)
_ALL_ROWS = ("pg_read_all_data", "pg_write_all_data")
_INHERIT_OPTION = 160000  # from 16 on, inheriting is decided by the grant
_NOT_ROLES = frozenset({"", "public", "current_user", "session_user", "current_role", "none", "default"})
_GROUPS = frozenset(
    {
        "pg_read_all_data",
        "pg_write_all_data",
        "pg_read_all_settings",
        "pg_read_all_stats",
        "pg_stat_scan_tables",
        "pg_monitor",
        "pg_maintain",
    }
)
"""Predefined roles that may have members. The others read or write files, run programs, end others' sessions."""


class Roles:
    """The roles of a cluster that is being restored; ``lender`` is a group whose rights all of them share for now."""

    lender = _LENDER

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self._known = {str(row[0]) for row in conn.execute("SELECT rolname FROM pg_roles").fetchall()}
        rows = conn.execute("SELECT rolname FROM pg_roles WHERE rolsuper").fetchall()
        self._superusers = {str(row[0]) for row in rows}
        self._made: set[str] = set()
        self._once_superusers = {_USUAL_SUPERUSER}
        self._bypassing: set[str] = set()
        if _LENDER not in self._known:
            conn.execute(_command("CREATE ROLE {} NOLOGIN", _LENDER))
            self._known.add(_LENDER)
        self._grant(_LENDER, server.BUILDER)
        self._grant("pg_read_all_data", _LENDER)  # materialized views of superusers read everything
        for name in _ALL_ROWS:  # tables of extensions belong to the administrator
            self._grant(name, server.BUILDER)
        if conn.info.server_version >= 150000:  # noqa: PLR2004 - where parameters could be granted
            conn.execute(_command("GRANT SET ON PARAMETER session_replication_role TO {}", _LENDER))

    def use(self, conn: psycopg.Connection) -> None:
        """Work on another connection of the administrator."""
        self._conn = conn

    def is_superuser(self, name: str) -> bool:
        """Tell whether the role has superuser rights here."""
        return name in self._superusers

    def may_have_settings(self, name: str) -> bool:
        """Tell whether ``name`` is a role of the dump's own, not one of ours or a word for whoever is connected."""
        return name in self._known and name not in server.OUR_ROLES and name not in _NOT_ROLES

    def ensure(self, name: str) -> bool:
        """Make sure that a role is there; True when it was made."""
        if name in self._known or name in _NOT_ROLES or name.startswith("pg_"):
            return False
        self._conn.execute(_command("CREATE ROLE {} NOLOGIN BYPASSRLS", name))
        self._known.add(name)
        self._made.add(name)
        self._grant(_LENDER, name)
        self._grant(name, server.BUILDER)
        return True

    def define(self, name: str, definition: str) -> None:
        """Make the role of a CREATE ROLE or ALTER ROLE statement."""
        self.ensure(name)
        if _SUPERUSER.search(definition):
            self._once_superusers.add(name)
        if _BYPASSING.search(definition):
            self._bypassing.add(name)

    def join(self, groups: Iterable[str], members: Iterable[str]) -> None:
        """Make every member a member of every group, save for groups that could act on the host."""
        for group in groups:
            for member in members:
                if not self._may_join(group, member):
                    continue
                self.ensure(group)
                self.ensure(member)
                self._grant(group, member)

    def return_lent(self, conn: psycopg.Connection) -> None:
        """Take back what was lent in the database of ``conn``."""
        conn.execute(_command("DROP OWNED BY {}", _LENDER))

    def settle(self, conn: psycopg.Connection) -> None:
        """Remove the lending group after everything was taken back, and what roles had for the restore only."""
        for name in _ALL_ROWS:
            conn.execute(_command("REVOKE {} FROM {}", name, server.BUILDER))
        conn.execute(_command("DROP ROLE {}", _LENDER))
        for name in sorted(self._made - self._once_superusers - self._bypassing):
            conn.execute(_command("ALTER ROLE {} NOBYPASSRLS", name))
        for name in sorted(self._made & self._once_superusers):
            for group in _ALL_ROWS:
                self._grant(group, name)

    def _may_join(self, group: str, member: str) -> bool:
        if group in self._superusers or member in server.OUR_ROLES or group in server.OUR_ROLES:
            return False
        if member.startswith("pg_") or member in _NOT_ROLES:
            return False
        return not group.startswith("pg_") or (group in _GROUPS and group in self._known)

    def _grant(self, group: str, member: str) -> None:
        inherit = " WITH INHERIT TRUE" if self._conn.info.server_version >= _INHERIT_OPTION else ""
        self._conn.execute(_command("GRANT {} TO {}" + inherit, group, member))


def _command(text: str, *names: str) -> sql.Composed:
    return sql.SQL(text).format(*(sql.Identifier(name) for name in names))
