"""Bad input, through the program and with real components: a clear message, and nothing lost.

One world with a clone that somebody works in; every case arrives in it, is refused or
fails with words that say what to do, and the clone lives on.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import clone, end_installations, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import LoopMounts
    from tests.support import World

pytestmark = pytest.mark.postgres

HEAD = "apiVersion: reconciler/v1\nkind: {kind}\nmetadata: {{name: bad}}\nspec:\n"
IMAGE = HEAD.format(kind="Image")
CLONE = HEAD.format(kind="Clone")
DUMP = "  engine: postgres\n  source: {{dump: {{path: {path}}}}}\n  unmasked: {{reason: test}}\n"
BOMB = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 9))

# What is wrong, in groups that can be told in one run, and what is said about it. A file
# that cannot be read hides what others refer to; paths are looked up once all else is right.
INVALID: dict[str, dict[str, tuple[str, str]]] = {
    "not YAML": {
        "broken": (IMAGE + "  source: {empty: {}\n  engine: postgres\n", r"error\[R\d+\]: .*\n +--> FILE:\d+:\d+"),
        "tab": (IMAGE + "\tengine: postgres\n", r"FILE:5:1(.|\n)*help: .*spaces"),
        "twice": (
            IMAGE + "  engine: postgres\n  engine: postgres\n  source: {empty: {}}\n",
            r'"engine"(.|\n)*FILE:6:3',
        ),
        "bomb": (f"b0: &b0 [x]\n{BOMB}", r"FILE:\d+:\d+(.|\n)*alias"),
        "huge": ("# " + "x" * 50_000_000, r"(MiB|bytes|Mi).*\n +--> FILE"),
    },
    "not a specification": {
        "kind": (IMAGE.replace("Image", "Imgae"), r'unknown kind "Imgae"(.|\n)*did you mean "Image"'),
        "field": (CLONE + "  image: shop\n  prot: 5432\n", r'unknown field "prot"(.|\n)*did you mean "port"'),
        "type": (CLONE + "  image: shop\n  port: many\n", r"FILE:6:9(.|\n)*help: .*number"),
        "long": (CLONE.replace("bad", "x" * 64) + "  image: shop\n", r"FILE:3:\d+(.|\n)*at most 63"),
        "reference": (CLONE + "  image: shopp\n", r'"shopp"(.|\n)*did you mean "shop"'),
        "outside": (IMAGE + DUMP.format(path="../../etc/passwd"), r"FILE:6:\d+(.|\n)*(outside|\.\.)"),
    },
    "not there": {"path": (IMAGE + DUMP.format(path="dumps/none.sql"), r"FILE:6:\d+(.|\n)*dumps/none\.sql")},
}


@pytest.fixture(scope="module")
def living() -> Iterator[World]:
    """A world with one clone in which somebody works."""
    made = new_world()
    try:
        made.write("shop.yaml", image("shop"), clone("alive"))
        assert made.run("apply").returncode == 0
        made.sql("alive", "INSERT INTO product VALUES (4, 'work')")
        yield made
    finally:
        end_installations(made.root)
        made.close()


@pytest.fixture(autouse=True)
def _nothing_is_lost(living: World) -> Iterator[None]:
    """After every case the clone answers, with its work."""
    yield
    for path in (living.root / "specs").glob("bad*.yaml"):
        path.unlink()
    assert living.sql("alive", "SELECT count(*) FROM product") == [(4,)]


@pytest.mark.parametrize("group", INVALID)
def test_every_mistake_is_shown_where_it_is_in_one_run_and_nothing_of_the_commit_is_applied(
    group: str, living: World
) -> None:
    for name, (text, _) in INVALID[group].items():
        living.write(f"bad-{name}.yaml", text)
    living.write("bad-innocent.yaml", clone("innocent"))
    result = living.run("apply")
    assert result.returncode == 1
    for name, (_, message) in INVALID[group].items():
        assert re.search(message.replace("FILE", rf"bad-{name}\.yaml"), result.stderr), (name, result.stderr)
    assert result.stdout == "No changes: everything is as the specs ask for.\n"
    assert living.generations("innocent") == {}


def test_symlink_is_refused(living: World) -> None:
    (living.root / "specs" / "bad.yaml").symlink_to("/etc/hostname")
    result = living.run("apply")
    assert result.returncode == 1
    assert re.search(r"bad\.yaml.*symlink|symbolic link", result.stderr), result.stderr


def test_sources_that_cannot_be_built_stall_their_image_alone(living: World) -> None:
    dumps = living.root / "specs" / "dumps"
    dumps.mkdir(exist_ok=True)
    (dumps / "truncated.sql").write_text("CREATE TABLE t (a int);\nCOPY t (a) FROM stdin;\n1\n2\n")
    (dumps / "mysql.sql").write_text("-- MySQL dump 10.13\nCREATE TABLE `t` (`a` int) ENGINE=InnoDB;\n")
    (dumps / "wrong.sql").write_text("CREATE TABLE t (a int);\nINSERT INTO missing VALUES (1);\nSELECT 1;\n")
    (dumps / "escape.sql").write_text("CREATE TABLE t (a int);\n\\! touch /tmp/escaped\n")
    dumped = {
        name: image(name, source={"dump": {"path": f"dumps/{name}.sql"}}, scripts=[], unmasked={"reason": "test"})
        for name in ("truncated", "mysql", "wrong", "escape")
    }
    old = image("old", version="9")
    masked = image("masked", masking=["pii"])
    policy = "apiVersion: reconciler/v1\nkind: MaskingPolicy\nmetadata: {name: pii}\nspec:\n  key: {secret: k}\n"
    policy += "  rules: [{table: public.product, columns: {id: keep, name: keep}}]\n"
    living.write("bad.yaml", *dumped.values(), old, masked, policy)
    result = living.run("apply")
    assert result.returncode == 1
    told = result.stderr
    assert re.search(r"Image/truncated.*(ends|end).*COPY", told), told
    assert re.search(r"Image/mysql.*(MySQL|MariaDB)", told), told
    assert re.search(r"Image/wrong.*[: ]dumps/wrong\.sql:2.*missing", told), told
    assert re.search(r"Image/escape.*[: ]dumps/escape\.sql:2.*\\!", told), told
    assert str(living.state) not in told
    assert re.search(r"Image/old.*PostgreSQL 9", told), told
    assert re.search(r"Image/masked.*no secret k on this host", told), told
    status = json.loads(living.run("status", "-o", "json").stdout)
    ready = {one["name"]: _ready(one["conditions"]) for one in status["images"]}
    assert ready == dict.fromkeys((*dumped, "old", "masked"), "False") | {"shop": "True"}
    assert all(not one["snapshots"] for one in status["images"] if one["name"] != "shop")


def test_port_in_use_stalls_the_clone_and_is_named(living: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        living.write("bad.yaml", clone("unlucky", port=port))
        result = living.run("apply")
    assert result.returncode == 1
    assert re.search(rf"Clone/unlucky.*{port}", result.stderr), result.stderr
    (living.root / "specs" / "bad.yaml").unlink()
    living.run("apply")


def test_repository_that_is_not_reachable_leaves_the_last_good_commit_in_force(world: World) -> None:
    specs = world.root / "specs"
    world.write("shop.yaml", image("shop"), clone("dev"))
    for words in (["init", "-q", "-b", "main"], ["add", "."], _commit("Begin")):
        subprocess.run(["git", "-C", specs, *words], check=True)
    world.repository = {"url": "./specs"}
    world.configure()
    assert world.run("apply").returncode == 0
    specs.rename(world.root / "moved")
    world.kill_server("dev")
    result = world.run("apply")
    assert result.returncode == 1
    assert "start dev" in result.stdout
    assert re.search(
        r"warning: .*(not|cannot|unreachable).*main@sha1:[0-9a-f]{40} stays in force", result.stderr, re.DOTALL
    )
    assert world.sql("dev", "SELECT count(*) FROM product") == [(3,)]


@pytest.mark.root
def test_pool_that_is_full_refuses_with_figures(loop_mounts: LoopMounts) -> None:
    mount = loop_mounts.make("full", 220, "mkfs.ext4", "-q")
    world = new_world(pool={"path": str(mount / "pool")})
    try:
        world.write("shop.yaml", image("shop"))
        assert world.run("apply").returncode == 0
        world.write("clones.yaml", *(clone(f"dev{number}") for number in range(5)))
        result = world.run("apply")
        assert result.returncode == 1
        assert re.search(r"dev\d.*needs .*(MiB|GiB).*free", result.stderr), result.stderr
        assert world.snapshots()
        assert "PANIC" not in result.stderr
    finally:
        end_installations(world.root)
        world.close()


def _ready(conditions: list[dict[str, str]]) -> str:
    return next(condition["status"] for condition in conditions if condition["type"] == "Ready")


def _commit(message: str) -> list[str]:
    return ["-c", "user.name=tester", "-c", "user.email=tester@example.com", "commit", "-qm", message]
