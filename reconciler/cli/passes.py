"""``plan``, ``apply`` and ``run``: passes, and what they would do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.output import Context, Output, colours, note, write, write_json
from reconciler.errors import RefusedError, SpecError

if TYPE_CHECKING:
    from reconciler.host import Host
    from reconciler.loop import View
    from reconciler.plan.actions import Plan

_CHANGES = 2
_NAMED = 5
"""How many objects with the same problem are named."""

Revision = Annotated[str | None, typer.Option("--revision", help="A commit, branch or tag instead of the newest one.")]
Format = Annotated[Output, typer.Option("-o", "--output", help="How the result is written.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("plan")(plan)
    app.command("apply")(apply)
    app.command("run")(run)


def plan(
    ctx: typer.Context,
    revision: Revision = None,
    observed: Annotated[
        Path | None,
        typer.Option("--observed", help="`status -o json` of another host: plan without access to it."),
    ] = None,
    output: Format = Output.TEXT,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 2 when there are changes.")
    ] = False,
) -> int:
    """Show what a pass would do, and change nothing."""
    from reconciler.loop import REPOSITORY, Reconciler
    from reconciler.planning import plan_from_file

    context: Context = ctx.obj
    problems = False
    if observed is not None:
        result = plan_from_file(context.load_config(), observed, revision)
    else:
        with context.host() as host:
            view = Reconciler(host, host.commits()).look(revision)
            problems = _show_problems(view)
            if view.plan is None:
                raise SpecError(f"there is no commit to plan for: {REPOSITORY} is not ready")
            result = view.plan
    _show(result, output)
    changes = bool(result.actions or result.refused)
    if problems:
        return 1
    return _CHANGES if detailed_exitcode and changes else 0


def apply(
    ctx: typer.Context,
    revision: Revision = None,
    approve: Annotated[
        str | None,
        typer.Option(
            "--approve",
            metavar="[=HASH]",
            help="Approve the deletions that a plan of this hash shows; without a hash, whatever is planned.",
        ),
    ] = None,
    output: Format = Output.TEXT,
) -> int:
    """Run one pass and wait for its work.

    While a loop runs on this state, the wish is handed over to it, and its outcome awaited.
    """
    from reconciler.cli.requests import approval_withdrawn, hand_over, loop_runs, submit

    context: Context = ctx.obj
    with context.host() as host:
        if loop_runs(host):
            if revision is not None:
                raise RefusedError("a loop runs on this state; --revision is only for when none does")
            if approve:
                return hand_over(host, verb="approve", plan_hash=_hash(approve))
            return hand_over(host, verb="apply")
    with context.host(writes=True) as host:
        if not approve:
            return one_pass(host, revision, output)
        with approval_withdrawn(host, submit(host, verb="approve", plan_hash=_hash(approve))):
            return one_pass(host, revision, output)


def run(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Run one pass, wait for its work, and end.")] = False,
) -> int:
    """Run the loop until SIGTERM; SIGHUP starts a pass now."""
    import signal

    from reconciler.loop import Reconciler

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a wish for a pass must not end a loop that is not ready yet
    context: Context = ctx.obj
    with context.host(writes=True) as host:
        if once:
            return one_pass(host, None, Output.TEXT)
        note(f"watching {host.config.repository.url or host.config.repository.path}; state in {host.state.path}")
        Reconciler(host, host.commits()).run()
    return 0


def one_pass(host: Host, revision: str | None, output: Output) -> int:
    """Run one pass, wait for its work, and return the exit code."""
    from reconciler.cli.progress import Progress
    from reconciler.housekeeping import measure
    from reconciler.loop import Reconciler

    reconciler = Reconciler(host, host.commits())
    view = reconciler.one_pass(revision)
    problems = _show_problems(view)
    if view.plan is None:
        reconciler.close(abandon=False)
        return 1
    if output is Output.TEXT:
        _show(view.plan, output)
    with Progress() as progress:
        try:
            final = reconciler.settle(view, progress.show)
        except KeyboardInterrupt:
            reconciler.close(abandon=True)
            raise
    reconciler.close(abandon=False)
    if final.observed is not None:
        measure(host, final.observed)
    failures = progress.report()
    stalled = _stalled(final, {(failure["kind"], failure["name"]) for failure in failures})
    if output is Output.JSON:
        from reconciler.plan.render import plan_json

        write_json(plan_json(view.plan) | {"failed": failures, "stalled": stalled})
    bad = failures or stalled or view.plan.refused or problems
    return 1 if bad else 0


def _stalled(view: View, told: set[tuple[str, str]]) -> list[dict[str, str]]:
    """Say which objects wait for somebody to change something; return the same as data."""
    conditions = sorted(view.plan.conditions.items() if view.plan is not None else ())
    found = [(key, one.message) for key, known in conditions for one in known if one.type == "Stalled"]
    together: dict[str, list[str]] = {}
    for key, message in found:
        if (key.kind, key.name) not in told:
            together.setdefault(message, []).append(str(key))
    for message, names in together.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        note(f"stalled: {', '.join(names[:_NAMED])}{more}: {message}")
    return [{"kind": key.kind, "name": key.name, "message": message} for key, message in found]


def _hash(approve: str) -> str | None:
    return None if approve == "any" else approve


def _show(result: Plan, output: Output) -> None:
    from reconciler.plan.render import plan_json, plan_text

    if output is Output.JSON:
        write_json(plan_json(result))
    else:
        write(plan_text(result, colour=colours()))


def _show_problems(view: View) -> bool:
    """Say on stderr what is wrong with the newest commit, whichever is in force; return whether it is not that one."""
    from reconciler.spec.diagnostics import render_text

    if view.commit.diagnostics:
        note(render_text(view.commit.diagnostics, colour=colours(sys.stderr)))
    stalled = [condition.message for condition in view.commit.conditions if condition.type == "Stalled"]
    for message in stalled:
        note(f"warning: {message}")
    if stalled and view.commit.tree is not None and str(view.commit.tree.revision) not in "".join(stalled):
        note(f"in force: {view.commit.tree.revision}")
    return bool(stalled)
