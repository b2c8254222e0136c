"""What is in a database comes to an instance of MariaDB as it is, lives there through swaps, and reaches no other."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from reconciler.engines.base import InstanceReach, UserWish
from reconciler.engines.mysql import server
from reconciler.engines.mysql.instance.front import MariaDbInstances
from reconciler.engines.mysql.instance.marks import Registry
from reconciler.errors import BusyError, PermanentError, SourceError, UnavailableError, UnsupportedError
from reconciler.ids import CloneName, InstallationId, SnapshotId, VolumeId
from reconciler.state.servers import Hosted
from tests.engines.mysql.live import instance
from tests.support import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reconciler.engines.base import CloneWork, Instance
    from tests.engines.mysql.conftest import MariaDbHarness
    from tests.engines.mysql.live import Production

SHOP = """
CREATE TABLE parent (
    id int PRIMARY KEY, f float, b varbinary(10), e enum('a', 'b'), doubled int AS (id * 2) STORED,
    next int AS (id + 1) VIRTUAL, t text, j json, u uuid, at timestamp(6) NULL, FULLTEXT (t)
);
INSERT INTO parent (id, f, b, e, t, j, u, at) VALUES
    (1, 0.1234567, x'00ff27', 'b', 'one word', '{"a": 1}', uuid(), '2020-06-01 12:00:00.123456'),
    (2, NULL, '', 'a', 'more of it', NULL, NULL, NULL);
CREATE TABLE child (id int AUTO_INCREMENT PRIMARY KEY, parent int, said varchar(20),
    FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE);
CREATE TABLE part (id int, name varchar(20)) PARTITION BY HASH (id) PARTITIONS 3;
INSERT INTO part VALUES (1, 'one'), (2, 'two'), (3, 'three');
CREATE TABLE old (a int) ENGINE=MyISAM;
INSERT INTO old VALUES (7);
CREATE TABLE older (a int) ENGINE=Aria;
INSERT INTO older VALUES (8);
CREATE TABLE packed (a int, t text) ROW_FORMAT=COMPRESSED;
INSERT INTO packed VALUES (9, repeat('x', 5000));
CREATE TABLE `odd name` (`odd column` int);
INSERT INTO `odd name` VALUES (1);
CREATE SEQUENCE numbers START WITH 5;
SELECT NEXTVAL(numbers);
CREATE TABLE kept (a int) WITH SYSTEM VERSIONING;
INSERT INTO kept VALUES (1);
UPDATE kept SET a = 2;
CREATE FUNCTION total() RETURNS int READS SQL DATA RETURN (SELECT count(*) FROM parent);
CREATE TRIGGER second BEFORE INSERT ON shop.child FOR EACH ROW SET NEW.said = concat(NEW.said, '-first');
CREATE TRIGGER third BEFORE INSERT ON child FOR EACH ROW SET NEW.said = concat(NEW.said, '-second');
CREATE VIEW below AS SELECT id, total() AS total FROM parent;
CREATE VIEW above AS SELECT * FROM below;
CREATE EVENT daily ON SCHEDULE EVERY 1 DAY DO DELETE FROM parent;
DELIMITER //
CREATE PROCEDURE add_child(IN wanted int)
BEGIN
    INSERT INTO child (parent, said) VALUES (wanted, 'said');
