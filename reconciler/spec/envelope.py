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

REFRESH_ANNOTATION: Final = "reconciler/refresh"
"""On an Image: each new value asks for one refresh now."""
_OURS = "reconciler/"
_LONGEST_ANNOTATION = 253
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def _annotations(annotations: dict[str, str]) -> dict[str, str]:
    for key in annotations:
        if key.startswith(_OURS):
            hint = f"keys that begin with {_OURS} are read here; the only one is {REFRESH_ANNOTATION}, on an Image"
            raise problem(f'"{key[:80]}" is not an annotation of this kind', hint=hint, at=(key,))
    return annotations


def _image_annotations(annotations: dict[str, str]) -> dict[str, str]:
    _annotations({key: value for key, value in annotations.items() if key != REFRESH_ANNOTATION})
    value = annotations.get(REFRESH_ANNOTATION)
    if value is not None and not (len(value) <= _LONGEST_ANNOTATION and _PRINTABLE.fullmatch(value)):
        raise problem(
            "this is not a value that asks for a refresh",
            hint=f'one line of at most {_LONGEST_ANNOTATION} characters, another than before: "2026-11-20"',
            at=(REFRESH_ANNOTATION,),
        )
    return annotations


Annotations = Annotated[dict[str, str], AfterValidator(_annotations)]
ImageAnnotations = Annotated[dict[str, str], AfterValidator(_image_annotations)]


class Metadata(Model):
    """Name and labels of a document."""

    name: Name = Field(description="Unique among the documents of its kind.", examples=["shop"])
    labels: Labels = Field(
        default_factory=dict,
        description="Choose documents by these: a host's selector takes only documents with its labels.",
        examples=[{"team": "payments"}],
    )
    annotations: Annotations = Field(
        default_factory=dict, description="Free text for people and tools; never read.", examples=[{"ticket": "DB-17"}]
    )
    formerly: Maybe[Name] = Field(
        None, description="The name until now: renames without rebuilding.", examples=["shop-old"]
    )


class ImageMetadata(Metadata):
    """Name and labels of an image."""

    annotations: ImageAnnotations = Field(
        default_factory=dict,
        description="Free text for people and tools; of it only reconciler/refresh is read: a new value asks for one "
        "refresh now.",
        examples=[{"reconciler/refresh": "2026-11-20"}],
    )
