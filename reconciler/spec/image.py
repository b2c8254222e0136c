"""The kind Image: a declared source of databases."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from reconciler.spec.envelope import ApiVersion, ImageMetadata
from reconciler.spec.scripts import Check, CloneScript, ImageScript, Parameters, Params, database_name
from reconciler.spec.types import (
    Container,
    Duration,
    DurationOrZero,
    Many,
    Maybe,
    Model,
    Name,
    NonEmpty,
    Ruled,
    Schedule,
    SecretRef,
    Size,
    SpecPath,
    Time,
    Timezone,
    Version,
    distinct,
    problem,
)
from reconciler.spec.values import SNAPSHOT_PATTERN, is_pattern

Engine = Literal["postgres", "mariadb", "mysql", "sqlite", "sqlserver", "oracle"]
_TWO_PART_MAJORS = frozenset({"8", "9"})  # of PostgreSQL: since 10 the first number alone is the major version
_snapshot = re.compile(SNAPSHOT_PATTERN)
_SHORTEST_WINDOW = timedelta(minutes=1)
_NOTHING_TO_MASK = frozenset({"empty", "image"})


class DumpSource(Model):
    """A logical dump: plain SQL, or one of the engine's archive formats."""

    path: SpecPath = Field(description="The dump: a file or a directory.", examples=["dumps/shop.sql"])
    globals: Maybe[SpecPath] = Field(
        None, description="Roles and other things outside of databases (pg_dumpall -g).", examples=["dumps/roles.sql"]
    )


def _backup_path(value: str) -> str:
    if not is_pattern(value):
        return value
    if not value.startswith("/"):
        raise problem("a pattern is an absolute path of the host", hint="name a backup of the spec repository in full")
    if "**" in value or is_pattern(value.split("/")[1]):
        raise problem("this pattern has no directory to look into", hint="write one such as /backups/shop/*")
    return value


class BackupSource(Ruled):
    """Physical backups as the engine's own tool wrote them."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["repository"]}]})

    path: Maybe[Annotated[SpecPath, AfterValidator(_backup_path)]] = Field(
        None,
        description="A backup, or a directory or pattern where new ones appear: the newest complete one is taken.",
        examples=["/backups/shop", "/backups/shop/*"],
    )
    wal: Maybe[SpecPath] = Field(
        None, description="Directory with archived WAL, which is replayed to its end.", examples=["/backups/shop-wal"]
    )
    repository: Maybe[Name] = Field(
        None, description="In place of a path: a backup repository of the host.", examples=["shop"]
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        if ("path" in given) == ("repository" in given):
            hint = "write path: /backups/shop/*, or repository: NAME of one that the host's configuration defines"
            yield problem("a backup has a path or a repository", hint=hint, code="R017")
        elif "wal" in given and "repository" in given:
            yield problem("a repository has its own WAL", hint="remove wal", at=("wal",), code="R017")
        if "wal" in given and not all(str(given.get(name, "/")).startswith("/") for name in ("path", "wal")):
            yield problem("backups with archived WAL, and the archive, are absolute paths of the host", at=("wal",))


class FilesSource(Model):
    """Data files of a cleanly stopped or file-consistent database."""

    path: SpecPath = Field(description="The data directory or file.", examples=["/srv/shop/data"])


class PrimarySource(Ruled):
    """A live server."""

    url: SecretRef = Field(description="Secret with the connection URL.", examples=[{"secret": "shop-dsn"}])
    method: Literal["physical", "logical"] = Field(
        "physical",
        description="physical: a private standby follows it, and a refresh costs only the change;"
        " logical: a full dump each time, where only SQL is possible.",
    )
    mode: Literal["stream", "archive"] = Field(
        "stream",
        description="How the mirror gets log. stream: from the primary, which keeps it in a slot; archive: from the"
        " directory archive, and nothing is made at the primary. physical only.",
    )
    archive: Maybe[SpecPath] = Field(
        None,
        description="Directory of the host where the primary's log is archived, plain or compressed; of mode: archive.",
        examples=["/backups/shop-wal"],
    )
    wal_limit: Maybe[Size] = Field(
        None,
        description="Log that the primary may have to keep for the mirror (default 10Gi): beyond it, its slot is"
        " dropped. physical, mode: stream only.",
        examples=["10Gi"],
    )
    copy_rate: Maybe[Size] = Field(
        None,
        description="Bytes a second at which the primary is copied at most, from 32Ki to 1Gi, so that its clients are"
        " not kept waiting; it is not made to write its buffers at once either, so that the copy begins within its"
        " checkpoint_timeout. Without, it is copied as fast as can be. physical only, of postgres.",
        examples=["20Mi"],
    )
    raw_max_age: Maybe[Duration] = Field(
        None,
        description="The mirror, which is unmasked, is removed when no refresh has used it for so long (default 30d),"
        " also while the image is suspended."
        " physical only.",
        examples=["30d"],
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        logical, archived = given.get("method") == "logical", given.get("mode") == "archive"
        for name in ("mode", "archive", "walLimit", "copyRate", "rawMaxAge"):
            if name in given and logical:
                yield problem(
                    f"{name} is of the mirror, and method: logical has none",
                    hint="remove it, or set method: physical",
                    at=(name,),
                    code="R017",
                )
        if logical:
            return
        if archived and "archive" not in given:
            hint = "add archive: /backups/shop-wal, the directory into which the primary archives"
            yield problem("mode: archive needs the directory of the archive", hint=hint, code="R017")
        if "archive" in given and not archived:
            hint = "set mode: archive, or remove it"
            yield problem("a mirror that streams reads no archive", hint=hint, at=("archive",), code="R017")
        if "walLimit" in given and archived:
            hint = "remove walLimit"
            yield problem("with mode: archive there is no slot to limit", hint=hint, at=("walLimit",), code="R017")
        rate = given.get("copyRate")
        if isinstance(rate, int) and not 32 << 10 <= rate <= 1 << 30:
            hint = "write a rate from 32Ki to 1Gi"
            yield problem("the primary cannot be copied at this rate", hint=hint, at=("copyRate",), code="R017")
        if not str(given.get("archive", "/")).startswith("/"):
            yield problem("the archive of a primary is an absolute path of the host", at=("archive",))


class EmptySource(Model):
    """An empty server that scripts fill."""


class Source(Ruled):
    """Where the data comes from: exactly one of these."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    dump: Maybe[DumpSource] = Field(None, description="A logical dump.", examples=[{"path": "dumps/shop.sql"}])
    backup: Maybe[BackupSource] = Field(None, description="A physical backup.", examples=[{"path": "/backups/shop"}])
    files: Maybe[FilesSource] = Field(None, description="Data files.", examples=[{"path": "/srv/shop/data"}])
    primary: Maybe[PrimarySource] = Field(
        None, description="A live server.", examples=[{"url": {"secret": "shop-dsn"}, "method": "physical"}]
    )
    image: Maybe[Name] = Field(None, description="Another image: build on its latest snapshot.", examples=["base"])
    empty: Maybe[EmptySource] = Field(None, description="An empty server; scripts fill it.", examples=[{}])

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        keys = [name for name in cls.model_fields if name in given]
        if len(keys) != 1:
            yield problem(
                "a source has exactly one of dump, backup, files, primary, image and empty",
                hint=f"keep one of {' and '.join(keys)}" if keys else "for a server without data write empty: {}",
                at=tuple(keys[1:2]),
                code="R017",
            )

    @property
    def kind(self) -> str:
        """The key that is given."""
        return next(name for name in Source.model_fields if getattr(self, name) is not None)


