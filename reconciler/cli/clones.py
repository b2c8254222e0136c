"""``url``, ``connect``, ``logs``, ``start``, ``reset``, ``rebase``, ``undo``, ``refresh``: working with one object."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.output import Context, Output, write
from reconciler.cli.output import note as tell
from reconciler.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from reconciler.engines.base import DatabaseFiles
    from reconciler.errors import ReconcilerError
    from reconciler.host import Host
    from reconciler.ids import VolumeId
    from reconciler.state.observed import CloneManifest, Verb, Volume
    from reconciler.state.servers import Endpoint

CloneArgument = Annotated[str, typer.Argument(metavar="CLONE", help="Name of a clone.")]
UserOption = Annotated[str | None, typer.Option("--user", help="One of the clone's users; default: the first.")]
DatabaseOption = Annotated[str | None, typer.Option("--database", help="Default: the clone's first database.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("url")(url)
    app.command("connect", context_settings={"ignore_unknown_options": True})(connect)
    app.command("logs")(logs)
    app.command("reset")(reset)
    app.command("rebase")(rebase)
    app.command("undo")(undo)
    app.command("start")(start)
    app.command("refresh")(refresh)


def url(ctx: typer.Context, clone: CloneArgument, user: UserOption = None, database: DatabaseOption = None) -> int:
    """Print a clone's connection URL, with its password."""
    context: Context = ctx.obj
    with context.host() as host:
        volume, manifest = _current(host, clone)
        endpoint = _endpoint(host, volume, manifest, user, database, advertised=True)
        password = _password(host, manifest, user) if endpoint.path is None else None
        write(host.engine(manifest.engine).url(endpoint, password))
        if _sleeps(host, volume, manifest):
            tell(f"clone {clone} is stopped, as nobody used it; start it with: reconciler start {clone}")
    return 0


def connect(
    ctx: typer.Context,
    clone: CloneArgument,
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed to the shell, after `--`.")] = None,
    user: UserOption = None,
    database: DatabaseOption = None,
) -> int:
    """Open the engine's own shell on a clone.

    Commands can come on standard input; what follows `--` goes to the shell.
    A clone that was stopped because nobody used it is started first.
    """
    from reconciler.ids import ServerName

    context: Context = ctx.obj
    with context.host() as host:
        sleeps = _sleeps(host, *_current(host, clone))
    if sleeps:
        wish(context, "start", clone, output=None)
    with context.host() as host:
        volume, manifest = _current(host, clone)
        endpoint = _endpoint(host, volume, manifest, user, database, advertised=False)
        if endpoint.path is None and ServerName(volume) not in host.runtime(manifest.runtime).servers():
            raise UnavailableError(f"the server of clone {clone} does not run", hint=f"see reconciler events {clone}")
        password = _password(host, manifest, user) if endpoint.path is None else ""
        argv, environment = host.engine(manifest.engine).shell(endpoint, password, manifest.major)
    command = [*argv, *(arguments or [])]
    os.execvpe(command[0], command, {**os.environ, **environment})  # noqa: S606 - becomes the shell, without a shell


def logs(
    ctx: typer.Context,
    clone: CloneArgument,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="How many, newest last.")] = 100,
) -> int:
    """Show the end of a clone's server log."""
    from reconciler.ids import ServerName

    context: Context = ctx.obj
    with context.host() as host:
        volume, manifest = _current(host, clone)
        for line in host.runtime(manifest.runtime).logs(ServerName(volume), lines=lines):
            write(line)
    return 0


def reset(ctx: typer.Context, clone: CloneArgument) -> int:
    """Bring a clone back to its snapshot.

    What it holds now is kept for `undo` for a while.
    """
    return wish(ctx.obj, "reset", clone)


