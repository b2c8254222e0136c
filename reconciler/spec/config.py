"""The kind Config: what differs from host to host; never in the spec repository.

Every value has a default, so ``{}`` is valid. Paths are resolved against the directory
of the configuration file, which validation gets as ``context={"base": Path}``; defaults
that hold paths are validated as well, so that they resolve in the same way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from reconciler.spec.envelope import API_VERSION, ApiVersion, Labels
from reconciler.spec.gaps import STORAGE_GAPS
from reconciler.spec.types import (
    AmountOf,
    Cidr,
    Duration,
    DurationOrZero,
    Many,
    Maybe,
    Model,
    Name,
    NonEmpty,
    Percent,
    PortRange,
    Ruled,
    Schedule,
    SecretRef,
    Size,
    Timezone,
    UserIdRange,
    problem,
)
from reconciler.spec.values import Amount, NumberRange

_SCP_LIKE = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.\[\]:-]+:[^:].*")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SCHEMES = frozenset({"https", "ssh", "file"})
_URL_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
_SYSTEM_STATE = Path("/var/lib/reconciler")
_SYSTEM_SECRETS = Path("/etc/reconciler/secrets")
_SHORTEST_WINDOW = timedelta(minutes=1)
_MI = 2**20
_GI = 2**30


def _host_path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        path = value
    elif isinstance(value, str) and value and "\0" not in value:
        path = Path(value)
    else:
        raise problem("this is not a path", hint="write it absolute, or relative to the configuration file")
    base: Path | None = (info.context or {}).get("base")
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise problem("the home directory of this user is not known", hint="write the path in full") from error
    return Path(os.path.normpath(base / path)) if base else path


HostPath = Annotated[
    Path,
    BeforeValidator(_host_path),
    WithJsonSchema({"type": "string", "minLength": 1, "description": "Relative to the configuration file."}),
]


def _state_directory() -> Path:
    """Return the system's directory for root, the user's own for others."""
    if os.geteuid() == 0:
        return _SYSTEM_STATE
    from platformdirs import user_state_path  # noqa: PLC0415 - not needed by root

    return user_state_path("reconciler")


def _secrets_directory() -> Path:
    if os.geteuid() == 0:
        return _SYSTEM_SECRETS
    from platformdirs import user_config_path  # noqa: PLC0415 - not needed by root

    return user_config_path("reconciler") / "secrets"


class RepositoryLimits(Model):
    """Bounds of what is read from the repository, which is untrusted input."""

    files: int = Field(20_000, ge=1, description="Number of spec files.")
    file_size: Size = Field(1 * _MI, description="Bytes of one spec file.", examples=["1Mi"])
    total_size: Size = Field(
        256 * _GI, description="Bytes of all files of a commit together, dumps included.", examples=["256Gi"]
    )


def _identity(value: str) -> str:
    if not value.isprintable() or set(value) & set("<>") or value != value.strip(" .,:;\"'\\"):
        raise problem("git cannot write this into a commit", hint="leave out <, > and punctuation around it")
    return value


Identity = Annotated[NonEmpty, AfterValidator(_identity)]
"""A name or an address that git takes as it is (git-commit-tree(1), "Commit Information")."""


class WriteBack(Model):
    """Whether documents of expired clones are removed from git, and by whom."""

    enabled: bool = Field(False, description="Remove the documents of expired clones by commits.")
    name: Identity = Field("reconciler", description="Author and committer.", examples=["reconciler"])
    email: Identity = Field("reconciler@localhost", description="Address of both.", examples=["reconciler@db.example"])
    signing_key: Maybe[SecretRef] = Field(
        None,
        description="Secret with the SSH private key that signs the commits; left out: they are not signed.",
        examples=[{"secret": "git-signing"}],
    )


class SignedCommits(Ruled):
    """Whose signatures a commit must bear to be applied."""

    allowed_signers: Maybe[HostPath] = Field(
        None,
        description="SSH keys whose signatures count, as in ALLOWED SIGNERS of ssh-keygen(1).",
        examples=["/etc/reconciler/allowed_signers"],
    )
    revoked_keys: Maybe[HostPath] = Field(
        None,
        description="SSH keys that count no more: public keys, or a key revocation list.",
        examples=["/etc/reconciler/revoked_keys"],
    )
    gpg_keys: Many[HostPath] = Field(
        (),
        description="Files with OpenPGP public keys whose signatures count.",
        examples=[["/etc/reconciler/signers/ann.asc"]],
    )
    gnupg_home: Maybe[HostPath] = Field(
        None,
        description="Instead of `gpgKeys`, a keyring of the host; keys that it trusts fully count.",
        examples=["/etc/reconciler/gnupg"],
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        if not given.keys() & {"allowedSigners", "gpgKeys", "gnupgHome"}:
            hint = "add allowedSigners (SSH) or gpgKeys (OpenPGP), or leave verify out"
            yield problem("this names nobody whose commits could be applied", hint=hint, code="R017")
        if {"gpgKeys", "gnupgHome"} <= given.keys():
            yield problem("keys come from files or from a keyring", hint="remove one", at=("gnupgHome",), code="R017")


class Repository(Model):
    """Where the specs come from: a git URL, or a plain directory."""

    url: Maybe[NonEmpty] = Field(
        None,
        description="https, ssh, file URL, or the path of a local repository; left out for a plain directory.",
        examples=["https://git.example/specs.git"],
    )
    branch: NonEmpty = Field("main", description="Branch to follow.", examples=["main"])
    path: NonEmpty = Field(
        ".", description="Directory of the specs: in the repository; without url, on the host.", examples=["./specs"]
    )
    interval: Duration = Field(timedelta(minutes=1), description="How often to look for a new commit.", examples=["1m"])
    credentials: Maybe[SecretRef] = Field(None, description="Secret with the token or private key.")
    known_hosts: Maybe[HostPath] = Field(None, description="SSH host keys to trust.", examples=["known_hosts"])
    force_push: Literal["hold", "follow"] = Field(
        "hold", description="Whether a rewritten branch waits for `apply --approve`, or is followed at once."
    )
    limits: RepositoryLimits = Field(RepositoryLimits.model_construct(), description="Bounds of what is read.")
    write_back: WriteBack = Field(WriteBack.model_construct(), description="Commits that remove documents.")
    verify: Maybe[SignedCommits] = Field(
        None, description="Commits without a valid signature are not applied; left out: everybody's commits are."
    )

    @field_validator("url")
    @classmethod
    def _safe_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else _git_url(value, info)

    @field_validator("branch")
    @classmethod
    def _safe_branch(cls, value: str) -> str:
        return _branch_name(value)

    @model_validator(mode="before")
    @classmethod
    def _place(cls, data: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - whatever YAML gave
        if not isinstance(data, dict) or "url" in data:
            return data
        path = data.get("path", ".")
        return {**data, "path": str(_host_path(path, info))} if isinstance(path, str) and path else data

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.url is not None and (self.path.startswith(("/", "~", "-")) or ".." in self.path.split("/")):
            raise problem("this path leads out of the repository", hint="write a directory inside it", at=("path",))
        if self.url is None and self.write_back.enabled:
            summary = "nothing is written back to a plain directory"
            raise problem(summary, hint="name a git repository in url, or leave it out", at=("writeBack",), code="R017")
        if self.verify is not None:
            self._verifiable()
        return self

    def _verifiable(self) -> None:
        if self.url is None:
            summary = "a plain directory has no commits that somebody could sign"
            raise problem(summary, hint="name a git repository in url, or leave it out", at=("verify",), code="R017")
        if self.write_back.enabled and self.write_back.signing_key is None:
            summary = "commits of ours would not be signed, so they would not be applied"
            hint = "name a key that verify knows in writeBack.signingKey"
            raise problem(summary, hint=hint, at=("writeBack",), code="R017")


def _branch_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,200}", value) or ".." in value or "//" in value:
        raise problem("this is not the name of a branch")
    return value


def _git_url(value: str, info: ValidationInfo) -> str:
    if value.startswith("-") or any(character <= " " for character in value):
        raise problem("this is not the URL of a repository")
    if _URL_PASSWORD.search(value):
        raise problem("a URL must not carry a password", hint="use credentials: {secret: NAME}")
    scheme = _SCHEME.match(value)
    if scheme and scheme[1].lower() not in _SCHEMES:
        raise problem(f"{scheme[1][:20]} is not allowed for repositories", hint="use https, ssh or file")
    if scheme or _SCP_LIKE.fullmatch(value):
        return value
    if "::" in value:
        raise problem("transport helpers are not allowed for repositories", hint="use https, ssh or file")
    return str(_host_path(value, info))


Dataset = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_.:-]*(/[A-Za-z0-9_.:][A-Za-z0-9_.:-]*)*$", max_length=100)]
RequiredAttestation = Maybe[Literal["signed", "any"]]


class Pool(Model):
    """A place on storage where volumes live."""

    driver: Literal["auto", "btrfs", "zfs", "reflink", "copy"] = Field(
        "auto", description="How copies are made; auto takes the best that the path can do."
    )
    path: Maybe[HostPath] = Field(
        None,
        description="Directory of the pool; default: in the state directory.",
        examples=["/var/lib/reconciler/pool"],
    )
    reserve: AmountOf = Field(Amount(percent=10.0), description="Kept free.", examples=["10%", "20Gi"])
    size: Maybe[Size] = Field(
        None,
        description="With driver btrfs: make a loop-backed pool of this size (root only); it grows, and never shrinks.",
        examples=["50Gi"],
    )
    dataset: Maybe[Dataset] = Field(
        None,
        description="With driver zfs: the dataset of the pool, made and mounted at path if it does not exist; "
        "default: the one that is mounted at path, or one below that which path lies on.",
        examples=["tank/reconciler"],
    )
    require_attestation: RequiredAttestation = Field(
        None, description="No clone is delivered of a snapshot without a valid attestation, or without a signed one."
    )

    @field_validator("driver", mode="before")
    @classmethod
    def _there(cls, driver: object) -> object:
        gap = STORAGE_GAPS.get(driver) if isinstance(driver, str) else None
        if gap is not None:
            summary = f"there is no driver {driver} ({gap.meaning}): {gap.reason}"
            raise problem(summary, hint="put btrfs, XFS or ZFS on a logical volume")
        return driver

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if self.size is not None and self.driver != "btrfs":
            raise problem(
                "only driver: btrfs can make a pool of a size", hint="write driver: btrfs", at=("size",), code="R017"
            )
        if self.dataset is not None and self.driver != "zfs":
            summary = "only driver: zfs has datasets"
            raise problem(summary, hint="write driver: zfs, or leave it out", at=("dataset",), code="R017")
        return self

    @property
    def directory(self) -> Path:
        """The pool's directory; always set in a loaded configuration."""
        if self.path is None:
            raise LookupError("this pool is not part of a loaded configuration")
        return self.path


