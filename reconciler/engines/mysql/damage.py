"""Look for damage in tables: ``verify.amcheck`` of an image, with this product's own means.

Called by ``session``. ``CHECK TABLE`` reads every row and every index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql import server, settle
from reconciler.engines.mysql.link import quoted
from reconciler.errors import CheckFailedError

if TYPE_CHECKING:
    from reconciler.engines.base import BuildWork

_MOST_NAMED = 5
_FINE = frozenset({"note", "info"})
_WHOLE = frozenset({"OK", "Table is already up to date"})


def look_for_damage(work: BuildWork) -> int:
    """Read every table of users and its indexes; return how many are whole.

    Raises:
        CheckFailedError: one is damaged.

    """
    damaged = []
    with server.connect(work, patient=True) as admin:
        found = settle.tables(admin)
        for schema, name in found:
            work.cancel.check()
            answer = admin.rows(f"CHECK TABLE {quoted(schema)}.{quoted(name)} EXTENDED")
            if any(_tells_damage(str(row[2]).lower(), str(row[3])) for row in answer):
                damaged.append(f"{schema}.{name}")
    if damaged:
        more = f" and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else ""
        named = ", ".join(damaged[:_MOST_NAMED])
        raise CheckFailedError(f"these tables are damaged: {named}{more}", reason="DataDamaged")
    return len(found)


def _tells_damage(kind: str, text: str) -> bool:
    """Whether a line of the answer does; engines that hold nothing (MEMORY) note that they cannot be checked."""
    return text not in _WHOLE if kind == "status" else kind not in _FINE
