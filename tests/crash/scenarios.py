"""What is killed at every side effect: for each change of the world, what is there before and what must be after."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pymysql

from reconciler.state.observed import MirrorPhase, RawManifest, SnapshotManifest
from tests.containers import contained, container_daemon, host_major
from tests.crash.production import production
from tests.followed.primary import CHAIN, archived, archiving, primary
from tests.followed.world import caught_up, follow, mirror_of, newest, source_of
from tests.support import clone, document, image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.containers import ContainerDaemon
    from tests.followed.primary import Primary
    from tests.support import World

    Step = Callable[[World], object]
    Request = tuple[Any, str]

PRODUCTION = [("Product 1",), ("Product 2",), ("Product 3",)]
WORK = [*PRODUCTION, ("somebody's work",)]
NAMES = "SELECT name FROM product ORDER BY id"


def nothing(_world: World) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Scenario:
    """``prepare`` once; ``change`` before each run; ``requests`` are served by it; ``check`` after it converged."""

    prepare: Step
    change: Step
    check: Step = nothing
    requests: tuple[Request, ...] = ()
    parts: int = 1
    """In how many tests the places are divided, so that workers share them."""
    beyond: tuple[str, ...] = ()
    """Scenarios that do partly the same: what is done at the same point in one of them is killed there only."""
    part: str = ""
    """The part of the program that differs, in which every place counts all the same."""
    unwell: bool = False
    """Whether ``apply`` tells, by its exit code, that something is not as the specs ask for, though nothing failed."""
    root: bool = False
    """Whether it needs root: other accounts, mounts."""
    around: Callable[[World], AbstractContextManager[None]] = lambda _world: nullcontext()
    """What is there all the time, whoever is killed."""


def snapshot_only(world: World) -> None:
    world.write("shop.yaml", image("shop"))
    world.converge()


def working_clone(world: World, **spec: Any) -> None:  # noqa: ANN401 - as YAML
    """A clone in which somebody worked, and another one that nothing may happen to."""
    snapshot_only(world)
    world.write("dev.yaml", clone("dev", **spec))
    world.write("bystander.yaml", clone("bystander"))
    world.converge()
    for name in ("dev", "bystander"):
        leave_work(world, name)


def with_guest(world: World) -> None:
    working_clone(world, users=[{"name": "app", "role": "owner"}, {"name": "guest", "role": "readonly"}])


def leave_work(world: World, name: str) -> None:
    world.sql(name, "INSERT INTO product VALUES (4, 'somebody''s work')")


def two_images(world: World) -> None:
    world.write("other.yaml", image("other"))
    working_clone(world)


def two_snapshots(world: World) -> None:
    working_clone(world)
    write_shop(world, "INSERT INTO product VALUES (5, 'of the new snapshot')", keep=5)
    world.converge()


def reset_before(world: World) -> None:
    working_clone(world)
    world.apply(("reset", "dev")).require()
    world.converge()


def resting_clone(world: World) -> None:
    """A clone that was stopped because nobody used it."""
    working_clone(world, idle="1s")
    while world.current("dev").idle is None:
        time.sleep(0.5)
        world.converge()


def on_btrfs(prepare: Step) -> Step:
    """Prepare the same in a pool that is a btrfs of its own, in a file."""

    def prepare_there(world: World) -> None:
        world.pool = {"driver": "btrfs", "size": "320Mi"}
        world.configure()
        prepare(world)

    return prepare_there


def committed_dump(world: World) -> None:
    """A plain dump in a git repository, whose files are extracted before they can be read."""
    with production() as server:
        server.dump(world.root / "specs" / "shop.sql")
    git(world, "init", "--quiet", "--initial-branch=main")
    world.repository = {"url": "./specs", "interval": "1h"}
    world.configure()


def archive(world: World) -> None:
    with production() as server:
        server.dump(world.root / "specs" / "shop.dump", "--format=custom")


def backup(world: World) -> None:
    world.configure(sources={"roots": ["./backups"]})
    with production() as server:
        server.backup(world.root / "backups" / "shop")


def with_key(world: World) -> None:
    (world.root / "secrets" / "masking-key").write_text("a key for tests")


def write_masked_image(world: World) -> None:
    rules = [{"table": "public.product", "columns": {"id": "keep", "name": {"hash": {"prefix": "p-"}}}}]
    spec = {"key": {"secret": "masking-key"}, "rules": rules}
    world.write("pii.yaml", document("MaskingPolicy", "pii", spec))
    world.write("shop.yaml", image("shop", masking=["pii"]))


def with_file(world: World) -> None:
    """A database file of SQLite, and the key to mask it with."""
    with_key(world)
    world.settings = {"sources": {"roots": [str(world.root / "files")]}}
    world.configure()
    (world.root / "files").mkdir()
    with closing(sqlite3.connect(world.root / "files" / "shop.db", isolation_level=None)) as conn:
        conn.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
        conn.executemany("INSERT INTO product (name) VALUES (?)", [(f"Original Product {n}",) for n in range(50)])


def write_image_of_file(world: World) -> None:
    rules = [{"table": "main.product", "columns": {"id": "keep", "name": "hash"}}]
    world.write("pii.yaml", document("MaskingPolicy", "pii", {"key": {"secret": "masking-key"}, "rules": rules}))
    source = {"files": {"path": str(world.root / "files" / "shop.db")}}
    spec = {"engine": "sqlite", "source": source, "masking": ["pii"]}
    world.write("shop.yaml", document("Image", "shop", spec), clone("dev", users=[]))


def file_masked(world: World) -> None:
    (path,) = (world.pool_path / "volumes").glob("dev.*/data/shop.db")
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*), count(DISTINCT length(name)) FROM product").fetchone() == (50, 1)
    assert b"Original" not in path.read_bytes()


def write_image_of_mariadb(world: World) -> None:
    rules = [{"table": "shop.product", "columns": {"id": "keep", "name": "hash"}}]
    world.write("pii.yaml", document("MaskingPolicy", "pii", {"key": {"secret": "masking-key"}, "rules": rules}))
    sql = "CREATE TABLE product (id int PRIMARY KEY, name varchar(40));"
    sql += "INSERT INTO product SELECT seq, concat('Original Product ', seq) FROM seq_1_to_50;"
    spec = {"engine": "mariadb", "source": {"empty": {}}, "databases": ["shop"], "masking": ["pii"]}
    world.write("shop.yaml", document("Image", "shop", {**spec, "scripts": [{"inline": sql, "database": "shop"}]}))


def stopped_clone_of_mariadb(world: World) -> None:
    """A clone that was delivered on loopback, where its user's account is for every host."""
    shop = {"inline": "CREATE TABLE product (id int)", "database": "shop"}
    spec = {"engine": "mariadb", "source": {"empty": {}}, "databases": ["shop"], "scripts": [shop]}
    world.write("shop.yaml", document("Image", "shop", spec))
    world.write("dev.yaml", clone("dev"))
    world.converge()
    world.write("dev.yaml", clone("dev", state="stopped"))
    world.converge()


