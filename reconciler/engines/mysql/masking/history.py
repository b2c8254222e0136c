"""Tables that keep what their rows were (``WITH SYSTEM VERSIONING``): all versions of a row are masked alike.

Called by the modules beside it. MariaDB's documentation, "System-Versioned Tables": since
10.11 versions can be inserted as they were. Tables that keep transactions in place of
times cannot be filled that way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines.mysql.link import quoted
from reconciler.errors import MaskingError

if TYPE_CHECKING:
    from reconciler.engines.mysql.link import Link
    from reconciler.masking.schema import TableName

_PERIOD = re.compile(r"PERIOD FOR SYSTEM_TIME \(`((?:[^`]|``)+)`, `((?:[^`]|``)+)`\)")
_IMPLICIT = ("row_start", "row_end")
_TYPE = "SELECT table_type FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"
_KEEPS_TRANSACTIONS = """
SELECT 1 FROM information_schema.columns WHERE table_schema = %s AND table_name = %s
    AND generation_expression = 'ROW START' AND data_type = 'bigint'
"""


@dataclass(frozen=True, slots=True)
class History:
    """How all versions of a table's rows are read and written; nothing of a table that keeps none."""

    columns: tuple[str, ...] = ()
    """From when to when a version held."""

    @property
    def all_rows(self) -> str:
        """What stands behind the table's name in a FROM."""
        return " FOR SYSTEM_TIME ALL" if self.columns else ""

    def open(self, link: Link) -> None:
        """Let a connection write versions as they were."""
        if self.columns:
            link.rows("SET SESSION system_versioning_insert_history = 1")


def of(link: Link, name: TableName) -> History:
    """Return what a table keeps of the past.

    Raises:
        MaskingError: in a form that cannot be written again.

    """
    if link.value(_TYPE, name.schema, name.name) != "SYSTEM VERSIONED":
        return History()
    if link.value(_KEEPS_TRANSACTIONS, name.schema, name.name) is not None:
        raise MaskingError(
            f"{name} keeps the history of its rows by transactions, which cannot be masked",
            hint=f"ALTER TABLE {name.name} DROP SYSTEM VERSIONING in a script that runs before masking",
        )
    created = str(link.rows(f"SHOW CREATE TABLE {quoted(name.schema)}.{quoted(name.name)}")[0][1])
    found = _PERIOD.search(created)
    names = _IMPLICIT if found is None else (found[1].replace("``", "`"), found[2].replace("``", "`"))
    return History(names)
