"""What the host's configuration says about containers; made by the composition root, read by this package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSettings:
    """See the section ``runtimes.docker`` of the configuration."""

    socket: Path
    images: Mapping[str, str] = field(default_factory=dict)
    """References of images by ``engine`` or ``engine:major``."""
    pull: Literal["missing", "always", "never"] = "missing"
    networks: tuple[str, ...] = ("reconciler",)
    shm_size: int = 256 << 20
    """Bytes of /dev/shm."""
    restart: Literal["unless-stopped", "on-failure", "no"] = "unless-stopped"
    ports: range
    host: str
    """Address of this host at which ports are published."""
