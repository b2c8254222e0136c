"""The kind MaskingPolicy: column rules that an image applies before a snapshot is sealed.

A column's rule is the name of a method, or a mapping with one method as a key, its
argument as the value, and options beside it. This module says which methods there are
and what they take; what they do is for :mod:`reconciler.masking`. Names of methods and
options keep their spelling in YAML (``shift_days``, ``keep_null``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag, WithJsonSchema

from reconciler.spec.envelope import ApiVersion, Metadata
from reconciler.spec.types import Duration, Many, Maybe, Model, NonEmpty, Percent, SecretRef, problem

PlainMethod = Literal["keep", "null", "hash", "email", "preserve", "text", "shuffle"]
"""Methods that need no argument."""

FakeKind = Literal[
    "first_name",
    "last_name",
    "full_name",
    "user_name",
    "company",
    "street",
    "city",
    "postcode",
    "country",
    "phone",
]
Finding = Literal["email", "iban", "card", "ip", "phone", "name"]
_MAX_SHIFT_DAYS = 36_500


def _form(value: Any) -> str:  # noqa: ANN401 - whatever YAML gave
    return "<unit>" if isinstance(value, str) else "<number>"


def _scalar(value: Any) -> str | int | float | bool:  # noqa: ANN401 - whatever YAML gave
    if isinstance(value, str | int | float | bool):
        return value
    raise problem("expected text, a number, true or false", hint='for NULL write the method "null"')


Step = Annotated[
    Annotated[Annotated[float, Field(gt=0)], Tag("<number>")]
    | Annotated[Literal["hour", "day", "week", "month", "quarter", "year", "decade"], Tag("<unit>")],
    Discriminator(_form),
]
Scalar = Annotated[
    str | int | float | bool,
    PlainValidator(_scalar),
    WithJsonSchema({"type": ["string", "number", "boolean"]}),
]


class Method(Model):
    """Base of methods with an argument."""

    model_config = ConfigDict(alias_generator=None)

    keep_null: bool = Field(True, description="NULL stays NULL.")


class Fixed(Method):
    """The same value in every row."""

    fixed: Scalar = Field(description="The value.", examples=["redacted", 0])


class HashOptions(Model):
    """Form of a hash."""

    length: int = Field(16, ge=4, le=64, description="Hexadecimal digits.")
    prefix: str = Field("", max_length=64, description="Put before the digits.")


class Hash(Method):
    """A keyed hash of the value."""

    hash: HashOptions = Field(description="Form of the hash.", examples=[{"length": 12, "prefix": "c-"}])


class EmailOptions(Model):
    """Form of an address."""

    domain: NonEmpty = Field("example.com", description="Domain of the addresses.", examples=["example.org"])


class Email(Method):
    """A plausible, unique address."""

    email: EmailOptions = Field(description="Form of the address.", examples=[{"domain": "example.org"}])


class Fake(Method):
    """A plausible value of a kind."""

    fake: FakeKind = Field(description="Kind of value.", examples=["first_name"])
    locale: Maybe[Annotated[str, Field(pattern="^[a-z]{2}(_[A-Z]{2})?$")]] = Field(
        None, description="Language and country.", examples=["de_DE"]
    )


class Preserve(Method):
    """Digits to digits, letters to letters, with valid check digits."""

    preserve: Literal["card", "iban"] = Field(description="Whose check digits to keep valid.", examples=["card"])


class PartialOptions(Model):
    """Which characters stay."""

    first: int = Field(0, ge=0, le=1000, description="So many at the beginning.")
    last: int = Field(0, ge=0, le=1000, description="So many at the end.")
    mask: str = Field("*", min_length=1, max_length=1, description="In place of the others.")


class Partial(Method):
    """Keeps the first or last characters."""

    partial: PartialOptions = Field(description="Which characters stay.", examples=[{"last": 4}])


class Pattern(Method):
    """Generated from a template."""

    pattern: NonEmpty = Field(
        description="# is a digit, ? a capital letter, everything else stands for itself; \\# is a #.",
        examples=["??-####"],
    )


class ShiftDays(Method):
    """Moves a date by up to so many days."""

    shift_days: int = Field(ge=1, le=_MAX_SHIFT_DAYS, description="Largest number of days.", examples=[180])
    by: Maybe[NonEmpty] = Field(None, description="One offset per value of this column.", examples=["customer_id"])


class Shift(Method):
    """Moves a time by up to so long."""

    shift: Duration = Field(description="Longest offset.", examples=["36h"])
    by: Maybe[NonEmpty] = Field(None, description="One offset per value of this column.", examples=["customer_id"])


class Noise(Method):
    """Changes a number by up to so many percent."""

    noise: Percent = Field(description="Largest relative change.", examples=["10%"])
    by: Maybe[NonEmpty] = Field(None, description="One factor per value of this column.", examples=["account_id"])


class Bucket(Method):
    """Rounds down to a step."""

    bucket: Annotated[float, Field(gt=0)] | Literal["hour", "day", "week", "month", "quarter", "year", "decade"] = (
        Field(description="Step of a number, or unit of a time.", examples=[1000, "month"])
    )


class ShuffleOptions(Model):
    """Among which rows values change places."""

    within: NonEmpty = Field(description="Only among rows with the same value of this column.", examples=["country"])


class Shuffle(Method):
    """Lets values change places."""

    shuffle: ShuffleOptions = Field(description="Among which rows.", examples=[{"within": "country"}])


class Text(Method):
    """Replaces what looks personal inside free text."""

    text: Annotated[Many[Finding], Field(min_length=1)] = Field(
        description="What to look for.", examples=[["email", "phone"]]
    )
    names: Many[NonEmpty] = Field(
        (),
        description="Columns of the same row whose values are replaced, too.",
        examples=[["first_name", "last_name"]],
    )


class Json(Method):
    """Rules by path inside a JSON document."""

    json_: dict[NonEmpty, Column] = Field(
        alias="json", min_length=1, description="Path to rule.", examples=[{"$.contact.email": "email"}]
    )


class Sql(Method):
    """An expression of yours; it sees the row's columns."""

    sql: NonEmpty = Field(description="The expression.", examples=["upper(country)"])


