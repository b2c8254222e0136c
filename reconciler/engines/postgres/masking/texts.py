"""Methods whose result is a text, as SQL: what :func:`reconciler.masking.values.mask_text` computes.

Called by :mod:`.expressions` for columns and by :mod:`.json_rules` for values inside JSON.
Every function takes an expression of type text, canonical and with the collation "C", and
gives one of type text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from psycopg import sql

from reconciler.engines.postgres.masking import functions, keys
from reconciler.engines.postgres.masking.keys import ONCE, once
from reconciler.masking import fakes, scrub, values
from reconciler.masking.vocabulary import EMAIL_TOKEN, name_of, pattern_places
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.ids import SecretName
    from reconciler.spec.masking_policy import Column as Method


@dataclass(frozen=True, slots=True)
class Scope:
    """What a method needs besides the value: the key's name, the limit, other columns of the row as text."""

    secret: SecretName
    length: int | None = None
    names: tuple[sql.Composable, ...] = ()


def masked(method: Method, text: sql.Composable, scope: Scope, *, for_null: bool = False) -> sql.Composable:
    """Return the masked text: an empty one stays empty, NULL is NULL unless ``for_null``."""
    write = _WRITERS[name_of(method)]
    if for_null:
        value = write(method, sql.SQL("coalesce({}, '')").format(text), scope)
        return sql.SQL("CASE WHEN {text} = '' THEN '' ELSE {value} END").format(text=text, value=value)
    value = write(method, text, scope)
    return sql.SQL("CASE WHEN {text} <> '' THEN {value} ELSE {text} END").format(text=text, value=value)


def hexadecimal(digest: sql.Composable) -> sql.Composable:
    """Return a hash as hexadecimal digits."""
    return sql.SQL("encode({}, 'hex')").format(digest)


def _hash(method: Method, text: sql.Composable, scope: Scope) -> sql.Composable:
    options = values.hash_options(method)
    return sql.SQL("{prefix} || left({digits}, {length})").format(
        prefix=sql.Literal(options.prefix),
        digits=hexadecimal(keys.digest(text, scope.secret, "hash")),
        length=sql.Literal(options.length),
    )


def _email(method: Method, text: sql.Composable, scope: Scope) -> sql.Composable:
    domain = values.domain_of(method)
    room = None if scope.length is None else max(0, scope.length - EMAIL_TOKEN - len(domain) - 2)
    token = sql.SQL("left({digits}, {length}) || {domain}").format(
        digits=hexadecimal(ONCE), length=sql.Literal(EMAIL_TOKEN), domain=sql.Literal(f"@{domain}")
    )
    if room != 0:
        name = _word(fakes.Word(fakes.DEFAULT_LOCALE, "login", values.NAME_BYTE))
        if room is not None:
            name = sql.SQL("left({}, {})").format(name, sql.Literal(room))
        token = sql.SQL("{} || '.' || {}").format(name, token)
    return once(keys.digest(text, scope.secret, "email"), token)


def _fake(method: Method, text: sql.Composable, scope: Scope) -> sql.Composable:
    fake = cast("spec.Fake", method)
    parts = values.fake_parts(fake)
    whole: sql.Composable = sql.SQL(" || ").join(map(_part, parts))
    if scope.length is not None:
        whole = sql.SQL("rtrim(left({}, {}), ' ')").format(whole, sql.Literal(scope.length))
    return once(keys.digest(text, scope.secret, f"fake/{fake.fake}"), whole)


def _part(part: fakes.Part) -> sql.Composable:
    if isinstance(part, fakes.Word):
        return _word(part)
    if isinstance(part, str):
        return sql.Literal(part)
    return _filled(tuple((character, character in "#%?") for character in part.template), part.at)


def _word(word: fakes.Word) -> sql.Composable:
    return sql.SQL("({words})[1 + mod({number}, {size})]::text").format(
        words=functions.words(word),
        number=keys.number(ONCE, word.at, fakes.WORD_BYTES),
        size=sql.Literal(len(fakes.words(word.locale, word.list))),
    )


