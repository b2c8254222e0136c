"""Types of fields: values, each with its JSON Schema, description and message.

Every kind's model is made of these. A type carries what an editor shows and what the
loader accepts, so that both say the same. Imports of checkers that few specs need
(cron, time zones, addresses) happen when such a field is met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator as After
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    Strict,
    model_validator,
)
from pydantic import WithJsonSchema as Schema
from pydantic_core import CoreSchema, PydanticCustomError

from reconciler.spec import values
from reconciler.spec.values import Amount, NumberRange, ValueProblem

T = TypeVar("T")


def camel(name: str) -> str:
    """Return the spelling of a field in YAML: ``max_age`` is ``maxAge``."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


class Model(BaseModel):
    """Base of everything that specs and configuration contain: frozen, strict, no unknown fields.

    Strict because YAML 1.2 already gave a type to every value: ``no`` is text, and text
    is no boolean.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, defer_build=True, alias_generator=camel, allow_inf_nan=False
    )


def problem(
    message: str, *, hint: str | None = None, at: tuple[str | int, ...] = (), code: str = "R016"
) -> PydanticCustomError:
    """Return the error that validators raise; ``at`` leads from the validated value to the place."""
    return PydanticCustomError("value", "{message}", {"message": message, "hint": hint, "at": at, "code": code})


def _reporting(parse: Callable[[Any], T]) -> Callable[[Any], T]:
    def checked(value: Any) -> T:  # noqa: ANN401 - whatever YAML gave
        try:
            return parse(value)
        except ValueProblem as found:
            raise problem(found.message, hint=found.hint) from found

    return checked


class Ruled(Model):
    """Base of models whose fields must fit each other.

    The rules look at the fields as they are given, raw or validated: the loader also
    asks them for a mapping with other errors, so that one run shows everything.
    """

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        """Yield what does not fit, of the fields that are given, by their names in YAML."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        fields = type(self).model_fields
        given = {fields[name].alias or name: getattr(self, name) for name in self.model_fields_set}
        for error in self.contradictions(given):
            raise error
        return self