def _window_length(value: timedelta) -> timedelta:
    if value < _SHORTEST_WINDOW:
        raise problem("a window is open for a minute at least", hint="write 6h")
    return value


class Unmasked(Model):
    """Says openly that the data needs no masking."""

    reason: NonEmpty = Field(description="Why; shown in status and events.", examples=["public sample data"])


class MaskerRef(Model):
    """A masking program that the host's configuration defines."""

    masker: Name = Field(description="Its name under masking.maskers of the host.", examples=["optim"])


class MaskingScript(CloneScript):
    """SQL of yours that masks."""


def _masking_step(value: Any) -> str:  # noqa: ANN401 - whatever YAML gave
    if isinstance(value, MaskerRef) or (isinstance(value, dict) and "masker" in value):
        return "<masker>"
    return "<script>" if isinstance(value, MaskingScript | dict) else "<policy>"


MaskingStep = Annotated[
    Annotated[Name, Tag("<policy>")]
    | Annotated[MaskerRef, Tag("<masker>")]
    | Annotated[MaskingScript, Tag("<script>")],
    Discriminator(_masking_step),
]


class RefreshWindow(Model):
    """A time in which refreshes may start."""

    schedule: Schedule = Field(description="When it opens, as cron.", examples=["0 22 * * *"])
    duration: Annotated[Duration, AfterValidator(_window_length)] = Field(
        description="How long it stays open, in hours that pass.", examples=["6h"]
    )


def _window_form(value: Any) -> str:  # noqa: ANN401 - whatever YAML gave
    return "<window>" if isinstance(value, dict | RefreshWindow) else "<list>"


Windows = Annotated[
    Annotated[RefreshWindow, Tag("<window>")] | Annotated[Many[RefreshWindow], Tag("<list>")],
    Discriminator(_window_form),
]


class Refresh(Ruled):
    """When the image is built anew from its source."""

    schedule: Maybe[Schedule] = Field(None, description="Cron: minute hour day month weekday.", examples=["0 2 * * *"])
    timezone: Timezone = Field(
        "UTC", description="Time zone of the schedule, the window and the days of retention.", examples=["Europe/Paris"]
    )
    jitter: DurationOrZero = Field(timedelta(0), description="Spread of the starting time, upwards.", examples=["10m"])
    suspend: bool = Field(False, description="Stops scheduled refreshes; what is missed meanwhile is not made up for.")
    window: Windows = Field(
        (),
        description="Refreshes start only while one of these is open; one window, or a list.",
        examples=[{"schedule": "0 22 * * *", "duration": "6h"}],
    )

    @property
    def windows(self) -> tuple[RefreshWindow, ...]:
        """The windows, however many are written."""
        return (self.window,) if isinstance(self.window, RefreshWindow) else self.window

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        if "schedule" not in given and "jitter" in given:
            yield problem("jitter means nothing without a schedule", hint="add schedule: 0 2 * * *", code="R017")


class Verify(Model):
    """What a build proves of its source before anything is changed; the dated result is kept with the snapshot."""

    amcheck: bool = Field(
        False, description="Look for damage in every table and index, after restoring and once more at the end."
    )
    checks: Many[Check] = Field((), description="Checks of what was restored, before scripts and masking.")


class PointInTime(Model):
    """How far back clones may ask for a moment (snapshot: {at: TIME}); of a primary that is followed."""

    window: Duration = Field(description="From now back so far. Log and raw copies are kept for it.", examples=["7d"])
    every: Maybe[Duration] = Field(
        None,
        description="How often a raw copy of the mirror is kept, from which log is replayed; default: a seventh of"
        " the window.",
        examples=["1d"],
    )


class Retention(Model):
    """Which snapshots are kept. Those in use, or named by a spec, are never pruned."""

    keep: int = Field(3, ge=1, le=10_000, description="How many of the newest.", examples=[3])
    daily: int = Field(
        0, ge=0, le=10_000, description="And the newest of each of so many days that have one.", examples=[7]
    )
    weekly: int = Field(0, ge=0, le=10_000, description="The same, by weeks (ISO, from Monday).", examples=[4])
    monthly: int = Field(0, ge=0, le=10_000, description="The same, by months.", examples=[6])
    max_age: Maybe[Duration] = Field(None, description="Older ones go as well, save the newest.", examples=["30d"])


def _snapshot_id(value: str) -> str:
    if not _snapshot.fullmatch(value):
        raise problem("this is not the id of a snapshot", hint="write one such as shop-20261122t020000z-1a2b3c4d")
    return value


SnapshotId = Annotated[str, AfterValidator(_snapshot_id), Field(json_schema_extra={"pattern": SNAPSHOT_PATTERN})]

_MASKED: dict[str, Any] = {"required": ["masking"], "properties": {"masking": {"minItems": 1}}}
_UNMASKED: dict[str, Any] = {"required": ["unmasked"]}
_BOTH: dict[str, Any] = {"allOf": [_MASKED, _UNMASKED]}
_MASKED_OR_NOT: list[Any] = [
    _MASKED,
    _UNMASKED,
    {"properties": {"source": {"required": ["image"]}}},
    {"properties": {"source": {"required": ["empty"]}}},
]
"""The rule of masking, for editors: policies, or a reason, or nothing to mask."""