def start_published(world: World) -> None:
    ports = f"{world.ports.start}-{world.ports.stop - 1}"
    world.configure(runtimes={"process": {"ports": ports, "host": "0.0.0.0"}})
    world.write("dev.yaml", clone("dev"))


def let_in_by_address(world: World) -> None:
    """The user comes as who may come from this host, with all rights."""
    port, password = world.current("dev").port or 0, world.password("dev")
    connection = pymysql.connect(host="127.0.0.1", port=port, user="app", password=password, database="shop")
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("INSERT INTO product VALUES (1)")
        cursor.execute("SELECT current_user()")
        assert cursor.fetchall() == (("app@127.0.0.0/255.0.0.0",),)


def masked(world: World) -> None:
    """Exactly one snapshot, and no name of a product in any of its files."""
    assert len(world.snapshots()) == 1
    files = [path for path in world.pool_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"Product 1" in path.read_bytes()] == []


def quarantine(world: World) -> None:
    """Ask for it; the commit goes on to ask for the clones."""
    world.request("quarantine", *world.snapshots())


def quarantined(world: World) -> None:
    """Nobody is served any more, the snapshot itself says why, and nothing of what people did is gone."""
    assert world.servers() == set()
    (manifest,) = (v.manifest for v in world.volumes() if isinstance(v.manifest, SnapshotManifest))
    assert manifest.quarantine is not None
    assert [list(world.generations(name)) for name in ("dev", "bystander")] == [[1], [1]]


def git(world: World, *words: str) -> None:
    identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    subprocess.run(["git", "-C", world.root / "specs", *identity, *words], check=True)


