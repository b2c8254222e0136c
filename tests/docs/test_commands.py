"""The commands of the pages are run as they stand there, on hosts that have what the pages speak of.

Paths of a host lead into a directory of the test's own. What a test cannot have as people
do, a service manager and an editor, is a script of a few lines that does what a person
would do with them.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from reconciler.engines.mysql.engine import MariaDbEngine
from tests.cli.script import environment
from tests.docs.test_pages import PAGES, blocks
from tests.hosted.world import SECRET, hosted_mariadb, hosted_world
from tests.support import clone, end_installations, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

HERE = {
    "attestation",
    "instances",
    "maskingpolicy",
    "mariadb",
    "operations",
    "pull-requests",
    "runtimes",
    "sqlite",
    "status",
}
ELSEWHERE = {
    "README": "tests/docs/test_readme_session.py, tests/cli/test_demo.py, and whoever runs the tests",
    "containers": "tests/runtimes/docker/test_clones.py",
}
UNITS = Path("/etc/systemd/system")
SYSTEMCTL = """\
#!/bin/sh
# Starts and stops one service, as the manager would.
case "$1 $2" in
    "start reconciler" | "enable --now")
        nohup reconciler run > "$PLACE/loop.log" 2>&1 & echo $! > "$PLACE/loop.pid"
        until grep -qs watching "$PLACE/loop.log"; do sleep 0.1; done ;;
    "stop reconciler")
        if [ -e "$PLACE/loop.pid" ]; then
            kill "$(cat "$PLACE/loop.pid")"
            while kill -0 "$(cat "$PLACE/loop.pid")" 2> /dev/null; do sleep 0.1; done
            rm "$PLACE/loop.pid" "$PLACE/loop.log"
        fi ;;
