"""Takes secrets out of what is logged, stored or shown: the last line of defence.

Used by logging and by the status store. Errors and messages must not carry secrets
in the first place; this catches what a library or a server's message lets through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

REDACTED = "[redacted]"

_KEY = re.compile(
    r"pass(word|wd|phrase)|secret|token|dsn|api[_-]?key|private[_-]?key|credential|authorization", re.IGNORECASE
)
# Every repetition below is bounded or cannot overlap with what follows it: messages may
# hold hostile text, and matching must stay linear.
_URL = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s/?#@:]*:[^\s/?#]*@|(?<=://)[^\s/?#@:]{20,}(?=@)")
# "password: keep" is a rule of masking that a message proposes for a column of that name.
_PAIR = re.compile(
    r"""(?P<key>(?:(?:password|passwd|token|_secret)["']?\s{0,5}[=:]|secret["']?\s{0,5}=)\s{0,5})(?!keep(?:\s|$))"""
    r"""(?:'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|[^\s,;&'"]+)""",
    re.IGNORECASE,
)
_SQL = re.compile(r"(?P<key>\bpassword\s{1,5})'(?:[^']|'')*'?", re.IGNORECASE)
_VERIFIER = re.compile(r"SCRAM-SHA-256\$\S+|\bmd5[0-9a-f]{32}\b")
_HINTS = ("://", "pass", "secret", "token", "scram-", "md5")


def text(value: str) -> str:
    """Return a text without passwords in URLs, connection strings, SQL and password hashes."""
    lower = value.lower()
    if not any(hint in lower for hint in _HINTS):
        return value
    value = _URL.sub(lambda match: f"{match['scheme'] or ''}{REDACTED}" + ("@" if match["scheme"] else ""), value)
    value = _PAIR.sub(lambda match: f"{match['key']}{REDACTED}", value)
    value = _SQL.sub(lambda match: f"{match['key']}{REDACTED}", value)
    return _VERIFIER.sub(REDACTED, value)


def record(values: Mapping[str, object]) -> dict[str, object]:
    """Return a mapping without the values of keys that name secrets, at any depth."""
    return {key: REDACTED if _KEY.search(str(key)) else value_of(value) for key, value in values.items()}


def value_of(value: object) -> object:
    """Return a value with every text and mapping in it redacted; other objects as they are."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return record(value)
    if isinstance(value, (list, tuple)):
        return [value_of(item) for item in value]
    return text(str(value)) if isinstance(value, BaseException) else value
