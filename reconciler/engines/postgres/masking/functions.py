"""Schema, word lists and functions that expressions use, made once per database and dropped after masking.

Called by :mod:`.expressions`. The functions are the permutations of
:mod:`reconciler.masking.preserve`; everything else is plain expressions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres.masking.keys import SCHEMA
from reconciler.errors import MaskingError
from reconciler.masking import fakes, preserve
from reconciler.masking.keyed import CAPITALS, DIGEST, SMALL
from reconciler.masking.values import findings
from reconciler.masking.vocabulary import name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reconciler.spec.masking_policy import Column as Method

_UNROLLED = tuple(range(preserve.BLOCK, 8 * preserve.BLOCK + 1, preserve.BLOCK))
"""Longest ASCII strings, in characters, that each function permutes by one expression per round."""
_LETTERS = "letters"
_TABLES = """
CREATE SCHEMA {schema};
CREATE TABLE {schema}.words (name text PRIMARY KEY, words text NOT NULL);
CREATE TABLE {schema}.names (word text COLLATE "C" PRIMARY KEY);
CREATE TABLE {schema}.shifts (table_ bytea NOT NULL);
"""


# Names in our functions mean what pg_catalog says, where a superuser can have put something that fits better.
_INTRUDERS = """
SELECT string_agg(pg_describe_object(class, oid, 0), ', ' ORDER BY oid) FROM (
    SELECT 'pg_proc'::regclass AS class, oid FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND oid >= 16384 AND proname = ANY(%(names)s)
  UNION ALL
    SELECT 'pg_operator'::regclass, oid FROM pg_operator
    WHERE oprnamespace = 'pg_catalog'::regnamespace AND oid >= 16384
  UNION ALL
    SELECT 'pg_cast'::regclass, oid FROM pg_cast
    WHERE oid >= 16384 AND castfunc <> 0 AND castsource < 16384 AND casttarget < 16384 AND %(casts)s
) AS intruders
"""


def install(conn: psycopg.Connection, methods: Iterable[Method]) -> None:
    """Make everything that expressions of ``methods`` need.

    Raises:
        MaskingError: the encoding of the database lacks characters of a word list, or it
            has code of its own where our functions would run it.

    """
    remove(conn)
    conn.execute("SET client_encoding = 'UTF8'")  # whatever the database's: words and templates are Unicode
    every = tuple(_with_inner(methods))
    conn.execute(sql.SQL(_TABLES).format(schema=sql.Identifier(SCHEMA)))
    unicode = conn.execute("SELECT getdatabaseencoding() = 'UTF8'").fetchone() == (True,)
    _add_words(conn, every, unicode=unicode)
    conn.execute(_into("shifts", "table_"), [preserve.shift_table()])
    for statement in _functions():
        conn.execute(statement)
    _refuse_intruders(conn, every)
    for table in ("words", "names", "shifts"):
        conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(SCHEMA, table)))


def _refuse_intruders(conn: psycopg.Connection, methods: Iterable[Method]) -> None:
    """Refuse code of users that our functions, which are handed keys, would take for the server's own."""
    bodies = " ".join(statement.as_string(conn) for statement in _functions())
    facts = {
        "names": list(set(re.findall(r"(\w+)\(", bodies))),
        "casts": any(name_of(one) == "preserve" for one in methods),
    }
    ((found,),) = conn.execute(_INTRUDERS, facts).fetchall()
    if found is not None:
        raise MaskingError(
            f"database {conn.info.dbname} has code of its own in place of the server's, which masking would run beside"
            f" the key: {found}",
            hint="drop it in a script that runs before masking",
        )


def remove(conn: psycopg.Connection) -> None:
    """Drop all of it."""
    conn.execute("SET client_min_messages = warning")
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))


def words(word: fakes.Word) -> sql.Composable:
    """Return a word list as ``name[]``: elements of one size are found without a search."""
    return _list(f"{word.locale}/{word.list}", "string_to_array(words, chr(10))::name[]")


def folding() -> tuple[sql.Composable, sql.Composable]:
    """Return capitals and small letters beyond ASCII, for ``translate``."""
    return _list(_LETTERS, "split_part(words, chr(10), 1)"), _list(_LETTERS, "split_part(words, chr(10), 2)")


