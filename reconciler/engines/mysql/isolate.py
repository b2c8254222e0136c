"""Cut everything in the data that could reach production or act on the world, and lock production's logins.

Called by ``session``: before any SQL of a spec runs on files that came from elsewhere, and
before every sealing. Idempotent; it contacts nobody. What it cannot reach with SQL
(binary and relay logs, files of replication) goes when the build is finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql import accounts, notes, server
from reconciler.engines.mysql.link import quoted, text
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Product

REACHING = frozenset({"FEDERATED", "CONNECT", "SPIDER", "S3", "SPHINX", "MROONGA_REMOTE", "OQGRAPH_REMOTE"})
"""Storage engines whose tables are rows of another server, or files and programs of the host."""
_TABLES = """
SELECT table_schema, table_name, engine, table_comment FROM information_schema.tables
WHERE table_type NOT LIKE '%VIEW%' AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
"""
_EVENTS = "SELECT event_schema, event_name, definer FROM information_schema.events WHERE status <> 'DISABLED'"
_EMPTIED = (
    *("servers", "plugin", "func", "proxies_priv", "general_log", "slow_log", "gtid_slave_pos"),
    *("password_reuse_check_history", "spider_link_mon_servers", "spider_tables", "spider_table_sts"),
)
"""Tables of the server: addresses with passwords, libraries to load, statements of production, where it stood."""
_REWRITTEN = ("global_priv", "servers", "proxies_priv")
"""They held hashes of passwords, which stay in the file when a row goes."""


def isolate_server(work: BuildWork, product: Product) -> None:
    """Isolate the build's running server.

    Raises:
        SourceError: a table needs a storage engine that is not here.

    """
    with server.connect(work, patient=True) as admin:
        _end_replication(admin)
        _empty_server_tables(admin)
        _disable_events(admin)
        _leave_remote_tables(work, admin)
        _lock_accounts(admin, product)
        if work.source.kind == "mirror":
            _make_definers(admin, product)
        present = _server_tables(admin)
        for table in _REWRITTEN:
            if table in present:
                admin.rows(f"ALTER TABLE mysql.{table} FORCE")
        admin.rows("FLUSH PRIVILEGES")


def _server_tables(admin: Link) -> frozenset[str]:
    rows = admin.rows(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'mysql' AND table_type = 'BASE TABLE'"
    )
    return frozenset(str(row[0]) for row in rows)


def _end_replication(admin: Link) -> None:
    """Forget whom the data followed. Nothing runs: servers of builds and clones start no replication."""
    if not admin.value("SELECT version() LIKE '%MariaDB%'"):
        admin.rows("RESET REPLICA ALL")
        return
    for row in admin.rows("SHOW ALL SLAVES STATUS"):
        admin.rows(f"RESET SLAVE {text(str(row[0]))} ALL")


def _empty_server_tables(admin: Link) -> None:
    present = _server_tables(admin)
    for table in _EMPTIED:
        if table in present and admin.rows(f"SELECT 1 FROM mysql.{table} LIMIT 1"):  # noqa: S608 - our own names
            admin.rows(f"TRUNCATE TABLE mysql.{table}")


def _disable_events(admin: Link) -> None:
    """Disable scheduled events, which keep their definers: without saying so, ALTER makes us that."""
    for schema, name, definer in admin.rows(_EVENTS):
        user, _, host = str(definer).rpartition("@")
        who = accounts.account(user, host)
        admin.rows(f"ALTER DEFINER = {who} EVENT {quoted(schema)}.{quoted(name)} DISABLE")


def _leave_remote_tables(work: BuildWork, admin: Link) -> None:
    """Drop tables whose rows are elsewhere; of others, forget the connections that they are said to have.

    A dump whose engine is not here makes ordinary tables of them, with the address in their options.
    """
    for schema, name, engine, comment in admin.rows(_TABLES):
        table = f"{quoted(schema)}.{quoted(name)}"
        known = str(engine or comment or "").upper()
        if any(remote in known for remote in REACHING) and (engine is None or known in REACHING):
            admin.rows(f"DROP TABLE {table}")
            notes.add_line(work, "left_out", f"table {schema}.{name} is not in it: its rows are elsewhere")
        elif engine is None:
            raise SourceError(f"table {schema}.{name} cannot be opened: {comment}", hint="drop it, or convert it")
        elif " CONNECTION=" in str(admin.rows(f"SHOW CREATE TABLE {table}")[0][1]):
            admin.rows(f"ALTER TABLE {table} CONNECTION = ''")


def _lock_accounts(admin: Link, product: Product) -> None:
    """Drop production's accounts; those whose rights views and routines need stay, locked, without global rights."""
    accounts.ensure_owner(admin, product)
    defining = accounts.definers(admin)
    for user, host in admin.rows("SELECT user, host FROM mysql.user WHERE user NOT IN %s", server.OURS):
        if host == "":
            _leave_role(admin, str(user))
            continue
        who = accounts.account(user, host)
        if f"{user}@{host}" not in defining:
            admin.rows(f"DROP USER {who}")
            continue
        accounts.lock(admin, product, who)
        _reduce(admin, product, who)
    for name in server.OURS:
        for host in accounts.hosts_of(admin, name):
            if host != server.HOST:
                admin.rows(f"DROP USER {accounts.account(name, host)}")


def _make_definers(admin: Link, product: Product) -> None:
    """Make locked accounts for code whose definers a mirror does not know: it has no accounts of its primary."""
    for definer in accounts.definers(admin):
        name, _, host = definer.rpartition("@")
        if name and host and host not in accounts.hosts_of(admin, name):
            who = accounts.account(name, host)
            admin.rows(f"CREATE USER {who} {product.nobody()} ACCOUNT LOCK")
            for statement in accounts.rights(product, "owner", who):
                admin.rows(statement)


def _leave_role(admin: Link, role: str) -> None:
    """Drop a role of MariaDB; what everybody has (PUBLIC) is taken away."""
    if role.upper() == "PUBLIC":
        admin.rows("REVOKE ALL PRIVILEGES, GRANT OPTION FROM PUBLIC")
    else:
        admin.rows(f"DROP ROLE {quoted(role)}")


def _reduce(admin: Link, product: Product, who: str) -> None:
    """Leave an account what an owner may: with more, code of production would give it to whoever calls it."""
    admin.rows(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {who}")
    for statement in accounts.rights(product, "owner", who):
        admin.rows(statement)
