"""A dump of a production that has everything in it that could reach out of a clone."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.base import UserWish
from reconciler.state.servers import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.state.observed import SnapshotManifest
    from tests.engines.mysql.conftest import MariaDbHarness

DUMP = r"""/*M!999999\- enable the sandbox mode */
-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: db.example    Database: shop
-- ------------------------------------------------------
/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET NAMES utf8mb4 */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
CHANGE MASTER TO MASTER_LOG_FILE='db-bin.000042', MASTER_LOG_POS=4711;
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `shop` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `shop`;
DROP TABLE IF EXISTS `customer`;
CREATE TABLE `customer` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `name` varchar(50) NOT NULL,
  `upper_name` varchar(50) GENERATED ALWAYS AS (upper(`name`)) STORED,
  `data` longtext CHECK (json_valid(`data`)),
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4;
LOCK TABLES `customer` WRITE;
/*!40000 ALTER TABLE `customer` DISABLE KEYS */;
INSERT INTO `customer` (`id`, `name`, `data`) VALUES (1,'Zoë; \'O\\Neil\' -- x','{\"a\": 1}'),(2,'日本',NULL);
/*!40000 ALTER TABLE `customer` ENABLE KEYS */;
UNLOCK TABLES;
CREATE TABLE `old` (`a` int, `b` varchar(10)) ENGINE=MyISAM DEFAULT CHARSET=latin1;
INSERT INTO `old` VALUES (1,'café');
CREATE TABLE `log` (`a` int) ENGINE=Aria
PARTITION BY RANGE (`a`) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE);
INSERT INTO `log` VALUES (1),(20);
CREATE TABLE `remote` (`a` int) ENGINE=FEDERATED CONNECTION='mysql://repl:hunter2@db.example/shop/remote';
/*!50003 SET sql_mode = 'STRICT_TRANS_TABLES' */ ;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 TRIGGER t BEFORE INSERT ON customer FOR EACH ROW
BEGIN SET NEW.name = trim(NEW.name); END */;;
DELIMITER ;
DELIMITER ;;
/*!50106 CREATE*/ /*!50117 DEFINER=`root`@`%`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 SECOND DO
DELETE FROM customer */ ;;
DELIMITER ;
DELIMITER ;;
CREATE DEFINER=`root`@`localhost` PROCEDURE `who`()
BEGIN SELECT current_user(); END ;;
DELIMITER ;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`app`@`10.%` SQL SECURITY DEFINER */
/*!50001 VIEW `names` AS select `name` from `customer` */;
CREATE USER `app`@`10.%` IDENTIFIED BY PASSWORD '*14E65567ABDB5135D0CFD9A70B3032C179A49EE7';
GRANT ALL PRIVILEGES ON *.* TO `app`@`10.%`;
INSTALL SONAME 'ha_federatedx';
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `mysql` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `mysql`;
INSERT INTO `servers` VALUES ('s','db.example','shop','repl','hunter2',3306,'','mysql','root');
DROP TABLE IF EXISTS `global_priv`;
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `depot` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `depot`;
CREATE TABLE `shelf` (`a` int);
USE `shop`;
/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
-- Dump completed on 2026-11-20  3:00:00
"""

MORE = r"""CREATE USER root@`%`;
GRANT ALL ON *.* TO root@`%`;
USE shop;
CREATE SEQUENCE numbers START WITH 100 INCREMENT BY 5;
SELECT NEXTVAL(numbers);
CREATE TABLE kinds (
  id bigint unsigned NOT NULL, bits bit(9), raw varbinary(20), exact decimal(20,6), at timestamp(6) NULL, day date,
  mood enum('good','bad'), tags set('a','b'), place point, doubled int GENERATED ALWAYS AS (id * 2) VIRTUAL,
  text_latin varchar(20) CHARACTER SET latin1, PRIMARY KEY (id), KEY by_day (day)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
SET time_zone = '+00:00';
INSERT INTO kinds (id, bits, raw, exact, at, day, mood, tags, place, text_latin) VALUES
  (18446744073709551615 DIV 2, b'101010101', x'00ff275c0a0d1a', 1.000001, '2026-03-29 01:30:00.000001', '0000-00-00',
   'good', 'a,b', ST_GeomFromText('POINT(1 2)'), 'café'),
  (2, NULL, '', -0.5, NULL, '2026-02-28', 'bad', '', NULL, '');
CREATE TABLE child (id int PRIMARY KEY, customer int, CONSTRAINT fk FOREIGN KEY (customer) REFERENCES customer (id));
INSERT INTO child VALUES (1, 1);
CREATE TABLE kept (a int) WITH SYSTEM VERSIONING;
INSERT INTO kept VALUES (1);
DELIMITER ;;
CREATE DEFINER=`root`@`%` FUNCTION `plus`(a int) RETURNS int DETERMINISTIC
BEGIN
  DECLARE b int DEFAULT 1;
  SET b = a + b;
  RETURN b;
END ;;
CREATE DEFINER=`root`@`%` VIEW `a_sum` AS SELECT plus(count(*)) AS total FROM names ;;
DELIMITER ;
"""
"""What else a production has: kinds of columns, sequences, foreign keys, history, views over views and functions."""


_FEDERATED = Path("/usr/lib/mysql/plugin/ha_federatedx.so")


def script() -> str:
    """Return what makes a server of production, for the product's client."""
    if not _FEDERATED.exists():
        pytest.skip("needs MariaDB's plugins on this host (package mariadb-server)")
    return DUMP.replace("DROP TABLE IF EXISTS `global_priv`;\n", "") + MORE


_APP = UserWish("app", "owner", "of the clone")
Answers = dict[str, list[tuple[Any, ...]]]
HELD: Answers = {
    "SELECT id, name, upper_name FROM customer ORDER BY id": [
        (1, "Zoë; 'O\\Neil' -- x", "ZOË; 'O\\NEIL' -- X"),
        (2, "日本", "日本"),
    ],
    "SELECT b FROM old": [("café",)],
    "SELECT engine FROM information_schema.tables WHERE table_name IN ('old', 'log') ORDER BY 1": [
        ("Aria",),
        ("MyISAM",),
    ],
    "SELECT sum(a) FROM log PARTITION (p1)": [(20,)],
    "SELECT total FROM a_sum": [(3,)],
    "SELECT id, doubled FROM kinds WHERE mood = 'bad'": [(2, 4)],
    (
        "SELECT id, hex(bits), hex(raw), cast(exact AS char), cast(day AS char), tags, ST_AsText(place), text_latin"
        " FROM kinds WHERE mood = 'good'"
    ): [(9223372036854775807, "155", "00FF275C0A0D1A", "1.000001", "0000-00-00", "a,b", "POINT(1 2)", "café")],
    "SELECT unix_timestamp(at) FROM kinds WHERE mood = 'good'": [(Decimal("1774747800.000001"),)],
    "SELECT count(*) FROM kept FOR SYSTEM_TIME ALL": [(1,)],
    "SELECT count(*) FROM depot.shelf": [(0,)],
    "SELECT NEXTVAL(numbers) >= 105": [(1,)],
    "SELECT event_name, status FROM information_schema.events": [("e", "DISABLED")],
    "SELECT count(*) FROM information_schema.referential_constraints WHERE constraint_schema = 'shop'": [(1,)],
    "CALL who()": [("reconciler_owner@localhost",)],
    "INSERT INTO customer (name) VALUES (' trimmed ') RETURNING name": [("trimmed",)],
}
"""What a clone of all that :func:`script` makes answers; its code works as well."""


def answers(
    mariadb: MariaDbHarness, directory: Path, snapshot: SnapshotManifest, queries: Iterable[str] = tuple(HELD)
) -> Answers:
    """Return what a clone of a snapshot says, to compare with :data:`HELD`."""
    clone = mariadb.clone_work(directory, snapshot, port=mariadb.free_port())
    endpoint = Endpoint("127.0.0.1", clone.port or 0, "shop", _APP.name)
    with mariadb.serving(mariadb.engine.clone_server(clone)):
        mariadb.engine.deliver(clone, [_APP], [])
        return {query: mariadb.rows(endpoint, _APP.password, query) for query in queries}