def rebase(
    ctx: typer.Context,
    clone: CloneArgument,
    to: Annotated[
        str, typer.Option("--to", metavar="SNAPSHOT", help="A snapshot of the clone's image; default: the newest.")
    ] = "",
) -> int:
    """Bring a clone to a newer snapshot of its image.

    What it holds now is kept for `undo` for a while.
    """
    return wish(ctx.obj, "rebase", clone, snapshot=to)


def start(ctx: typer.Context, clone: CloneArgument) -> int:
    """Start a clone that was stopped because nobody used it."""
    return wish(ctx.obj, "start", clone)


def undo(ctx: typer.Context, clone: CloneArgument) -> int:
    """Bring back what a clone held before its reset.

    Or before it was rebased, replaced or recreated, as long as that is kept.
    """
    return wish(ctx.obj, "undo", clone)


def refresh(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name of an image.")],
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the image's refresh window.")] = False,
) -> int:
    """Build a new snapshot, if the source changed.

    Where the image has a refresh window, that is when it opens.
    """
    return wish(ctx.obj, "refresh", image, at_once=now)


def wish(
    context: Context,
    verb: Verb,
    target: str,
    *,
    note: str = "",
    snapshot: str = "",
    at_once: bool = False,
    output: Output | None = Output.TEXT,
) -> int:
    """Hand a wish to the running loop, or serve it with a pass of our own, shown as ``output``."""
    from reconciler.cli.passes import one_pass
    from reconciler.cli.requests import hand_over, loop_runs, submit, waits_for

    with context.host() as host:
        _known(host, verb, target)
        if loop_runs(host):
            return hand_over(host, verb=verb, target=target, remark=note, snapshot=snapshot, at_once=at_once)
    with context.host(writes=True) as host:
        request = submit(host, verb=verb, target=target, note=note, snapshot=snapshot, at_once=at_once)
        code = one_pass(host, None, output)
        outcome = host.state.requests.outcome(request.id)
        if outcome is not None:
            tell(f"{verb} {target}: {outcome.message}")
            return 0 if outcome.status == "succeeded" else 1
        if (waits := waits_for(host, request)) is not None:
            tell(f"{verb} {target}: {waits}; the wish is kept, and a pass in that window serves it{_OR_NOW}")
            return 1
    return code


_OR_NOW = "; refresh --now does not wait"


def _known(host: Host, verb: Verb, target: str) -> None:
    from reconciler.state.observed import CloneManifest, MirrorManifest, SnapshotManifest

    volumes, away = visible(host)
    known: set[str]
    if verb == "refresh":
        kind = "image"
        known = {v.manifest.image for v in volumes if isinstance(v.manifest, SnapshotManifest)}
        desired = host.commits().newest().desired
        known |= set(desired.images) if desired is not None else set()
    elif verb in ("quarantine", "release"):
        kind = "snapshot"
        known = {v.manifest.snapshot for v in volumes if isinstance(v.manifest, SnapshotManifest)}
    elif verb == "forget":
        kind = "mirror"
        known = {v.manifest.image for v in volumes if isinstance(v.manifest, MirrorManifest)}
    else:
        kind = "clone"
        known = {v.manifest.clone for v in volumes if isinstance(v.manifest, CloneManifest)}
    if target not in known:
        raise missing(kind, target, known, away)


def visible(host: Host) -> tuple[list[Volume], list[str]]:
    """Return the volumes that can be seen, and what is wrong with the pools that cannot."""
    volumes: list[Volume] = []
    away: list[str] = []
    for storage in host.pools.values():
        try:
            volumes += storage.volumes()
        except UnavailableError as error:
            away.append(error.message)
    return volumes, away


def missing(kind: str, name: str, known: set[str], away: list[str]) -> ReconcilerError:
    """Return the error that says that there is no such object, or that it cannot be seen."""
    if away:
        return UnavailableError(f"there is no {kind} {name} among those that can be seen: {'; '.join(away)}")
    return InputError(f"there is no {kind} {name}", hint=_suggestion(name, known))


