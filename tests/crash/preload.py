"""What the processes to be killed need, imported once in the process that they are forked from."""

from __future__ import annotations

import gc
import importlib
import pkgutil

import reconciler
from tests import fresh

_OTHERS = ("_strptime", "git", "hyperscan", "mimetypes", "typer._adapters", "typer._click.decorators")
"""What the program imports at the first need, of others."""
_COMMAND = "__main__"

for _module in pkgutil.walk_packages(reconciler.__path__, "reconciler."):
    if not _module.name.endswith(_COMMAND):
        importlib.import_module(_module.name)
for _name in (*_OTHERS, "tests.crash.killed"):
    importlib.import_module(_name)
fresh.install(None)
gc.freeze()  # a collection in a process that was forked would copy every page of what is imported here