END//
DELIMITER ;
CALL add_child(1);
"""
TABLES = ("parent", "child", "part", "old", "older", "packed", "odd name")
NUMBERED = (
    "(a int, b bigint unsigned GENERATED ALWAYS AS ROW START, e bigint unsigned GENERATED ALWAYS AS ROW END,"
    " PERIOD FOR SYSTEM_TIME (b, e)) WITH SYSTEM VERSIONING ENGINE=InnoDB"
)
"""A table whose history is told by numbers of transactions."""
PASTS = (
    f"CREATE TABLE shop.emptied {NUMBERED}; INSERT INTO shop.emptied (a) VALUES (1); DELETE FROM shop.emptied;"
    f" DELETE HISTORY FROM shop.emptied; CREATE TABLE shop.lived {NUMBERED};"
    " INSERT INTO shop.lived (a) VALUES (1); UPDATE shop.lived SET a = 2"
)
FEWEST_RIGHTS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES,"
    " EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, TRIGGER, DELETE HISTORY, SHOW DATABASES,"
    " CREATE USER, PROCESS, CONNECTION ADMIN ON *.* WITH GRANT OPTION"
)
"""As docs/instances.md has them."""
_OURS = InstallationId("0123456789abcdef")
_SOMEBODY = 12345
_APP = UserWish("app", "owner", "correct horse")


class Place:
    """An instance, and the host whose snapshots go there."""

    def __init__(self, host: MariaDbHarness, live: Production, data_directory: Path | None = None) -> None:
        self.host, self.live, self.data_directory = host, live, data_directory
        self._number = 0

    def instance(self, installation: InstallationId = _OURS, **more: Any) -> Instance:  # noqa: ANN401 - of the URL
        reach = InstanceReach(
            name="shared",
            installation=installation,
            secret="dsn",
            url=lambda: self.live.url(**more),
            connections=20,
            data_directory=self.data_directory,
        )
        return MariaDbInstances().at(reach)

    def snapshot(self, *scripts: str) -> CloneWork:
        """Build a snapshot."""
        work = self.host.build_work()
        return self.host.clone_work(work.directory, self.host.build(work, *scripts), port=None)

    def load(self, work: CloneWork, target: Instance | None = None) -> None:
        with self.host.serving(self.host.engine.clone_server(work)):
            (target or self.instance()).load(work, jobs=2, progress=lambda _text: None)

    def hosted(self, work: CloneWork, clone: str = "", generation: int = 1) -> Hosted:
        self._number += not clone
        name = clone or f"dev{self._number}"
        return Hosted(
            volume=VolumeId(f"{name}.{generation}"),
            clone=CloneName(name),
            snapshot=work.snapshot.snapshot,
            databases=work.snapshot.databases,
        )

    def delivered(self, work: CloneWork, target: Instance | None = None) -> Hosted:
        """Have a clone with the user ``app``."""
        hosted, target = self.hosted(work), target or self.instance()
        target.create(hosted)
        target.serve(hosted)
        target.deliver(hosted, [_APP], [])
        return hosted

    def reset(self, hosted: Hosted) -> Hosted:
        """Put the next generation in its place."""
        name, _, number = hosted.volume.rpartition(".")
        after = replace(hosted, volume=VolumeId(f"{name}.{int(number) + 1}"))
        self.instance().create(after)
        self.instance().serve(after)
        return after

    def connect(self, database: str, user: str = "app") -> pymysql.Connection[Any]:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.live.port or 0,
            user=f"{database.split('_', maxsplit=1)[0]}_{user}",
            password=_APP.password,
            database=database,
            autocommit=True,
        )

    def rows(self, database: str, *statements: str, user: str = "app") -> list[tuple[Any, ...]]:
        """Run statements as a clone's user; return the rows of the last."""
        with self.connect(database, user) as link, link.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def checksums(self, database: str) -> list[int]:
        names = ", ".join(f"`{database}`.`{name}`" for name in TABLES)
        return [row[1] for row in self.live.sql(f"CHECKSUM TABLE {names} EXTENDED")]


def named(work: CloneWork, image: str) -> CloneWork:
    """Return a snapshot as one of another image."""
    return replace(work, snapshot=replace(work.snapshot, snapshot=SnapshotId(f"{image}-20261122t020000z-1a2b3c4d")))


@pytest.fixture(scope="module")
def place(mariadb: MariaDbHarness) -> Iterator[Place]:
    with instance("SET GLOBAL log_bin_trust_function_creators = 1") as live:
        yield Place(mariadb, live)


@pytest.fixture(scope="module")
def shop(place: Place) -> CloneWork:
    """Have a snapshot with all kinds of things loaded."""
    work = place.snapshot("CREATE DATABASE shop", SHOP)
    place.load(work)
    return work