METHODS: dict[str, type[Method]] = {
    "fixed": Fixed,
    "hash": Hash,
    "email": Email,
    "fake": Fake,
    "preserve": Preserve,
    "partial": Partial,
    "pattern": Pattern,
    "shift_days": ShiftDays,
    "shift": Shift,
    "noise": Noise,
    "bucket": Bucket,
    "shuffle": Shuffle,
    "text": Text,
    "json": Json,
    "sql": Sql,
}
"""Methods that take an argument, by the key that names them."""


def _method(value: Any) -> str | None:  # noqa: ANN401 - whatever YAML gave
    if isinstance(value, Method):
        return next(f"<{name}>" for name, model in METHODS.items() if isinstance(value, model))
    if isinstance(value, dict):
        return next((f"<{key}>" for key in value if key in METHODS), None)
    return "<plain>"


Column = Annotated[
    Annotated[PlainMethod, Tag("<plain>")]
    | Annotated[Fixed, Tag("<fixed>")]
    | Annotated[Hash, Tag("<hash>")]
    | Annotated[Email, Tag("<email>")]
    | Annotated[Fake, Tag("<fake>")]
    | Annotated[Preserve, Tag("<preserve>")]
    | Annotated[Partial, Tag("<partial>")]
    | Annotated[Pattern, Tag("<pattern>")]
    | Annotated[ShiftDays, Tag("<shift_days>")]
    | Annotated[Shift, Tag("<shift>")]
    | Annotated[Noise, Tag("<noise>")]
    | Annotated[Bucket, Tag("<bucket>")]
    | Annotated[Shuffle, Tag("<shuffle>")]
    | Annotated[Text, Tag("<text>")]
    | Annotated[Json, Tag("<json>")]
    | Annotated[Sql, Tag("<sql>")],
    Discriminator(_method),
]

Json.model_rebuild()  # its rules are of a type that was not complete when it was defined


def _table(value: str) -> str:
    schema, _, table = value.partition(".")
    if not schema or not table:
        raise problem("a table is named schema.table", hint="for example public.customer; globs are allowed: public.*")
    return value


class Rule(Model):
    """What happens to the columns of the tables that match."""

    table: Annotated[NonEmpty, AfterValidator(_table)] = Field(
        description="schema.table; globs allowed.", examples=["public.customer"]
    )
    database: Maybe[NonEmpty] = Field(None, description="Only in this database; globs allowed.", examples=["shop"])
    when: Maybe[NonEmpty] = Field(
        None, description="SQL predicate: only rows for which it is true.", examples=["country <> 'US'"]
    )
    columns: dict[NonEmpty, Column] = Field(
        min_length=1,
        description="Column to method.",
        examples=[{"email": "email", "first_name": {"fake": "first_name"}}],
    )


def _column(value: str) -> str:
    if len(value.split(".")) != 3 or not all(value.split(".")):  # noqa: PLR2004 - schema, table, column
        raise problem("a column is named schema.table.column", hint="for example public.invoice.customer_email")
    return value


class Reference(Model):
    """A reference between columns that the database has no foreign key for."""

    column: Annotated[NonEmpty, AfterValidator(_column)] = Field(
        description="schema.table.column that refers.", examples=["public.invoice.customer_email"]
    )
    to: Annotated[NonEmpty, AfterValidator(_column)] = Field(
        description="schema.table.column that it refers to: both are masked alike.", examples=["public.customer.email"]
    )
    database: Maybe[NonEmpty] = Field(None, description="Only in this database; globs allowed.", examples=["shop"])


class MaskingPolicySpec(Model):
    """Key and rules."""

    key: SecretRef = Field(description="Secret with the masking key.", examples=[{"secret": "masking-key"}])
    unclassified: Literal["fail", "report", "keep"] = Field(
        "fail", description="A column of a listed table that no rule names."
    )
    unlisted: Literal["fail", "report", "keep"] = Field("report", description="A table that no rule matches.")
    rules: Many[Rule] = Field(
        description="Rules, by table.", examples=[[{"table": "public.customer", "columns": {"email": "email"}}]]
    )
    references: Many[Reference] = Field(
        (),
        description="Keys that the database does not know; foreign keys need no mention.",
        examples=[[{"column": "public.invoice.customer_email", "to": "public.customer.email"}]],
    )
    large_objects: Maybe[Literal["remove", "keep"]] = Field(
        None, description="What happens to large objects (pg_largeobject); without it, as unlisted says."
    )


class MaskingPolicy(Model):
    """Column rules that an image applies before a snapshot is sealed."""

    api_version: ApiVersion = Field(description="Version of this format.")
    kind: Literal["MaskingPolicy"] = Field(description="Kind of this document.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: MaskingPolicySpec = Field(description="Key and rules.")
