"""What every document has in common: ``apiVersion``, ``kind`` and ``metadata``."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from reconciler.spec.types import Maybe, Model, Name, problem

API_VERSION: Final = "reconciler/v1"
ApiVersion = Literal["reconciler/v1"]

_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise problem(f'"{key[:80]}" is not the key of a label', hint="as in Kubernetes: team or example.org/team")
        if not _LABEL_VALUE.fullmatch(value):
            raise problem(
                "this is not the value of a label",
                hint="at most 63 letters, digits, dots, hyphens and underscores",
                at=(key,),
            )
    return labels


Labels = Annotated[dict[str, str], AfterValidator(_labels)]


class Metadata(Model):
    """Name and labels of a document."""

    name: Name = Field(description="Unique among the documents of its kind.", examples=["shop"])
    labels: Labels = Field(
        default_factory=dict,
        description="Choose documents by these: a host's selector takes only documents with its labels.",
        examples=[{"team": "payments"}],
    )
    annotations: dict[str, str] = Field(
        default_factory=dict, description="Free text for people and tools; never read.", examples=[{"ticket": "DB-17"}]
    )
    formerly: Maybe[Name] = Field(
        None, description="The name until now: renames without rebuilding.", examples=["shop-old"]
    )
