"""The permutation of whole numbers as SQL: what :func:`reconciler.masking.preserve.integer` computes.

Called by :mod:`.expressions`. Where a number belongs is found by ``INTERVAL``, which searches
its constants by halves; the four rounds keep row and column in variables of the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql.masking.keys import DIGEST, number, once, stream
from reconciler.masking import preserve

if TYPE_CHECKING:
    from reconciler.ids import SecretName

_NAMES = ("place", "low", "rows", "columns", "row", "column")
_PLACE, _LOW, _ROWS, _COLUMNS, _ROW, _COLUMN = (f"@reconciler_{name}" for name in _NAMES)
VARIABLES = f"SET {', '.join(f'@reconciler_{name} = 0' for name in _NAMES)}"
"""A statement takes the type of a variable from before it."""
_ROUNDS = (
    (1, _ROW, _COLUMN, _ROWS),
    (2, _COLUMN, _ROW, _COLUMNS),
    (3, _ROW, _COLUMN, _ROWS),
    (4, _COLUMN, _ROW, _COLUMNS),
)


def integer(value: str, secret: SecretName) -> str:
    """Return the number that takes the place of ``value``, which has a sign and 64 bits; NULL for NULL."""
    body = f"{_LOW} + {_ROW} * {_COLUMNS} + {_COLUMN}"
    for round_, moving, other, size in reversed(_ROUNDS):
        hashed = stream(f"0x{round_:02x}, {_eight_bytes(_LOW)}, {_eight_bytes(other)}", secret, "integer")
        moved = f"MOD({moving} + MOD({number(0, preserve.INTEGER_BYTES)}, {size}), {size})"
        body = once(DIGEST, hashed, once(moving, moved, body))
    offset = f"({value} - {_LOW})"
    body = once(_ROW, f"{offset} DIV {_COLUMNS}", once(_COLUMN, f"MOD({offset}, {_COLUMNS})", body))
    for variable, name in ((_COLUMNS, "columns"), (_ROWS, "rows"), (_LOW, "low")):
        each = ", ".join(f"'{getattr(one, name)}'" for one in preserve.segments())
        body = once(variable, f"CAST(ELT({_PLACE}, {each}) AS SIGNED)", body)
    lows = ", ".join(str(one.low) for one in preserve.segments())
    return f"IF({value} IS NULL, NULL, {once(_PLACE, f'INTERVAL({value}, {lows})', body)})"


def _eight_bytes(value: str) -> str:
    return f"UNHEX(LPAD(HEX({value}), 16, '0'))"
