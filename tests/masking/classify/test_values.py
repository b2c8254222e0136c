"""What values say."""

from __future__ import annotations

import pytest

from reconciler.masking.classify import numbers, values
from reconciler.masking.classify.kinds import Kind


@pytest.mark.parametrize("value", ["ann@example.org", "a.b+c@mail.example.co.uk", "Ann <ann@example.org>"])
def test_an_address_is_one(value: str) -> None:
    assert numbers.is_email(value)


@pytest.mark.parametrize("value", ["ann at example", "see ann@example.org", "<12345@mail.example.org>", "@user", "a@b"])
def test_what_only_resembles_an_address_is_none(value: str) -> None:
    assert not numbers.is_email(value)


@pytest.mark.parametrize("value", ["4111111111111111", "5500 0000 0000 0004", "340000000000009"])
def test_card_numbers_are_known_by_their_issuer_and_check_digit(value: str) -> None:
    assert numbers.is_card(value)


@pytest.mark.parametrize("value", ["4111111111111112", "1234567890123456", "9999999999999995"])
def test_other_long_numbers_are_no_card_numbers(value: str) -> None:
    assert not numbers.is_card(value)


def test_an_iban_needs_its_check_digits() -> None:
    assert numbers.is_iban("DE89 3704 0044 0532 0130 00")
    assert not numbers.is_iban("DE88 3704 0044 0532 0130 00")


@pytest.mark.parametrize("value", ["192.0.2.7", "2001:db8::1", "192.0.2.7/32"])
def test_addresses_of_hosts_are_recognised(value: str) -> None:
    assert numbers.is_ip(value)


@pytest.mark.parametrize("value", ["10.0.0.0/8", "1.2.3", "18.4.1", "300.1.1.1", "7"])
def test_networks_and_versions_are_no_hosts(value: str) -> None:
    assert not numbers.is_ip(value)


@pytest.mark.parametrize("value", ["+49 30 901820", "+1 (206) 555-0100", "0044 20 7946 0018", "+44 (0)20 7946 0018"])
def test_phone_numbers_in_international_form_are_recognised(value: str) -> None:
    assert numbers.is_phone(value)


@pytest.mark.parametrize("value", ["2026-11-26", "00012345", "+12", "1234567890"])
def test_dates_and_plain_numbers_are_no_phone_numbers(value: str) -> None:
    assert not numbers.is_phone(value)


def test_numbers_without_a_check_digit_are_no_national_numbers() -> None:
    serial = [str(number) for number in range(100_000_000, 100_000_300)]
    assert values.look(serial).share(Kind.NATIONAL_ID) < 0.5


def test_text_is_searched_for_what_is_personal_in_it() -> None:
    looks = values.look(["call +49 30 901820 before noon", "all is well", "write to ann@example.org", "nothing"])
    assert looks.inside == 0.5


def test_people_are_told_from_products_by_dictionaries() -> None:
    people = values.look(["Anna Schmidt", "Jean Dupont", "Maria Rossi", "Peter Jones", "Olga Ivanova"])
    things = values.look(["Oak Chair", "Steel Kettle", "Blue Rope 12", "Tent XL", "Drill Pro"])
    assert people.share(Kind.FULL_NAME) >= 0.8
    assert things.share(Kind.FULL_NAME) == 0.0


def test_years_in_which_nobody_lives_are_no_birth_years() -> None:
    assert values.birth_years(["1980-02-03", "03.05.1975", "1964", "19991231"]) == 1.0
    assert values.birth_years(["2087-01-01", "1492-10-12"]) == 0.0


def test_what_was_looked_at_shows_no_value() -> None:
    secret = "ann.secret@example.org"
    assert secret not in repr(values.look([secret] * 3))