class Tls(Model):
    """Certificate that servers show."""

    cert: HostPath = Field(description="Certificate chain, PEM.", examples=["/etc/reconciler/tls.crt"])
    key: HostPath = Field(description="Private key, PEM.", examples=["/etc/reconciler/tls.key"])


class Accounts(Model):
    """Accounts of the operating system that servers run under when the reconciler is root."""

    build: NonEmpty = Field("reconciler-build", description="Builds and mirrors.")
    clone: NonEmpty = Field("reconciler-clone", description="Clones without a superuser.")
    # Above what distributions give to people and services (up to 65535; Debian Policy 9.2.2) and below what is
    # delegated to containers (from 100000, login.defs(5) SUB_UID_MIN); systemd's UIDS-GIDS document calls both unused.
    own: UserIdRange = Field(NumberRange(70_000, 79_999), description="User ids for clones with a superuser.")


class ProcessRuntime(Model):
    """Servers as processes of this host."""

    ports: PortRange = Field(NumberRange(5600, 5999), description="Ports for clones.", examples=["5600-5999"])
    host: NonEmpty = Field("127.0.0.1", description="Address that clones listen on.", examples=["127.0.0.1"])
    advertise: Maybe[NonEmpty] = Field(None, description="Host name in connection URLs.", examples=["db.example"])
    tls: Maybe[Tls] = Field(None, description="TLS of clones.")
    allow: Many[Cidr] = Field((), description="Networks that may connect.", examples=[["10.0.0.0/8"]])
    require_attestation: RequiredAttestation = Field(None, description="As of a pool, for clones that it serves.")
    accounts: Accounts = Field(Accounts.model_construct(), description="Accounts that servers run under.")


