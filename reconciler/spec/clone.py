"""The kind Clone: a writable copy of one snapshot, delivered by a runtime."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from reconciler.spec.envelope import ApiVersion, Metadata
from reconciler.spec.scripts import CloneScript, Parameters, Params
from reconciler.spec.types import (
    Container,
    Duration,
    Many,
    Maybe,
    Model,
    Name,
    NonEmpty,
    Port,
    Ruled,
    SecretRef,
    Size,
    Time,
    distinct,
    problem,
)
from reconciler.spec.values import FIRST_PORT, LAST_PORT, SNAPSHOT_PATTERN, USER_PATTERN

_RESERVED_PREFIXES = ("pg_", "reconciler_")
_RESERVED_NAMES = frozenset({"public", "none"})  # pseudo-roles of PostgreSQL: refused by CREATE ROLE even in quotes
MOST_NUMBERED = 1000
"""How many clones one document can ask for."""
_user = re.compile(USER_PATTERN)
_snapshot = re.compile(SNAPSHOT_PATTERN)


def _user_name(value: str) -> str:
    if not _user.fullmatch(value):
        raise problem(
            "this is not the name of a user",
            hint="a letter or underscore, then letters, digits, underscores and hyphens; at most 63",
        )
    if value.lower().startswith(_RESERVED_PREFIXES) or value.lower() in _RESERVED_NAMES:
        raise problem("this name is reserved", hint="names that begin with pg_ or reconciler_, public and none are")
    return value


def _snapshot_name(value: str) -> str:
    if value != "latest" and not _snapshot.fullmatch(value):
        raise problem(
            "this is not the id of a snapshot",
            hint="latest, an id such as shop-20261122t020000z-1a2b3c4d, or {at: 2026-11-20T12:00:00Z}",
        )
    return value


class SnapshotAt(Model):
    """The snapshot whose data is of a time, or the last one before."""

    at: Time = Field(description="Not younger than this.", examples=["2026-11-20T12:00:00Z"])


def _snapshot_form(value: Any) -> str:  # noqa: ANN401 - whatever YAML gave
    return "<at>" if isinstance(value, dict | SnapshotAt) else "<name>"


SnapshotName = Annotated[
    str,
    AfterValidator(_snapshot_name),
    Field(json_schema_extra={"pattern": f"^latest$|{SNAPSHOT_PATTERN}"}),
]
SnapshotChoice = Annotated[
    Annotated[SnapshotName, Tag("<name>")] | Annotated[SnapshotAt, Tag("<at>")], Discriminator(_snapshot_form)
]


class SourceClone(Model):
    """Another clone: what it holds when this one is made."""

    clone: Name = Field(description="The clone whose state at that time is cloned.", examples=["shop-dev"])


def _image_form(value: Any) -> str:  # noqa: ANN401 - whatever YAML gave
    return "<clone>" if isinstance(value, dict | SourceClone) else "<name>"


ImageChoice = Annotated[
    Annotated[Name, Tag("<name>")] | Annotated[SourceClone, Tag("<clone>")], Discriminator(_image_form)
]


class User(Model):
    """A login of the clone."""

    name: Annotated[str, AfterValidator(_user_name), Field(json_schema_extra={"pattern": USER_PATTERN})] = Field(
        description="Login name.", examples=["app"]
    )
    role: Literal["owner", "readonly", "superuser"] = Field("owner", description="What the user may do.")
    password: Maybe[SecretRef] = Field(
        None, description="Secret with the password; generated when left out.", examples=[{"secret": "shop-app"}]
    )


class Resources(Model):
    """Limits; refused where the runtime cannot hold to them."""

    memory: Maybe[Size] = Field(None, description="Memory of the server.", examples=["1Gi"])
    cpus: Maybe[Annotated[float, Field(gt=0, le=4096)]] = Field(None, description="Processor cores.", examples=[1])
    disk: Maybe[Size] = Field(None, description="Bytes that the clone may add.", examples=["20Gi"])


class CloneSpec(Ruled):
    """What the clone is made of and how it is served."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["ttl", "expires"]}})

    image: ImageChoice = Field(
        description="The image whose snapshot is cloned, or {clone: NAME}: another clone, as it is then.",
        examples=["shop", {"clone": "shop-dev"}],
    )
    snapshot: SnapshotChoice = Field(
        "latest",
        description="latest (resolved once, then pinned), the id of a snapshot, or {at: TIME}.",
        examples=["latest", "shop-20261122t020000z-1a2b3c4d", {"at": "2026-11-20T12:00:00Z"}],
    )
    runtime: Literal["process", "docker", "kubernetes", "instance", "none"] = Field(
        "process", description="How the clone is served."
    )
    instance: Maybe[Name] = Field(
        None,
        description="With runtime instance: on which of the host's instances its databases are.",
        examples=["shared"],
    )
    container: Maybe[Container] = Field(
        None, description="With runtime docker: what it runs; left out: what its image says, or the host."
    )
    owner: Maybe[NonEmpty] = Field(None, description="Who to ask; shown everywhere.", examples=["payments"])
    port: Maybe[Port] = Field(
        None, description="Fixed port; else one of the runtime's range is chosen once and kept.", examples=[5601]
    )
    count: Maybe[Annotated[int, Field(ge=1, le=MOST_NUMBERED)]] = Field(
        None, description="So many clones, named NAME-1, NAME-2 and so on; port is that of the first.", examples=[5]
    )
    state: Literal["running", "stopped"] = Field("running", description="Whether its server runs.")
    idle: Maybe[Duration] = Field(
        None, description="Its server stops after nobody was connected for so long.", examples=["30m"]
    )
    ttl: Maybe[Duration] = Field(None, description="Deleted so long after its creation.", examples=["8h"])
    expires: Maybe[Time] = Field(None, description="Deleted at this time.", examples=["2026-12-01T00:00:00Z"])
    on_refresh: Literal["keep", "recreate"] = Field(
        "keep", description="What a new snapshot does: keep never disturbs the clone; recreate follows."
    )
    protected: bool = Field(False, description="While true: never deleted, replaced, reset or expired.")
    users: Annotated[Many[User], distinct("the user")] = Field(
        (User.model_construct(name="app", role="owner", password=None),),
        description="Logins; left out: an owner named app. An empty list is nobody.",
        examples=[[{"name": "app", "role": "owner"}]],
    )
    params: Params = Field(default_factory=dict, description="Strings for templates.", examples=[{"region": "eu"}])
    scripts: Many[CloneScript] = Field(
        (), description="Run once, on the new clone.", examples=[[{"path": "sql/seed.sql"}]]
    )
    resources: Resources = Field(Resources.model_construct(), description="Limits.", examples=[{"memory": "1Gi"}])
    parameters: Parameters = Field(
        default_factory=dict, description="Server settings of this clone.", examples=[{"work_mem": "64MB"}]
    )
    suspend: bool = Field(False, description="Neither applied nor pruned while true.")

    @property
    def source_clone(self) -> str | None:
        """The clone that it starts from; None for one of an image."""
        return None if isinstance(self.image, str) else self.image.clone

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        yield from _unlike_a_clone(given)
        yield from _unlike_a_database(given)
        if "ttl" in given and "expires" in given:
            hint = "remove one of the two"
            yield problem("a clone has ttl or expires, not both", hint=hint, at=("expires",), code="R017")
        port, count = given.get("port"), given.get("count")
        if isinstance(port, int) and isinstance(count, int) and FIRST_PORT <= port <= LAST_PORT < port + count - 1:
            summary = f"{count} ports from {port} on go beyond {LAST_PORT}"
            yield problem(summary, hint="begin with a lower port, or leave it out", at=("port",), code="R017")


