"""Databases on an instance: made, copied from templates, served under their clones' names, refused, removed.

Called by :mod:`.front`. What it does is found again by marks: a kill at any point leaves what the
same call, or the removal of the same thing, puts right.

A generation of a clone is made in databases of its own names. Users know those of its clone, and
no database can be renamed: what is in it is moved (:mod:`.moving`), while nobody is let in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines.mysql.instance import accounts, catalog, copies, definitions, making, moving
from reconciler.engines.mysql.instance.marks import CloneMark, TemplateMark
from reconciler.errors import BusyError, PermanentError
from reconciler.state.hosted import login_name, private_name, public_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reconciler.engines.base import UserWish
    from reconciler.engines.mysql.instance.catalog import Database, Found
    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Registry
    from reconciler.engines.mysql.link import Link
    from reconciler.ids import CloneName, SnapshotId, VolumeId
    from reconciler.state.servers import Hosted


def create(access: InstanceLink, link: Link, registry: Registry, hosted: Hosted) -> None:
    """Make the databases of a generation; see :meth:`~reconciler.engines.base.Instance.create`."""
    for name in hosted.databases:
        public = public_name(hosted.clone, name, hosted.databases)
        accounts.pattern(public)
        accounts.require_ungranted(link, registry, public)
    _drop_generation(link, registry, hosted.volume)
    found = catalog.databases(link, registry)
    templates = found.of_snapshot(hosted.snapshot)
    missing = [name for name in hosted.databases if not is_complete(templates.get(name))]
    if missing:
        raise BusyError(
            f"snapshot {hosted.snapshot} is not, or no longer, loaded into {access.where}", reason="TemplateGone"
        )
    names = {name: own_name(hosted.volume, name, hosted.databases) for name in hosted.databases}
    reads = [templates[name].name for name in names]
    with accounts.working(access, link, registry, hosted.volume, names.values(), reads=reads) as worker:
        for name, made in names.items():
            found.require_free(made, access.where)
            mark = CloneMark(volume=hosted.volume, clone=hosted.clone, snapshot=hosted.snapshot, database=name)
            template = templates[name].row
            row = making.make(access, link, registry, made, mark, making.sorting(link, template.name))
            copies.copy(access, link, worker, template, row)
    accounts.own(link, registry, hosted.volume, names.values())


def is_complete(template: Database | None) -> bool:
    """Whether clones can be copied from a database."""
    return (
        template is not None
        and template.there
        and isinstance(template.row.mark, TemplateMark)
        and template.row.mark.complete
    )


def own_name(volume: VolumeId, database: str, databases: Iterable[str]) -> str:
    """Return the name of a database of a generation while users know another one by their clone's."""
    return making.fitting(private_name(volume, database, list(databases)))


def serve(access: InstanceLink, link: Link, registry: Registry, hosted: Hosted) -> None:
    """Let a clone's users in under its own names; see :meth:`~reconciler.engines.base.Instance.serve`."""
    found = catalog.databases(link, registry)
    parts = {name: [one for one in some if one.there] for name, some in found.of_volume(hosted.volume).items()}
    missing = sorted(name for name in hosted.databases if not parts.get(name))
    if missing:
        raise PermanentError(
            f"the database {missing[0]} of clone {hosted.clone} is not on {access.where} any more",
            reason="DatabaseGone",
            hint=f"reconciler reset {hosted.clone} makes it anew",
        )
    if hosted.private:
        _note(link, registry, hosted.volume, is_open=True)
        return
    wanted = {name: public_name(hosted.clone, name, hosted.databases) for name in hosted.databases}
    _require_names(link, registry, found, wanted.values(), hosted.clone, hosted.volume)
    others = found.of_clone(hosted.clone) - {hosted.volume}
    in_the_way = {volume: public for volume in others if (public := found.public(volume, hosted.clone))}
    elsewhere = any([one.name for one in parts[name]] != [new] for name, new in wanted.items())
    if in_the_way or elsewhere or moving.is_under_way(link, registry, hosted.volume):
        accounts.let_in(link, registry, hosted.clone, ())
        for volume in in_the_way:
            _note(link, registry, volume, is_open=False)
            siblings = found.of_volume(volume)
            moving.gather(access, link, registry, volume, {name: own_name(volume, name, siblings) for name in siblings})
        moving.gather(access, link, registry, hosted.volume, wanted)
    accounts.own(link, registry, hosted.volume, wanted.values())
    accounts.let_in(link, registry, hosted.clone, wanted.values())
    _note(link, registry, hosted.volume, is_open=True)


def refuse(link: Link, registry: Registry, volume: VolumeId) -> None:
    """Let nobody into a generation any more."""
    found = catalog.databases(link, registry)
    for clone in _clones(found, volume):
        if found.public(volume, clone):
            accounts.let_in(link, registry, clone, ())
    worker = accounts.worker_of(link, registry, volume)
    accounts.end_sessions(link, [worker] if worker is not None else [])
    _note(link, registry, volume, is_open=False)


def remove(link: Link, registry: Registry, volume: VolumeId) -> None:
    """Drop the databases of a generation, and the logins of its clone before its last one goes."""
    found = catalog.databases(link, registry)
    refuse(link, registry, volume)
    for clone in _clones(found, volume):
        if not found.of_clone(clone) - {volume}:
            for login in accounts.noted_logins(link, registry, clone):
                accounts.drop_login(link, registry, login)
    _drop_generation(link, registry, volume)