ImageKey = Annotated[str, Field(pattern="^[a-z][a-z0-9]*(:[0-9][0-9.]*)?$")]


class DockerRuntime(Model):
    """Servers as containers, of Docker or Podman."""

    socket: HostPath = Field(Path("/var/run/docker.sock"), description="Where its API answers, on this host.")
    images: dict[ImageKey, NonEmpty] = Field(
        default_factory=dict,
        description="Container images by engine, or engine:version; left out: the product's own, as postgres:18.",
        examples=[{"postgres:15": "registry.example/postgres@sha256:0123"}],
    )
    pull: Literal["missing", "always", "never"] = Field(
        "missing", description="When images are fetched, with the logins that this host has for registries."
    )
    networks: Annotated[Many[NonEmpty], Field(min_length=1)] = Field(
        ("reconciler",),
        description="Networks that clones are in, under their names; one that does not exist is made.",
        examples=[["reconciler"]],
    )
    shm_size: Size = Field(256 * _MI, description="Shared memory of a container.", examples=["256Mi"])
    restart: Literal["unless-stopped", "on-failure", "no"] = Field(
        "unless-stopped", description="When the daemon starts a server again by itself."
    )
    ports: PortRange = Field(NumberRange(6000, 6399), description="Ports for clones.", examples=["6000-6399"])
    host: NonEmpty = Field("127.0.0.1", description="Address that clones listen on.", examples=["127.0.0.1"])
    advertise: Maybe[NonEmpty] = Field(None, description="Host name in connection URLs.", examples=["db.example"])
    tls: Maybe[Tls] = Field(None, description="TLS of clones.")
    allow: Many[Cidr] = Field((), description="Networks that may connect.", examples=[["10.0.0.0/8"]])
    require_attestation: RequiredAttestation = Field(None, description="As of a pool, for clones that it serves.")