def write_image_of(world: World, source: dict[str, Any]) -> None:
    world.write("shop.yaml", image("shop", source=source, scripts=[], unmasked={"reason": "made up"}))


def write_archive_image(world: World) -> None:
    write_image_of(world, {"dump": {"path": "shop.dump"}})


def write_backup_image(world: World) -> None:
    write_image_of(world, {"backup": {"path": str(world.root / "backups" / "shop")}})


def commit_dump_image(world: World) -> None:
    write_image_of(world, {"dump": {"path": "shop.sql"}})
    commit(world)


def commit(world: World) -> None:
    git(world, "add", "--all")
    git(world, "commit", "--quiet", "--message=Ask for more")


def old_snapshot(world: World) -> None:
    """A snapshot that nobody uses, and a newer one with a clone."""
    write_shop(world, keep=5)
    world.converge()
    write_shop(world, "SELECT 1", keep=5)
    world.write("bystander.yaml", clone("bystander"))
    world.converge()
    leave_work(world, "bystander")


def write_shop(world: World, *scripts: str, keep: int) -> None:
    more = [{"inline": script, "database": "shop"} for script in scripts]
    scripts_of_shop = image("shop")["spec"]["scripts"]
    world.write("shop.yaml", image("shop", scripts=[*scripts_of_shop, *more], retention={"keep": keep}))


def change_users(world: World) -> None:
    (world.root / "secrets" / "report").write_text("a-password-from-outside")
    users = [{"name": "app", "role": "owner"}, {"name": "report", "role": "readonly", "password": {"secret": "report"}}]
    world.write("dev.yaml", clone("dev", users=users, owner="payments"))


def write_clone(**spec: Any) -> Step:  # noqa: ANN401 - as YAML
    return lambda world: world.write("dev.yaml", clone("dev", **spec))


def rename(world: World) -> None:
    dev = clone("develop")["spec"]
    world.write("dev.yaml", document("Clone", "develop", {**dev, "image": "store"}, formerly="dev"))
    world.write("bystander.yaml", clone("bystander", image="store"))
    world.write("shop.yaml", document("Image", "store", image("store")["spec"], formerly="shop"))


def bystander_lives(world: World) -> None:
    assert world.sql("bystander", NAMES) == WORK


def work_is_there(world: World) -> None:
    bystander_lives(world)
    assert world.sql("dev", NAMES) == WORK


def fresh(world: World) -> None:
    assert world.sql("dev", NAMES) == PRODUCTION


def with_superuser(world: World) -> None:
    fresh(world)
    assert world.current("dev").account is not None
    assert world.sql("dev", "SHOW is_superuser", user="boss") == [("on",)]


def one_snapshot(world: World) -> None:
    bystander_lives(world)
    assert world.snapshots() == [world.current("bystander").snapshot]


def usable(world: World) -> None:
    """A clone of the image has what the source had."""
    world.write("dev.yaml", clone("dev"))
    if (world.root / "specs" / ".git").exists():
        commit(world)
    world.converge()
    fresh(world)


def users_changed(world: World) -> None:
    work_is_there(world)
    with world.host() as host:
        assert host.state.credentials.users(world.current("dev").clone) == {"app"}
    password = "a-password-from-outside"
    assert world.sql("dev", NAMES, user="report", password=password) == WORK


def replaced(world: World) -> None:
    """The clone is new, and what it was before is one undo away."""
    bystander_lives(world)
    assert ("somebody's work",) not in world.sql("dev", NAMES)
    world.apply(("undo", "dev")).require()
    work_is_there(world)


def replaced_by_commit(world: World) -> None:
    """The clone is of the other image, and reverting the commit brings back what it was before."""
    bystander_lives(world)
    fresh(world)
    world.write("dev.yaml", clone("dev"))
    world.apply().require()
    work_is_there(world)


def recreated(world: World) -> None:
    """The clone is of the new snapshot, and what it was before is one undo away once its document allows it."""
    assert world.sql("dev", NAMES) == [*PRODUCTION, ("of the new snapshot",)]
    world.write("dev.yaml", clone("dev"))
    replaced(world)


def undone(world: World) -> None:
    """The work is back, and so is, one undo away, what was there instead of it."""
    work_is_there(world)
    world.apply(("undo", "dev")).require()
    fresh(world)


def renamed(world: World) -> None:
    bystander_lives(world)
    assert world.sql("develop", NAMES) == WORK


