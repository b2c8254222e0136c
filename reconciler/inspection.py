"""What there is, for people who ask: the document of ``status``.

Called by the command line. Observes now; conditions are those of the last pass, which
also knows what is under way. Contacts no remote and changes nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reconciler.activity import look
from reconciler.errors import ReconcilerError
from reconciler.host import policy_settings
from reconciler.ids import FILES, Revision
from reconciler.observe import in_flight_elsewhere, observe
from reconciler.plan.retention import why_kept
from reconciler.plan.schedule import ScheduleError
from reconciler.plan.timers import next_refreshes
from reconciler.plan.windows import may_begin
from reconciler.published import facts_json, host_facts
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import Desired
from reconciler.state.observed import CloneManifest
from reconciler.status.report import Facts, status_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from reconciler.commits import Commits
    from reconciler.host import Host
    from reconciler.ids import ImageName, RuntimeName, VolumeId
    from reconciler.repository import Change
    from reconciler.state.observed import Volume


def report(host: Host, *, activity: bool = False) -> dict[str, Any]:
    """Return the status document of a host; with ``activity`` every running clone is asked who uses it."""
    commits = host.commits()
    desired = commits.in_force().desired
    now = host.clock.now()
    asked = desired or Desired(Revision(""), {}, {})
    observed = observe(host, asked, now, in_flight=in_flight_elsewhere(host))
    settings = host.plan_settings
    missing = frozenset(asked.secrets - observed.secrets.keys())
    facts = host_facts(host.config, settings, host.policy_settings, missing=missing)
    document = status_document(
        Facts(
            now=now,
            observed=observed,
            desired=desired,
            revisions=host.store.revisions(),
            conditions=host.store.conditions(),
            usage=host.store.usage(),
            changes=_changes(commits, desired),
            next_refreshes=_within_windows(host, next_refreshes(asked, observed, now, settings=settings)),
            kept=why_kept(asked, observed, now, settings=settings),
            advertise=_advertised(host),
            ports={name: port for name in host.instances if (port := _port(host, name)) is not None},
            files=_files(host, observed.volumes),
            activity=look(host, observed.volumes, observed.servers) if activity else {},
        )
    )
    return {**document, "host": facts_json(facts)}


def _advertised(host: Host) -> dict[RuntimeName, str]:
    """Return the host names that clients use; where the secret with an instance's URL cannot be used, none."""
    found: dict[RuntimeName, str] = {}
    for name in host.runtimes:
        with suppress(ReconcilerError):
            found[name] = host.serving(name).advertise
    return found


def _port(host: Host, runtime: RuntimeName) -> int | None:
    with suppress(ReconcilerError):
        return host.serving(runtime).port
    return None


def _within_windows(host: Host, refreshes: Mapping[ImageName, datetime]) -> dict[ImageName, datetime]:
    """Return when refreshes may really start: builds may have to wait for a maintenance window of the host."""
    windows = policy_settings(host.config).windows
    found: dict[ImageName, datetime] = {}
    for name, at in refreshes.items():
        with suppress(ScheduleError):
            begins = may_begin(windows, "heavy", ObjectKey(Kind.IMAGE, name), at)
            found |= {name: begins} if begins is not None else {}
    return found


def _files(host: Host, volumes: Iterable[Volume]) -> dict[VolumeId, Path]:
    """Return where clones are that no server serves; an engine that cannot be loaded knows of none."""
    found: dict[VolumeId, Path] = {}
    for volume in volumes:
        manifest = volume.manifest
        if isinstance(manifest, CloneManifest) and manifest.runtime == FILES and volume.pool in host.pools:
            with suppress(ReconcilerError):
                files = host.engine(manifest.engine).files
                if files is not None and manifest.databases:
                    found[volume.id] = files.path(host.pools[volume.pool].path(volume.id), manifest.databases[0])
    return found


def _changes(commits: Commits, desired: Desired | None) -> Mapping[str, Change]:
    """Say who changed each document last; without history that is simply not known."""
    if desired is None:
        return {}
    files = {image.document.file for image in desired.images.values()}
    files |= {clone.document.file for clone in desired.clones.values()}
    try:
        return commits.history(files)
    except ReconcilerError:
        return {}