class Instance(Model):
    """A database server that exists already, on which clones are databases."""

    url: SecretRef = Field(
        description="Secret with the connection URL of a user who may make databases and users there.",
        examples=[{"secret": "shared-dsn"}],
    )
    engine: Literal["postgres", "mariadb"] = Field("postgres", description="Which product it is a server of.")
    advertise: Maybe[NonEmpty] = Field(
        None, description="Host name in the URLs of clones; default: that of the URL.", examples=["db.example"]
    )
    connections: int = Field(
        50,
        ge=1,
        le=10_000,
        description="Sessions that each database of a clone may have at a time; MariaDB: each of its users.",
    )
    data_directory: Maybe[HostPath] = Field(
        None,
        description="Where its data directory is on this host, if the reconciler may write there: clones of MariaDB are"
        " copied as files then.",
        examples=["/var/lib/mysql"],
    )
    require_attestation: RequiredAttestation = Field(None, description="As of a pool, for clones that it serves.")

    @model_validator(mode="after")
    def _files_of_its_product(self) -> Self:
        if self.data_directory is not None and self.engine != "mariadb":
            summary = "an instance of PostgreSQL copies its databases itself"
            raise problem(summary, hint="remove it", at=("dataDirectory",), code="R017")
        return self


class FilesRuntime(Model):
    """Clones that are files, which no server serves (SQLite)."""

    account: Maybe[NonEmpty] = Field(
        None,
        description="Account that the files of clones belong to, when the reconciler is root; default: root itself.",
        examples=["dev"],
    )
    require_attestation: RequiredAttestation = Field(None, description="As of a pool, for clones that it hands out.")


