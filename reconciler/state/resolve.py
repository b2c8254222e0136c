"""Documents of one commit to the desired state: defaults, references, scripts, digests.

Called once per new commit, after the loader found nothing wrong. Reads the commit's
own files and nothing else of the world. What the commit itself gets wrong becomes
diagnostics, and then there is no desired state; what only this host cannot give
(:mod:`.grants`) becomes a problem of the object alone, so that a commit is valid on
all hosts or on none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.ids import (
    FILES,
    CloneName,
    ImageName,
    PolicyName,
    PoolName,
    RuntimeName,
    SecretName,
    SnapshotId,
    instance_of,
    on_instance,
)
from reconciler.spec.collection import without_collection
from reconciler.spec.diagnostics import Diagnostic, order
from reconciler.spec.documents import clone_of, clones_by_name, image_behind, image_of, policy_of
from reconciler.spec.envelope import REFRESH_ANNOTATION
from reconciler.spec.image import MaskingScript
from reconciler.spec.products import WITHOUT_SERVER
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import (
    BackupSource,
    Check,
    Desired,
    DesiredClone,
    DesiredImage,
    DocumentRef,
    DumpSource,
    EmptySource,
    FilesSource,
    ImageSource,
    MaskerRef,
    MaskingStep,
    PointInTime,
    Policy,
    PrimarySource,
    Refresh,
    Resources,
    Retention,
    Script,
    SnapshotAt,
    SnapshotChoice,
    Source,
    SourcePath,
    User,
    Verify,
    Window,
)
from reconciler.state.digests import scripts_digest, spec_digest
from reconciler.state.grants import Grants, Refusal
from reconciler.state.scripts import Scope, Scripts, line_of, missing

if TYPE_CHECKING:
    from reconciler.repository import SourceTree
    from reconciler.spec.clone import Clone, CloneSpec
    from reconciler.spec.config import Config
    from reconciler.spec.documents import Document
    from reconciler.spec.image import Image, ImageSpec
    from reconciler.spec.image import PrimarySource as LivePrimary
    from reconciler.spec.scripts import Check as SpecCheck
    from reconciler.spec.scripts import CloneScript

_MAX_DIAGNOSTICS = 500
_RAW_COPIES = 7
"""Raw copies in the window of an image that does not say how many: log is replayed for a seventh of it at most."""
_Resolved = tuple[DesiredImage] | tuple[DesiredClone, ...]
"""An image, or the clones of a document."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """``desired`` is None exactly if a diagnostic is an error."""

    desired: Desired | None
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def problems(self) -> Mapping[ObjectKey, Refusal]:
        """What this host cannot give to single objects: reason and message."""
        return self.desired.problems if self.desired is not None else {}


class ResolveCache:
    """What documents resolved to in the last call, for those whose inputs are still the same.

    The loader hands out the same document objects for unchanged files. Belongs to one
    host configuration; not shared between threads.
    """

    def __init__(self) -> None:
        self._older: dict[Document, tuple[object, _Resolved]] = {}
        self._newest: dict[Document, tuple[object, _Resolved]] = {}

    def begin(self) -> None:
        """Start a call: what the last one did not use is dropped."""
        self._older, self._newest = self._newest, {}

    def get(self, document: Document, inputs: object) -> _Resolved | None:
        """Return what a document resolved to with equal inputs."""
        found = self._older.get(document)
        if found is None or found[0] != inputs:
            return None
        self._newest[document] = found
        return found[1]

    def put(self, document: Document, inputs: object, value: _Resolved) -> None:
        """Keep what a document resolved to."""
        self._newest[document] = (inputs, value)


def resolve(
    documents: Sequence[Document], tree: SourceTree, *, config: Config | None = None, cache: ResolveCache | None = None
) -> Resolution:
    """Return what ``documents``, which the loader found valid, ask of the host of ``config``.

    Without a configuration every document is selected and everything is granted but
    superuser rights: what ``validate`` needs. With a ``cache`` only documents are looked
    at again whose file, scripts, source, policies or image changed.

    Raises:
        UnavailableError: the tree cannot be read.

    """
    commit = _Commit(documents, tree, Grants(config), cache or ResolveCache())
    with without_collection():
        images, clones = commit.resolved()
    if commit.diagnostics:
        return Resolution(None, tuple(sorted(commit.diagnostics[:_MAX_DIAGNOSTICS], key=order)))
    selector = {} if config is None else config.selector
    taken_images = {name: image for name, image in images.items() if _selected(image.labels, selector)}
    taken_clones = {name: clone for name, clone in clones.items() if _selected(clone.labels, selector)}
    problems = {
        **dict(_not_selected(taken_images, taken_clones)),
        **dict(_refused(taken_images, taken_clones, commit.grants)),
    }
    return Resolution(Desired(tree.revision, taken_images, taken_clones, problems))


class _Commit:
    """The documents of one commit, by kind and name, and what turned out to be wrong with them."""

    def __init__(self, documents: Sequence[Document], tree: SourceTree, grants: Grants, cache: ResolveCache) -> None:
        self.images = {document.name: document for document in documents if document.kind == "Image"}
        self.clones = {document.name: document for document in documents if document.kind == "Clone"}
        self._named = clones_by_name(documents)
        self.grants = grants
        self.diagnostics: list[Diagnostic] = []
        self._policies = {document.name: document for document in documents if document.kind == "MaskingPolicy"}
        self._tree = tree
        self._scripts = Scripts(tree)
        self._cache = cache

    def resolved(self) -> tuple[dict[ImageName, DesiredImage], dict[CloneName, DesiredClone]]:
        """Return all images and clones, from the cache where nothing changed; fills ``diagnostics``."""
        self._cache.begin()
        everything = [*self.images.values(), *self.clones.values()]
        inputs = {document: self._inputs(document) for document in everything}
        found = {document: self._cache.get(document, inputs[document]) for document in everything}
        changed = [document for document, value in found.items() if value is None]
        self._scripts.read(script.path for document in changed for script in _scripts_of(document) if script.path)
        for document in changed:
            before = len(self.diagnostics)
            value = (self.image(document),) if document.kind == "Image" else self.clones_of(document)
            found[document] = value
            if len(self.diagnostics) == before:
                self._cache.put(document, inputs[document], value)
        values = [value for resolved in found.values() for value in resolved or ()]
        images = {value.name: value for value in values if isinstance(value, DesiredImage)}
        clones = {value.name: value for value in values if isinstance(value, DesiredClone)}
        return images, clones

    def _inputs(self, document: Document) -> object:
        """Return everything besides the document itself that what it resolves to depends on."""
        entries = self._tree.entries()
        scripts = [entries.get(script.path) for script in _scripts_of(document) if script.path]
        if document.kind == "Clone":
            return scripts, self._image_behind(document)
        spec = image_of(document).spec
        sources = [self._tree.object_id(path) for path in _source_paths(spec) if not path.startswith("/")]
        return scripts, sources, [self._policies[name] for name in spec.policies]

    def image(self, document: Document) -> DesiredImage:
        model = image_of(document)
        spec = model.spec
        name = ImageName(document.name)
        image = DesiredImage(
            name=name,
            document=DocumentRef(document.file, document.line),
            engine=spec.engine,
            version=spec.version,
            source=self._source(document, spec),
            at=spec.at,
            databases=spec.databases,
            scripts=self._rendered(document, spec.scripts, lambda: _image_scope(model)),
            checks=_checks(document, spec.checks, "spec", "checks"),
            verify=_verify(document, spec),
            masking=self._masking(document, spec, lambda: _image_scope(model)),
            unmasked_reason=spec.unmasked.reason if spec.unmasked else None,
            refresh=_refresh(spec),
            point_in_time=_point_in_time(spec),
            asked=model.metadata.annotations.get(REFRESH_ANNOTATION),
            retention=_retention(spec),
            pool=PoolName(spec.pool),
            runtime=FILES if spec.engine in WITHOUT_SERVER else RuntimeName(spec.runtime),
            container_image=spec.container.image if spec.container else None,
            parameters=spec.parameters,
            labels=model.metadata.labels,
            quarantine=tuple(map(SnapshotId, spec.quarantine)),
            formerly=ImageName(model.metadata.formerly) if model.metadata.formerly else None,
            suspend=spec.suspend,
            spec_digest="",
            superuser_scripts=self.grants.superuser_scripts(name),
        )
        return replace(image, spec_digest=spec_digest(image))

    def clones_of(self, document: Document) -> tuple[DesiredClone, ...]:
        """Return the clones of a document: one, or as many as its ``count`` says, on ports that follow each other."""
        port = clone_of(document).spec.port
        counted, known = clone_of(document).spec.count is not None, len(self.diagnostics)
        clones = []
        for number, (name, old) in enumerate(clone_of(document).named):
            clone = self.clone(document, name, old, port=port + number if port is not None else None)
            clones.append(replace(clone, number=number + 1) if counted else clone)
            if len(self.diagnostics) > known:  # the others would say the same
                break
        return tuple(clones)

    def clone(self, document: Document, name: str, formerly: str | None, *, port: int | None) -> DesiredClone:
        model = clone_of(document)
        spec = model.spec
        behind = self._image_behind(document)
        image = image_of(behind)
        scripts = self._rendered(document, spec.scripts, lambda: _clone_scope(model, name, image))
        container = (spec.container or image.spec.container) if spec.instance is None else None
        served = image.spec.engine not in WITHOUT_SERVER
        return DesiredClone(
            name=CloneName(name),
            document=DocumentRef(document.file, document.line),
            image=ImageName(behind.name),
            source_clone=CloneName(spec.source_clone) if spec.source_clone is not None else None,
            snapshot=_snapshot(model),
            runtime=_runtime(spec) if served else FILES,
            container_image=container.image if container else None,
            owner=spec.owner,
            port=port,
            running=spec.state == "running",
            idle=spec.idle,
            ttl=spec.ttl,
            expires=spec.expires,
            on_refresh=spec.on_refresh,
            protected=spec.protected,
            users=tuple(
                User(user.name, user.role, SecretName(user.password.secret) if user.password else None)
                for user in (spec.users if served else ())
            ),
            scripts=scripts,
            resources=Resources(spec.resources.memory, spec.resources.cpus, spec.resources.disk),
            parameters=spec.parameters,
            labels=model.metadata.labels,
            formerly=CloneName(formerly) if formerly else None,
            suspend=spec.suspend,
            scripts_digest=scripts_digest(scripts, spec.params),
            superuser_scripts=self.grants.superuser_scripts(behind.name),
        )

    def _image_behind(self, document: Document) -> Document:
        """Return the document of the image that a clone's data is of; the loader found that there is one."""
        return self.images[image_behind(document, self._named) or ""]

    def _rendered(self, document: Document, scripts: Iterable[CloneScript], scope: Scope) -> tuple[Script, ...]:
        rendered = []
        for number, script in enumerate(scripts):
            text, finding = self._scripts.resolve(document, script, "spec", "scripts", number, scope=scope)
            if finding is not None:
                self.diagnostics.append(finding)
            elif text is not None:
                rendered.append(text)
        return tuple(rendered)

    def _masking(self, document: Document, spec: ImageSpec, scope: Scope) -> tuple[MaskingStep, ...]:
        steps: list[MaskingStep] = []
        for number, step in enumerate(spec.masking):
            match step:
                case MaskingScript():
                    text, finding = self._scripts.resolve(document, step, "spec", "masking", number, scope=scope)
                    self.diagnostics.extend([finding] if finding is not None else [])
                    steps.extend([text] if text is not None else [])
                case str():
                    steps.append(Policy(PolicyName(step), policy_of(self._policies[step]).spec))
                case _:
                    steps.append(MaskerRef(step.masker))
        return tuple(steps)

    def _source(self, document: Document, spec: ImageSpec) -> Source:
        source = spec.source
        if source.dump is not None:
            roles = source.dump.globals
            return DumpSource(
                self._path(document, source.dump.path, "dump", "path"),
                self._path(document, roles, "dump", "globals") if roles else None,
            )
        if source.backup is not None:
            backup = source.backup
            return BackupSource(
                self._path(document, backup.path, "backup", "path") if backup.path else None,
                SourcePath(backup.wal) if backup.wal else None,
                backup.repository,
            )
        if source.files is not None:
            return FilesSource(self._path(document, source.files.path, "files", "path"))
        if source.primary is not None:
            return _primary(source.primary)
        return ImageSource(ImageName(source.image)) if source.image is not None else EmptySource()

    def _path(self, document: Document, path: str, *at: str) -> SourcePath:
        if path.startswith("/"):
            return SourcePath(path)
        object_id = self._tree.object_id(path)
        if object_id is None:
            self.diagnostics.append(missing(document, path, self._tree, "spec", "source", *at))
        return SourcePath(path, object_id, self._size(path))

    def _size(self, path: str) -> int:
        """Return what a file, or all files below a directory, add up to."""
        entries = self._tree.entries()
        if path in entries:
            return entries[path].size
        return sum(entry.size for name, entry in entries.items() if name.startswith(f"{path}/"))


