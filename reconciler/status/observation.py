"""``Observed`` as JSON and back, so that a host's observation can be planned with elsewhere.

Used by ``status -o json`` and by ``plan --observed``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from reconciler.errors import ConfigError
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import Failure, Observed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import TypeAdapter


def observed_to_json(observed: Observed) -> dict[str, Any]:
    """Return an observation as JSON values, in a stable order.

    ``failures`` is a list, because JSON has no pairs as keys.
    """
    document: dict[str, Any] = _observed().dump_python(replace(observed, failures={}), mode="json")
    document["in_flight"] = sorted(document["in_flight"])
    document["in_use"] = None if observed.in_use is None else sorted(observed.in_use)
    document["failures"] = [
        {"kind": str(key.kind), "name": key.name, **_failure().dump_python(failure, mode="json")}
        for key, failures in sorted(observed.failures.items())
        for failure in failures
    ]
    return document


def observed_from_json(data: bytes | str | Mapping[str, Any]) -> Observed:
    """Return the observation of a ``status -o json`` document, or of its ``observed`` part.

    Raises:
        ConfigError: it is not such a document; the message names the first wrong field.

    """
    from pydantic import ValidationError  # noqa: PLC0415 - only this command needs it

    try:
        document = json.loads(data) if isinstance(data, (bytes, str)) else data
        record = dict(document.get("observed", document))
        rows = record.pop("failures", [])
        failures: dict[ObjectKey, tuple[Failure, ...]] = {}
        for row in rows:
            key = ObjectKey(Kind(row["kind"]), row["name"])
            failures[key] = (*failures.get(key, ()), _failure().validate_python(row))
        return replace(_observed().validate_python(record), failures=failures)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise _wrong(f"{place}: {first['msg']}") from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise _wrong("it does not have the expected form") from error


def _wrong(why: str) -> ConfigError:
    return ConfigError(f"the observation cannot be read: {why}", hint="write it with `reconciler status -o json`")


@cache
def _observed() -> TypeAdapter[Observed]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - a tenth of a second that other commands do not pay

    return TypeAdapter(Observed)


@cache
def _failure() -> TypeAdapter[Failure]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - see above

    return TypeAdapter(Failure)
