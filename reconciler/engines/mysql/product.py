"""What differs between MariaDB and MySQL: names of programs and settings, and a few words of SQL.

Asked by the other modules of this package, none of which knows which product it works
for. What is said of MySQL is from its manual (8.0 and 8.4): its server cannot be had on
the hosts that this is tested on, so nothing here about it has been run.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from reconciler.engines.mysql.link import Link

_MARIADB_VERSION = re.compile(r"Ver ((\d+\.\d+)\.\d+)[^\s]*-MariaDB", re.IGNORECASE)
_MYSQL_VERSION = re.compile(r"Ver ((\d+\.\d+)\.\d+)")
_RELEASE = re.compile(r"(\d+)\.(\d+)")
_STRICT = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
_NO_HASH = "invalid"
"""What the server keeps of no password."""
_LOGINS = "SELECT user, host, ssl_type, {} FROM mysql.user WHERE host <> '' AND {} ORDER BY user, host"
_ARIA_LOG_MIB = 8
"""The smallest part of its log that Aria knows."""
_ARIA_FILLING_MIB = 20
_SHARED_RIGHTS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES,"
    " EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER"
)


class Login(NamedTuple):
    """An account with which somebody can log in."""

    name: str
    host: str
    secured: bool
    """Whether over TLS only."""
    identified: str
    """The clause of CREATE USER that lets in whoever knows its password, which is nowhere in clear."""


class Product(ABC):
    """One of the two products."""

    name: str
    """As documents call it."""
    title: str
    """As people do."""
    install_hint: str
    container: str | None
    """Name of the makers' image of containers; None: this version runs none."""
    servers: tuple[str, ...]
    """Names of the server program, the first that exists counts."""
    clients: tuple[str, ...]
    backups: tuple[str, ...]
    """Names of the tool that makes and prepares physical backups."""
    backup_hint: str
    unpackers: tuple[str, ...]
    """Names of the tool that unpacks streams of these backups."""
    owner_rights: str
    """What an owner may do in databases of users."""
    settings: Mapping[str, str]
    """Settings of every server of ours that only this product has."""
    build_settings: Mapping[str, str]
    masks: bool
    """Whether its databases can be masked by this version."""
    holds: tuple[tuple[str, ...], ...]
    """Statements that hold all commits of a primary back, within a session; the first that it knows."""
    release: tuple[str, ...]
    code_rights: tuple[str, ...]
    """Rights of which one is needed to read the code of routines."""

    @abstractmethod
    def log_place(self, link: Link) -> tuple[str, int]:
        """Return the file and offset of the binary log at the snapshot of a session; empty: there is no log."""

    @abstractmethod
    def gtid(self, link: Link, file: str, offset: int) -> str:
        """Return the global transaction ids up to there; empty: there are none."""

    @abstractmethod
    def followed(self, link: Link) -> str:
        """Return those up to which it has what the server has that it follows; empty: it follows none, or logs them."""

    @abstractmethod
    def version(self, text: str) -> tuple[str, str] | None:
        """Return (version, major version) from what the server program says of itself; None: it is another product."""

    @abstractmethod
    def initialise(self, directory: Path, server: Path, data: Path) -> list[str | Path]:
        """Return the command that makes an empty data directory; ``directory`` is that of the client programs."""

    @abstractmethod
    def identified(self, password: str) -> str:
        """Return the clause of CREATE USER and ALTER USER that lets somebody in who knows a password."""

    @abstractmethod
    def nobody(self) -> str:
        """Return the clause with which nobody can log in, and that no hash is left of."""

    @abstractmethod
    def logins(self, link: Link) -> list[Login]:
        """Return the accounts with which somebody can log in by a password."""

    @abstractmethod
    def prepare(self, full: Path, increments: Sequence[Path]) -> list[list[str]]:
        """Return the arguments of the tool's runs that make a data directory of a backup, in their order."""

    @abstractmethod
    def renew_log(self) -> tuple[str, tuple[str, ...]]:
        """Return statements and options with which the log of the server's own tables forgets what it held."""

    @abstractmethod
    def no_files(self, directory: Path) -> str:
        """Return the value of ``secure_file_priv`` with which SQL reads and writes no file of the host."""


