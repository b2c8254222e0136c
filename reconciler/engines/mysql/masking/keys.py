"""Connections of the masking, keys on them, and the hashes that are computed with them.

Called by the modules beside it. Keys become variables of a session: no statement that
computes has one in its text, and logs of statements are off in builds. The server needs
nothing but SHA-256: HMAC is made of it (RFC 2104).

What runs in a session can read its variables, so a session with keys runs nothing that
users made: expressions of policies are computed before, by an account of their own (:mod:`.stage`). Checks,
defaults and computed columns of tables call nothing but what the server itself has.
"""

from __future__ import annotations

from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from reconciler.engines.mysql import accounts, server
from reconciler.engines.mysql.link import quoted, text
from reconciler.errors import MaskingError
from reconciler.masking import keyed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Product
    from reconciler.ids import SecretName
    from reconciler.masking.assignment import Keys

SCHEMA = "reconciler_masking"
"""Database of rows on their way; it exists while a build is masked."""
_SESSION = (
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    # what production holds stays as it is: days that do not exist, an identity of 0
    (
        "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,"
        "NO_ENGINE_SUBSTITUTION,NO_UNSIGNED_SUBTRACTION'"
    ),
    # with unique_checks = 0 InnoDB takes duplicates in silence
    "SET SESSION foreign_key_checks = 0, unique_checks = 1, innodb_strict_mode = OFF, innodb_lock_wait_timeout = 600",
    "SET SESSION system_versioning_alter_history = KEEP",
)
DIGEST, TEXT = "@reconciler_digest", "@reconciler_text"
"""Variables that hold the hexadecimal digits of a hash, and the text that it is of, for the rest of an expression."""
_VARIABLES = f"SET {DIGEST} = CONVERT('' USING utf8mb4), {TEXT} = CONVERT('' USING utf8mb4)"
"""A statement takes the type of a variable from before it."""
_PLAIN = ((0x1, 0x12F), (0x391, 0x3CE), (0x400, 0x45F))
"""Code points that the server folds as we do: texts of these need no function."""
_LIMIT = 0x11000
_SURROGATES = range(0xD800, 0xE000)


@contextmanager
def connected(work: BuildWork) -> Iterator[Link]:
    """Connect with the settings that masking relies on, and no key."""
    with server.connect(work, patient=True) as link:
        _prepare(link)
        yield link


@contextmanager
def as_owner(work: BuildWork, product: Product) -> Iterator[Link]:
    """Connect as the account that has rights on databases of users only: for expressions of policies."""
    with accounts.opened_owner(work, product) as password, owned(work, password) as link:
        yield link


@contextmanager
def owned(work: BuildWork, password: str) -> Iterator[Link]:
    """Connect as that account while somebody lets it in: its password is one for all who work at once."""
    with server.link(work, server.OWNER, password, cancel=work.cancel) as link:
        _prepare(link)
        yield link


@contextmanager
def with_keys(work: BuildWork, keys: Keys) -> Iterator[Link]:
    """Connect with the keys as variables; nothing that users made may run on it."""
    with connected(work) as link:
        link.rows(_VARIABLES)
        for secret, key in keys.values.items():
            link.rows(f"SET {', '.join(_assignments(secret, key))}")
        yield link


def _assignments(secret: SecretName, key: bytes) -> Iterator[str]:
    for tag in keyed.TAGS:
        derived = keyed.subkey(key, tag)
        inner, outer = keyed.pads(derived)
        for part, value in (("inner", inner), ("outer", outer), ("key", derived)):
            yield f"{_variable(secret, tag, part)} = 0x{value.hex()}"


def _prepare(link: Link) -> None:
    for statement in _SESSION:
        link.rows(statement)


def digest(value: str, secret: SecretName, tag: str) -> str:
    """Return the expression of :func:`reconciler.masking.keyed.keyed`, as hexadecimal digits; NULL for NULL."""
    inner, outer = _variable(secret, tag, "inner"), _variable(secret, tag, "outer")
    return f"SHA2(CONCAT({outer}, UNHEX(SHA2(CONCAT({inner}, {value}), 256))), 256)"


def stream(data: str, secret: SecretName, tag: str) -> str:
    """Return the expression of the first block of :func:`reconciler.masking.keyed.stream`, as hexadecimal digits."""
    return f"SHA2(CONCAT({_variable(secret, tag, 'key')}, {data}), 256)"


def number(at: int, length: int) -> str:
    """Return the expression of some bytes of the hash in :data:`DIGEST`, as a whole number."""
    return f"CAST(CONV(SUBSTR({DIGEST}, {2 * at + 1}, {2 * length}), 16, 10) AS SIGNED)"


def once(variable: str, value: str, body: str) -> str:
    """Return ``body``, in which the variable stands for ``value``; NULL if that is."""
    return f"IF({assigned(variable, value)} IS NULL, NULL, {body})"


def assigned(variable: str, value: str) -> str:
    """Return a value that is kept in a variable.

    The server leaves out ``IS NULL`` of what can never be that, with the assignment inside of it: so all of them can.
    """
    return f"({variable} := IF(1, {value}, NULL))"


def _variable(secret: SecretName, tag: str, part: str) -> str:
    return f"@reconciler_k{sha256(f'{secret}/{tag}/{part}'.encode()).hexdigest()[:24]}"


def install(link: Link) -> None:
    """Make the database of this module, with the function that folds what the server folds in another way."""
    link.rows(f"DROP DATABASE IF EXISTS {quoted(SCHEMA)}")
    link.rows(f"CREATE DATABASE {quoted(SCHEMA)} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    odd = _folded_otherwise(link)
    if any(first <= ord(one) <= last for one in odd for first, last in _PLAIN):
        raise MaskingError("this server makes other small letters of common ones than masking does")
    unicode = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    link.rows(
        f"CREATE FUNCTION {quoted(SCHEMA)}.fold(value longtext {unicode}) RETURNS longtext {unicode}"
        " DETERMINISTIC NO SQL SQL SECURITY INVOKER\n"
        f"BEGIN DECLARE done longtext {unicode} DEFAULT ''; DECLARE one varchar(1) {unicode};"
        " DECLARE at, known int DEFAULT 1;\n"
        "WHILE at <= CHAR_LENGTH(value) DO SET one = SUBSTR(value, at, 1);"
        f" SET known = IF(one = ' ', 0, LOCATE(one, {text(''.join(odd))}));"
        f" SET done = CONCAT(done, IF(known > 0, SUBSTR({text(''.join(odd.values()))}, known, 1), LOWER(one)));"
        " SET at = at + 1; END WHILE; RETURN done; END"
    )


def remove(link: Link) -> None:
    """Drop it."""
    link.rows(f"DROP DATABASE IF EXISTS {quoted(SCHEMA)}")


def folded(value: str) -> str:
    """Return the expression of :func:`reconciler.masking.keyed.fold`; rare letters go through a function."""
    plain = "".join(f"\\\\x{{{first:X}}}-\\\\x{{{last:X}}}" for first, last in _PLAIN)
    return once(TEXT, value, f"IF({TEXT} REGEXP '^[{plain}]*$', LOWER({TEXT}), {quoted(SCHEMA)}.fold({TEXT}))")


def _folded_otherwise(link: Link) -> dict[str, str]:
    """Return the characters of which the server makes other small letters than :func:`keyed.fold`, each with those."""
    every = "".join(chr(code) for code in range(0x80, _LIMIT) if code not in _SURROGATES)
    theirs = str(link.value(f"SELECT LOWER({text(every)})"))
    return {one: keyed.fold(one) for one, low in zip(every, theirs, strict=True) if keyed.fold(one) != low}
