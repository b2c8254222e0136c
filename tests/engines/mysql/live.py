"""A production server of MariaDB with everything that a copy of its files must not go on with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pymysql

from reconciler import proc
from reconciler.engines.mysql import server
from reconciler.engines.mysql.product import MARIADB

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

    from reconciler.proc import Account

SECRETS = (b"hunter2secret", b"db.example", b"10657E5A9B7ECE60AFED92CF60DCB96DB922C6DA")
"""A password of replication, an address, and the hash of a password; none may be in a file of a snapshot."""
SETUP = (
    "CREATE DATABASE shop",
    "CREATE TABLE shop.item (id int PRIMARY KEY, name varchar(20))",
    "INSERT INTO shop.item VALUES (1, 'one')",
    "CREATE TABLE shop.old (a int) ENGINE=MyISAM",
    "CREATE USER app@'10.%' IDENTIFIED BY PASSWORD '*10657E5A9B7ECE60AFED92CF60DCB96DB922C6DA'",
    "GRANT ALL ON *.* TO app@'10.%'",
    "CREATE USER ops@'%' IDENTIFIED BY PASSWORD '*10657E5A9B7ECE60AFED92CF60DCB96DB922C6DA'",
    "CREATE ROLE clerks",
    "CREATE DEFINER=app@'10.%' VIEW shop.names AS SELECT name FROM shop.item",
    "CREATE DEFINER=app@'10.%' PROCEDURE shop.pry() SELECT user FROM mysql.global_priv",
    "CREATE DEFINER=app@'10.%' EVENT shop.e ON SCHEDULE EVERY 1 SECOND DO DELETE FROM shop.item",
    "CHANGE MASTER TO MASTER_HOST='db.example', MASTER_USER='repl', MASTER_PASSWORD='hunter2secret'",
    "CREATE SERVER srv FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'db.example', USER 'u', PASSWORD 'hunter2secret')",
    "INSERT INTO mysql.plugin VALUES ('evil', 'evil.so')",
)


class Production:
    """Runs it under the account ``account``, in ``root``, which belongs to that."""

    def __init__(self, root: Path, account: Account | None, *, setup: Sequence[str] = SETUP) -> None:
        self.root, self.data = root, root / "production"
        self._account = account
        self._installed = server.choose(MARIADB)
        self._process: subprocess.Popen[bytes] | None = None
        program = server.server_program(MARIADB, self._installed)
        proc.run(
            MARIADB.initialise(server.tool(self._installed, MARIADB.clients, "").parent, program, self.data),
            account=account,
        )
        self.start()
        for statement in setup:
            self.sql(statement)

    def start(self) -> None:
        program, pid = server.server_program(MARIADB, self._installed), self.root / "pid"
        options = ["--skip-networking", "--log-bin", "--server-id=7", f"--socket={self._socket}", f"--pid-file={pid}"]
        argv: list[str | Path] = [program, "--no-defaults", f"--datadir={self.data}", *options]
        log = self.root / "production.log"
        self._process = proc.spawn(argv, log=log, env=server.environment(), cwd=self.root, account=self._account)
        deadline = time.monotonic() + 60
        while not pid.exists():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    @property
    def _socket(self) -> str:
        return str(self.root / "s")

    def sql(self, statement: str) -> None:
        connection: pymysql.Connection[Any] = pymysql.connect(unix_socket=self._socket, user="root", autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def load(self, script: str) -> None:
        """Run a script as the product's client does."""
        client = server.tool(self._installed, MARIADB.clients, "")
        proc.run([client, "--no-defaults", "--user=root", f"--socket={self._socket}"], stdin=script.encode())

    def dump_directory(self, name: str, *options: str) -> Path:
        """Write a directory of mydumper."""
        target = self.root / name
        argv: list[str | Path] = ["mydumper", "--user=root", f"--socket={self._socket}", f"--outputdir={target}"]
        proc.run([*argv, "--triggers", "--events", "--routines", *options])
        return target

    def stream(self, name: str, *, base: str = "") -> Path:
        """Write a stream of mariadb-backup."""
        target = self.root / "streams" / name
        target.parent.mkdir(exist_ok=True)
        with target.open("wb") as file:
            proc.run([*self._backup(base), f"--target-dir={self.root}", "--stream=xbstream"], stdout=file)
        return target

    def back_up(self, name: str, *, base: str = "") -> Path:
        target = self.root / "backups" / name
        target.parent.mkdir(exist_ok=True)
        proc.run([*self._backup(base), f"--target-dir={target}"])
        return target

    def _backup(self, base: str) -> list[str | Path]:
        tool = server.tool(self._installed, MARIADB.backups, "")
        argv: list[str | Path] = [tool, "--no-defaults", "--backup", "--user=root"]
        argv += [f"--socket={self._socket}", f"--datadir={self.data}"]
        return [*argv, f"--incremental-basedir={self.root / 'backups' / base}"] if base else argv

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None and self._process.poll() is None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(60)
        (self.root / "pid").unlink(missing_ok=True)
