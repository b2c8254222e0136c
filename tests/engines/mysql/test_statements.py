from __future__ import annotations

import pytest

from reconciler.engines.mysql.failures import safe_message
from reconciler.engines.mysql.statements import Kind, classify, shown, without_definer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"USE `shop`", (Kind.USE, "shop")),
        (b"CREATE DATABASE /*!32312 IF NOT EXISTS*/ `a``b` /*!40100 DEFAULT */", (Kind.CREATE_DATABASE, "a`b")),
        (b"CHANGE MASTER TO MASTER_LOG_FILE='x', MASTER_LOG_POS=4", (Kind.SKIP, "")),
        (b"SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ 'a:1-5'", (Kind.SKIP, "")),
        (b"SET @@SESSION.SQL_LOG_BIN= 0", (Kind.SKIP, "")),
        (b"CREATE USER `app`@`%` IDENTIFIED BY PASSWORD '*A'", (Kind.SKIP, "")),
        (b"/*M!100005 CREATE ROLE x */", (Kind.SKIP, "")),
        (b"GRANT ALL ON *.* TO `app`@`%`", (Kind.SKIP, "")),
        (b"INSTALL SONAME 'ha_federatedx'", (Kind.SKIP, "")),
        (b"CREATE FUNCTION f RETURNS STRING SONAME 'x.so'", (Kind.SKIP, "")),
        (b"CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'h')", (Kind.SKIP, "")),
        (b"/*!40101 SET NAMES utf8mb4 */", (Kind.PLAIN, "")),
        (b"INSERT INTO `t` VALUES ('GRANT ALL')", (Kind.PLAIN, "")),
        (b"CREATE TABLE grants (a int)", (Kind.PLAIN, "")),
    ],
)
def test_statements_of_dumps_are_told_apart(text: bytes, expected: tuple[Kind, str]) -> None:
    assert classify(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"CREATE DEFINER=`root`@`%` PROCEDURE `p`() SELECT 1", b"CREATE  PROCEDURE `p`() SELECT 1"),
        (
            b"/*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`a`@`b.c` SQL SECURITY DEFINER */\n/*!50001 V",
            b"/*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013  SQL SECURITY DEFINER */\n/*!50001 V",
        ),
        (
            b"/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER t",
            b"/*!50003 CREATE*/ /*!50017 */ /*!50003 TRIGGER t",
        ),
        (b"CREATE OR REPLACE DEFINER = app@'10.%' VIEW v AS", b"CREATE OR REPLACE  VIEW v AS"),
        (b"CREATE DEFINER=CURRENT_USER() EVENT e", b"CREATE  EVENT e"),
        (b"CREATE TABLE t (a text DEFAULT 'DEFINER=x@y')", b"CREATE TABLE t (a text DEFAULT 'DEFINER=x@y')"),
        (b"INSERT INTO t VALUES ('CREATE DEFINER=x@y')", b"INSERT INTO t VALUES ('CREATE DEFINER=x@y')"),
    ],
)
def test_definers_of_production_are_left_out(text: bytes, expected: bytes) -> None:
    assert without_definer(text) == expected


def test_statements_are_shown_without_what_may_be_data() -> None:
    assert shown(b"INSERT INTO t VALUES (1, 'alice')") == "INSERT INTO t VALUES …"
    assert "alice" not in shown(b"UPDATE t SET a = 'alice' WHERE b = \"alice\"")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1062, "Duplicate entry 'alice@example.com' for key 'email'"),
        (1366, "Incorrect integer value: 'alice' for column `shop`.`t`.`a` at row 1"),
        (1292, "Truncated incorrect INTEGER value: 'alice's'"),
        (1644, "alice said 'no'"),
        (1064, "You have an error in your SQL syntax; … near ''alice', 'x')' at line 1"),
    ],
)
def test_errors_quote_no_value(code: int, text: str) -> None:
    assert "alice" not in safe_message(code, text)


def test_errors_about_names_say_which() -> None:
    assert safe_message(1146, "Table 'shop.nowhere' doesn't exist") == "Table 'shop.nowhere' doesn't exist (error 1146)"
    assert safe_message(1062, "Duplicate entry 'a' for key 'email'") == "duplicate entry for key 'email' (error 1062)"
