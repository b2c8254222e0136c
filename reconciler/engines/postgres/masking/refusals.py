"""What the server refuses while a database is masked, told without any value.

Called by :mod:`.stage` around each step. The message says where, which rule of the
database, and what to change in the policy.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from reconciler.engines.postgres import failures
from reconciler.engines.postgres.masking.functions import SEVERAL_DIMENSIONS
from reconciler.errors import MaskingError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.postgres.masking.indexes import Index

_OWN = {SEVERAL_DIMENSIONS: "an array has more than one dimension, and rules are for the elements of plain ones"}
_NOT_DISTINCT = ("23505", "23P01")


@contextmanager
def refused(where: str, *, advise: bool = False) -> Iterator[None]:
    """Translate what psycopg raises within the block.

    Raises:
        MaskingError: ``where`` is its beginning; ``advise`` adds what to change in the policy.
        UnavailableError: the server cannot go on; likewise BusyError.

    """
    try:
        yield
    except psycopg.Error as error:
        translated = failures.translation(error)
        if not isinstance(translated, PermanentError):
            raise translated from None
        told = _OWN.get(error.sqlstate or "") or failures.safe_message(error.diag)
        message = f"{where}: {told} (SQLSTATE {error.sqlstate})"
        hint = _advice(error) if advise else None
        raise MaskingError(message, hint=hint) from None  # the original error's DETAIL quotes the row


@contextmanager
def building(database: str, index: Index) -> Iterator[None]:
    """Translate what psycopg raises while an index is built; raises as :func:`refused` does."""
    columns = ", ".join(index.columns) or "an expression"
    try:
        where = f"database {database}: index {index.name} of {index.table} cannot be built from masked values"
        with refused(where, advise=True):
            yield
    except MaskingError as error:
        cause = error.__context__
        if isinstance(cause, psycopg.Error) and cause.sqlstate in _NOT_DISTINCT:
            raise MaskingError(
                f"database {database}: masked values of {index.table} ({columns}) are not distinct, as its index"
                f" {index.name} demands",
                hint="give one of these columns a rule that keeps values distinct, such as hash, email or preserve",
            ) from None
        raise


def _advice(error: psycopg.Error) -> str | None:
    state = error.sqlstate or ""
    if state == SEVERAL_DIMENSIONS:
        return 'write shuffle, "null" or an expression (sql) for that column'
    if state.startswith("23"):
        return "give the column a rule whose values its type and constraints allow"
    if state.startswith("22"):
        return "the rule gives values that do not fit the column's type: take another one, or a shorter form of it"
    if state.startswith("42"):
        return "an expression of the policy (sql, when) is no valid SQL for this table"
    return None