def _scripts_of(document: Document) -> Iterable[CloneScript]:
    if document.kind == "Clone":
        return clone_of(document).spec.scripts
    spec = image_of(document).spec
    return [*spec.scripts, *(step for step in spec.masking if isinstance(step, MaskingScript))]


def _source_paths(spec: ImageSpec) -> list[str]:
    source = spec.source
    if source.dump is not None:
        return [source.dump.path, *([source.dump.globals] if source.dump.globals else [])]
    return [place.path for place in (source.backup, source.files) if place is not None and place.path is not None]


def _image_scope(model: Image) -> Mapping[str, object]:
    spec = model.spec
    return {"image": _about_image(model), "params": dict(spec.params)}


def _clone_scope(model: Clone, name: str, image: Image) -> Mapping[str, object]:
    """Return what templates of a clone see: params of its image stand in for those that it does not set."""
    return {
        "image": _about_image(image),
        "clone": {"name": name, "owner": model.spec.owner or "", "labels": dict(model.metadata.labels)},
        "params": {**image.spec.params, **model.spec.params},
    }


def _about_image(model: Image) -> dict[str, object]:
    spec = model.spec
    return {
        "name": model.metadata.name,
        "engine": spec.engine,
        "version": spec.version or "",
        "databases": list(spec.databases),
        "labels": dict(model.metadata.labels),
    }