esac
"""
EDITOR = """\
#!/bin/sh
# Writes what the comment beside the command says.
sed -i "s|path: .*/pool}|path: $PLACE/big/pool}|" "$1"
"""
CUSTOMERS = """\
CREATE TABLE customer (id integer PRIMARY KEY, email text, name text);
CREATE TABLE session (id integer PRIMARY KEY, token text);
INSERT INTO customer VALUES (1, 'ada@production.example', 'Ada Lovelace'), (2, 'bob@production.example', 'Bob Moog');
INSERT INTO session VALUES (1, 'secret');
"""


def shown(page: str, language: str) -> list[str]:
    (path,) = [path for path in PAGES if path.stem == page]
    return blocks(path, language)


def commands(page: str) -> list[str]:
    """Return the commands of a page, a script for each of its blocks, in their order."""
    (path,) = [path for path in PAGES if path.stem == page]
    found = re.findall(r"^```(console|sh)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [text if language == "sh" else _typed(text) for language, text in found]


def _typed(session: str) -> str:
    return "".join(f"{line[2:]}\n" for line in session.splitlines() if line.startswith("$ "))


def heads(page: str) -> list[str]:
    """Return the heads of the tables that a page shows as output."""
    lines = "".join(shown(page, "console")).splitlines()
    return [" ".join(line.split()) for line in lines if len(line.split()) > 3 and line == line.upper()]


@dataclass
class Place:
    """A host in a directory: its configuration, secrets, state, sources and programs."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("etc/secrets", "var", "srv/shop", "big", "bin", "units", "specs"):
            (self.root / name).mkdir(parents=True)
        for name, script in (("systemctl", SYSTEMCTL), ("editor", EDITOR)):
            (self.root / "bin" / name).write_text(script)
            (self.root / "bin" / name).chmod(0o755)
        known = environment()
        self.environment = {**known, "PLACE": str(self.root), "PATH": f"{self.root / 'bin'}{os.pathsep}{known['PATH']}"}

    @property
    def config(self) -> Path:
        return self.root / "etc" / "reconciler.yaml"

    def configure(self, **more: object) -> None:
        pool = {"driver": "copy", "reserve": "1Mi", "path": str(self.root / "var" / "pool")}
        config = {
            "repository": {"path": str(self.root / "specs"), "interval": "1h"},
            "state": str(self.root / "var"),
            "pools": {"default": pool},
            "secrets": {"directory": str(self.root / "etc" / "secrets")},
            "sources": {"roots": [str(self.root / "srv")]},
            **more,
        }
        lines = yaml.safe_dump(config, sort_keys=False, default_flow_style=None)
        self.config.write_text(lines)

    def secret(self, name: str, value: str) -> None:
        path = self.root / "etc" / "secrets" / name
        path.write_text(value)
        path.chmod(0o600)

    def here(self, text: str) -> str:
        """Return what a page says with the paths of this place."""
        for path, ours in {
            "/etc/reconciler": "etc",
            "/var/lib/reconciler": "var",
            "/big/": "big/",
            "/srv/": "srv/",
        }.items():
            text = text.replace(path, f"{self.root}/{ours}")
        return text

    def run(self, script: str, *, within: str = "", stdin: str = "", code: int = 0) -> str:
        """Run a block of a page; return what it wrote."""
        ours = f"mount --bind {self.root}/units {UNITS}\n" if os.geteuid() == 0 and UNITS.is_dir() else ""
        namespace = ["unshare", "--mount"] if ours else []
        done = subprocess.run(
            [*namespace, "bash", "-euo", "pipefail", "-c", ours + self.here(script)],
            cwd=self.root / within,
            env=self.environment | {"RECONCILER_CONFIG": str(self.config)},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def place() -> Iterator[Place]:
    world = new_world()
    shutil.rmtree(world.root)
    world.root.mkdir(mode=0o711)
    made = Place(world.root)
    made.configure()
    try:
        yield made
    finally:
        made.run("systemctl stop reconciler")
        end_installations(world.root)
        world.close()


@pytest.fixture
def masked(place: Place) -> Place:
    """A place with the documents of the page about SQLite, and the database that they speak of."""
    with sqlite3.connect(place.root / "srv" / "shop" / "shop.db") as database:
        database.executescript(CUSTOMERS)
    place.secret("masking-key", "a key of the tests")
    (documents,) = shown("sqlite", "yaml")
    (place.root / "specs" / "shop.yaml").write_text(place.here(documents))
    return place


def test_every_command_block_of_a_page_is_run() -> None:
    have = {page.stem for page in PAGES if re.search(r"^```(console|sh)$", page.read_text(), re.MULTILINE)}
    assert have == HERE | ELSEWHERE.keys()


def test_sqlite(masked: Place) -> None:
    masked.run("reconciler apply")
    (block,) = commands("sqlite")
    wrote = masked.run(block, stdin="SELECT count(*) FROM customer; SELECT count(*) FROM session;").split()
    assert wrote == [f"sqlite:///{masked.root}/var/pool/volumes/shop-dev.1/data/shop.db", "2", "0"]


def test_attestation(masked: Place) -> None:
    keys, attest = commands("attestation")
    masked.run(keys)
    shutil.copy(masked.root / "attestation.pub", masked.root / "etc" / "old-key.pub")
    ours = yaml.safe_load(masked.here(shown("attestation", "yaml")[0]))
    masked.configure(attestation=ours["attestation"])
    masked.run("reconciler apply")
    (snapshot,) = [path.name for path in (masked.root / "var" / "pool" / "volumes").glob("shop-2*")]
    told = masked.run(re.sub(r"shop-\d{8}t\d{6}z-[0-9a-f]{8}", snapshot, attest))
    assert snapshot in told


def test_status(masked: Place) -> None:
    masked.run("reconciler apply && reconciler reset shop-dev")
    told = "\n".join(masked.run(block) for block in commands("status"))
    written = {" ".join(line.split()) for line in told.splitlines()}
    assert len(heads("status")) == 3
    assert set(heads("status")) <= written


def test_masking_policy(masked: Place) -> None:
    masked.run("reconciler apply")
    (block,) = commands("maskingpolicy")
    told = masked.run(block)
    assert heads("maskingpolicy")[0] in {" ".join(line.split()) for line in told.splitlines()}
    assert "main.customer" in (masked.root / "specs" / "pii.yaml").read_text()


@pytest.mark.root
@pytest.mark.long
def test_operations(place: Place) -> None:
    if not UNITS.is_dir():
        pytest.skip(f"needs {UNITS}: units are written there")
    specs = "apiVersion: reconciler/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    shop = specs.format(kind="Image", name="shop", spec="{engine: sqlite, source: {empty: {}}, databases: [shop]}")
    (place.root / "specs" / "shop.yaml").write_text(
        shop + "---\n" + specs.format(kind="Clone", name="dev", spec="{image: shop, runtime: none}")
    )
    place.run("reconciler apply")
    exported, service, health, backup, move, last_day = commands("operations")
    place.run(exported + service)
    assert (place.root / "units" / "reconciler.service").exists()
    assert '"level": "error"' not in place.run(exported + health)
    place.run(exported + backup)
    kept = subprocess.run(["tar", "-tzf", place.root / "state.tgz"], capture_output=True, text=True, check=True).stdout
    assert "./installation.json" in kept.splitlines()
    assert "pool" not in {name.split("/")[1] for name in kept.splitlines()}
    place.run(exported + move)
    place.run("until reconciler plan --detailed-exitcode; do sleep 0.2; done")
    assert "No changes" in place.run("reconciler plan")
    assert (place.root / "big" / "pool" / "volumes" / "dev.1").is_dir()
    place.run(exported + last_day, code=1)  # it asks, and nobody is there
    place.run("reconciler uninstall --yes")
    assert not (place.root / "var").exists()
    assert not (place.root / "units" / "reconciler.service").exists()


def test_pull_requests(masked: Place) -> None:
    origin, specs = masked.root / "specs.git", masked.root / "specs"
    masked.run(
        "git init --quiet --bare --initial-branch=main specs.git; git -C specs init --quiet --initial-branch=main;"
        " git -C specs add --all; git -C specs commit --quiet -m 'Ask for it';"
        f" git -C specs push --quiet {origin} main; git clone --quiet specs.git checkout"
    )
    assert specs.is_dir()
    masked.configure(repository={"url": str(origin)}, status={"publish": {"ref": "reconciler-status"}})
    masked.run("reconciler apply")
    (block,) = commands("pull-requests")
    told = masked.run(block, within="checkout")
    assert told.splitlines()[0] == "No changes: everything is as the specs ask for."
    assert "### Plan for" in told


@pytest.mark.postgres
def test_runtimes(world: World) -> None:
    world.write("shop.yaml", image("shop"), clone("dev"))
    world.converge()
    (block,) = commands("runtimes")
    found = subprocess.run(["bash", "-c", block], capture_output=True, text=True, check=False).stdout.split()
    assert {f"/proc/{process.pid}/environ" for process in world.processes()} <= set(found)


def test_mariadb(world: World) -> None:
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    empty = image("shop", engine="mariadb", scripts=[{"inline": "CREATE TABLE product (id int);", "database": "shop"}])
    world.write("shop.yaml", empty, clone("shop-dev"))
    world.converge()
    (block,) = commands("mariadb")
    told = run_in(world, block, stdin="SELECT count(*) FROM product;")
    assert re.match(r"mysql://app:[^@]+@127\.0\.0\.1:\d+/shop$", told.splitlines()[0])
    assert told.split()[-1] == "0"


@pytest.mark.postgres
def test_instances() -> None:
    with hosted_world("18") as hosted:
        (fragment, document, _of_mariadb) = shown("instances", "yaml")
        runtimes = {**hosted.world.settings["runtimes"], **yaml.safe_load(fragment)["runtimes"]}
        hosted.world.configure(runtimes=runtimes)
        (role, _of_mariadb) = shown("instances", "sql")
        hosted.server.sql(role.replace("…", "known"))
        secret, url = commands("instances")
        given = hosted.server.url("reconciler").replace(hosted.server.url("boss").split(":")[2].split("@")[0], "known")
        run_in(hosted.world, re.sub(r"postgresql://\S+(?=')", given, secret))
        hosted.world.write("shop.yaml", image("shop"), document)
        hosted.world.apply().require()
        assert re.match(r"postgresql://shop-dev_app:[^@]+@db\.example:\d+/shop-dev$", run_in(hosted.world, url).strip())


def test_instances_of_mariadb() -> None:
    with hosted_mariadb() as hosted:
        (_of_postgres, document, fragment) = shown("instances", "yaml")
        (_of_postgres, grants) = shown("instances", "sql")
        hosted.own("CREATE USER reconciler@'127.0.0.1' IDENTIFIED BY 'known'")
        hosted.own(grants.replace("10.0.0.5", "127.0.0.1"))
        (hosted.world.root / "secrets" / SECRET).write_text(f"mysql://reconciler:known@127.0.0.1:{hosted.port}/")
        runtimes = {**hosted.world.settings["runtimes"], **yaml.safe_load(fragment)["runtimes"]}
        hosted.world.configure(runtimes=runtimes)
        hosted.world.write("shop.yaml", hosted.image(), document)
        hosted.world.apply().require()
        assert hosted.rows("shop-dev", "SELECT count(*) FROM product") == [(3,)]


def run_in(world: World, script: str, *, stdin: str = "") -> str:
    """Run a block of a page in a world."""
    text = script.replace("/etc/reconciler/secrets", str(world.root / "secrets"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=world.root,
        env=environment(),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout
