"""Redaction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.status import redact


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:S3CRET@db.example:5432/shop",
        "fatal: Authentication failed for 'https://git:S3CRET@git.example/specs.git/'",
        "https://x-access-token-S3CRETS3CRETS3CRET@git.example/specs.git",
        "connection to host=db user=app password=S3CRET dbname=shop failed",
        "host=db password='S3CRET with \\' quote' user=app",
        '{"password": "S3CRET"}',
        "ALTER ROLE app PASSWORD 'S3CRET''S3CRET'",
        "PGPASSWORD=S3CRET psql",
        "password='S3CRET and no end",
        "redis://:S3CRET@cache",
        "mysql://app:S3@CRET@db/shop",
        "https://host/?access_token=S3CRET&page=2",
    ],
)
def test_no_secret_is_left_in_a_text(text: str) -> None:
    assert "CRET" not in redact.text(text)
    assert redact.REDACTED in redact.text(text)


def test_password_hashes_are_secrets_too() -> None:
    assert redact.text("md5" + "0" * 32) == redact.REDACTED
    assert "stored" not in redact.text("rolpassword SCRAM-SHA-256$4096:salt$stored:server")


@pytest.mark.parametrize(
    "text",
    [
        "specs/shop.yaml:12:3: unknown field",
        "https://git.example/specs.git is not reachable",
        "ssh://git@git.example/specs.git",
        "secret shop-app was not found",
        "cloned at 12:30 by ann@example.org",
        "port 5601 is used",
        "use credentials: {secret: git}",
        "        password: keep     # or email, hash, …\n        api_token: keep",
    ],
)
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    assert redact.text(text) == text


def test_values_of_keys_that_name_secrets_are_redacted_at_any_depth() -> None:
    record = {"event": "x", "db_password": "a", "Token": 1, "nested": [{"api-key": "b", "dsn": "c"}], "count": 3}
    assert redact.record(record) == {
        "event": "x",
        "db_password": redact.REDACTED,
        "Token": redact.REDACTED,
        "nested": [{"api-key": redact.REDACTED, "dsn": redact.REDACTED}],
        "count": 3,
    }


@given(st.text(), st.text())
def test_a_url_gives_no_password_away_whatever_stands_around_it(before: str, after: str) -> None:
    assert "S3CRET" not in redact.text(f"{before} postgresql://app:S3CRET@db/shop {after}")


def test_a_hostile_text_of_a_megabyte_does_not_hang_redaction() -> None:
    for piece in ("password=", "a://", "://a:", "'password '", "x" * 64 + "token", "a:b@", "a-", "x", "://"):
        redact.text(piece * (1_000_000 // len(piece)))