def _primary(source: LivePrimary) -> PrimarySource:
    archive = SourcePath(source.archive) if source.archive is not None else None
    found = PrimarySource(SecretName(source.url.secret), source.method, archive=archive, copy_rate=source.copy_rate)
    if source.wal_limit is not None:
        found = replace(found, held_limit=source.wal_limit)
    return found if source.raw_max_age is None else replace(found, raw_max_age=source.raw_max_age)


def _point_in_time(spec: ImageSpec) -> PointInTime | None:
    past = spec.point_in_time
    return None if past is None else PointInTime(past.window, past.every or past.window / _RAW_COPIES)


def _refresh(spec: ImageSpec) -> Refresh | None:
    refresh = spec.refresh
    if refresh is None:
        return None
    windows = tuple(Window(window.schedule, window.duration) for window in refresh.windows)
    return Refresh(refresh.schedule, refresh.timezone, refresh.jitter, refresh.suspend, windows)


def _retention(spec: ImageSpec) -> Retention:
    kept = spec.retention
    return Retention(kept.keep, kept.max_age, daily=kept.daily, weekly=kept.weekly, monthly=kept.monthly)


def _verify(document: Document, spec: ImageSpec) -> Verify | None:
    if spec.verify is None:
        return None
    return Verify(spec.verify.amcheck, _checks(document, spec.verify.checks, "spec", "verify", "checks"))


