"""The registry of plug-ins: a name, where its code is, and what to install when it cannot be loaded.

Nothing registers itself by being imported: what exists stands here, to be read. Third
parties add members by entry points of the groups ``reconciler.engines``,
``reconciler.parameters`` and ``reconciler.runtimes``. Modules are imported when first asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Plugin:
    """A class or function by its dotted path (``module:attribute``), and how to get what it needs."""

    path: str
    hint: str = ""


ENGINES: Mapping[str, Plugin] = {
    "mariadb": Plugin("reconciler.engines.mysql.engine:MariaDbEngine", "pip install PyMySQL"),
    "mysql": Plugin("reconciler.engines.mysql.engine:MysqlEngine", "pip install PyMySQL"),
    "postgres": Plugin("reconciler.engines.postgres.engine:PostgresEngine", "pip install 'psycopg[binary]'"),
    "sqlite": Plugin("reconciler.engines.sqlite.engine:SqliteEngine"),
}

PARAMETERS: Mapping[str, Plugin] = {
    "mariadb": Plugin("reconciler.engines.mysql.parameters:validate_parameters"),
    "mysql": Plugin("reconciler.engines.mysql.parameters:validate_parameters"),
    "postgres": Plugin("reconciler.engines.postgres.parameters:validate_parameters"),
    "sqlite": Plugin("reconciler.engines.sqlite.parameters:validate_parameters"),
}
"""What is wrong with server settings of a document, by engine: ``(parameters) -> list[str]``, a message each.

Apart from the engines, so that checking a file does not load a whole one.
"""

RUNTIMES: Mapping[str, Plugin] = {
    "docker": Plugin("reconciler.runtimes.docker.runtime:DockerRuntime", "pip install 'docker>=7.1'"),
    "instance": Plugin("reconciler.runtimes.instance:InstanceRuntime"),
    "process": Plugin("reconciler.runtimes.process:ProcessRuntime"),
    "none": Plugin("reconciler.runtimes.none:FilesRuntime"),
}

_FAMILIES = {"engine": ENGINES, "parameter": PARAMETERS, "runtime": RUNTIMES}


def load(family: str, name: str) -> Any:  # noqa: ANN401 - the caller knows the Protocol of its family
    """Return the class (or function) of a plug-in.

    Raises:
        UnsupportedError: nothing of that name exists here, or what it needs is not installed.

    """
    plugin = _find(family, name)
    module, _, attribute = plugin.path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UnsupportedError(f"the {family} {name} cannot be loaded: {error}", hint=plugin.hint or None) from error


def names(family: str) -> tuple[str, ...]:
    """Return the names that this installation knows, sorted."""
    return tuple(sorted({*_FAMILIES[family], *(point.name for point in entry_points(group=_group(family)))}))


def _find(family: str, name: str) -> Plugin:
    if plugin := _FAMILIES[family].get(name):
        return plugin
    for point in entry_points(group=_group(family), name=name):
        return Plugin(point.value)
    known = ", ".join(names(family))
    raise UnsupportedError(f"the {family} {name} is not part of this version", hint=f"available: {known}")


def _group(family: str) -> str:
    return f"reconciler.{family}s"