def port_moved(world: World) -> None:
    assert world.current("dev").port == world.ports[30]
    work_is_there(world)


def gone(world: World) -> None:
    bystander_lives(world)
    assert world.generations("dev") == {}


FIRST_ENTRIES = 3
_primaries: dict[Path, Primary] = {}
"""Live primaries of worlds, which no reset of a world touches."""


@contextmanager
def beside_a_primary(world: World) -> Iterator[None]:
    with primary() as made:
        made.sql("ALTER SYSTEM SET wal_keep_size = '1GB'")  # a mirror that is set back needs what it had once
        made.sql("SELECT pg_reload_conf()")
        made.enter(FIRST_ENTRIES)
        _primaries[world.root] = made
        yield


def with_way_in(world: World) -> None:
    (world.root / "secrets" / "dsn").write_text(_primaries[world.root].url)


def following(world: World) -> None:
    with_way_in(world)
    world.write("other.yaml", image("other"))  # the last document of all would not go without being asked
    follow(world, _primaries[world.root])
    world.converge()


def write_followed(world: World) -> None:
    """Ask for an image of the primary, at which nothing is left of runs before."""
    _primaries[world.root].drop_slots()
    follow(world, _primaries[world.root])


def followed(world: World) -> None:
    assert list(_primaries[world.root].slots()) == [mirror_of(world).slot]
    assert mirror_of(world).phase is MirrorPhase.FOLLOWING


def left(world: World) -> None:
    assert _primaries[world.root].slots() == {}
    assert [volume.manifest.image for volume in world.volumes()] == ["other"]


def followed_clone(world: World) -> None:
    """An image that follows, and a clone of its first snapshot."""
    following(world)
    follow(world, _primaries[world.root], retention={"keep": 1})
    world.write("bystander.yaml", clone("bystander"))
    world.converge()


def production_goes_on(world: World) -> None:
    made = _primaries[world.root]
    made.drop_slots(keep=mirror_of(world).slot)
    made.enter(1)
    caught_up(world, made)


def refreshed(world: World) -> None:
    """The newest snapshot has what the primary had; the clone has what it had."""
    made, snapshot = _primaries[world.root], newest(world)
    assert snapshot.data_as_of is not None
    followed(world)
    assert world.sql("bystander", CHAIN)[0][1] == FIRST_ENTRIES
    assert snapshot.snapshot != world.current("bystander").snapshot
    assert made.ledger_at(snapshot.data_as_of)[1] == made.sql(CHAIN)[0][1]


def remove_followed(world: World) -> None:
    _primaries[world.root].drop_slots(keep=mirror_of(world).slot)
    world.remove("shop.yaml")


def on_archive(world: World) -> None:
    """Follow the archive of the primary."""
    made = _primaries[world.root]
    archiving(made)
    world.configure(sources={"roots": [str(made.root)]})
    with_way_in(world)
    follow(world, made, source=source_of(made))
    world.converge()


def archive_more(world: World) -> None:
    for _ in range(2):
        _primaries[world.root].enter()
        archived(_primaries[world.root])


def replayed(world: World) -> None:
    observed = world.look().observed
    assert observed is not None
    (seen,) = observed.mirrors.values()
    assert (seen.following, seen.pending) == (True, 0)
    assert _primaries[world.root].slots() == {}


def with_past(world: World) -> None:
    """A mirror with a raw copy, and entries in its log after that."""
    with_way_in(world)
    world.write("other.yaml", image("other"))
    follow(world, _primaries[world.root], pointInTime=PAST)
    world.converge()
    _primaries[world.root].enter(2)
    caught_up(world, _primaries[world.root])


def write_past(world: World) -> None:
    """Ask for a past, which the mirror is started anew for before a raw copy is kept."""
    follow(world, _primaries[world.root], pointInTime=PAST)


def write_no_past(world: World) -> None:
    follow(world, _primaries[world.root])


def write_moment(world: World) -> None:
    """Ask for the moment of the last entry but one: a clone, and an image with a clone."""
    caught_up(world, _primaries[world.root])
    ((at,),) = _primaries[world.root].sql(
        "SELECT pg_xact_commit_timestamp(xmin) FROM ledger ORDER BY id DESC OFFSET 1 LIMIT 1"
    )
    world.write(
        "then.yaml",
        document("Image", "then", {"engine": "postgres", "source": {"image": "shop"}, "at": at.isoformat()}),
    )
    world.write("dev.yaml", clone("dev", snapshot={"at": at.isoformat()}), clone("trainee", image="then"))