def shifts() -> sql.Composable:
    """Return the table of :func:`reconciler.masking.preserve.shift_table`, out of its storage."""
    return sql.SQL("(SELECT table_ || ''::bytea FROM {})").format(sql.Identifier(SCHEMA, "shifts"))


def known_names() -> sql.Composable:
    """Return the known names as a query."""
    return sql.SQL("SELECT word FROM {}").format(sql.Identifier(SCHEMA, "names"))


def call(name: str, *arguments: sql.Composable) -> sql.Composable:
    """Return a call of one of the functions."""
    return sql.SQL("{}({})").format(sql.Identifier(SCHEMA, name), sql.SQL(", ").join(arguments))


def _list(name: str, form: str) -> sql.Composable:
    return sql.SQL("(SELECT {form} FROM {table} WHERE name = {name})").format(
        form=sql.SQL(form), table=sql.Identifier(SCHEMA, "words"), name=sql.Literal(name)
    )


def _into(table: str, *columns: str) -> sql.Composed:
    return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(SCHEMA, table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
    )


def _with_inner(methods: Iterable[Method]) -> Iterator[Method]:
    for method in methods:
        yield method
        if isinstance(method, spec.Json):
            yield from _with_inner(method.json_.values())


def _add_words(conn: psycopg.Connection, methods: tuple[Method, ...], *, unicode: bool) -> None:
    needed = {part for method in methods for part in _parts(method) if isinstance(part, fakes.Word)}
    for locale, list_ in sorted({(word.locale, word.list) for word in needed}):
        text = "\n".join(fakes.words(locale, list_))
        try:
            conn.execute(_into("words", "name", "words"), [f"{locale}/{list_}", text])
        except psycopg.errors.UntranslatableCharacter:
            raise MaskingError(
                f"the encoding of database {conn.info.dbname} lacks characters of the locale {locale}",
                hint="choose another locale",
                reason="MaskingUncovered",
            ) from None
    letters = f"{CAPITALS}\n{SMALL}" if unicode else "A\na"
    conn.execute(_into("words", "name", "words"), [_LETTERS, letters])
    if any(name_of(method) == "text" and "name" in findings(method) for method in methods):
        names = [name for name in fakes.known_names() if unicode or name.isascii()]
        conn.execute(
            sql.SQL("INSERT INTO {} SELECT unnest(%s::text[])").format(sql.Identifier(SCHEMA, "names")), [names]
        )


def _parts(method: Method) -> tuple[fakes.Part, ...]:
    if name_of(method) == "email":
        return (fakes.Word(fakes.DEFAULT_LOCALE, "login", 0),)
    locale = fakes.locale_of(method.locale) if isinstance(method, spec.Fake) else None
    return fakes.parts(method.fake, locale) if isinstance(method, spec.Fake) and locale else ()


def _functions() -> Iterator[sql.Composed]:
    for length in _UNROLLED:
        yield _function(f"preserve_{length}", "value text, key bytea, shifts bytea", "text", _unrolled(length))
    yield _function("preserve_any", "value text, key bytea", "text", _one_by_one())
    yield _function("preserve", "value text, key bytea, shifts bytea", "text", _dispatch())
    yield _function("luhn", "digits text", "integer", _LUHN)
    yield _function("card", "value text, key bytea, shifts bytea", "text", _CARD)
    yield _function("iban_check", "country text, rest text", "integer", _IBAN_CHECK)
    yield _function("iban", "value text, key bytea, shifts bytea", "text", _IBAN)
    yield _function("preserve_integer", "value bigint, key bytea", "bigint", _integer())
    yield _function("one_dimension", "value anyarray", "anyarray", _ONE_DIMENSION)


def _function(name: str, arguments: str, result: str, body: str) -> sql.Composed:
    return sql.SQL(
        "CREATE FUNCTION {name}({arguments}) RETURNS {result} LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS {body}"
    ).format(
        name=sql.Identifier(SCHEMA, name),
        arguments=sql.SQL(arguments),
        result=sql.SQL(result),
        body=sql.Literal(body.replace("SCHEMA.", f"{SCHEMA}.")),
    )


