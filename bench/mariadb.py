"""How soon one more clone of MariaDB answers, on btrfs.

Ours is measured in this process from a spec that the loop can see to a query that the
product's client had answered; the floor is a shell script of ``btrfs subvolume snapshot``,
mariadbd with a few settings, and the same client, on the same data.
"""

from __future__ import annotations

import os
import subprocess
import time
from itertools import count
from typing import TYPE_CHECKING

from bench import by_hand
from bench.figures import Figure, Options, SkippedError, in_turns
from bench.installation import Installation, installation, size_of
from reconciler.engines.mysql import server, settings
from reconciler.engines.mysql.product import MARIADB
from reconciler.handover import give

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTES = {"quick": 10, "default": 150, "full": 1500}
SETTINGS = (
    f"--innodb-log-file-size={settings.SEALED_LOG_MIB}M --innodb-buffer-pool-size=64M --skip-log-bin"
    " --skip-name-resolve"
)
"""Of a server by hand: the size of log that the files have, the memory that clones of ours have, and no wait for
name servers, which in a container take ten seconds not to answer."""
_PORT = 26500
_SQL = """\
CREATE TABLE account (aid int PRIMARY KEY, bid int, abalance int, filler char(200), note varchar(800)) CHARSET=latin1;
INSERT INTO account SELECT seq, seq DIV 1000, 0, '', repeat(md5(seq), 24) FROM seq_1_to_{rows};
"""
_CLONE = """\
source=$1 target=$2 port=$3 program=$4 client=$5 as=$6
btrfs --quiet subvolume snapshot "$source" "$target"
$as "$program" --no-defaults --datadir="$target/data" --socket="$target/socket" --pid-file="$target/pid" \\
    --port="$port" --bind-address=127.0.0.1 {settings} >"$target/log" 2>&1 &
until [ -e "$target/pid" ]; do sleep 0.01; done
"$client" --no-defaults --protocol=tcp -h127.0.0.1 -P"$port" -ubench -pbench -e 'SELECT 1' bench
"""
_REMOVE = """\
target=$1 pid=$(cat "$1/pid")
kill -KILL "$pid"
while [ -e "/proc/$pid" ]; do sleep 0.01; done
btrfs --quiet subvolume delete "$target"
"""
_ACCOUNT = """\
FLUSH PRIVILEGES;
CREATE USER bench@'{host}' IDENTIFIED BY 'bench';
GRANT ALL ON bench.* TO bench@'{host}';
"""
_numbers = count()


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    if not server.installed_servers(MARIADB):
        raise SkippedError("needs MariaDB (packages mariadb-server-core, mariadb-client-core)")
    megabytes = MEGABYTES[size_of(options)]
    with installation(options) as opened:
        data = opened.image_of("mariadb", "mariadb", script(options))
        source = prepare(opened, data, "mariadb-source", "127.0.0.1")
        _ours(opened)  # what a first time costs is not about this
        repetitions = 1 if options.quick else options.repetitions
        ours, floor = in_turns(repetitions, lambda: _ours(opened), lambda: _floor(opened, source))
    return [Figure(f"one more clone of MariaDB, {megabytes / 1000:.2g} GB", ours, floor, 1.5)]


def script(options: Options) -> str:
    """Return the SQL that fills a database, by how much is asked for."""
    return _SQL.format(rows=MEGABYTES[size_of(options)] * 900)


def prepare(opened: Installation, snapshot: Path, name: str, host: str) -> Path:
    """Make a subvolume that a server can be started on without the product, with an account for a host."""
    target = opened.by_hand / name
    opened.script('btrfs --quiet subvolume snapshot "$1" "$2"', snapshot, target)
    give(target, opened.account)
    program = server.server_program(MARIADB, server.choose(MARIADB))
    words: list[str | Path] = [
        *by_hand.switch(opened).split(),
        program,
        "--no-defaults",
        f"--datadir={target / 'data'}",
        "--bootstrap",
    ]
    words += [f"--innodb-log-file-size={settings.SEALED_LOG_MIB}M"]
    subprocess.run(words, input=_ACCOUNT.format(host=host).encode(), check=True, capture_output=True)
    return target


def _ours(opened: Installation) -> float:
    name = f"bench-{next(_numbers)}"
    opened.write_clones("mariadb", [name])
    start = time.perf_counter()
    (task,) = opened.start_pass()
    task.done.wait()
    if task.error is not None:
        raise task.error
    ask(opened, name)
    seconds = time.perf_counter() - start
    opened.remove_clones()
    return seconds


def ask(opened: Installation, name: str) -> None:
    """Ask a clone of ours with the product's client, as its user."""
    made = opened.clone(name)
    where = ("--protocol=tcp", "-h127.0.0.1", f"-P{made.port}", "-uapp")
    env = {"PATH": os.defpath, "MYSQL_PWD": made.password}
    argv = (client(), "--no-defaults", *where, "-eSELECT 1", "bench")
    subprocess.run(argv, check=True, env=env, capture_output=True)


def _floor(opened: Installation, source: Path) -> float:
    target = opened.by_hand / f"clone-{next(_numbers)}"
    program = server.server_program(MARIADB, server.choose(MARIADB))
    text = _CLONE.replace("{settings}", SETTINGS)
    seconds = opened.script(text, source, target, str(_PORT), program, client(), by_hand.switch(opened))
    opened.script(_REMOVE, target)
    return seconds


def client() -> Path:
    """Return the product's client."""
    return server.tool(server.choose(MARIADB), MARIADB.clients, MARIADB.install_hint)