def of_the_moment(world: World) -> None:
    followed(world)
    last = _primaries[world.root].sql("SELECT max(id) FROM ledger")[0][0]
    for name in ("dev", "trainee"):
        assert world.sql(name, "SELECT max(id) FROM ledger") == [(last - 1,)]


def raw_copies(world: World) -> list[RawManifest]:
    return [volume.manifest for volume in world.volumes() if isinstance(volume.manifest, RawManifest)]


def has_past(world: World) -> None:
    """One raw copy that says until when it is, of the mirror that follows, and log is kept for it."""
    followed(world)
    assert [raw.until is not None for raw in raw_copies(world)] == [True]
    assert (world.pool_path / "volumes" / "shop.mirror" / "wal").is_dir()


def has_no_past(world: World) -> None:
    followed(world)
    assert raw_copies(world) == []


_daemons: dict[Path, ContainerDaemon] = {}
"""Daemons of containers of worlds, which outlive whoever is killed."""


@contextmanager
def beside_a_daemon(world: World) -> Iterator[None]:
    with container_daemon() as daemon:
        _daemons[world.root] = daemon
        world.ends.append(daemon.clear)
        try:
            yield
        finally:
            world.end()
            world.ends.clear()


def in_containers(prepare: Step) -> Step:
    """Prepare the same where clones and builds can be in containers."""

    def prepare_there(world: World) -> None:
        world.configure(runtimes=contained(world, _daemons[world.root]))
        prepare(world)

    return prepare_there


def snapshot_of_images_version(world: World) -> None:
    world.write("shop.yaml", image("shop", version=host_major()))
    world.converge()


def clone_in_container(world: World) -> None:
    """A clone in a container in which somebody worked."""
    snapshot_of_images_version(world)
    world.write("dev.yaml", clone("dev", runtime="docker"))
    world.converge()
    leave_work(world, "dev")


def containers(world: World) -> list[str]:
    """Return the clones that containers serve, and whatever else there are containers of."""
    said = '{{.Label "reconciler/clone"}} {{.State}}'
    return _daemons[world.root].docker("ps", "--all", "--format", said).splitlines()


def fresh_in_container(world: World) -> None:
    fresh(world)
    assert containers(world) == ["dev running"]


def replaced_in_container(world: World) -> None:
    fresh_in_container(world)
    world.apply(("undo", "dev")).require()
    assert world.sql("dev", NAMES) == WORK
    assert containers(world) == ["dev running"]


def gone_from_container(world: World) -> None:
    assert world.generations("dev") == {}
    assert containers(world) == []


def build_in_container(world: World) -> None:
    world.write("shop.yaml", image("shop", version=host_major(), runtime="docker"))


def built_in_container(world: World) -> None:
    assert len(world.snapshots()) == 1
    assert containers(world) == []


PAST = {"window": "1d", "every": "1d"}
SUPERUSER = [{"name": "app", "role": "owner"}, {"name": "boss", "role": "superuser"}]
RESET: tuple[Request, ...] = (("reset", "dev"),)


def write_image(world: World) -> None:
    world.write("shop.yaml", image("shop"))


def write_second(world: World) -> None:
    world.write("second.yaml", clone("second", image={"clone": "dev"}))


def started_from_dev(world: World) -> None:
    """The new clone has the work of the other one, where it still is."""
    for name in ("dev", "second"):
        assert world.sql(name, "SELECT count(*) FROM product") == [(4,)]
    bystander_lives(world)


def remove_dev(world: World) -> None:
    world.remove("dev.yaml")


def of_containers(other: str, prepare: Step, change: Step, check: Step, **more: Any) -> Scenario:  # noqa: ANN401 - of Scenario
    """Return what ``other`` does, in containers."""
    return Scenario(
        in_containers(prepare),
        change,
        check,
        beyond=(other,),
        part="runtimes/docker/",
        root=True,
        around=beside_a_daemon,
        **more,
    )


