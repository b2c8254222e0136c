"""What the processes to be killed need, imported once in the process that they are forked from."""

from __future__ import annotations

import gc
import importlib

for _module in (
    "reconciler.cli.main",
    "reconciler.cli.passes",
    "reconciler.cli.progress",
    "reconciler.cli.requests",
    "reconciler.engines.postgres.engine",
    "reconciler.housekeeping",
    "reconciler.loop",
    "reconciler.plan.render",
    "reconciler.repository",
    "reconciler.runtimes.leftovers",
    "reconciler.runtimes.process",
    "reconciler.secrets",
    "reconciler.spec.loader",
    "reconciler.status.directory",
    "reconciler.status.store",
    "reconciler.storage.select",
    "tests.crash.killed",
):
    importlib.import_module(_module)
gc.freeze()  # a collection in a process that was forked would copy every page of what is imported here
