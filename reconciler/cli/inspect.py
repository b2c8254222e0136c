"""``status``, ``events``, ``history`` and ``doctor``: what there is, what happened, what this host can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.output import Context, Output, colours, columns, write, write_json

if TYPE_CHECKING:
    from reconciler.state.conditions import Kind


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("status")(status)
    app.command("events")(events)
    app.command("history")(history)
    app.command("doctor")(doctor)


Format = Annotated[Output, typer.Option("-o", "--output", help="How the result is written.")]


def status(
    ctx: typer.Context,
    activity: Annotated[
        bool, typer.Option("--activity", help="Ask running clones who is connected, and since when nothing happened.")
    ] = False,
    output: Format = Output.TEXT,
) -> int:
    """Show images, snapshots, clones and their conditions."""
    from reconciler.inspection import report
    from reconciler.status.render import render_status

    context: Context = ctx.obj
    with context.host() as host:
        document = report(host, activity=activity)
    if output is Output.JSON:
        write_json(document)
    else:
        write(render_status(document, colour=colours(), width=columns()))
    return 0


def events(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Only of objects of this name.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest last.")] = 50,
    output: Format = Output.TEXT,
) -> int:
    """Show what happened."""
    from reconciler.status.render import events_json, render_events

    context: Context = ctx.obj
    with context.host() as host:
        found = [event for event in host.store.events(limit=10_000) if name in (None, event.object.name)]
    if not context.verbose:  # work that comes and goes is for those who look for something
        found = [event for event in found if event.severity != "trace"]
    newest = found[-limit:]
    if output is Output.JSON:
        write_json(events_json(newest))
    else:
        write(render_events(newest, colour=colours(), width=columns()))
    return 0


def history(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="KIND/NAME", help="Image/shop, Clone/dev, …; or the name alone.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest last.")] = 50,
    output: Format = Output.TEXT,
) -> int:
    """Show what was done to an object: when, by which commit, who asked for it, how long it took, what came of it."""
    from reconciler.status.render import history_json, render_history

    context: Context = ctx.obj
    kind, _, short = name.rpartition("/")
    with context.host() as host:
        found = host.store.history.of(short, kind=_kind(kind) if kind else None, limit=limit)
    if output is Output.JSON:
        write_json(history_json(found))
    else:
        write(render_history(found, colour=colours(), width=columns()))
    return 0


def _kind(text: str) -> Kind:
    """Return the kind that somebody wrote, in whatever case."""
    from reconciler.errors import InputError
    from reconciler.state.conditions import Kind

    found = next((kind for kind in Kind if kind.lower() == text.lower()), None)
    if found is None:
        raise InputError(f"{text} is no kind of objects", hint=f"one of {', '.join(Kind)}")
    return found


def doctor(ctx: typer.Context, output: Format = Output.TEXT) -> int:
    """Show what this host can do, what is missing, and how to get it."""
    from reconciler.doctor import examine, render

    context: Context = ctx.obj
    with context.host() as host:
        findings = examine(host)
    if output is Output.JSON:
        write_json([finding.as_json() for finding in findings])
    else:
        write(render(findings, colour=colours(), width=columns()))
    return 1 if any(finding.level == "error" for finding in findings) else 0
