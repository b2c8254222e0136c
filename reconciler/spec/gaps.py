"""What does not go together, each with its reason: products, runtimes and storage that specs can name.

Used by the rules of documents and of the configuration. The table in ``docs/matrix.md`` is made of this,
and ``tests/matrix`` lives through everything that is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that people look for and that is not there: not yet, not before somebody else acts, or never."""

    meaning: Literal["not yet", "upstream", "never"]
    reason: str


_NO_SERVER = Gap("never", "its databases are files, which no server serves")
_NEEDS_SERVER = Gap("never", "its databases need a server, which the runtime none does not run")

RUNTIME_GAPS: Mapping[tuple[str, str], Gap] = {
    ("mariadb", "none"): _NEEDS_SERVER,
    ("mysql", "docker"): Gap("not yet", "its servers are not run in containers"),
    ("mysql", "instance"): Gap("not yet", "databases are not copied within a server of it that exists already"),
    ("mysql", "none"): _NEEDS_SERVER,
    ("postgres", "none"): _NEEDS_SERVER,
    ("sqlite", "docker"): _NO_SERVER,
    ("sqlite", "instance"): _NO_SERVER,
    ("sqlite", "process"): _NO_SERVER,
}
"""By product and runtime. Documents that ask for one are refused."""

UNTRIED: Mapping[str, Gap] = {
    "mysql": Gap("upstream", "no distribution that this version is tested on has a package of its server"),
}
"""Products that are served, but that nobody has seen running."""

STORAGE_GAPS: Mapping[str, Gap] = {
    "lvmthin": Gap("not yet", "its snapshots need device-mapper, which no host has that this version is tested on"),
}
"""Storage drivers that there are none of."""