def _unrolled(length: int) -> str:
    """Return a body that permutes ASCII strings of up to ``length`` characters.

    An expression per round: setting bytes one inside the other costs a tenth of taking
    the string apart into rows and putting it together again.
    """
    rounds = []
    for number, (bit, side) in enumerate(preserve.ROUNDS, start=1):
        changed = [at for at in range(length) if (at >> bit) & 1 == side]
        hidden, moved = "state", "state"
        for at in changed:
            hidden = f"set_byte({hidden}, {at}, {number})"
            moved = f"set_byte({moved}, {at}, get_byte(shifts, get_byte(state, {at}) << 8 | get_byte(stream, {at})))"
        rounds.append(f"stream := sha256(key || {hidden});")
        if length > DIGEST:
            rounds.append("stream := stream || sha256(key || stream);")
        rounds.append(f"state := {moved};")
    return f"""
DECLARE
    state bytea := convert_to(value, 'UTF8');
    size CONSTANT integer := octet_length(state);
    stream bytea;
BEGIN
    state := substring(state || '\\x{"00" * length}'::bytea FOR {length});
    {" ".join(rounds)}
    RETURN convert_from(substring(state FOR size), 'UTF8');
END"""


def _dispatch() -> str:
    branches = " ".join(
        f"WHEN size <= {length} THEN SCHEMA.preserve_{length}(value, key, shifts)" for length in _UNROLLED
    )
    return f"""
DECLARE size CONSTANT integer := octet_length(convert_to(value, 'UTF8'));
BEGIN
    RETURN CASE WHEN size > length(value) THEN SCHEMA.preserve_any(value, key) {branches}
        ELSE SCHEMA.preserve_any(value, key) END;
END"""


def _array(numbers: Iterable[int], type_: str = "integer") -> str:
    return f"('{{{','.join(map(str, numbers))}}}'::{type_}[])"


def _one_by_one() -> str:
    """Return a body that permutes any string, in loops; set-based statements took three times as long."""
    firsts, lasts, steps, sizes = (
        _array(getattr(region, name) for region in preserve.REGIONS) for name in ("first", "last", "step", "size")
    )
    return f"""
DECLARE
    characters CONSTANT text[] := string_to_array(value, NULL);
    size CONSTANT integer := cardinality(characters);
    padded CONSTANT integer := (size + {preserve.BLOCK - 1}) / {preserve.BLOCK} * {preserve.BLOCK};
    codes integer[] := array_fill(0, ARRAY[padded]);
    regions integer[] := array_fill(0, ARRAY[padded]);
    bit integer; side integer; region integer; origin integer; step integer; move integer;
    seen bytea; block bytea; stream bytea; result text := '';
BEGIN
    IF octet_length(convert_to(value, 'UTF8')) > size AND getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'preserve of text beyond ASCII needs a database with the encoding UTF8';
    END IF;
    FOR i IN 1..size LOOP
        codes[i] := ascii(characters[i]);
        region := width_bucket(codes[i], {firsts});
        regions[i] := CASE WHEN codes[i] <= {lasts}[region] THEN region ELSE 0 END;
    END LOOP;
    FOR number IN 1..{len(preserve.ROUNDS)} LOOP
        bit := {_array(bit for bit, _ in preserve.ROUNDS)}[number];
        side := {_array(side for _, side in preserve.ROUNDS)}[number];
        seen := ''::bytea;
        FOR i IN 1..padded LOOP
            seen := seen || CASE WHEN ((i - 1) >> bit) & 1 = side THEN set_byte('\\x00'::bytea, 0, number)
                WHEN i > size THEN '\\x00'::bytea ELSE convert_to(chr(codes[i]), 'UTF8') END;
        END LOOP;
        block := sha256(key || seen);
        stream := block;
        WHILE octet_length(stream) < padded LOOP
            block := sha256(key || block);
            stream := stream || block;
        END LOOP;
        FOR i IN 1..size LOOP
            region := regions[i];
            CONTINUE WHEN region = 0 OR ((i - 1) >> bit) & 1 <> side;
            origin := {firsts}[region];
            step := {steps}[region];
            move := get_byte(stream, i - 1);
            IF codes[i] > 127 THEN
                move := move + (get_byte(stream, i % octet_length(stream)) << 8);
            END IF;
            codes[i] := origin + (codes[i] - origin) % step
                + step * (((codes[i] - origin) / step + move) % {sizes}[region]);
        END LOOP;
    END LOOP;
    FOR i IN 1..size LOOP
        result := result || chr(codes[i]);
    END LOOP;
    RETURN result;
END"""