class Runtimes(Model):
    """How clones are served on this host."""

    process: ProcessRuntime = Field(ProcessRuntime.model_construct(), description="Processes of this host.")
    docker: DockerRuntime = Field(
        DockerRuntime.model_construct(), description="Containers; there are some only where this is written."
    )
    none: FilesRuntime = Field(FilesRuntime.model_construct(), description="Files that no server serves.")
    instance: dict[Name, Instance] = Field(
        default_factory=dict,
        description="Servers that exist already, by name; clones are databases there.",
        examples=[{"shared": {"url": {"secret": "shared-dsn"}}}],
    )

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if self.process.ports.overlaps(self.docker.ports):
            at = ("docker", "ports") if "docker" in self.model_fields_set else ("process", "ports")
            raise problem(
                f"process has {self.process.ports} and docker {self.docker.ports}: they overlap", at=at, code="R017"
            )
        return self


class BackupRepository(Ruled):
    """Backups that a tool keeps in a format of its own, and gives out with its command."""

    tool: Literal["pgbackrest", "wal-g"] = Field(description="Whose repository it is.")
    stanza: Maybe[Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]] = Field(
        None,
        description="What the tool calls the server that was backed up; for pgbackrest only, which needs it.",
        examples=["main"],
    )
    config: HostPath = Field(
        description="The tool's configuration file; it says where the repository is, and how to open it.",
        examples=["/etc/pgbackrest/pgbackrest.conf", "/etc/wal-g/shop.json"],
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        if given.get("tool") == "pgbackrest" and "stanza" not in given:
            yield problem("a repository of pgbackrest has a stanza", hint="add stanza: main", code="R017")
        if given.get("tool") == "wal-g" and "stanza" in given:
            yield problem("WAL-G knows no stanzas", hint="remove stanza", at=("stanza",), code="R017")


class Sources(Model):
    """Data of the host."""

    roots: Many[HostPath] = Field(
        (), description="Directories under which absolute paths of specs may lie.", examples=[["/backups"]]
    )
    repositories: dict[Name, BackupRepository] = Field(
        default_factory=dict,
        description="Repositories of backup tools, by name.",
        examples=[{"shop": {"tool": "pgbackrest", "stanza": "main", "config": "/etc/pgbackrest/pgbackrest.conf"}}],
    )


class Secrets(Model):
    """Where the values of secrets come from."""

    directory: HostPath = Field(
        default_factory=_secrets_directory,
        validate_default=True,
        description="One file per secret.",
        examples=["/etc/reconciler/secrets"],
    )
    environment: Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        "RECONCILER_SECRET_", description="Prefix of environment variables with secrets."
    )


class Grant(Model):
    """What images of a name may use."""

    images: NonEmpty = Field("*", description="Images, by glob; their clones too.", examples=["shop*"])
    roots: Many[HostPath] = Field((), description="Directories of the host.", examples=[["/backups/shop"]])
    repositories: Many[NonEmpty] = Field((), description="Backup repositories, by glob.", examples=[["shop*"]])
    secrets: Many[NonEmpty] = Field((), description="Secrets, by glob.", examples=[["shop-*"]])
    instances: Many[NonEmpty] = Field(
        (), description="Instances on which their clones may be databases, by glob.", examples=[["shared"]]
    )
    container_images: Many[NonEmpty] = Field(
        (), description="Container images that specs may name, by glob.", examples=[["registry.example/*"]]
    )
    superuser_scripts: bool = Field(False, description="Whether their SQL runs with superuser rights.")


class Masker(Model):
    """A masking program of the host."""

    argv: Annotated[Many[NonEmpty], Field(min_length=1)] = Field(
        description="Program and arguments.", examples=[["/opt/optim/run"]]
    )
    timeout: Duration = Field(timedelta(hours=8), description="Ended after this time.", examples=["8h"])