class ImageSpec(Ruled):
    """How the image is built."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _MASKED_OR_NOT, "not": _BOTH})

    engine: Engine = Field(description="The database product.", examples=["postgres"])
    version: Maybe[Version] = Field(None, description="Major version that must serve it.", examples=["18"])
    source: Source = Field(description="Where the data comes from: exactly one key.")
    at: Maybe[Time] = Field(
        None,
        description="The moment that it is of; with source.image, where that one has pointInTime.",
        examples=["2026-11-20T12:00:00+01:00"],
    )
    databases: Annotated[Many[Annotated[NonEmpty, AfterValidator(database_name)]], distinct("the database")] = Field(
        (), description="Keep only these; default: all databases of users.", examples=[["shop"]]
    )
    params: Params = Field(default_factory=dict, description="Strings for templates.", examples=[{"region": "eu"}])
    scripts: Many[ImageScript] = Field(
        (), description="Run in order; the first error stops the build.", examples=[[{"path": "sql/trim.sql"}]]
    )
    masking: Annotated[Many[MaskingStep], distinct("the policy")] = Field(
        (),
        description="MaskingPolicy documents, by name; or a masker of the host, or SQL of yours. In order.",
        examples=[["pii"], ["pii", {"masker": "optim"}, {"path": "sql/mask.sql"}]],
    )
    unmasked: Maybe[Unmasked] = Field(
        None, description="In place of masking: why there is none.", examples=[{"reason": "public sample data"}]
    )
    checks: Many[Check] = Field((), description="After masking; a failing check fails the build.")
    verify: Maybe[Verify] = Field(
        None, description="Proof that the source restores, kept with the snapshot.", examples=[{"amcheck": True}]
    )
    refresh: Maybe[Refresh] = Field(None, description="When to build anew.", examples=[{"schedule": "0 2 * * *"}])
    point_in_time: Maybe[PointInTime] = Field(
        None, description="How far back clones may ask for a moment.", examples=[{"window": "7d"}]
    )
    retention: Retention = Field(Retention.model_construct(), description="Which snapshots are kept.")
    pool: Name = Field("default", description="Where builds and snapshots live.", examples=["default"])
    runtime: Literal["process", "docker"] = Field("process", description="Where the server of a build runs.")
    container: Maybe[Container] = Field(
        None, description="What builds and clones in containers run; left out: what the host says."
    )
    parameters: Parameters = Field(
        default_factory=dict, description="Server settings of builds and clones.", examples=[{"work_mem": "64MB"}]
    )
    quarantine: Annotated[Many[SnapshotId], distinct("the snapshot")] = Field(
        (),
        description="Snapshots of which nothing is made any more, and whose clones are stopped.",
        examples=[["shop-20261122t020000z-1a2b3c4d"]],
    )
    suspend: bool = Field(False, description="Neither applied nor pruned while true.")

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        yield from _about_masking(given)
        yield from _about_timezone(given)
        yield from _about_moment(given)
        source = given.get("source")
        if "pointInTime" in given and not (source is None or _is_followed(source)):
            yield problem(
                "only a primary that is followed has a past",
                hint="use source: {primary: {url: …, method: physical}}, or remove pointInTime",
                at=("pointInTime",),
                code="R017",
            )
        version = given.get("version")
        major = version.split(".") if isinstance(version, str) else []
        if given.get("engine") == "postgres" and len(major) > 1 and major[0] not in _TWO_PART_MAJORS:
            yield problem("this is not a major version", hint=f'write "{major[0][:4]}"', at=("version",))

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the MaskingPolicy documents that mask it."""
        return tuple(step for step in self.masking if isinstance(step, str))


def _is_followed(source: object) -> bool:
    primary = source.get("primary") if isinstance(source, dict) else getattr(source, "primary", None)
    method = primary.get("method") if isinstance(primary, dict) else getattr(primary, "method", None)
    return primary is not None and method in (None, "physical")


def _about_masking(given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
    source = given.get("source")
    keys = {source.kind} if isinstance(source, Source) else set(source) if isinstance(source, dict) else set()
    exempt = not keys or keys & _NOTHING_TO_MASK
    if given.get("masking") and "unmasked" in given:
        hint = "remove one of the two"
        yield problem("an image has masking or unmasked, not both", hint=hint, at=("unmasked",), code="R017")
    elif not (given.get("masking") or "unmasked" in given or exempt):
        yield problem(
            "an image needs masking, or unmasked with a reason",
            hint='name policies (masking: [pii]), or say openly why not (unmasked: {reason: "public sample data"})',
            code="R017",
        )


def _about_timezone(given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
    """A time zone is of a schedule, a window, or the days of retention."""
    refresh, retention = _fields(given.get("refresh")), _fields(given.get("retention"))
    uses = {"schedule", "window"} & refresh or {"daily", "weekly", "monthly"} & retention
    if "timezone" in refresh and not uses:
        hint = "add schedule: 0 2 * * *"
        at = ("refresh", "timezone")
        yield problem("a time zone means nothing without a schedule or a window", hint=hint, at=at, code="R017")


def _about_moment(given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
    """A moment is taken of another image, which has a past; and it never changes."""
    if "at" not in given:
        return
    source = given.get("source")
    keys = {source.kind} if isinstance(source, Source) else _fields(source)
    if keys and keys != {"image"}:
        yield problem(
            "an image of a moment is built on another image, which follows a primary and has a past",
            hint="give that one pointInTime, and write source: {image: NAME} beside at",
            at=("at",),
            code="R017",
        )
    if "schedule" in _fields(given.get("refresh")):
        hint, at = "remove the schedule, or at", ("refresh", "schedule")
        yield problem("a moment never changes, so there is nothing to refresh", hint=hint, at=at, code="R017")


def _fields(given: object) -> set[str]:
    """Return which fields of a mapping are written; they have the same names in YAML here."""
    if isinstance(given, Model):
        return given.model_fields_set
    return {str(key) for key in given} if isinstance(given, dict) else set()


class Image(Model):
    """A declared source of databases: engine, source, scripts, masking, refresh, retention."""

    api_version: ApiVersion = Field(description="Version of this format.")
    kind: Literal["Image"] = Field(description="Kind of this document.")
    metadata: ImageMetadata = Field(description="Name and labels.")
    spec: ImageSpec = Field(description="How the image is built.")