_LUHN = """
DECLARE total integer := 0; digit integer; size CONSTANT integer := length(digits);
BEGIN
    FOR place IN 1..size LOOP
        digit := ascii(substr(digits, size + 1 - place, 1)) - 48;
        IF place % 2 = 1 THEN
            digit := digit * 2;
            digit := digit / 10 + digit % 10;
        END IF;
        total := total + digit;
    END LOOP;
    RETURN (10 - total % 10) % 10;
END"""
"""The check digit that belongs behind digits (ISO/IEC 7812-1)."""
_CARD = """
DECLARE
    at CONSTANT integer := length(substring(value FROM '^(.*)[0-9][^0-9]*$')) + 1;
    rest text; masked text; before text; check_ integer;
BEGIN
    before := regexp_replace(left(value, at - 1), '[^0-9]', '', 'g');
    IF at IS NULL OR before = '' THEN
        RETURN SCHEMA.preserve(value, key, shifts);
    END IF;
    rest := left(value, at - 1) || substr(value, at + 1);
    masked := SCHEMA.preserve(rest, key, shifts);
    check_ := SCHEMA.luhn(regexp_replace(left(masked, at - 1), '[^0-9]', '', 'g'))
        + ascii(substr(value, at, 1)) - 48 - SCHEMA.luhn(before);
    RETURN left(masked, at - 1) || (check_ + 10) % 10 || substr(masked, at);
END"""
_IBAN_CHECK = """
DECLARE remainder integer := 0; code integer;
BEGIN
    FOREACH code IN ARRAY ARRAY(
        SELECT ascii(c) FROM string_to_table(translate(
            regexp_replace(rest, '[^0-9A-Za-z]', '', 'g') || country,
            'abcdefghijklmnopqrstuvwxyz', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ') || '00', NULL) WITH ORDINALITY AS s(c, i)
        ORDER BY i)
    LOOP
        remainder := CASE WHEN code < 65 THEN remainder * 10 + code - 48 ELSE remainder * 100 + code - 55 END % 97;
    END LOOP;
    RETURN 98 - remainder;
END"""
"""The check digits that belong to an account number (ISO 13616)."""
_IBAN = """
DECLARE masked text; check_ integer; country CONSTANT text := left(value, 2);
BEGIN
    IF value !~ '^[A-Za-z]{2}[0-9]{2}' THEN
        RETURN SCHEMA.preserve(value, key, shifts);
    END IF;
    masked := CASE WHEN length(value) > 4 THEN SCHEMA.preserve(substr(value, 5), key, shifts) ELSE '' END;
    check_ := SCHEMA.iban_check(country, masked)
        + substr(value, 3, 2)::integer - SCHEMA.iban_check(country, substr(value, 5));
    RETURN country || lpad(((check_ + 100) % 100)::text, 2, '0') || masked;
END"""
SEVERAL_DIMENSIONS = "MK001"
"""What is raised for such an array: its text would not be told, as functions of users raise anything."""
_ONE_DIMENSION = f"""
BEGIN
    IF array_ndims(value) > 1 THEN
        RAISE EXCEPTION 'an array has more than one dimension' USING ERRCODE = '{SEVERAL_DIMENSIONS}';
    END IF;
    RETURN value;
END"""


def _integer() -> str:
    all_ = preserve.segments()
    lows, rows, columns = (
        _array((getattr(one, name) for one in all_), "bigint") for name in ("low", "rows", "columns")
    )
    moved = " | ".join(
        f"(get_byte(h, {at})::bigint << {8 * (preserve.INTEGER_BYTES - 1 - at)})"
        for at in range(preserve.INTEGER_BYTES)
    )
    steps = "\n    ".join(
        f"h := sha256(key || '\\x{number:02x}'::bytea || int8send(low) || int8send({other}));\n"
        f"    {moving} := ({moving} + mod({moved}, {limit})) % {limit};"
        for number, moving, other, limit in (
            (1, "y", "x", "height"),
            (2, "x", "y", "width"),
            (3, "y", "x", "height"),
            (4, "x", "y", "width"),
        )
    )
    return f"""
DECLARE
    segment CONSTANT integer := width_bucket(value, {lows});
    low CONSTANT bigint := {lows}[segment];
    height CONSTANT bigint := {rows}[segment];
    width CONSTANT bigint := {columns}[segment];
    y bigint := (value - low) / width;
    x bigint := (value - low) % width;
    h bytea;
BEGIN
    {steps}
    RETURN low + y * width + x;
END"""
