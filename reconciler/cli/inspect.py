"""``status``, ``events`` and ``doctor``: what there is, what happened, what this host can do."""

from __future__ import annotations

from typing import Annotated

import typer

from reconciler.cli.output import Context, Output, colours, write, write_json


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("status")(status)
    app.command("events")(events)
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
        write(render_status(document, colour=colours()))
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
        write(render_events(newest, colour=colours()))
    return 0


def doctor(ctx: typer.Context, output: Format = Output.TEXT) -> int:
    """Show what this host can do, what is missing, and how to get it."""
    from reconciler.doctor import examine, render

    context: Context = ctx.obj
    with context.host() as host:
        findings = examine(host)
    if output is Output.JSON:
        write_json([finding.as_json() for finding in findings])
    else:
        write(render(findings, colour=colours()))
    return 1 if any(finding.level == "error" for finding in findings) else 0
