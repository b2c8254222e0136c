"""Tables whose files do not show their values: compressed or encrypted ones.

Asked by :mod:`.sample` and :mod:`.prove`: a search of bytes says nothing of these, so the
server's own eyes have to look. Reads catalogs only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from reconciler.engines.mysql.link import Link

_HIDING = """
SELECT t.table_schema, t.table_name FROM information_schema.tables t
WHERE t.table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
    AND (t.row_format = 'Compressed' OR t.engine = 'ARCHIVE' OR t.create_options LIKE '%compressed%'
        OR t.create_options LIKE '%encrypted%')
UNION SELECT c.table_schema, c.table_name FROM information_schema.columns c
WHERE c.table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
    AND c.column_type LIKE '%COMPRESSED%'
"""


def tables(link: Link) -> frozenset[TableName]:
    """Return them, of all databases of users."""
    return frozenset(TableName(str(schema), str(name)) for schema, name in link.rows(_HIDING))