def _suggestion(target: str, known: set[str]) -> str | None:
    from rapidfuzz import process

    match = process.extractOne(target, known, score_cutoff=70)
    if match is not None:
        return f"did you mean {match[0]}?"
    return "known: " + ", ".join(sorted(known)[:20]) if known else None


def _current(host: Host, name: str) -> tuple[VolumeId, CloneManifest]:
    from reconciler.ids import CloneName
    from reconciler.state.observed import CloneManifest
    from reconciler.status.report import current_volume

    volumes, away = visible(host)
    found = current_volume(volumes, CloneName(name))
    if found is None:
        known = {str(v.manifest.clone) for v in volumes if isinstance(v.manifest, CloneManifest)}
        raise missing("clone", name, known, away)
    return found[0].id, found[1]


def _sleeps(host: Host, volume: VolumeId, manifest: CloneManifest) -> bool:
    """Whether a clone does not run because nobody used it."""
    from reconciler.ids import ServerName

    return manifest.idle is not None and ServerName(volume) not in host.runtime(manifest.runtime).servers()


def _endpoint(
    host: Host, volume: VolumeId, manifest: CloneManifest, user: str | None, database: str | None, *, advertised: bool
) -> Endpoint:
    from reconciler.status.report import endpoint_of

    files = host.engine(manifest.engine).files
    if files is not None:
        return _file(host, files, volume, manifest, user, database)
    names = [applied.name for applied in manifest.users]
    if not names:
        raise UnavailableError(f"clone {manifest.clone} has no users", hint="name one under spec.users")
    if user is not None and user not in names:
        raise InputError(f"clone {manifest.clone} has no user {user}", hint="known: " + ", ".join(names))
    served = host.serving(manifest.runtime)
    host_name = served.advertise if advertised else served.host
    return endpoint_of(manifest, host_name, port=served.port, database=database, user=user)


def _file(
    host: Host, files: DatabaseFiles, volume: VolumeId, manifest: CloneManifest, user: str | None, database: str | None
) -> Endpoint:
    from reconciler.status.report import endpoint_of

    if user is not None:
        raise InputError(f"clone {manifest.clone} is a file: it has no users")
    wanted = database or (manifest.databases[0] if manifest.databases else "")
    if wanted not in manifest.databases:
        known = ", ".join(manifest.databases) or "none"
        raise InputError(f"clone {manifest.clone} has no database {wanted}", hint=f"known: {known}")
    found = next((v for v in visible(host)[0] if v.id == volume), None)
    if found is None:
        raise UnavailableError(f"the volume of clone {manifest.clone} is gone")
    path = files.path(host.pools[found.pool].path(volume), wanted)
    return replace(endpoint_of(manifest, "", path=path), database=wanted)


def _password(host: Host, manifest: CloneManifest, named: str | None) -> str:
    """Return the password that lets a user in: of the document's secret, or the one that was generated.

    Raises:
        UnavailableError: it is neither. A secret's value is kept nowhere, so what it was before
            a rotation that no pass has delivered yet cannot be told.
        SecretError: the secret is missing or unreadable.

    """
    from reconciler.status.report import main_user

    user = named or main_user(manifest)
    generated = host.state.credentials.existing(manifest.clone, user)
    applied = next(applied for applied in manifest.users if applied.name == user)
    if applied.password == "generated" and generated is not None:  # noqa: S105 - a mark, not a password
        return generated
    desired = host.commits().in_force().desired
    clone = desired.clones.get(manifest.clone) if desired is not None else None
    secret = next((u.password for u in clone.users if u.name == user), None) if clone is not None else None
    if secret is None:
        raise UnavailableError(f"the password of {user} is not known here", hint="ask for it where its secret is kept")
    value = host.secrets.get(secret)
    if host.secret_fingerprint(secret) != applied.password:
        raise UnavailableError(
            f"clone {manifest.clone} does not have the password of {user} that is in secret {secret} now",
            reason="PasswordNotDelivered",
            hint="the next pass delivers it: reconciler apply; until then the one before it works",
        )
    return value