class Masking(Model):
    """Rules of the host about masking."""

    unmasked: Literal["allow", "deny"] = Field("allow", description="Whether images may say unmasked.")
    maskers: dict[Name, Masker] = Field(default_factory=dict, description="External maskers, by name.")


class Attestation(Model):
    """How snapshots are attested."""

    key: Maybe[SecretRef] = Field(
        None,
        description="Secret with the Ed25519 private key (PEM) that signs; without one, attestations are not signed.",
        examples=[{"secret": "attestation-key"}],
    )
    public_keys: Many[HostPath] = Field(
        (),
        description="Files with Ed25519 public keys (PEM, or OpenSSH's) whose signatures count, besides that of key.",
        examples=[["/etc/reconciler/attestation.pub"]],
    )


class Prune(Model):
    """How much may vanish within an hour without an approval."""

    max_delete: int = Field(10, ge=0, description="Objects.")
    max_delete_percent: Percent = Field(50.0, description="Percent of all, from five objects up.", examples=[50])


class Limits(Model):
    """Admission."""

    memory: AmountOf = Field(
        Amount(percent=80.0), description="Declared memory of all clones together.", examples=["80%", "48Gi"]
    )


class Publish(Model):
    """Where the loop puts its status for others: for plans of pull requests first of all."""

    file: Maybe[HostPath] = Field(None, description="A file of this host.", examples=["/srv/www/reconciler.json"])
    ref: Maybe[NonEmpty] = Field(
        None,
        description="A branch of the repository, or the full name of a ref; it has no history, and is overwritten.",
        examples=["reconciler-status", "refs/reconciler/status"],
    )
    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")] = Field(
        "status.json", description="Name of the file in ref; hosts that share a ref have one each."
    )

    @field_validator("ref")
    @classmethod
    def _safe_ref(cls, value: str | None) -> str | None:
        return None if value is None else _branch_name(value)

    @property
    def full_ref(self) -> str | None:
        """The full name of ``ref``: that of a branch, unless it says otherwise."""
        return self.ref if self.ref is None or self.ref.startswith("refs/") else f"refs/heads/{self.ref}"


class Status(Model):
    """What becomes of the status besides what commands show."""

    publish: Publish = Field(Publish.model_construct(), description="Where it is published.")


def _window_length(value: timedelta) -> timedelta:
    if value < _SHORTEST_WINDOW:
        raise problem("a window is open for a minute at least", hint="write 6h")
    return value


class MaintenanceWindow(Model):
    """A time in which work of a kind may be begun, or may not."""

    kind: Literal["allow", "deny"] = Field(
        description="Whether work is begun within it, and not outside of all such windows; or not within it."
    )
    schedule: Schedule = Field(description="When it opens, as cron.", examples=["0 22 * * *"])
    duration: Annotated[Duration, AfterValidator(_window_length)] = Field(
        description="How long it stays open, in hours that pass.", examples=["6h"]
    )
    timezone: Timezone = Field("UTC", description="Time zone of the schedule.", examples=["Europe/Paris"])
    actions: Annotated[Many[Literal["destructive", "heavy"]], Field(min_length=1)] = Field(
        ("destructive", "heavy"),
        description="Work that it is about: what plans mark as destroying data; builds of snapshots and first copies.",
        examples=[["destructive"]],
    )
    only: Annotated[Many[NonEmpty], Field(min_length=1)] = Field(
        ("*",), description="Objects that it is about, by glob.", examples=[["Clone/shop-*"]]
    )


class Undo(Model):
    """How long what was replaced can be brought back."""

    grace: DurationOrZero = Field(timedelta(hours=1), description="Replaced volumes of clones are kept for it.")