def rename(access: InstanceLink, link: Link, registry: Registry, formerly: CloneName, clone: CloneName) -> None:
    """Give the databases and logins of a clone its new name; sessions in them end.

    Raises:
        BusyError: somebody else's database or account has the name; nothing has changed.

    """
    found = catalog.databases(link, registry)
    volumes = {volume: found.of_volume(volume) for volume in found.of_clone(formerly)}
    names = {
        volume: {name: public_name(clone, name, list(siblings)) for name in siblings}
        for volume, siblings in volumes.items()
    }
    for volume, wanted in names.items():
        _require_names(link, registry, found, wanted.values(), formerly, volume)
    accounts.require_renamable(link, registry, formerly, clone)
    for volume, wanted in names.items():
        if found.public(volume, formerly) or found.public(volume, clone):
            accounts.let_in(link, registry, formerly, ())
            moving.gather(access, link, registry, volume, wanted)
    accounts.rename(link, registry, formerly, clone)
    found = catalog.databases(link, registry)
    registry.put(
        link,
        "database",
        [
            replace(one.row, mark=replace(one.row.mark, clone=clone))
            for volume in volumes
            for some in found.of_volume(volume).values()
            for one in some
            if isinstance(one.row.mark, CloneMark)
        ],
    )
    admit(link, registry, clone)


def deliver(
    access: InstanceLink, link: Link, registry: Registry, hosted: Hosted, users: Sequence[UserWish], drop: Sequence[str]
) -> None:
    """Bring a clone's logins to what is wished; see :meth:`~reconciler.engines.base.Instance.deliver`."""
    gone = {login_name(hosted.clone, user) for user in drop}
    lesser = {login_name(hosted.clone, user.name) for user in users if user.role == "readonly"}
    logins = accounts.logins_of(link, registry, hosted.clone)
    less = [login for login, mark in logins.items() if login in gone or (login in lesser and mark.role == "owner")]
    accounts.lock(link, less)  # a session keeps its rights in its database, and could make more of what is adopted
    _adopt(access, link, registry, hosted.clone, gone | lesser)
    for login in gone:
        accounts.drop_login(link, registry, login)
    for user in users:
        accounts.bring(access, link, registry, hosted.clone, user)
    admit(link, registry, hosted.clone)


def _adopt(access: InstanceLink, link: Link, registry: Registry, clone: CloneName, logins: set[str]) -> None:
    """Have the worker of a clone be whose rights code works with that users made who may not do that any more."""
    found = catalog.databases(link, registry)
    for volume in found.of_clone(clone):
        names = [one.name for one in found.public(volume, clone) if one.there]
        todo = {name: code for name in names if (code := definitions.of_definers(link, name, logins))}
        if not todo:
            continue
        with (
            accounts.working(access, link, registry, volume, names) as worker,
            access.session_as(worker.name, worker.password) as session,
            access.told(),
        ):
            for name, code in todo.items():
                definitions.make(session, code, name)  # a view that reads what is gone stays as broken as it is


def admit(link: Link, registry: Registry, clone: CloneName) -> None:
    """Let the logins of a clone into the generation that is open under its names, and all there; else nowhere."""
    found = catalog.databases(link, registry)
    names = [
        one.name
        for volume in found.of_clone(clone)
        if not moving.is_under_way(link, registry, volume)
        for one in found.public(volume, clone)
        if one.there and isinstance(one.row.mark, CloneMark) and one.row.mark.open
    ]
    accounts.let_in(link, registry, clone, names)


def drop_templates(link: Link, registry: Registry, snapshot: SnapshotId) -> None:
    """Drop what clones of a snapshot are copied from; it does not count any more before it goes."""
    found = catalog.databases(link, registry).of_snapshot(snapshot).values()
    registry.put(
        link,
        "database",
        [
            replace(one.row, mark=replace(one.row.mark, complete=False))
            for one in found
            if isinstance(one.row.mark, TemplateMark)
        ],
    )
    accounts.drop_worker(link, registry, snapshot)  # it is looked for while there is a database
    making.drop(link, registry, found)


def _drop_generation(link: Link, registry: Registry, volume: VolumeId) -> None:
    parts = catalog.databases(link, registry).of_volume(volume)
    moving.forget(link, registry, volume)
    making.drop(link, registry, [one for some in parts.values() for one in some])
    accounts.drop_worker(link, registry, volume)


def _note(link: Link, registry: Registry, volume: VolumeId, *, is_open: bool) -> None:
    parts = catalog.databases(link, registry).of_volume(volume)
    rows = [one.row for some in parts.values() for one in some]
    changed = [replace(row, mark=replace(row.mark, open=is_open)) for row in rows if isinstance(row.mark, CloneMark)]
    registry.put(link, "database", changed)


def _clones(found: Found, volume: VolumeId) -> set[CloneName]:
    rows = [one.row for some in found.of_volume(volume).values() for one in some]
    return {row.mark.clone for row in rows if isinstance(row.mark, CloneMark)}


def _require_names(
    link: Link, registry: Registry, found: Found, names: Iterable[str], clone: CloneName, volume: VolumeId
) -> None:
    """Insist that a generation of a clone can have these names; other generations of it may have them now.

    Raises:
        BusyError: somebody else has a database of the name, or rights in one.
        UnsupportedError: no right can be given for one.

    """
    for name in names:
        accounts.pattern(name)
        database = found.noted.get(name)
        mark = database.row.mark if database is not None and database.there else None
        if name in found.names and not (isinstance(mark, CloneMark) and mark.clone == clone):
            raise BusyError(
                f"{registry.where} has a database {name} that is not of clone {clone}; it is left alone",
                reason="NameTaken",
                hint="rename the clone, or that database",
            )
        if not (isinstance(mark, CloneMark) and mark.volume == volume):
            accounts.require_ungranted(link, registry, name)
