"""Digests: what of an object asks for new work when it changes.

Called by :mod:`reconciler.state.resolve`. Changing what goes into a digest makes every
installation build its images anew; tests pin what is in and what is out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from reconciler.state.desired import BackupSource, DesiredImage, DumpSource, Policy, PrimarySource, Script, Verify

if TYPE_CHECKING:
    from reconciler.state.desired import Check, MaskingStep

MASKING_VOCABULARY = 1
"""Part of the digest of images that are masked: raised when a rule's meaning changes, so that they are built anew."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def spec_digest(image: DesiredImage) -> str:
    """Return what identifies how an image is built, apart from its data (``inputId``) and keys (``keyId``).

    Parameters, labels, retention, refresh and pool are left out: changing them asks for
    no new build. The names of a base image, of secrets and of files of the commit are
    as well: a rename must build nothing anew. A path of the host is part of it: another
    file is asked for, and only a build can tell what is in it.
    """
    paths = (getattr(image.source, name, None) for name in ("path", "globals", "wal"))
    source: dict[str, Any] = {
        "kind": image.source.kind,
        "paths": [path.path for path in paths if path is not None and path.object_id is None],
    }
    if isinstance(image.source, PrimarySource):
        source["method"] = image.source.method
    elif isinstance(image.source, DumpSource):
        source["globals"] = image.source.globals is not None
    elif isinstance(image.source, BackupSource) and image.source.repository is not None:
        source["repository"] = image.source.repository
    row: dict[str, Any] = {
        "engine": image.engine,
        "version": image.version,
        "source": source,
        "databases": image.databases,
        "scripts": _script_rows(image.scripts),
        "checks": _check_rows(image.checks),
        "masking": [MASKING_VOCABULARY, *map(_masking_row, image.masking)] if image.masking else [],
    }
    if image.at is not None:
        row["at"] = image.at.isoformat()
    if image.verify is not None and image.verify != Verify():  # else the digest is what it was before there was one
        row["verify"] = [image.verify.amcheck, _check_rows(image.verify.checks)]
    return _digest(row)


def scripts_digest(scripts: Iterable[Script], params: Mapping[str, str]) -> str:
    """Return what identifies the scripts of a clone as rendered, and its params."""
    return _digest([_script_rows(scripts), dict(params)])


def _check_rows(checks: Iterable[Check]) -> list[list[str | None]]:
    return [[check.sql, check.database] for check in checks]


def _script_rows(scripts: Iterable[Script]) -> list[list[str | None]]:
    return [[script.text, script.database, script.phase] for script in scripts]


def _masking_row(step: MaskingStep) -> Any:  # noqa: ANN401 - plain data for JSON
    match step:
        case Policy():
            return step.spec.model_dump(mode="json", exclude={"key"}, warnings=False)
        case Script():
            return [step.text, step.database]
        case _:
            return step.name


def _digest(value: object) -> str:
    return f"sha256:{hashlib.sha256(_CANONICAL.encode(value).encode('utf-8', 'surrogatepass')).hexdigest()}"
