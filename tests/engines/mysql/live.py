"""A production server of MariaDB with everything that a copy of its files must not go on with."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pymysql
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from reconciler import proc
from reconciler.engines.base import LiveServer, LocalSource
from reconciler.engines.mysql import server
from reconciler.engines.mysql.product import MARIADB
from tests.support import free_port, pause, resume

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.proc import Account

SECRETS = (b"hunter2secret", b"db.example", b"10657E5A9B7ECE60AFED92CF60DCB96DB922C6DA")
"""A password of replication, an address, and the hash of a password; none may be in a file of a snapshot."""
_NOBODY = 65534
_NO_DISKS = (
    "--innodb-flush-method=nosync",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=OFF",
    "--innodb-use-native-aio=OFF",
    "--aria-sync-log-dir=NEVER",
    "--sync-frm=OFF",
)
COPIER, PASSWORD = "copier", "nobody/may@see this"
COPIES = ("SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD ON *.*",)
"""What a user needs to copy databases by SQL."""
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

    def __init__(
        self,
        root: Path,
        account: Account | None,
        *,
        setup: Sequence[str] = SETUP,
        port: int | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.root, self.data = root, root / "production"
        self.port = port
        self._options = tuple(options)
        self._environment = server.environment() | dict(environment or {})
        self._account = account
        self._installed = server.choose(MARIADB)
        self._process: subprocess.Popen[bytes] | None = None
        program = server.server_program(MARIADB, self._installed)
        argv = MARIADB.initialise(server.tool(self._installed, MARIADB.clients, "").parent, program, self.data)
        if os.geteuid() != 0:  # its socket lets in as root whom the host has as root, and we are not
            argv.append("--auth-root-authentication-method=normal")
        proc.run(argv, account=account)
        try:
            self.start()
            for statement in setup:
                self.sql(statement)
        except BaseException:  # nobody has it yet who could stop it
            self.stop(kill=True)
            raise

    def start(self, *more: str) -> None:
        program, pid = server.server_program(MARIADB, self._installed), self.root / "pid"
        reached = ["--skip-networking"] if self.port is None else [f"--port={self.port}", "--bind-address=127.0.0.1"]
        options = [*reached, "--log-bin", "--server-id=7", f"--socket={self._socket}", f"--pid-file={pid}"]
        argv: list[str | Path] = [program, "--no-defaults", f"--datadir={self.data}", *options, *self._options, *more]
        log = self.root / "production.log"
        self._process = proc.spawn(argv, log=log, env=self._environment, cwd=self.root, account=self._account)
        deadline = time.monotonic() + 60
        while not pid.exists():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    @property
    def _socket(self) -> str:
        return str(self.root / "s")

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in one session; return the rows of the last."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def connect(self) -> pymysql.Connection[Any]:
        """Open a session of its administrator."""
        return pymysql.connect(unix_socket=self._socket, user="root", autocommit=True)

    def url(self, *, user: str = COPIER, password: str = PASSWORD, port: int | None = None, options: str = "") -> str:
        return f"mysql://{user}:{quote(password, safe='')}@127.0.0.1:{port or self.port}/{options}"

    def source(self, **more: Any) -> LocalSource:  # noqa: ANN401 - those of the URL
        """Return it as a primary that is copied by SQL."""
        return LocalSource("primary", primary=LiveServer(self.url(**more), "shop-dsn", "logical"))

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

    def freeze(self) -> None:
        """Let the server stop answering without closing a connection."""
        pause(self._pid())

    def thaw(self) -> None:
        resume(self._pid())

    def _pid(self) -> int:
        return int((self.root / "pid").read_text())

    def let_in(self, *rights: str, user: str = COPIER) -> None:
        """Make a user, or make it anew, with these rights."""
        self.sql(f"CREATE OR REPLACE USER {user}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
        for right in rights:
            what, more, option = right.partition(" WITH ")
            self.sql(f"GRANT {what} TO {user}@'127.0.0.1'{more}{option}")

    def sessions(self) -> list[str]:
        """Return who is connected besides us."""
        return [
            str(row[0]) for row in self.sql("SELECT user FROM information_schema.processlist WHERE user = 'copier'")
        ]


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for path in paths:
        path.chmod(0o644)
    return paths


@contextmanager
def instance(
    *setup: str, parent: Path | None = None, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Production]:
    """Have a server of somebody else's in the block, below ``parent``, whose user ``copier`` may do everything.

    It outlives no power failure, and need not wait for disks.
    """
    root = Path(tempfile.mkdtemp(prefix="live-", dir=parent))
    root.chmod(0o755)
    account = proc.Account(_NOBODY, _NOBODY) if os.geteuid() == 0 else None
    if account is not None:
        os.chown(root, account.uid, account.gid)
    try:
        made = Production(
            root, account, setup=setup, port=free_port(), options=[*_NO_DISKS, *options], environment=environment
        )
        try:
            made.let_in("ALL ON *.* WITH GRANT OPTION")
            yield made
        finally:
            made.stop(kill=True)
    finally:
        shutil.rmtree(root)