class MariaDb(Product):
    """MariaDB 10.6 and later."""

    name = "mariadb"
    title = "MariaDB"
    masks = True
    container = "mariadb"
    install_hint = "apt-get install mariadb-server-core mariadb-client-core"
    servers = ("mariadbd", "mysqld")
    clients = ("mariadb", "mysql")
    backups = ("mariadb-backup", "mariabackup")
    backup_hint = "apt-get install mariadb-backup"
    unpackers = ("mbstream",)
    owner_rights = f"{_SHARED_RIGHTS}, DELETE HISTORY"
    settings = {  # noqa: RUF012 - a constant of the class
        "symbolic_links": "OFF",  # DATA DIRECTORY would place files anywhere
        "feedback": "OFF",  # it calls its makers
        "loose_wsrep_on": "OFF",
        "sql_mode": f"{_STRICT},NO_AUTO_CREATE_USER",
    }
    build_settings = {  # noqa: RUF012 - as above
        "innodb_flush_method": "nosync",
        "aria_sync_log_dir": "NEVER",
        "innodb_use_native_aio": "OFF",
    }
    holds = (("BACKUP STAGE START", "BACKUP STAGE BLOCK_COMMIT"), ("FLUSH TABLES WITH READ LOCK",))
    release = ("BACKUP STAGE END", "UNLOCK TABLES")
    code_rights = ("SELECT ON mysql.proc", "SHOW CREATE ROUTINE ON *.*")

    def log_place(self, link: Link) -> tuple[str, int]:
        found = {str(name).lower(): str(value) for name, value in link.rows("SHOW STATUS LIKE 'Binlog_snapshot%'")}
        return found.get("binlog_snapshot_file", ""), int(found.get("binlog_snapshot_position") or 0)

    def gtid(self, link: Link, file: str, offset: int) -> str:
        return str(link.value("SELECT BINLOG_GTID_POS(%s, %s)", file, offset) or "") if file else ""

    def followed(self, link: Link) -> str:
        return str(link.value("SELECT @@GLOBAL.gtid_slave_pos") or "")

    def version(self, text: str) -> tuple[str, str] | None:
        found = _MARIADB_VERSION.search(text)
        return (found[1], found[2]) if found is not None else None

    def initialise(self, directory: Path, server: Path, data: Path) -> list[str | Path]:  # noqa: ARG002 - of the contract
        script = next((path for path in _named(directory, "mariadb-install-db", "mysql_install_db")), None)
        return [
            script or "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=socket",
            "--auth-root-socket-user=root",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=OFF",
            "--innodb-flush-method=nosync",
            "--aria-sync-log-dir=NEVER",
        ]

    def identified(self, password: str) -> str:
        return f"IDENTIFIED VIA mysql_native_password USING '{native_hash(password)}'"

    def nobody(self) -> str:
        return f"IDENTIFIED VIA mysql_native_password USING '{_NO_HASH}'"

    def logins(self, link: Link) -> list[Login]:
        rows = link.rows(_LOGINS.format("authentication_string", f"authentication_string NOT IN ('', '{_NO_HASH}')"))
        clause = "IDENTIFIED VIA mysql_native_password USING '{}'"
        return [Login(name, host, bool(tls), clause.format(kept)) for name, host, tls, kept in rows]

    def prepare(self, full: Path, increments: Sequence[Path]) -> list[list[str]]:
        base = ["--no-defaults", "--prepare", f"--target-dir={full}"]
        return [base, *([*base, f"--incremental-dir={one}"] for one in increments)]

    def renew_log(self) -> tuple[str, tuple[str, ...]]:
        table = "mysql.reconciler_filling"
        fill = f"INSERT INTO {table} VALUES (REPEAT('.', 1 << 20));\n" * _ARIA_FILLING_MIB  # noqa: S608 - a constant
        make = f"CREATE TABLE {table} (filling longblob) ENGINE=Aria TRANSACTIONAL=1 ROW_FORMAT=PAGE;\n"
        options = (f"--aria-log-file-size={_ARIA_LOG_MIB}M", "--max-allowed-packet=16M")
        return f"{make}{fill}DROP TABLE {table};\n", options

    def no_files(self, directory: Path) -> str:
        return str(directory)  # it has no value that forbids files; a directory of the server's own is the next best


