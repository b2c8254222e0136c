"""SQL that images and clones run: shared by both kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic_core import PydanticCustomError

from reconciler.spec.types import Maybe, Model, NonEmpty, Ruled, Setting, SpecPath, problem

_SUFFIXES = (".sql", ".sql.j2")
_SYSTEM_DATABASES = ("template0", "template1")
_MAX_IDENTIFIER_BYTES = 63

Params = dict[NonEmpty, Setting]
Parameters = dict[NonEmpty, Setting]


class CloneScript(Ruled):
    """A script, from a file or written here."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["inline"]}]})

    path: Maybe[SpecPath] = Field(
        None,
        description="A *.sql file, or a *.sql.j2 template.",
        examples=["sql/trim.sql"],
        json_schema_extra={"pattern": r"\.sql(\.j2)?$"},
    )
    inline: Maybe[NonEmpty] = Field(None, description="The SQL itself.", examples=["DELETE FROM session;"])
    database: Maybe[NonEmpty] = Field(
        None, description="Where to run it; needed when there are several databases.", examples=["shop"]
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        if ("path" in given) == ("inline" in given):
            at = ("inline",) if "path" in given else ()
            hint = "keep one of the two" if at else "add path: FILE or inline: SQL"
            yield problem("a script has exactly one of path and inline", hint=hint, at=at, code="R017")
        path = given.get("path")
        if isinstance(path, str) and path and not path.endswith(_SUFFIXES):
            yield problem("a script is a *.sql file or a *.sql.j2 template", at=("path",))


class ImageScript(CloneScript):
    """A script of a build, before or after masking."""

    phase: Literal["beforeMasking", "afterMasking"] = Field(
        "beforeMasking", description="When it runs in the build.", examples=["afterMasking"]
    )


class Check(Model):
    """A query that must return one row with one true value; otherwise the build fails."""

    sql: NonEmpty = Field(description="The query.", examples=["SELECT count(*) > 0 FROM customer"])
    database: Maybe[NonEmpty] = Field(None, description="Where to run it.", examples=["shop"])


def database_name(value: str) -> str:
    """Check the name of a database of the source."""
    if len(value.encode()) > _MAX_IDENTIFIER_BYTES:
        raise problem("this name is longer than 63 bytes")
    if value in _SYSTEM_DATABASES:
        raise problem("templates of the server are always kept", hint="name the databases of users only")
    return value
