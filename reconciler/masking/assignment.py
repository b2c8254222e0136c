"""Which rule every column of every table gets: what coverage decides, and engines carry out.

A value of :class:`DatabaseMasking` is complete and consistent: each method fits its
column's type, keys that refer to each other have equal rules, and nothing is left
open. Engines take it as it is and decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.ids import PolicyName, SecretName
    from reconciler.masking.schema import Column, Table, TableName
    from reconciler.spec.masking_policy import Column as Method


@dataclass(frozen=True, slots=True)
class ColumnMasking:
    """What happens to one column; never ``keep``.

    ``method`` is the rule as written. ``inherited_from`` names the column of a key that
    it refers to (or that refers to it), when no rule names this one itself.
    ``unique``: its values must stay distinct. ``when`` is a predicate of the policy.
    """

    column: Column
    method: Method
    policy: PolicyName
    key: SecretName
    when: str | None = None
    unique: bool = False
    inherited_from: str | None = None

    @property
    def keep_null(self) -> bool:
        """Whether NULL stays NULL."""
        return True if isinstance(self.method, str) else self.method.keep_null


@dataclass(frozen=True, slots=True)
class TableMasking:
    """The columns of one table with rows that are masked; others keep their values."""

    table: Table
    columns: tuple[ColumnMasking, ...]

    @property
    def name(self) -> TableName:
        """The table's name."""
        return self.table.name


@dataclass(frozen=True, slots=True)
class DatabaseMasking:
    """All of one database: tables that are masked, and what was left as it is and is worth telling."""

    database: str
    tables: tuple[TableMasking, ...]
    kept: frozenset[tuple[TableName, str]] = frozenset()
    """Columns that a rule keeps: originals that are also values of them are there because somebody said so."""
    remove_large_objects: bool = False
    keep_large_objects: bool = False
    """Somebody said so; without either they stay, but nothing may be in them that had to go."""
    reports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Keys:
    """Values of masking keys, by the name of their secret; never logged, never part of a statement's text."""

    values: Mapping[SecretName, bytes] = field(repr=False)