SCENARIOS = {
    "build": Scenario(nothing, write_image, parts=2),
    "clone": Scenario(snapshot_only, write_clone(), fresh),
    "build-dump": Scenario(committed_dump, commit_dump_image, usable, beyond=("build",)),
    "build-archive": Scenario(archive, write_archive_image, usable, beyond=("build", "build-dump")),
    "build-backup": Scenario(backup, write_backup_image, usable, beyond=("build", "build-archive")),
    "build-btrfs": Scenario(on_btrfs(nothing), write_image, beyond=("build",), part="storage/", root=True),
    "build-masked": Scenario(with_key, write_masked_image, masked, parts=2, beyond=("build",)),
    "build-files": Scenario(with_file, write_image_of_file, file_masked, beyond=("build", "build-masked")),
    "follow": Scenario(
        with_way_in, write_followed, followed, parts=2, beyond=("build", "build-backup"), around=beside_a_primary
    ),
    "leave": Scenario(following, remove_followed, left, beyond=("clone",), around=beside_a_primary),
    "replay": Scenario(on_archive, archive_more, replayed, beyond=("follow", "leave"), around=beside_a_primary),
    "refresh": Scenario(
        followed_clone,
        production_goes_on,
        refreshed,
        requests=(("refresh", "shop"),),
        beyond=("build", "follow", "leave"),
        around=beside_a_primary,
    ),
    "moment": Scenario(
        with_past,
        write_moment,
        of_the_moment,
        parts=2,
        beyond=("build", "build-backup", "follow", "clone"),
        around=beside_a_primary,
    ),
    "keep-raw": Scenario(following, write_past, has_past, beyond=("follow", "leave"), around=beside_a_primary),
    "drop-raw": Scenario(with_past, write_no_past, has_no_past, beyond=("leave", "keep-raw"), around=beside_a_primary),
    "clone-btrfs": Scenario(
        on_btrfs(snapshot_only), write_clone(), fresh, beyond=("clone",), part="storage/", root=True
    ),
    "clone-superuser": Scenario(
        snapshot_only, write_clone(users=SUPERUSER), with_superuser, beyond=("clone",), root=True
    ),
    "cut": Scenario(working_clone, write_second, started_from_dev, beyond=("clone", "build")),
    "cut-btrfs": Scenario(
        on_btrfs(working_clone), write_second, started_from_dev, beyond=("cut",), part="storage/", root=True
    ),
    "update": Scenario(with_guest, change_users, users_changed),
    "replace": Scenario(two_images, write_clone(image="other"), replaced_by_commit),
    "recreate": Scenario(
        two_snapshots, write_clone(onRefresh="recreate"), recreated, beyond=("replace",), part="storage/"
    ),
    "reset": Scenario(working_clone, nothing, replaced, requests=RESET),
    "reset-btrfs": Scenario(
        on_btrfs(working_clone), nothing, replaced, requests=RESET, beyond=("reset",), part="storage/", root=True
    ),
    "rebase": Scenario(
        two_snapshots, nothing, recreated, requests=(("rebase", "dev"),), beyond=("reset",), part="storage/"
    ),
    "undo": Scenario(reset_before, nothing, undone, requests=(("undo", "dev"),)),
    "wake": Scenario(resting_clone, write_clone(idle="1h"), work_is_there),
    "restart": Scenario(working_clone, lambda world: write_clone(port=world.ports[30])(world), port_moved),
    "stop": Scenario(working_clone, write_clone(state="stopped"), bystander_lives),
    "rename": Scenario(working_clone, rename, renamed),
    "expire": Scenario(working_clone, write_clone(expires="2020-01-01T00:00:00Z"), gone),
    "delete": Scenario(reset_before, remove_dev, gone),
    "delete-btrfs": Scenario(on_btrfs(reset_before), remove_dev, gone, beyond=("delete",), part="storage/", root=True),
    "delete-image": Scenario(two_images, lambda world: world.remove("other.yaml"), work_is_there),
    "build-container": of_containers("build", nothing, build_in_container, built_in_container),
    "clone-container": of_containers(
        "clone", snapshot_of_images_version, write_clone(runtime="docker"), fresh_in_container
    ),
    "reset-container": of_containers("reset", clone_in_container, nothing, replaced_in_container, requests=RESET),
    "delete-container": of_containers("delete", clone_in_container, remove_dev, gone_from_container),
    "quarantine": Scenario(working_clone, quarantine, quarantined, unwell=True),
    "retention": Scenario(old_snapshot, lambda world: write_shop(world, "SELECT 1", keep=1), one_snapshot),
}
