"""What specs have to know of database products, without loading an engine.

Used by the resolver and by the rules of engines. What an engine can do is its own business.
"""

from __future__ import annotations

WITHOUT_SERVER = frozenset({"sqlite"})
"""Products that are libraries: their databases are files, which no server serves (runtime ``none``)."""

COPIED_AT_A_RATE = frozenset({"postgres"})
"""Products whose primaries are copied at a rate that can be limited."""
