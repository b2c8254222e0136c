from __future__ import annotations

import pytest

from reconciler.engines.mysql.product import MARIADB
from reconciler.engines.mysql.rights import missing

_ALL = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"]


@pytest.mark.parametrize(
    ("grants", "databases", "lacking"),
    [
        (["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"], [], []),
        (["GRANT SELECT, RELOAD, SHOW VIEW, EVENT, TRIGGER ON *.* TO `c`@`%` IDENTIFIED BY PASSWORD '*0'"], [], []),
        (["GRANT USAGE ON *.* TO `c`@`%`"], [], [*(f"{one} ON *.*" for one in _ALL), "SELECT ON mysql.proc"]),
        (["GRANT SELECT, SHOW VIEW, EVENT ON *.* TO `c`@`%`"], [], ["TRIGGER ON *.*"]),
        (["GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `shop`.* TO `c`@`%`"], ["shop"], ["SELECT ON mysql.proc"]),
        (
            [
                "GRANT `reader` TO `c`@`%`",
                r"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `sh\_p`.* TO `c`@`%`",
                "GRANT SELECT ON `mysql`.`proc` TO `c`@`%`",
            ],
            ["sh_p"],
            [],
        ),
        (
            [r"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `sh\_p`.* TO `c`@`%`", "GRANT SELECT ON *.* TO `c`@`%`"],
            ["shop"],
            ["SHOW VIEW ON `shop`.*", "TRIGGER ON `shop`.*", "EVENT ON `shop`.*"],
        ),
        (["GRANT ALL PRIVILEGES ON `sh%`.* TO `c`@`%`", "GRANT SHOW CREATE ROUTINE ON *.* TO `c`@`%`"], ["shop"], []),
        (
            ["GRANT SELECT (id), TRIGGER ON `shop`.`item` TO `c`@`%`", "GRANT SELECT ON `mysql`.* TO `c`@`%`"],
            ["shop"],
            [f"{one} ON `shop`.*" for one in _ALL],
        ),
    ],
)
def test_every_right_that_is_lacking_is_named_as_it_is_granted(
    grants: list[str], databases: list[str], lacking: list[str]
) -> None:
    assert missing(grants, databases, MARIADB.code_rights) == lacking
