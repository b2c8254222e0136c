"""The kinds of personal data that discovery tells apart."""

from __future__ import annotations

from enum import StrEnum

from reconciler.masking.schema import Family


class Kind(StrEnum):
    """What a column holds about people; the value is what people read."""

    EMAIL = "email"
    PHONE = "phone"
    FIRST_NAME = "first_name"
    LAST_NAME = "last_name"
    FULL_NAME = "full_name"
    USER_NAME = "user_name"
    STREET = "street"
    CITY = "city"
    POSTCODE = "postcode"
    COMPANY = "company"
    BIRTH = "birth"
    NATIONAL_ID = "national_id"
    PASSPORT = "passport"
    IBAN = "iban"
    CARD = "card"
    IP = "ip"
    DEVICE = "device"
    PLATE = "plate"
    LOCATION = "location"
    INCOME = "income"
    SECRET = "secret"  # noqa: S105 - a kind of data
    SPECIAL = "special"
    PHOTO = "photo"
    FREE_TEXT = "free_text"
    JSON = "json"


WORDS: dict[Kind, str] = {
    Kind.EMAIL: "an e-mail address",
    Kind.PHONE: "a phone number",
    Kind.FIRST_NAME: "a given name",
    Kind.LAST_NAME: "a family name",
    Kind.FULL_NAME: "a person's name",
    Kind.USER_NAME: "a user name",
    Kind.STREET: "a street address",
    Kind.CITY: "a person's town",
    Kind.POSTCODE: "a postcode",
    Kind.COMPANY: "a company",
    Kind.BIRTH: "a date of birth",
    Kind.NATIONAL_ID: "a national or tax number",
    Kind.PASSPORT: "an identity document",
    Kind.IBAN: "a bank account",
    Kind.CARD: "a card number",
    Kind.IP: "an IP address",
    Kind.DEVICE: "a person's device",
    Kind.PLATE: "a vehicle's identity",
    Kind.LOCATION: "a position",
    Kind.INCOME: "an income",
    Kind.SECRET: "a password or key",
    Kind.SPECIAL: "health, belief or the like",
    Kind.PHOTO: "a picture or signature",
    Kind.FREE_TEXT: "free text",
    Kind.JSON: "a document with personal data",
}
"""In a sentence: "the name says …"."""

PRIORITY = tuple(
    Kind(name)
    for name in (
        *("secret", "email", "iban", "card", "ip", "phone", "national_id", "passport", "birth", "device", "postcode"),
        *("plate", "income", "special", "photo", "user_name", "first_name", "last_name", "full_name", "street"),
        *("city", "company", "location", "free_text", "json"),
    )
)
"""Which kind a name with several hints means: ``company_phone`` is a phone number."""

_TEXT = frozenset({Family.TEXT})
_NUMBERS = frozenset({Family.INTEGER, Family.NUMBER})
_DIGITS = _TEXT | _NUMBERS
_FAMILIES: dict[Kind, frozenset[Family]] = {
    Kind.PHONE: _DIGITS,
    Kind.POSTCODE: _DIGITS,
    Kind.NATIONAL_ID: _DIGITS,
    Kind.PASSPORT: _DIGITS,
    Kind.IBAN: _DIGITS,
    Kind.CARD: _DIGITS,
    Kind.DEVICE: _DIGITS | {Family.OTHER, Family.UUID},
    Kind.IP: _TEXT | {Family.OTHER},
    Kind.BIRTH: frozenset({Family.DATE, Family.TIME, Family.INTEGER, Family.TEXT}),
    Kind.INCOME: _NUMBERS,
    Kind.LOCATION: _NUMBERS | {Family.OTHER, Family.TEXT},
    Kind.SECRET: _TEXT | {Family.BYTES, Family.UUID},
    Kind.SPECIAL: _TEXT | {Family.ENUM, Family.BOOLEAN},
    Kind.PHOTO: _TEXT | {Family.BYTES},
}


def fits(kind: Kind, family: Family) -> bool:
    """Tell whether a column of ``family`` can hold this kind of data."""
    return family in _FAMILIES.get(kind, _TEXT)