def test_everything_comes_as_it_is(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    with place.host.serving(place.host.engine.clone_server(shop)), server.connect(shop) as own:
        names = ", ".join(f"shop.`{name}`" for name in TABLES)
        expected = [row[1] for row in own.rows(f"CHECKSUM TABLE {names} EXTENDED")]
        history = own.rows("SELECT a, row_start, row_end FROM shop.kept FOR SYSTEM_TIME ALL ORDER BY row_start")
    assert place.checksums(hosted.clone) == expected
    rows = place.rows(hosted.clone, "SELECT a, row_start, row_end FROM kept FOR SYSTEM_TIME ALL ORDER BY row_start")
    assert [row[0] for row in rows] == [row[0] for row in history] == [1, 2]


def test_code_does_what_it_did_in_the_database_of_its_clone(place: Place, shop: CloneWork) -> None:
    hosted, other = place.delivered(shop), place.delivered(shop)
    assert place.rows(hosted.clone, "CALL add_child(2)", "SELECT said FROM child ORDER BY id") == [
        ("said-first-second",),
        ("said-first-second",),
    ]
    assert place.rows(hosted.clone, "SELECT DISTINCT total FROM above") == [(2,)]
    assert place.rows(hosted.clone, "SELECT NEXTVAL(numbers)")[0][0] > 5
    assert place.rows(hosted.clone, "SELECT id FROM parent WHERE MATCH (t) AGAINST ('word')") == [(1,)]
    assert place.rows(hosted.clone, "DELETE FROM parent WHERE id = 1", "SELECT parent FROM child") == [(2,)]
    assert place.rows(other.clone, "SELECT parent FROM child") == [(1,)]
    with pytest.raises(pymysql.err.IntegrityError):
        place.rows(hosted.clone, "INSERT INTO child (parent) VALUES (77)")


def test_a_generation_that_comes_back_is_as_its_users_left_it(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    place.rows(
        hosted.clone,
        "CREATE TABLE gone (a int)",
        "CREATE VIEW broken AS SELECT a FROM gone",
        "CREATE VIEW mine AS SELECT total() AS n",
        "CREATE FUNCTION own() RETURNS int RETURN 42",
        "CREATE TRIGGER fourth BEFORE INSERT ON child FOR EACH ROW SET NEW.said = concat(NEW.said, '-own')",
        "CREATE TEMPORARY TABLE passing (a int)",
        "ALTER TABLE parent ADD COLUMN more int DEFAULT 5",
        "INSERT INTO child (parent, said) VALUES (2, 'x')",
        "DROP TABLE gone",
    )
    before = place.checksums(hosted.clone)
    after = place.reset(hosted)
    assert place.rows(hosted.clone, "SELECT count(*) FROM child") == [(1,)]
    place.reset(after)
    place.instance().serve(hosted)
    assert place.checksums(hosted.clone) == before
    assert place.rows(hosted.clone, "SELECT n, own(), (SELECT min(more) FROM parent) FROM mine") == [(2, 42, 5)]
    said = place.rows(hosted.clone, "INSERT INTO child (parent, said) VALUES (2, 'y')", "SELECT max(said) FROM child")
    assert said == [("y-first-second-own",)]
    place.rows(hosted.clone, "CREATE TABLE gone (a int)")
    place.reset(hosted)
    place.instance().serve(hosted)
    assert place.rows(hosted.clone, "SELECT count(*) FROM broken") == [(0,)]


@pytest.mark.long
def test_all_databases_of_a_snapshot_are_there_under_names_of_the_clone(place: Place) -> None:
    work = place.snapshot("CREATE DATABASE shop; CREATE DATABASE `stock_of_all`; CREATE TABLE stock_of_all.s (a int)")
    work = named(work, "two")
    place.load(work)
    hosted = place.delivered(work)
    assert place.rows(f"{hosted.clone}_stock_of_all", "SELECT count(*) FROM s") == [(0,)]
    assert {row[0] for row in place.rows(f"{hosted.clone}_shop", "SHOW DATABASES")} == {
        f"{hosted.clone}_shop",
        f"{hosted.clone}_stock_of_all",
        "information_schema",
    }
    view = f"CREATE VIEW seen AS SELECT * FROM {hosted.clone}_stock_of_all.above"
    place.rows(f"{hosted.clone}_stock_of_all", "INSERT INTO s VALUES (3)", "CREATE VIEW above AS SELECT * FROM s")
    place.rows(f"{hosted.clone}_shop", view)
    place.reset(hosted)
    place.instance().serve(hosted)
    assert place.rows(f"{hosted.clone}_shop", "SELECT * FROM seen") == [(3,)]
    with pytest.raises(UnsupportedError) as raised:
        place.instance().create(place.hosted(work, "x" * 50))
    assert raised.value.reason == "NameTooLong"


@pytest.mark.long
@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("script", "reason", "told"),
    [
        (
            "CREATE SEQUENCE shop.s; CREATE TABLE shop.t (a bigint DEFAULT NEXTVAL(shop.s))",
            "NamesItsDatabase",
            r"shop\.t\.a is of a sequence",
        ),
        (
            "CREATE DATABASE other; CREATE TABLE other.o (a int); CREATE VIEW shop.v AS SELECT a FROM other.o",
            "LoadFailed",
            r"view shop\.v: .*denied",
        ),
        (
            PASTS,
            "HistoryLost",
            r"history of shop\.lived",
        ),
    ],
)
def test_what_cannot_be_there_is_refused_by_name_and_leaves_nothing(
    place: Place, script: str, reason: str, told: str
) -> None:
    work = place.snapshot(f"CREATE DATABASE shop; {script}")
    work = named(work, "bad")
    before = place.live.sql("SHOW DATABASES"), place.live.sql("SELECT user FROM mysql.user ORDER BY user")
    with pytest.raises((UnsupportedError, SourceError), match=told) as raised:
        place.load(work)
    assert raised.value.reason == reason
    assert before == (place.live.sql("SHOW DATABASES"), place.live.sql("SELECT user FROM mysql.user ORDER BY user"))


def test_a_name_of_a_database_is_nothing_but_a_name(place: Place) -> None:
    odd = "`.* TO chief@localhost IDENTIFIED BY 'p'#"
    quoted = odd.replace("`", "``")
    made = f"CREATE DATABASE shop; CREATE DATABASE `{quoted}`; CREATE TABLE `{quoted}`.t (a int)"
    work = named(place.snapshot(made), "strange")
    place.load(work)
    hosted = place.delivered(work)
    assert place.rows(f"{hosted.clone}_{odd}", "SELECT count(*) FROM t") == [(0,)]
    place.instance().remove(hosted.volume)
    assert place.live.sql("SELECT user FROM mysql.user WHERE user = 'chief'") == []


@pytest.mark.long
def test_statements_are_as_large_as_an_instance_takes_and_a_row_that_is_larger_is_named(place: Place) -> None:
    work = place.snapshot(
        "CREATE DATABASE shop; USE shop;"
        " CREATE TABLE large (t longtext); INSERT INTO large VALUES (repeat('x', 100000));"
        " CREATE TABLE many (t text); INSERT INTO many SELECT repeat('x', 100) FROM seq_1_to_5000"
    )
    work = named(work, "packets")
    try:
        place.live.sql(f"SET GLOBAL max_allowed_packet = {256 << 10}")
        place.load(work)
        assert place.rows(place.delivered(work).clone, "SELECT count(*), min(length(t)) FROM many") == [(5000, 100)]
        place.live.sql(f"SET GLOBAL max_allowed_packet = {64 << 10}")
        with pytest.raises(UnsupportedError, match=r"table shop\.large takes a statement of 100\d\d\d bytes") as raised:
            place.load(work)
        assert raised.value.reason == "RowTooLarge"
    finally:
        place.live.sql("SET GLOBAL max_allowed_packet = DEFAULT")


def test_an_owner_reaches_nothing_but_its_databases_and_our_code_lends_it_no_rights(
    place: Place, shop: CloneWork
) -> None:
    one, two = place.delivered(shop), place.delivered(shop)
    for statement in (
        f"SELECT * FROM `{two.clone}`.parent",
        f"CREATE VIEW pry AS SELECT * FROM `{two.clone}`.parent",
        "SELECT * FROM mysql.global_priv",
        "CREATE DATABASE another",
        "SET GLOBAL event_scheduler = ON",
        "CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO DELETE FROM parent",
        "CREATE USER me",
        "SELECT * INTO OUTFILE '/tmp/pried' FROM parent",
        "CREATE DEFINER=root@localhost FUNCTION f() RETURNS int RETURN 1",
        "SELECT * FROM reconciler_01234567.mark",
    ):
        with pytest.raises(pymysql.err.MySQLError, match=r"denied|SUPER"):
            place.rows(one.clone, statement)
    definers = place.live.sql(
        f"SELECT DISTINCT definer FROM information_schema.views WHERE table_schema = '{one.clone}'"
    )
    assert len(definers) == 1
    ((worker,),) = definers
    locked = place.live.sql(f"SHOW CREATE USER `{worker.partition('@')[0]}`@`%`")
    assert "ACCOUNT LOCK" in locked[0][0]


def test_an_owner_who_forges_a_mark_gains_nothing(place: Place, shop: CloneWork) -> None:
    one, two = place.delivered(shop), place.delivered(shop)
    comment = "SELECT schema_comment FROM information_schema.schemata WHERE schema_name = '{}'"
    ((template,),) = place.live.sql(
        "SELECT schema_comment FROM information_schema.schemata WHERE schema_name LIKE 'shop-%.template'"
    )
    place.rows(one.clone, f"ALTER DATABASE `{one.clone}` COMMENT '{template}'")
    assert one.volume not in place.instance().served()
    with pytest.raises(PermanentError) as gone:
        place.instance().serve(one)
    assert gone.value.reason == "DatabaseGone"
    place.instance().remove(one.volume)
    assert place.live.sql(comment.format(one.clone)) == [(template,)]
    place.live.sql(f"DROP DATABASE `{one.clone}`")
    assert place.rows(two.clone, "SELECT count(*) FROM parent") == [(2,)]


def test_a_database_that_its_owner_made_anew_is_a_strangers_and_says_so(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    place.rows(hosted.clone, f"DROP DATABASE `{hosted.clone}`", f"CREATE DATABASE `{hosted.clone}`")
    assert hosted.volume not in place.instance().served()
    after = replace(hosted, volume=VolumeId(f"{hosted.clone}.2"))
    place.instance().create(after)
    with pytest.raises(BusyError, match="left alone"):
        place.instance().serve(after)
    place.live.sql(f"DROP DATABASE `{hosted.clone}`")
    place.instance().serve(after)
    assert place.rows(hosted.clone, "SELECT count(*) FROM parent") == [(2,)]


def test_a_login_is_ours_whatever_accounts_of_its_name_others_make(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    login = f"{hosted.clone}_app"
    place.live.sql(f"CREATE USER `{login}`@10.1.1.1")
    with place.connect(hosted.clone) as link:
        place.instance().refuse(hosted.volume)
        with pytest.raises(pymysql.err.MySQLError):
            link.ping(reconnect=False)
    with pytest.raises(pymysql.err.OperationalError, match="locked"):
        place.connect(hosted.clone)
    place.instance().remove(hosted.volume)
    assert place.live.sql(f"SELECT host FROM mysql.user WHERE user = '{login}'") == [("10.1.1.1",)]


def test_a_login_that_lost_its_mark_is_not_forgotten(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    login = f"{hosted.clone}_app"
    place.live.sql(f"ALTER USER `{login}`@`%` WITH MAX_QUERIES_PER_HOUR 5")
    again = replace(hosted, volume=VolumeId(f"{hosted.clone}.2"))
    place.instance().create(again)
    changes: tuple[Callable[[], None], ...] = (
        lambda: place.instance().serve(again),
        lambda: place.instance().refuse(hosted.volume),
        lambda: place.instance().remove(hosted.volume),
        lambda: place.instance().rename(hosted.clone, CloneName(f"new{hosted.clone}")),
        lambda: place.instance().deliver(hosted, [], ["app"]),
    )
    for change in changes:
        with pytest.raises(BusyError, match="left alone") as raised:
            change()
        assert raised.value.reason == "NameTaken"
    assert place.rows(hosted.clone, "SELECT count(*) FROM parent") == [(2,)]
    place.live.sql(f"DROP USER `{login}`@`%`")
    place.instance().serve(again)
    place.instance().deliver(again, [_APP], [])
    assert place.rows(hosted.clone, "SELECT count(*) FROM parent") == [(2,)]


def test_an_owner_who_becomes_a_reader_writes_no_more_and_keeps_what_it_made(place: Place, shop: CloneWork) -> None:
    hosted, reader = place.delivered(shop), replace(_APP, role="readonly")
    made = "CREATE VIEW mine AS SELECT total() AS n"
    with place.connect(hosted.clone) as link, link.cursor() as cursor:
        cursor.execute(made)
        place.instance().deliver(hosted, [reader], [])
        with pytest.raises(pymysql.err.OperationalError):
            cursor.execute("INSERT INTO child (parent, said) VALUES (2, 'more')")
    assert place.rows(hosted.clone, "SELECT n FROM mine") == [(2,)]
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        place.rows(hosted.clone, "INSERT INTO child (parent, said) VALUES (2, 'more')")
    with place.connect(hosted.clone) as link:
        place.instance().deliver(hosted, [reader], [])
        link.ping(reconnect=False)


def test_rights_from_before_reach_no_database_of_ours(place: Place, shop: CloneWork) -> None:
    made = "CREATE DATABASE granted; CREATE TABLE granted.t (a int); CREATE PROCEDURE granted.p() SELECT 1"
    place.live.sql(*made.split("; "), "CREATE ROLE others", "CREATE USER other@'10.%'")
    hosted = place.hosted(shop, "granted")
    for right, who in (
        (r"ALL ON `gra_ted`.*", "other@'10.%'"),
        ("SELECT ON `granted%`.*", "others"),
        ("SELECT ON granted.t", "other@'10.%'"),
        ("UPDATE (a) ON granted.t", "other@'10.%'"),
        ("EXECUTE ON PROCEDURE granted.p", "others"),
    ):
        place.live.sql(f"GRANT {right} TO {who}")
        with pytest.raises(BusyError, match="gives `other") as raised:
            place.instance().create(hosted)
        assert raised.value.reason == "NameGranted"
        place.live.sql(f"REVOKE {right} FROM {who}")
    place.live.sql("DROP DATABASE granted", "GRANT SELECT ON `%`.* TO other@'10.%'")
    place.instance().create(hosted)
    place.instance().serve(hosted)
    place.instance().deliver(hosted, [_APP], [])
    after = replace(hosted, volume=VolumeId("granted.2"))
    place.instance().create(after)
    place.live.sql("GRANT SELECT ON granted.* TO other@'10.%'")
    place.instance().serve(hosted)
    with pytest.raises(BusyError):
        place.instance().serve(after)
    assert place.rows(hosted.clone, "SELECT count(*) FROM parent") == [(2,)]


def test_a_rename_that_cannot_be_done_changes_nothing(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    new = CloneName(f"new{hosted.clone}")
    for taken, freed in (
        (f"CREATE USER `{new}_app`@10.1.1.1", f"DROP USER `{new}_app`@10.1.1.1"),
        (f"CREATE DATABASE `{new}`", f"DROP DATABASE `{new}`"),
    ):
        place.live.sql(taken)
        with place.connect(hosted.clone) as link:
            with pytest.raises(BusyError) as raised:
                place.instance().rename(hosted.clone, new)
            assert raised.value.reason == "NameTaken"
            link.ping(reconnect=False)
        place.live.sql(freed)
    place.instance().rename(hosted.clone, new)
    assert place.rows(new, "SELECT count(*) FROM parent") == [(2,)]


def test_sessions_of_an_account_with_a_similar_name_are_not_ours(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    other = f"{hosted.clone}_APP"
    place.live.sql(f"CREATE USER `{other}`@`%` IDENTIFIED BY '{_APP.password}'")
    with pymysql.connect(host="127.0.0.1", port=place.live.port or 0, user=other, password=_APP.password) as link:
        assert place.instance().activity(hosted.volume).connections == 0
        place.instance().refuse(hosted.volume)
        link.ping(reconnect=False)


def test_a_registry_that_was_half_made_is_made_whole(place: Place) -> None:
    installation = InstallationId("fedcba9876543210")
    comment = Registry(installation, "").comment()
    place.live.sql(f"CREATE DATABASE reconciler_fedcba98 COMMENT '{comment}'")
    assert (place.instance(installation).served(), place.instance(installation).templates()) == (frozenset(), ())
    place.instance(installation).remove(VolumeId("nobody.1"))
    assert place.live.sql("SELECT count(*) FROM reconciler_fedcba98.mark") == [(0,)]


def test_a_registry_is_made_by_several_at_once(place: Place) -> None:
    target = place.instance(InstallationId("9876543210fedcba"))
    snapshots = [SnapshotId(f"shop-20261122t020000z-1a2b3c4{number}") for number in range(4)]
    waiting = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'CREATE DATABASE%'"
    with place.live.connect() as link, link.cursor() as cursor, ThreadPoolExecutor(len(snapshots)) as pool:
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        done = pool.map(target.unload, snapshots)
        try:
            until(lambda: place.live.sql(waiting) == [(len(snapshots),)])
        finally:
            cursor.execute("UNLOCK TABLES")
        assert list(done) == [None] * len(snapshots)
    assert place.live.sql("SELECT count(*) FROM reconciler_98765432.mark") == [(0,)]


def test_a_session_that_does_not_let_go_of_what_it_holds_is_ended(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    link = place.connect(hosted.clone)
    with contextlib.closing(link), link.cursor() as cursor:
        cursor.execute("LOCK TABLES parent WRITE")
        place.reset(hosted)
        with pytest.raises(pymysql.err.MySQLError):
            cursor.execute("SELECT 1 FROM parent")
    assert place.rows(hosted.clone, "SELECT count(*) FROM parent") == [(2,)]


def test_activity_is_of_the_clones_own_users(place: Place, shop: CloneWork) -> None:
    hosted, other = place.delivered(shop), place.delivered(shop)
    with contextlib.closing(place.connect(hosted.clone)):
        assert place.instance().activity(hosted.volume).connections == 1
        assert place.instance().activity(other.volume).connections == 0
    assert place.instance().activity(VolumeId("nobody.1")).connections == 0


def test_logins_have_a_limit_of_sessions(place: Place, shop: CloneWork) -> None:
    hosted = place.delivered(shop)
    found = place.live.sql(f"SELECT max_user_connections FROM mysql.user WHERE user = '{hosted.clone}_app'")
    assert found == [(20,)]


@pytest.mark.long
def test_the_rights_that_the_page_names_are_enough(place: Place) -> None:
    place.live.let_in(FEWEST_RIGHTS, user="keeper")
    keeper = place.instance(user="keeper")
    work = place.snapshot("CREATE DATABASE shop", SHOP)
    work = named(work, "few")
    place.load(work, keeper)
    hosted = place.delivered(work, keeper)
    assert place.rows(hosted.clone, "SELECT count(*) FROM above") == [(2,)]
    keeper.rename(hosted.clone, CloneName(f"new{hosted.clone}"))
    assert place.rows(f"new{hosted.clone}", "SELECT count(*) FROM above") == [(2,)]
    keeper.remove(hosted.volume)
    keeper.unload(work.snapshot.snapshot)
    assert not place.live.sql("SHOW DATABASES LIKE 'few-%'")


def test_an_instance_that_does_not_let_us_in_says_so_without_the_password(place: Place, shop: CloneWork) -> None:
    with pytest.raises(UnavailableError, match="the instance shared cannot be reached") as raised:
        place.instance(password="hunter2").check(shop.snapshot)
    assert "hunter2" not in str(raised.value)
    assert raised.value.reason == "InstanceUnavailable"


def test_a_snapshot_that_is_newer_or_names_tables_otherwise_is_refused(place: Place, shop: CloneWork) -> None:
    newer = replace(shop.snapshot, major="99.1")
    other = replace(shop.snapshot, facts={**shop.snapshot.facts, "lower_case_table_names": "1"})
    for snapshot, reason in ((newer, "InstanceTooOld"), (other, "NamesDiffer")):
        with pytest.raises(UnsupportedError) as raised:
            place.instance().check(snapshot)
        assert raised.value.reason == reason


@pytest.mark.long
def test_code_that_an_instance_with_a_binary_log_refuses_says_what_to_set(
    mariadb: MariaDbHarness, place: Place
) -> None:
    work = place.snapshot("CREATE DATABASE shop", SHOP)
    with instance() as live:
        there = Place(mariadb, live)
        with pytest.raises(UnsupportedError) as raised:
            there.load(work)
        assert raised.value.reason == "CodeRefused"
        assert "log_bin_trust_function_creators = 1" in str(raised.value.hint)
        assert not live.sql("SHOW DATABASES LIKE 'shop-%'")


@pytest.mark.long
def test_tables_are_copied_as_files_where_these_are_at_hand(mariadb: MariaDbHarness) -> None:
    with instance(options=["--skip-log-bin"]) as live:
        place = Place(mariadb, live, live.data)
        many = "CREATE TABLE many (a int AUTO_INCREMENT PRIMARY KEY); INSERT INTO many SELECT seq FROM seq_1_to_20000;"
        spots = "CREATE TABLE spots (at point NOT NULL, SPATIAL INDEX (at)); INSERT INTO spots VALUES (POINT(1, 2));"
        work = place.snapshot("CREATE DATABASE shop", SHOP + many + spots)
        place.load(work)
        inserted = "SHOW GLOBAL STATUS LIKE 'Handler_write'"
        ((_name, before),) = live.sql(inserted)
        hosted = place.delivered(work)
        ((_name, after),) = live.sql(inserted)
        assert int(after) - int(before) < 20_000
        assert place.checksums(hosted.clone) == place.checksums(f"{work.snapshot.snapshot}.template")
        place.rows(hosted.clone, "INSERT INTO many VALUES ()", "DELETE FROM parent WHERE id = 1")
        assert place.rows(hosted.clone, "SELECT max(a), count(*) FROM many") == [(20_001, 20_001)]
        assert place.rows(hosted.clone, "SELECT count(*) FROM child") == [(0,)]
        checked = live.sql(f"USE `{hosted.clone}`", "CHECK TABLE many, parent, packed, kept, spots EXTENDED")
        assert {row[3] for row in checked} == {"OK"}
        assert list((live.data / hosted.clone).glob("*.cfg")) == []
        place.data_directory = live.root
        with pytest.raises(UnsupportedError) as raised:
            place.instance().create(place.hosted(work))
        assert raised.value.reason == "DataDirectoryDiffers"


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="takes two accounts")
def test_files_are_not_put_where_the_instance_could_not_write_to_them(mariadb: MariaDbHarness) -> None:
    open_to_all = {"UMASK": "0666", "UMASK_DIR": "0777"}
    with instance(options=["--skip-log-bin"], environment=open_to_all) as live:
        live.data.chmod(0o777)
        place = Place(mariadb, live, live.data)
        work = place.snapshot("CREATE DATABASE shop; CREATE TABLE shop.t (a int) ENGINE=InnoDB")
        place.load(work)
        os.seteuid(_SOMEBODY)
        try:
            with pytest.raises(UnsupportedError, match="of another account than ours") as raised:
                place.instance().create(place.hosted(work))
        finally:
            os.seteuid(0)
        assert raised.value.reason == "DataDirectoryDiffers"
        assert place.delivered(work).clone in {row[0] for row in live.sql("SHOW DATABASES")}


def test_an_instance_that_writes_a_binary_log_copies_rows_which_others_can_follow(
    place: Place, shop: CloneWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "data_directory", place.live.data)
    altered = "SHOW GLOBAL STATUS LIKE 'Com_alter_table'"
    before = place.live.sql(altered)
    hosted = place.delivered(shop)
    assert place.live.sql(altered) == before
    assert place.rows(hosted.clone, "SELECT count(*) FROM parent") == [(2,)]