class _NotNull:
    """Takes null out of an optional field: a field is left out, or has a value."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


Maybe = Annotated[T | None, _NotNull()]
"""A field that may be left out; writing null is an error."""

Many = Annotated[tuple[T, ...], Strict(False)]
"""A YAML sequence."""


def _named(pattern: str, message: str, hint: str) -> Callable[[str], str]:
    matches = re.compile(pattern).fullmatch

    def check(value: str) -> str:
        if not matches(value):
            raise problem(message, hint=hint)
        return value

    return check


def _form(pattern: str) -> Any:  # noqa: ANN401 - pydantic's own type
    """Return what a schema says of a form that a validator of ours checks, in better words."""
    return Field(json_schema_extra={"pattern": pattern})


NAME_HINT = "use at most 63 lower-case letters, digits and hyphens; begin and end with a letter or digit"

Name = Annotated[
    str,
    After(_named(values.NAME_PATTERN, "this is not a valid name", NAME_HINT)),
    _form(values.NAME_PATTERN),
]
SecretName = Annotated[
    str,
    After(
        _named(
            values.SECRET_PATTERN,
            "this is not the name of a secret",
            "use letters, digits, dots, hyphens and underscores; the value itself never stands in a spec",
        )
    ),
    _form(values.SECRET_PATTERN),
]
Duration = Annotated[
    timedelta,
    PlainValidator(_reporting(values.duration)),
    Schema({"type": "string", "pattern": values.DURATION_PATTERN, "examples": ["90s", "15m", "8h", "14d"]}),
]
DurationOrZero = Annotated[
    timedelta,
    PlainValidator(_reporting(values.duration_or_zero)),
    Schema({"type": "string", "pattern": values.DURATION_OR_ZERO_PATTERN, "examples": ["0s", "10m"]}),
]
Size = Annotated[
    int,
    PlainValidator(_reporting(values.size)),
    Schema(
        {"type": ["string", "integer"], "pattern": values.SIZE_PATTERN, "minimum": 1, "examples": ["512Mi", "20Gi"]}
    ),
]
Percent = Annotated[
    float,
    PlainValidator(_reporting(values.percent)),
    Schema(
        {
            "type": ["string", "number"],
            "pattern": values.PERCENT_PATTERN,
            "minimum": 0,
            "maximum": 100,
            "examples": ["50%"],
        }
    ),
]
AmountOf = Annotated[
    Amount,
    PlainValidator(_reporting(values.amount)),
    Schema(
        {
            "type": ["string", "integer"],
            "minimum": 1,
            "pattern": f"({values.PERCENT_PATTERN})|({values.SIZE_PATTERN})",
            "examples": ["10%", "20Gi"],
        }
    ),
]
Time = Annotated[
    datetime,
    PlainValidator(_reporting(values.instant)),
    Schema({"type": "string", "pattern": values.TIME_PATTERN, "examples": ["2026-11-20T12:00:00Z"]}),
]
PortRange = Annotated[
    NumberRange,
    PlainValidator(_reporting(values.ports)),
    Schema({"type": "string", "pattern": values.PORTS_PATTERN, "examples": ["5600-5999"]}),
]
UserIdRange = Annotated[
    NumberRange,
    PlainValidator(_reporting(values.user_ids)),
    Schema({"type": "string", "pattern": values.USER_IDS_PATTERN, "examples": ["70000-79999"]}),
]
Port = Annotated[int, Field(ge=values.FIRST_PORT, le=values.LAST_PORT, examples=[5601])]
SpecPath = Annotated[
    str,
    After(_reporting(values.spec_path)),
    Field(
        min_length=1,
        examples=["dumps/shop.sql", "/backups/shop"],
        description="Relative to the root of the spec repository, or absolute under a granted root of the host.",
    ),
]
NonEmpty = Annotated[str, Field(min_length=1)]


@lru_cache(4096)
def _schedule(value: str) -> str:
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - few specs have one; keeps start-up short

    hint = "five fields: minute hour day month weekday, for example 0 2 * * *"
    if len(value.split()) != 5:  # noqa: PLR2004 - the fields of cron; a sixth would be seconds
        raise problem("a schedule has five fields", hint=hint)
    try:
        next(CronSim(value, datetime(2024, 1, 1)))  # noqa: DTZ001 - only whether it ever comes due
    except CronSimError as error:
        raise problem(f"this is not a cron schedule: {error}", hint=hint) from error
    except StopIteration as error:
        raise problem("this schedule never comes due", hint=hint) from error
    except ValueError as error:  # Python reads no number of thousands of digits
        raise problem("this is not a cron schedule", hint=hint) from error
    return value


@lru_cache(4096)
def _timezone(value: str) -> str:
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - as cronsim

    try:
        ZoneInfo(value)
    except (ValueError, OSError, LookupError) as error:
        raise problem(
            "this time zone is not known here", hint="use a name of the IANA database, for example Europe/Paris"
        ) from error
    return value


@lru_cache(4096)
def _network(value: str) -> str:
    from ipaddress import ip_network  # noqa: PLC0415 - as cronsim

    try:
        return str(ip_network(value))
    except ValueError as error:
        raise problem(f"this is not a network: {error}", hint="write 10.0.0.0/8 or fd00::/8") from error


Schedule = Annotated[str, After(_schedule), Field(examples=["0 2 * * *"])]
Timezone = Annotated[str, After(_timezone), Field(examples=["Europe/Paris"])]
Cidr = Annotated[str, After(_network), Field(examples=["10.0.0.0/8"])]


def _written(value: object) -> object:
    """Return the text of a number or boolean, as the server or template reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _whole(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Setting = Annotated[str, BeforeValidator(_written), Schema({"type": ["string", "number", "boolean"]})]
"""Text; numbers and booleans may be written without quotes."""

Version = Annotated[
    str,
    BeforeValidator(_whole),
    After(
        _named(
            r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}",
            "this is not a major version",
            'write the major version in quotes: "18"',
        )
    ),
    Schema({"type": ["string", "integer"], "pattern": r"^[0-9]{1,4}(\.[0-9]{1,4}){0,2}$", "minimum": 0}),
]


class Container(Model):
    """What a server in a container runs, in place of what its host would take."""

    image: Annotated[
        str,
        After(
            _named(
                r"[a-z0-9][A-Za-z0-9._/:@-]{0,500}",
                "this is not the reference of a container image",
                "write it as docker pull takes it, best with its digest: registry.example/postgres@sha256:…",
            )
        ),
        Schema({"type": "string", "pattern": r"^[a-z0-9][A-Za-z0-9._/:@-]{0,500}$"}),
    ] = Field(description="Reference of the container image.", examples=["registry.example/postgres@sha256:0123"])


class SecretRef(Model):
    """A reference to a secret of the host; the value is never written here."""

    secret: SecretName = Field(description="Name of the secret.", examples=["shop-app"])


def distinct(what: str) -> After:
    """Return a check that a sequence names nothing twice."""

    def check(items: tuple[T, ...]) -> tuple[T, ...]:
        seen: set[object] = set()
        for index, item in enumerate(items):
            key = getattr(item, "name", item)
            if key in seen:
                raise problem(
                    f'{what} "{str(key)[:80]}" is named twice', hint="keep one of the two", at=(index,), code="R017"
                )
            seen.add(key)
        return items

    return After(check)