def _checks(document: Document, checks: Iterable[SpecCheck], *at: str | int) -> tuple[Check, ...]:
    return tuple(
        Check(check.sql, check.database, document.file, line_of(document, check.sql, *at, number))
        for number, check in enumerate(checks)
    )


def _snapshot(model: Clone) -> SnapshotChoice:
    chosen = model.spec.snapshot
    if not isinstance(chosen, str):
        return SnapshotAt(chosen.at)
    return "latest" if chosen == "latest" else SnapshotId(chosen)


def _runtime(spec: CloneSpec) -> RuntimeName:
    return RuntimeName(spec.runtime) if spec.instance is None else on_instance(spec.instance)


def _selected(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _not_selected(
    images: Mapping[ImageName, DesiredImage], clones: Mapping[CloneName, DesiredClone]
) -> Iterator[tuple[ObjectKey, Refusal]]:
    """Yield objects of this host that need an image which the host's selector leaves to others."""
    needs = [(ObjectKey(Kind.CLONE, clone.name), clone.image) for clone in clones.values()]
    needs += [
        (ObjectKey(Kind.IMAGE, image.name), image.source.image)
        for image in images.values()
        if isinstance(image.source, ImageSource)
    ]
    for key, name in needs:
        if name not in images:
            what = f"it needs image {name}, whose labels this host's selector does not take"
            yield key, ("ImageNotSelected", f"{what}; give both the same labels")
    for clone in clones.values():
        if clone.image in images and clone.source_clone is not None and clone.source_clone not in clones:
            what = f"it starts from clone {clone.source_clone}, whose labels this host's selector does not take"
            yield ObjectKey(Kind.CLONE, clone.name), ("CloneNotSelected", f"{what}; give both the same labels")


def _refused(
    images: Mapping[ImageName, DesiredImage], clones: Mapping[CloneName, DesiredClone], grants: Grants
) -> Iterator[tuple[ObjectKey, Refusal]]:
    for image in images.values():
        refusal = grants.refusal(
            image.name,
            paths=_host_paths(image.source),
            secrets=image.secrets,
            maskers=image.maskers,
            repository=getattr(image.source, "repository", None),
            container_image=image.container_image,
        )
        if refusal is not None:
            yield ObjectKey(Kind.IMAGE, image.name), refusal
    for clone in clones.values():
        passwords = [user.password for user in clone.users if user.password is not None]
        instance = instance_of(clone.runtime)
        refusal = grants.refusal(
            clone.image, secrets=passwords, container_image=clone.container_image, instance=instance
        )
        if refusal is not None:
            yield ObjectKey(Kind.CLONE, clone.name), refusal


def _host_paths(source: Source) -> list[str]:
    match source:
        case DumpSource():
            return [path.path for path in (source.path, source.globals) if path is not None]
        case BackupSource():
            return [path.path for path in (source.path, source.wal) if path is not None]
        case FilesSource():
            return [source.path.path]
        case PrimarySource():
            return [source.archive.path] if source.archive is not None else []
        case _:
            return []
