"""What is recognised by its form and check digits: addresses and numbers.

Called by :mod:`.values`. Check digits are the business of python-stdnum, phone numbers of
phonenumbers, addresses of the network of :mod:`ipaddress`.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

import phonenumbers
from stdnum import iban, imei, luhn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_EMAIL = re.compile(r"[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}")
_INTERNATIONAL = re.compile(r"(?:\+|\b00)[1-9](?:[ ()./-]{0,2}\d){6,14}")
_LONG_NUMBER = re.compile(r"\b(?:\d[ -]?){12,18}\d\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}|3[0689]\d{12}|35\d{14}|62\d{14,17}"
)
"""Prefixes and lengths of issuers (ISO/IEC 7812)."""
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}([:-]))(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}")
_IMEI = re.compile(r"3\d{14}(?:\d{2,3})?")
_HASHED_PASSWORD = re.compile(
    r"\$(?:2[aby]|argon2\w+|6|5|1|pbkdf2[\w-]*|scrypt)\$.{10,}|pbkdf2_\w+\$.+|SCRAM-SHA-256\$.+"
)
_POSTCODE = re.compile(
    r"[A-Z]{0,2}-?\d{4,6}|\d{5}-\d{3,4}|\d{2,4}[- ]\d{2,4}|\d{4} ?[A-Z]{2}"
    r"|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d"
)
_NATIONAL = re.compile(r"(?=.*\d).{8,20}")
_DATE = re.compile(r"(?P<a>\d{1,4})[-./](?P<b>\d{1,2})[-./](?P<c>\d{1,4})")
_YEAR = re.compile(r"(?:19|20)\d\d(?:\d{4})?")
_DOTS = 3
_YEAR_DIGITS = 4
_MODULES = (
    *("de.idnr", "de.vat", "fr.nir", "fr.siret", "fr.tva", "es.dni", "es.nif", "es.cif", "es.nie"),
    *("it.codicefiscale", "it.iva", "pt.nif", "br.cpf", "br.cnpj", "pl.pesel", "pl.nip", "nl.bsn", "nl.btw"),
    *("be.nn", "be.vat", "se.personnummer", "se.orgnr", "dk.cpr", "no.fodselsnummer", "fi.hetu", "tr.tckimlik"),
    *("cn.ric", "jp.cn", "ru.inn", "ch.ssn", "at.vnr", "at.uid", "gb.nhs", "gb.vat", "us.ssn", "ca.sin"),
    *("in_.aadhaar", "in_.pan", "mx.curp", "mx.rfc", "ar.cuit", "cl.rut", "co.nit", "cz.rc", "ro.cnp", "hu.anum"),
    *("bg.egn", "gr.amka", "kr.rrn", "za.idnr", "il.idnr", "au.tfn", "ie.pps", "ee.ik", "lt.asmens", "hr.oib"),
)
"""Modules of python-stdnum for numbers of people and firms that have a check digit, or a form of their own."""
_CHANCE = 0.3
"""A random number passes a check digit in a tenth of all cases."""
_PROBED = 40


def is_email(value: str) -> bool:
    """Tell whether a value is an e-mail address, or a name with one in angle brackets."""
    found = _EMAIL.search(value)
    if found is None or value.startswith("<"):  # the id of a message is no address
        return False
    return value in (found[0], f"mailto:{found[0]}") or value.endswith(f"<{found[0]}>")


def is_ip(value: str) -> bool:
    """Tell whether a value is the address of a host."""
    address, _, prefix = value.partition("/")
    if address.count(".") != _DOTS and ":" not in address:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return prefix in ("", str(parsed.max_prefixlen)) and not parsed.is_unspecified


def is_phone(value: str) -> bool:
    """Tell whether a value is a phone number in international form."""
    if not _INTERNATIONAL.fullmatch(value):
        return False
    number = "+" + value[2:] if value.startswith("00") else value
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(number.replace("(0)", ""), None))
    except phonenumbers.NumberParseException:
        return False


def is_card(value: str) -> bool:
    """Tell whether a value is the number of a payment card."""
    digits = value.replace(" ", "").replace("-", "")
    return _CARD.fullmatch(digits) is not None and luhn.is_valid(digits)


def is_iban(value: str) -> bool:
    """Tell whether a value is an IBAN; the check digits of the countries themselves are left alone."""
    return _IBAN.fullmatch(value) is not None and iban.is_valid(value, check_country=False)


def is_device(value: str) -> bool:
    """Tell whether a value is a MAC address, or the number of a mobile device."""
    return _MAC.fullmatch(value) is not None or (_IMEI.fullmatch(value) is not None and imei.is_valid(value))


def is_secret(value: str) -> bool:
    """Tell whether a value is a password as systems keep it."""
    return _HASHED_PASSWORD.fullmatch(value) is not None


def is_postcode(value: str) -> bool:
    """Tell whether a value has a form that postcodes have somewhere."""
    return _POSTCODE.fullmatch(value) is not None


def reaches_someone(value: str) -> bool:
    """Tell whether an address or number of a person stands within text."""
    if value.startswith("<") and value.endswith(">") and " " not in value:  # the id of a message
        return False
    return (
        _EMAIL.search(value) is not None
        or any(is_phone(found[0].strip()) for found in _INTERNATIONAL.finditer(value))
        or any(is_card(found[0]) for found in _LONG_NUMBER.finditer(value))
        or any(is_iban(found[0]) for found in _IBAN.finditer(value))
    )


def national(values: Sequence[str]) -> float:
    """Return the largest share of values that are valid national numbers of one and the same country."""
    fit = [value for value in values if _NATIONAL.fullmatch(value)]
    if len(fit) < len(values) / 2:
        return 0.0
    probe = fit[:: max(1, len(fit) // _PROBED)]
    likely = [one for one in _validators() if sum(map(one.is_valid, probe)) / len(probe) > _CHANCE]
    return max((sum(map(one.is_valid, fit)) / len(values) for one in likely), default=0.0)


@lru_cache
def _validators() -> tuple[ModuleType, ...]:
    return tuple(import_module(f"stdnum.{name}") for name in _MODULES)


def year(value: str) -> int | None:
    """Return the year of a date in a usual form, or a year alone."""
    if _YEAR.fullmatch(value):
        return int(value[:_YEAR_DIGITS])
    found = _DATE.match(value)
    longest = "" if found is None else max((found["a"], found["c"]), key=len)
    return int(longest) if len(longest) == _YEAR_DIGITS else None
