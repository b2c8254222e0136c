"""``classify``: a MaskingPolicy proposed for what an image really holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.output import Context, Output, colours, note, write, write_json
from reconciler.errors import InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.classification import Proposal


def register(app: typer.Typer) -> None:
    """Add the command of this module to the program."""
    app.command("classify")(classify)


def classify(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name of an image.")],
    file: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write the proposed policy to a new file.")
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How the result is written.")] = Output.TEXT,
) -> int:
    """Propose a MaskingPolicy for an image, from the names and values of its columns.

    Looks at a private copy of data that is not masked yet, and throws it away. Shows no value.
    """
    from reconciler.masking.classify.render import proposal_json, proposal_text

    context: Context = ctx.obj
    if file is not None and file.exists():
        raise InputError(
            f"{file} exists already", hint="name a new file: a policy that people edited is not overwritten"
        )
    proposal = _proposal(context, image)
    if file is not None:
        _write_policy(proposal, file)
    if output is Output.JSON:
        write_json(proposal_json(proposal.image, proposal.rows))
    else:
        write(proposal_text(proposal.rows, databases=len(proposal.databases), colour=colours()))
    return 0


def _proposal(context: Context, image: str) -> Proposal:
    """Let the running loop look at the data, which alone may write to the pools then; else look ourselves."""
    from reconciler.classification import classify, proposal_of
    from reconciler.cli.requests import answered, loop_runs

    with context.host() as host:
        if loop_runs(host):
            outcome = answered(host, verb="classify", target=image)
            if not outcome.ok or outcome.document is None:
                raise RefusedError(outcome.message)
            return proposal_of(outcome.document)
    with context.host(writes=True) as host:
        return classify(host, image, _progress(verbose=context.verbose))


def _write_policy(proposal: Proposal, file: Path) -> None:
    from reconciler.masking.classify.policy import policy_document

    text = policy_document(
        proposal.policy,
        proposal.rows,
        key=proposal.key,
        databases=len(proposal.databases),
        large_objects=proposal.large_objects,
    )
    with file.open("x", encoding="utf-8") as stream:
        stream.write(text)
    note(f"wrote the policy {proposal.policy} to {file}; image {proposal.image} needs masking: [{proposal.policy}]")


def _progress(*, verbose: bool) -> Callable[[str], None]:
    """Tell what goes on: with -v, or on a terminal, where nothing else would for a long time."""
    import sys

    return note if verbose or sys.stderr.isatty() else lambda _text: None