def _unlike_a_clone(given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
    """Yield what makes no sense for a clone of a clone."""
    if not isinstance(given.get("image"), dict | SourceClone):
        return
    if isinstance(given.get("snapshot"), dict | SnapshotAt):
        hint = "leave it out for what the clone holds now, or name the id of a point that there is"
        yield problem("a clone of a clone cannot be of another time", hint=hint, at=("snapshot",), code="R017")
    if given.get("onRefresh") == "recreate":
        hint = "remove it; `reconciler rebase` takes the clone to what the other one holds by then"
        yield problem("a clone has no refreshes to follow", hint=hint, at=("onRefresh",), code="R017")


_OF_A_SERVER = {
    "port": "it is reached on the port of its instance",
    "parameters": "the settings of a server are those of its instance; a script can say ALTER ROLE … SET for a user",
    "resources": "it shares those of its instance, which cannot hold a database to limits",
    "container": "its server exists already",
    "idle": "a database that nobody uses takes no memory, and nothing is to be stopped",
}
"""What a clone on an instance cannot have, as it has no server of its own, and why."""


def _unlike_a_database(given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
    """Yield what makes no sense for a clone that is databases on a server which exists already, or only for such."""
    if given.get("runtime") != "instance":
        if given.get("instance") is not None:
            hint = "write runtime: instance as well, or remove it"
            yield problem("only a clone on an instance names one", hint=hint, at=("instance",), code="R017")
        return
    if given.get("instance") is None:
        hint = "add instance: NAME, one of runtimes.instance in the host's configuration"
        yield problem("a clone on an instance says on which", hint=hint, at=("runtime",), code="R017")
    for name, why in _OF_A_SERVER.items():
        if given.get(name) not in (None, {}, Resources.model_construct()):
            summary = f"a clone on an instance has no {name} of its own: {why}"
            yield problem(summary, hint="remove it", at=(name,), code="R017")
    for number, user in enumerate(given.get("users") or ()):
        role = user.get("role") if isinstance(user, dict) else getattr(user, "role", None)
        if role == "superuser":
            hint = "write role: owner"
            at = ("users", number, "role")
            yield problem("a superuser would be one of the whole instance", hint=hint, at=at, code="R017")


class Clone(Model):
    """A writable copy-on-write copy of one snapshot, delivered by a runtime."""

    api_version: ApiVersion = Field(description="Version of this format.")
    kind: Literal["Clone"] = Field(description="Kind of this document.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: CloneSpec = Field(description="What the clone is made of and how it is served.")

    @property
    def named(self) -> tuple[tuple[str, str | None], ...]:
        """The name and former name of each clone that this document asks for.

        With ``count`` they are numbered. A document that got its ``count`` may say that its
        first clone had the name alone: ``formerly`` with its own name.
        """
        name, old = self.metadata.name, self.metadata.formerly
        if self.spec.count is None:
            return ((name, old),)
        numbers = range(1, self.spec.count + 1)
        if old == name:
            return tuple((f"{name}-{number}", name if number == 1 else None) for number in numbers)
        return tuple((f"{name}-{number}", f"{old}-{number}" if old else None) for number in numbers)
