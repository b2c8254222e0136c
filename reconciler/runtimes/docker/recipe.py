"""What a server's container is made of: the spec of a server as the daemon's API takes it.

Called by ``runtime``. Pure. Ports are published at the host's address of the configuration
only, which is loopback unless it says otherwise; a server without a port has no network.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.runtimes.docker.settings import DockerSettings
    from reconciler.state.servers import Contained, ServerSpec

_SECOND = 1_000_000_000  # the API counts in nanoseconds
_HEALTH_SECONDS = 30
_HEALTH_FAILURES = 3
_CORE = 1_000_000_000  # NanoCpus of one
_BEHIND = 102
"""CpuShares of what works in the background: a tenth of the processor time of a container that has the usual 1024."""
_LOGS = {"Type": "json-file", "Config": {"max-size": "16m", "max-file": "3"}}


def contained(spec: ServerSpec) -> Contained:
    """Return what a server needs in a container.

    Raises:
        UnsupportedError: it is to run with programs of this host.

    """
    if spec.contained is None:
        raise UnsupportedError(f"the server {spec.name} runs with programs of this host, not in a container")
    return spec.contained


def recipe(spec: ServerSpec, settings: DockerSettings, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of the call that makes a server's container (Docker Engine API, ContainerCreate)."""
    box = contained(spec)
    first_stop, grace = spec.stop_signals[0]
    uid, gid = (spec.account.uid, spec.account.gid) if spec.account else (os.geteuid(), os.getegid())
    body: dict[str, Any] = {
        "Image": box.software.digest,
        "Entrypoint": [spec.argv[0]],
        "Cmd": list(spec.argv[1:]),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "User": f"{uid}:{gid}",
        "Labels": dict(labels),
        "StopSignal": first_stop.name,
        "StopTimeout": int(grace),
        "Healthcheck": {
            "Test": ["CMD", *box.health],
            "Interval": _HEALTH_SECONDS * _SECOND,
            "Timeout": _HEALTH_SECONDS * _SECOND,
            "Retries": _HEALTH_FAILURES,
        },
        "HostConfig": _host_config(spec, box, settings),
    }
    return body if spec.port is None else body | _network(spec, box, settings)


def aliases(spec: ServerSpec) -> list[str]:
    """Return the names under which other containers reach a server."""
    return [spec.subject["clone"]] if "clone" in spec.subject else []


def _host_config(spec: ServerSpec, box: Contained, settings: DockerSettings) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if spec.resources.memory is not None:
        limits |= {"Memory": spec.resources.memory, "MemorySwap": spec.resources.memory}
    if spec.resources.cpus is not None:
        limits["NanoCpus"] = int(spec.resources.cpus * _CORE)
    if spec.background and os.geteuid() == 0:  # without root, processor time is not always ours to share out
        limits["CpuShares"] = _BEHIND
    return {
        "Mounts": [
            {"Type": "bind", "Source": str(source.resolve()), "Target": str(target)}
            for target, source in box.mounts.items()
        ],
        "NetworkMode": "none" if spec.port is None else settings.networks[0],
        "RestartPolicy": {"Name": "no" if spec.port is None else settings.restart},
        "ShmSize": settings.shm_size,
        "LogConfig": _LOGS,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        **limits,
    }


def _network(spec: ServerSpec, box: Contained, settings: DockerSettings) -> dict[str, Any]:
    inside = f"{box.port}/tcp"
    published = [{"HostIp": spec.host or settings.host, "HostPort": str(spec.port)}]
    return {
        "ExposedPorts": {inside: {}},
        "HostConfig": _host_config(spec, box, settings) | {"PortBindings": {inside: published}},
        "NetworkingConfig": {"EndpointsConfig": {settings.networks[0]: {"Aliases": aliases(spec)}}},
    }
