"""``plan``, ``apply`` and ``run``: passes, and what they would do."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.output import Context, Output, colours, note, write, write_json
from reconciler.errors import InputError, RefusedError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.cli.progress import Progress
    from reconciler.host import Host
    from reconciler.loop import Reconciler
    from reconciler.plan.actions import Plan
    from reconciler.state.conditions import ObjectKey
    from reconciler.state.observed import Verb
    from reconciler.view import View

_CHANGES = 2
_NAMED = 5
"""How many objects with the same problem are named."""


class PlanFormat(StrEnum):
    """How a plan is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


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
        typer.Option("--observed", help="Published status or `status -o json` of a host: plan without access to it."),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            "--repository",
            metavar="DIR",
            help="With --observed: plan for the specs of this checkout; needs no configuration.",
        ),
    ] = None,
    output: Annotated[PlanFormat, typer.Option("-o", "--output", help="How the plan is written.")] = PlanFormat.TEXT,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 2 when there are changes.")
    ] = False,
) -> int:
    """Show what a pass would do, and change nothing."""
    from reconciler.planning import plan_directory, plan_from_file
    from reconciler.state.conditions import REPOSITORY

    context: Context = ctx.obj
    problems = False
    if repository is not None:
        if observed is None or revision is not None:
            raise InputError("--repository goes with --observed and without --revision", hint="check the revision out")
        result = plan_directory(repository, observed)
    elif observed is not None:
        result = plan_from_file(context.load_config(), observed, revision)
    else:
        from reconciler.loop import Reconciler

        with context.host() as host:
            view = Reconciler(host, host.commits()).look(revision)
            problems = _show_problems(view)
            if view.plan is None:
                raise SpecError(f"there is no commit to plan for: {REPOSITORY} is not ready")
            result = view.plan
    _warn(result)
    _show(result, output)
    changes = bool(result.everything)
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
    now: Annotated[bool, typer.Option("--now", help="Do not wait for maintenance windows.")] = False,
    output: Format = Output.TEXT,
) -> int:
    """Run one pass and wait for its work.

    While a loop runs on this state, the wish is handed over to it, and its outcome awaited.
    """
    from reconciler.cli.requests import hand_over, loop_runs, submit, withdrawn

    context: Context = ctx.obj
    with context.host() as host:
        if loop_runs(host):
            if revision is not None:
                raise RefusedError("a loop runs on this state; --revision is only for when none does")
            verb: Verb = "approve" if approve else "apply"
            return hand_over(host, verb=verb, plan_hash=_hash(approve), at_once=now, output=output)
    with context.host(writes=True) as host:
        if not approve:
            return one_pass(host, revision, output, now=now)
        request = submit(host, verb="approve", plan_hash=_hash(approve), at_once=now)
        with withdrawn(host, request):
            code = one_pass(host, revision, output, now=now)
        outcome = host.state.requests.outcome(request.id)
        if outcome is not None and outcome.status == "refused":
            note(f"error: {outcome.message}")
            return 1
        return code


def run(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Run one pass, wait for its work, and end.")] = False,
) -> int:
    """Run the loop until SIGTERM; SIGHUP starts a pass now."""
    import signal

    import structlog

    from reconciler import notify
    from reconciler.loop import Reconciler
    from reconciler.status.logging import log_event

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a wish for a pass must not end a loop that is not ready yet
    context: Context = ctx.obj
    with context.host(writes=True) as host:
        if once:
            return one_pass(host, None, Output.TEXT)
        host.store.on_event = log_event
        where = str(host.config.repository.url or host.config.repository.path)
        if context.json_logs:
            structlog.get_logger("reconciler").info("watching", repository=where, state=str(host.state.path))
        else:
            note(f"watching {where}; state in {host.state.path}")
        notify.ready("looking for the first time")
        Reconciler(host, host.commits()).run()
    return 0


def one_pass(host: Host, revision: str | None, output: Output | None, *, now: bool = False) -> int:
    """Run one pass, and those that it makes possible; wait for their work, and return the exit code.

    With ``now``, none of them waits for a maintenance window. A clone is not taken out of
    its users' hands while a snapshot is built: its replacement is planned once that is
    there. Without an ``output`` nothing is written but what goes wrong.
    """
    from reconciler.cli.progress import Progress
    from reconciler.housekeeping import measure
    from reconciler.loop import Reconciler
    from reconciler.state.conditions import REPOSITORY

    reconciler = Reconciler(host, host.commits())
    view = _pass(reconciler, host, revision, now=now)
    _show_problems(view)
    if view.plan is None:
        reconciler.close(abandon=False)
        return 1
    passes = [view.plan]
    with Progress() as progress:
        try:
            final = _settled(reconciler, view, output, progress)
            while _made_possible(view, final):
                view = _pass(reconciler, host, revision, now=now)
                passes += [view.plan] if view.plan is not None else []
                final = _settled(reconciler, view, output, progress)
        except KeyboardInterrupt:
            reconciler.close(abandon=True)
            raise
    reconciler.close(abandon=False)
    if final.observed is not None:
        measure(host, final.observed)
    failed = progress.report()
    told = {REPOSITORY, *failed} if any(c.type == "Stalled" for c in final.commit.conditions) else set(failed)
    _tell({key: message for key, message in final.unwell.items() if key not in told})
    if output is Output.JSON:
        from reconciler.answers import pass_json

        write_json(pass_json(passes[0], failed, final.unwell, passes[1:]))
    return 1 if failed or final.unwell or passes[-1].refused else 0


def _pass(reconciler: Reconciler, host: Host, revision: str | None, *, now: bool) -> View:
    """Run one pass; with ``now``, with a wish of its own that it serves."""
    from reconciler.cli.requests import submit, withdrawn

    if not now:
        return reconciler.one_pass(revision)
    with withdrawn(host, submit(host, verb="apply", at_once=True)):
        return reconciler.one_pass(revision)


def _settled(reconciler: Reconciler, view: View, output: Output | None, progress: Progress) -> View:
    """Show what a pass does, wait for its work, and return what there is then."""
    if output is Output.TEXT and view.plan is not None:
        _show(view.plan, PlanFormat.TEXT)
    return reconciler.settle(view, progress.show)


def _made_possible(view: View, final: View) -> bool:
    """Whether something waited in a pass that can be done now."""
    from reconciler.state.conditions import WAITING

    if view.plan is None or final.plan is None:
        return False
    waited = {key for key, known in view.plan.conditions.items() if any(c.reason in WAITING for c in known)}
    return any(action.key in waited for action in final.plan.actions)


def _tell(unwell: Mapping[ObjectKey, str]) -> None:
    """Say which objects are not as the specs ask for, those with the same reason together."""
    from reconciler.view import together

    for message, names in together(unwell).items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        note(f"stalled: {', '.join(names[:_NAMED])}{more}: {message}")


def _hash(approve: str | None) -> str | None:
    return None if approve == "any" else approve


def _warn(made: Plan) -> None:
    """Tell on standard error what masking left as it was, by image."""
    for key, conditions in sorted(made.conditions.items()):
        for condition in conditions:
            if condition.type == "LeftUnmasked":
                lines = "\n" if "\n" in condition.message else " "
                note(f"warning: {key} masking left some of it:{lines}{condition.message}")


def _show(result: Plan, output: PlanFormat) -> None:
    from reconciler.plan.markdown import plan_markdown
    from reconciler.plan.render import plan_json, plan_text

    match output:
        case PlanFormat.JSON:
            write_json(plan_json(result))
        case PlanFormat.MARKDOWN:
            write(plan_markdown(result))
        case PlanFormat.TEXT:
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