class MySql(Product):
    """MySQL 8.0 and later, by its manual: nothing of this was run, see the module."""

    name = "mysql"
    title = "MySQL"
    masks = False
    container = None
    install_hint = "install the package mysql-server of MySQL's own repository"
    servers = ("mysqld",)
    clients = ("mysql",)
    backups = ("xtrabackup",)
    backup_hint = "install Percona XtraBackup"
    unpackers = ("xbstream",)
    owner_rights = _SHARED_RIGHTS
    settings = {  # noqa: RUF012 - a constant of the class
        "persisted_globals_load": "OFF",  # mysqld-auto.cnf holds what SET PERSIST said in production
        "mysqlx": "OFF",
        "sql_mode": _STRICT,
    }
    build_settings: Mapping[str, str] = {}
    holds = (("FLUSH TABLES WITH READ LOCK",),)
    release = ("UNLOCK TABLES",)
    code_rights = ("SHOW_ROUTINE ON *.*", "SELECT ON *.*")

    def log_place(self, link: Link) -> tuple[str, int]:
        modern = link.value("SELECT @@version NOT REGEXP '^(5|8[.][01])[.]'")
        rows = link.rows("SHOW BINARY LOG STATUS" if modern else "SHOW MASTER STATUS")
        return (str(rows[0][0]), int(rows[0][1])) if rows else ("", 0)

    def gtid(self, link: Link, file: str, offset: int) -> str:  # noqa: ARG002 - of the contract
        return "".join(str(link.value("SELECT @@GLOBAL.gtid_executed") or "").split())

    def followed(self, link: Link) -> str:  # noqa: ARG002 - of the contract
        return ""  # its own set has them

    def version(self, text: str) -> tuple[str, str] | None:
        found = _MYSQL_VERSION.search(text)
        return None if found is None or "MariaDB" in text else (found[1], found[2])

    def initialise(self, directory: Path, server: Path, data: Path) -> list[str | Path]:  # noqa: ARG002 - of the contract
        return [server, "--no-defaults", "--initialize-insecure", f"--datadir={data}"]

    def identified(self, password: str) -> str:
        quoted = password.replace("\\", "\\\\").replace("'", "\\'")
        return f"IDENTIFIED WITH caching_sha2_password BY '{quoted}'"

    def nobody(self) -> str:
        return "IDENTIFIED WITH mysql_no_login"

    def logins(self, link: Link) -> list[Login]:
        rows = link.rows(_LOGINS.format("HEX(authentication_string)", "plugin = 'caching_sha2_password'"))
        clause = "IDENTIFIED WITH caching_sha2_password AS 0x{}"
        return [Login(name, host, bool(tls), clause.format(kept)) for name, host, tls, kept in rows]

    def prepare(self, full: Path, increments: Sequence[Path]) -> list[list[str]]:
        base = ["--no-defaults", "--prepare", f"--target-dir={full}"]
        steps = [base, *([*base, f"--incremental-dir={one}"] for one in increments)]
        # what is rolled back before the last increment cannot be gone on from (its manual, "Prepare incremental")
        return [[*step, "--apply-log-only"] for step in steps[:-1]] + steps[-1:]

    def renew_log(self) -> tuple[str, tuple[str, ...]]:
        return "", ()  # its own tables are InnoDB's

    def no_files(self, directory: Path) -> str:  # noqa: ARG002 - of the contract
        return "NULL"


def release(version: str) -> tuple[int, int]:
    """Return the numbers of a version that say which release it is of; zeros where it has none."""
    found = _RELEASE.search(version)
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


def native_hash(password: str) -> str:
    """Return what the server keeps of a password (mysql_native_password): it never sees the password itself."""
    once = hashlib.sha1(password.encode()).digest()  # noqa: S324 - the protocol's own
    return "*" + hashlib.sha1(once).hexdigest().upper()  # noqa: S324 - as above


def _named(directory: Path, *names: str) -> list[Path]:
    return [directory / name for name in names if (directory / name).is_file()]


MARIADB = MariaDb()
MYSQL = MySql()