class Config(Model):
    """Configuration of one host."""

    api_version: ApiVersion = Field(API_VERSION, description="Version of this format.")
    kind: Literal["Config"] = Field("Config", description="Kind of this document.")
    repository: Repository = Field(default_factory=dict, validate_default=True, description="The specs.")
    selector: Labels = Field(
        default_factory=dict, description="Only documents with these labels.", examples=[{"host": "alpha"}]
    )
    state: HostPath = Field(
        default_factory=_state_directory,
        validate_default=True,
        description="Status database, credentials of clones, locks.",
        examples=["/var/lib/reconciler"],
    )
    pools: Annotated[dict[Name, Pool], Field(min_length=1)] = Field(
        default_factory=lambda: {"default": {}}, validate_default=True, description="Pools, by name."
    )
    runtimes: Runtimes = Field(Runtimes.model_construct(), description="How clones are served.")
    sources: Sources = Field(Sources.model_construct(), description="Data of the host.")
    secrets: Secrets = Field(default_factory=dict, validate_default=True, description="Where secrets come from.")
    grants: Maybe[Many[Grant]] = Field(None, description="Left out: everything is granted to every image.")
    masking: Masking = Field(Masking.model_construct(), description="Rules about masking.")
    attestation: Attestation = Field(Attestation.model_construct(), description="How snapshots are attested.")
    prune: Prune = Field(Prune.model_construct(), description="Limits of deletion.")
    suspend: bool = Field(False, description="Look, plan and report, and begin nothing.")
    windows: Many[MaintenanceWindow] = Field(
        (),
        description="When work is begun that destroys data, or is heavy; left out: at any time.",
        examples=[[{"kind": "allow", "schedule": "0 22 * * *", "duration": "8h", "actions": ["heavy"]}]],
    )
    limits: Limits = Field(Limits.model_construct(), description="Admission.")
    concurrency: int = Field(
        4,
        ge=1,
        le=256,
        description="Builds at the same time; of other work, which mostly waits for servers, four times as much.",
    )
    undo: Undo = Field(Undo.model_construct(), description="How long replaced clones are kept.")
    status: Status = Field(Status.model_construct(), description="Where the status goes.")

    @field_validator("pools")
    @classmethod
    def _placed(cls, pools: dict[str, Pool], info: ValidationInfo) -> dict[str, Pool]:
        state = info.data.get("state")
        if state is None:
            return pools
        placed = {name: _place_pool(name, pool, state) for name, pool in pools.items()}
        _require_apart(placed)
        return placed

    @model_validator(mode="after")
    def _published_elsewhere(self) -> Self:
        ref, at = self.status.publish.full_ref, ("status", "publish", "ref")
        if ref is not None and self.repository.url is None:
            raise problem("a plain directory has no refs", hint="publish to a file", at=at, code="R017")
        if ref == f"refs/heads/{self.repository.branch}":
            raise problem("this is the branch of the specs", hint="name another one", at=at, code="R017")
        file, at = self.status.publish.file, ("status", "publish", "file")
        if file is not None and self.repository.url is None and _is_read(file, Path(self.repository.path)):
            summary = "this is among the specs: each status would make another commit, and that another status"
            hint = "write it elsewhere, or under a name that begins with a dot"
            raise problem(summary, hint=hint, at=at, code="R017")
        return self


def _is_read(file: Path, specs: Path) -> bool:
    """Whether a file is part of what is read of a plain directory: all but what begins with a dot."""
    real, root = file.parent.resolve() / file.name, specs.resolve()
    return real.is_relative_to(root) and not any(part.startswith(".") for part in real.relative_to(root).parts)


def _require_apart(pools: dict[str, Pool]) -> None:
    for (one, first), (other, second) in combinations(pools.items(), 2):
        paths = first.directory.resolve(), second.directory.resolve()
        if paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0]):
            raise problem(
                f"the pools {one} and {other} are in one place ({first.directory}, {second.directory})",
                hint="give each pool a directory of its own",
                at=(other, "path"),
            )


def _place_pool(name: str, pool: Pool, state: Path) -> Pool:
    if pool.path is not None:
        return pool
    return pool.model_copy(update={"path": state / ("pool" if name == "default" else f"pools/{name}")})
