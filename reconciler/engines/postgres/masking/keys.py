"""Masking keys on a connection, and the hashes that are computed with them.

Called by :mod:`.expressions` and its siblings. Keys are bound parameters that become
settings of the session: no statement has one in its text, and the session logs no
parameters. Parallel workers inherit settings. The server needs no extension: HMAC is
made of the built-in ``sha256``.

What runs in a session can read its settings, so a session with keys runs nothing that
users made: :mod:`.beside` insists on that, and other sessions have no keys.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.masking import keyed

if TYPE_CHECKING:
    import psycopg

    from reconciler.ids import SecretName
    from reconciler.masking.assignment import Keys

SCHEMA = "reconciler_masking"
"""Schema, and prefix of settings."""
_SESSION = """
SELECT set_config(name, value, false) FROM (VALUES
    ('log_parameter_max_length_on_error', '0'),
    ('client_encoding', 'UTF8'),
    ('DateStyle', 'ISO'), ('TimeZone', 'UTC'), ('IntervalStyle', 'iso_8601'), ('bytea_output', 'hex'),
    ('extra_float_digits', '1'), ('standard_conforming_strings', 'on'), ('jit', 'off'),
    ('constraint_exclusion', 'off')
) AS settings(name, value)
"""
"""Values have one form as text; compiling long expressions costs more than they do; planning looks at no CHECK."""
_SILENT = """
SELECT set_config(name, value, false) FROM (VALUES
    ('log_parameter_max_length', '0'), ('log_statement', 'none'), ('log_min_duration_statement', '-1'),
    ('log_min_duration_sample', '-1'), ('log_transaction_sample_rate', '0'), ('log_min_error_statement', 'panic')
) AS settings(name, value) WHERE current_setting('is_superuser')::boolean
"""
"""Nothing is logged. The builder may not say so, but the configuration of a build does."""
_SET = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS settings(name, value)"


def open_session(conn: psycopg.Connection) -> None:
    """Give a connection the settings that expressions rely on, and no key."""
    conn.execute(_SILENT)
    conn.execute(_SESSION)


def open_keys(conn: psycopg.Connection, keys: Keys) -> None:
    """Give a connection the keys as well; nothing that users made may run on it, before or after."""
    open_session(conn)
    settings = {
        name: value.hex()
        for secret, key in keys.values.items()
        for tag in keyed.TAGS
        for name, value in _parts(secret, key, tag)
    }
    conn.execute(_SET, [list(settings), list(settings.values())])


def digest(text: sql.Composable, secret: SecretName, tag: str) -> sql.Composable:
    """Return the expression of :func:`reconciler.masking.keyed.keyed`: bytea, NULL for NULL."""
    return sql.SQL("sha256({outer} || sha256({inner} || convert_to({text}, 'UTF8')))").format(
        outer=_setting(secret, tag, "outer"), inner=_setting(secret, tag, "inner"), text=text
    )


def subkey(secret: SecretName, tag: str) -> sql.Composable:
    """Return the expression of a tag's subkey: bytea."""
    return _setting(secret, tag, "key")


def number(hash_: sql.Composable, at: int, length: int) -> sql.Composable:
    """Return the expression of some bytes of a hash as bigint; ``hash_`` is evaluated once per byte."""
    return sql.SQL("({})").format(
        sql.SQL(" | ").join(
            sql.SQL("(get_byte({hash}, {at})::bigint << {bits})").format(
                hash=hash_, at=sql.Literal(at + place), bits=sql.Literal(8 * (length - 1 - place))
            )
            for place in range(length)
        )
    )


def once(value: sql.Composable, body: sql.Composable) -> sql.Composable:
    """Return ``body``, in which ``h.v`` stands for ``value``, evaluated once per row."""
    return sql.SQL("(SELECT {body} FROM (SELECT {value} AS v OFFSET 0) AS h)").format(body=body, value=value)


ONCE = sql.SQL("h.v")


def _parts(secret: SecretName, key: bytes, tag: str) -> tuple[tuple[str, bytes], ...]:
    derived = keyed.subkey(key, tag)
    inner, outer = keyed.pads(derived)
    return (
        (setting_name(secret, tag, "inner"), inner),
        (setting_name(secret, tag, "outer"), outer),
        (setting_name(secret, tag, "key"), derived),
    )


def _setting(secret: SecretName, tag: str, part: str) -> sql.Composable:
    """Return a subquery without references to rows: PostgreSQL evaluates it once per statement."""
    return sql.SQL("(SELECT decode(current_setting({}), 'hex'))").format(sql.Literal(setting_name(secret, tag, part)))


def setting_name(secret: SecretName, tag: str, part: str) -> str:
    """Return a setting's name; secrets may have characters that such names may not."""
    return f"{SCHEMA}.k{sha256(f'{secret}/{tag}/{part}'.encode()).hexdigest()[:24]}"