def _pattern(method: Method, text: sql.Composable, scope: Scope) -> sql.Composable:
    places = pattern_places(cast("spec.Pattern", method).pattern)
    return once(keys.digest(text, scope.secret, "pattern"), _filled(places, 0))


def _filled(places: tuple[tuple[str, bool], ...], at: int) -> sql.Composable:
    """Return a template whose places take consecutive bytes of ``h.v``, set one inside the other."""
    template = "".join("0" if place else character for character, place in places).encode()
    result: sql.Composable = sql.SQL("{}::bytea").format(sql.Literal("\\x" + template.hex()))
    offset = 0
    for character, place in places:
        if place:
            first, size = _ALPHABETS[character]
            result = sql.SQL("set_byte({result}, {offset}, {first} + get_byte(h.v, {at}) % {size})").format(
                result=result,
                offset=sql.Literal(offset),
                first=sql.Literal(first),
                at=sql.Literal(at),
                size=sql.Literal(size),
            )
            at += 1
        offset += 1 if place else len(character.encode())
    return sql.SQL("convert_from({}, 'UTF8')").format(result)


_ALPHABETS = {"#": (ord("0"), 10), "%": (ord("1"), 9), "?": (ord("A"), 26)}


def _preserve(method: Method, text: sql.Composable, scope: Scope) -> sql.Composable:
    name = method.preserve if isinstance(method, spec.Preserve) else "preserve"
    return functions.call(name, text, keys.subkey(scope.secret, "preserve"), functions.shifts())


def _partial(method: Method, text: sql.Composable, _scope: Scope) -> sql.Composable:
    options = cast("spec.Partial", method).partial
    return sql.SQL(
        "CASE WHEN length({text}) <= {kept} THEN repeat({mask}, length({text})) ELSE"
        " left({text}, {first}) || repeat({mask}, length({text}) - {kept}) || right({text}, {last}) END"
    ).format(
        text=text,
        mask=sql.Literal(options.mask),
        first=sql.Literal(options.first),
        last=sql.Literal(options.last),
        kept=sql.Literal(options.first + options.last),
    )


def _text(method: Method, text: sql.Composable, scope: Scope) -> sql.Composable:
    wanted = set(values.findings(method))
    for other in scope.names:
        text = _without(text, other)
    for finding, patterns in scrub.PATTERNS.items():
        for pattern in patterns if finding in wanted else ():
            text = sql.SQL("regexp_replace({text}, {pattern}, {replacement}, 'g')").format(
                text=text, pattern=sql.Literal(pattern), replacement=sql.Literal(scrub.replacement(finding))
            )
    if "name" in wanted:
        text = _without_names(text)
    return text if scope.length is None else sql.SQL("left({}, {})").format(text, sql.Literal(scope.length))


def _without(text: sql.Composable, value: sql.Composable) -> sql.Composable:
    return sql.SQL(
        "CASE WHEN length({value}) >= {shortest} THEN replace({text}, {value}, {name}) ELSE {text} END"
    ).format(
        text=text,
        value=value,
        shortest=sql.Literal(scrub.SHORTEST_VALUE),
        name=sql.Literal(scrub.replacement("name")),
    )


def _without_names(text: sql.Composable) -> sql.Composable:
    return sql.SQL(
        "coalesce((SELECT string_agg(CASE WHEN w.part[1] IN ({names}) THEN {name} ELSE w.part[1] END, '' ORDER BY w.at)"
        " FROM regexp_matches({text}, {pattern}, 'g') WITH ORDINALITY AS w(part, at)), '')"
    ).format(
        names=functions.known_names(),
        name=sql.Literal(scrub.replacement("name")),
        text=text,
        pattern=sql.Literal(f"({scrub.WORD}|{scrub.BETWEEN})"),
    )


_WRITERS: dict[str, Callable[[Method, sql.Composable, Scope], sql.Composable]] = {
    "hash": _hash,
    "email": _email,
    "fake": _fake,
    "pattern": _pattern,
    "preserve": _preserve,
    "partial": _partial,
    "text": _text,
}
