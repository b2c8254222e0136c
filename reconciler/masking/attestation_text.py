"""An attestation as people read it: what it is, who built it, what was masked, how that was proved, who signed.

Called by the command line. Pure. What stands in a volume is foreign text: none of it can
steer a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconciler.masking.attestation import short
from reconciler.status.words import plain, size

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

_SIGNATURES = {
    "valid": "Signed by key {key}",
    "none": "Not signed: nothing but the manifest in the pool vouches for it",
    "invalid": "WRONGLY SIGNED: no signature is of a key that this host trusts",
}


def attestation_text(document: Json) -> str:
    """Return the document of ``attest -o json`` as text."""
    lines = [*_head(document)]
    predicate = document["statement"].get("predicate", {})
    if predicate:
        lines += [*_built(predicate), "", *_masking(predicate), "", *_proof(predicate), ""]
        lines += [*_signature(document), *_files(document)]
    lines += [*_verdict(document)]
    return "\n".join(_indent(line) + plain(line) for line in lines)


def _head(document: Json) -> Iterator[str]:
    predicate = document["statement"].get("predicate", {})
    image = f" of image {predicate['image']}" if "image" in predicate else ""
    if document["clone"] is not None:
        yield f"Clone {document['clone']}, made of"
    yield f"Snapshot {document['snapshot']}{image}"
    if document["quarantined"]:
        yield f"  QUARANTINED  {document['quarantined']}"


def _built(predicate: Json) -> Iterator[str]:
    builder = predicate.get("builder", {})
    yield f"  built     {predicate['createdAt']} by {builder.get('name')} {builder.get('version')}"
    yield f"  commit    {predicate['revision']}"
    yield f"  data      of {predicate['dataAsOf'] or 'a time that the source does not tell'}"
    yield f"  source    {predicate['inputId']}"
    yield f"  spec      {predicate['specDigest']}"
    if predicate["base"] is not None:
        yield f"  built on  {predicate['base']}; see reconciler attest {predicate['base']}"
    yield f"  engine    {predicate['engine']} {predicate['version']}; databases: {_listed(predicate['databases'])}"


def _masking(predicate: Json) -> Iterator[str]:
    masking = predicate.get("masking")
    if masking is None:
        yield from _unmasked(predicate)
        return
    key = f", key {predicate['keyId']}" if predicate["keyId"] is not None else ""
    yield f"Masked by {_listed(predicate['maskedBy'])}{key}"
    for table in masking["tables"]:
        yield f"  {table['database']}: {table['table']}"
        yield from _columns(table["columns"])
    yield from (f"  note: {note}" for note in masking["notes"])


def _unmasked(predicate: Json) -> Iterator[str]:
    reason, point = predicate.get("unmasked", {}).get("reason"), predicate.get("point")
    if point is not None:
        yield f"Nothing is said of masking: it is what clone {point['clone']} held, and its users worked in it"
    elif reason is not None:
        yield f"Not masked: {reason}"
    elif predicate["base"] is not None:
        yield f"Masked as {predicate['base']} is, on which it is built"
    else:
        yield "Not masked: it holds what its scripts wrote"


def _columns(columns: list[Json]) -> Iterator[str]:
    """Yield one line per column, in columns."""
    names = max((len(column["name"]) for column in columns), default=0)
    methods = max((len(column["method"]) for column in columns), default=0)
    for column in columns:
        counts = f"{column['selected']} of {column['rows']} rows, {column['nulls']} NULL, {column['equal']} as before"
        yield f"    {column['name']:<{names}}  {column['method']:<{methods}}  {counts}  (policy {column['policy']})"


def _proof(predicate: Json) -> Iterator[str]:
    scan = predicate["scan"]
    which = "all files" if scan["full"] else "all that may have changed since the last full scan"
    what = f"none of {scan['samples']} original values is in {scan['files']} files, {size(scan['bytes'])}"
    yield "Proved before it was sealed"
    if scan["samples"]:
        yield f"  scan      {what} ({which})"
    else:
        yield "  scan      there were no original values to look for"
    if not scan["full"]:
        yield from _left_out(scan)
    for why, count in sorted(scan["excluded"].items()):
        yield f"            {count} excused or not looked for: {why}"
    if "wipe" in predicate:
        yield from _wiped(predicate["wipe"])
    yield f"  checks    {_listed(predicate['checks'])}"


def _wiped(wipe: Json) -> Iterator[str]:
    yield f"  wiped     {wipe['pages']} pages with rows removed before the build; {size(wipe['bytes'])} were read"
    if not wipe["full"]:
        yield f"            {size(wipe['skipped']['bytes'])} were as in {wipe['comparedWith']['snapshot']}"
        yield f"            the last full wipe: {wipe['lastFull']['snapshot']}, {wipe['lastFull']['at']}"


def _left_out(scan: Json) -> Iterator[str]:
    skipped, last = scan.get("skipped"), scan.get("lastFull")
    if skipped is not None and last is not None:
        what = f"{size(skipped['bytes'])}, {skipped['files']} files as a whole"
        yield f"            {what}, were as in {scan['comparedWith']['snapshot']}"
        yield f"            the last full scan: {last['snapshot']}, {last['at']}"


def _signature(document: Json) -> Iterator[str]:
    signature = document["signature"]
    yield _SIGNATURES[signature["status"]].format(key=short(signature["key"] or ""))


def _files(document: Json) -> Iterator[str]:
    files = document["files"]
    if not files["compared"]:
        yield f"Files: {files['subjects']}, not compared; --files reads and compares all of them"
    elif files["differences"]:
        yield f"Files: {files['subjects']}, and {len(files['differences'])} are not as they were sealed"
    else:
        yield f"Files: all {files['subjects']} are as they were sealed"


def _verdict(document: Json) -> Iterator[str]:
    if document["verified"]:
        yield "Verified"
        return
    yield "NOT VERIFIED"
    yield from (f"  {problem}" for problem in document["problems"])


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _indent(text: str) -> str:
    return " " * (len(text) - len(text.lstrip(" ")))
