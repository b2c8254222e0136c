"""The labelled schemas, and the values that their columns are filled with.

A column is written ``type | kind of personal data, or - | generator``. Words come from
``words.yaml``, numbers with check digits are computed, everything is the same in every
run. ``?0.3`` behind a generator leaves that share of its values NULL.
"""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from stdnum import ean, iban, luhn
from stdnum.cn import ric
from stdnum.es import dni
from stdnum.fr import nir, siren
from stdnum.it import codicefiscale
from stdnum.pl import pesel
from stdnum.tr import tckimlik

HERE = Path(__file__).parent
ROWS = 200

Make = Callable[[random.Random, dict[str, Any]], str]


@dataclass(frozen=True)
class Labelled:
    """A column as it was labelled before anything was tuned."""

    schema: str
    table: str
    column: str
    type: str
    kind: str
    """``-`` for none."""
    values: tuple[str, ...]
    nulls: int

    @property
    def personal(self) -> bool:
        return self.kind != "-"

    @property
    def name(self) -> str:
        return f"{self.schema}: {self.table}.{self.column}"


def schema_files() -> list[Path]:
    return sorted((HERE / "schemas").glob("*.yaml"))


def labelled(path: Path) -> list[Labelled]:
    """Return the columns of a schema with their values."""
    document = yaml.safe_load(path.read_text())
    words = _words()[document["language"]]
    found = []
    for table, columns in document["tables"].items():
        for column, written in columns.items():
            kind_of_type, kind, generator = (part.strip() for part in written.split("|"))
            values, nulls = _values(generator, words, f"{path.stem}.{table}.{column}")
            found.append(Labelled(path.stem, table, column, kind_of_type, kind, values, nulls))
    return found


@lru_cache
def _words() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "words.yaml").read_text())
    return loaded


def _values(written: str, words: dict[str, Any], seed: str) -> tuple[tuple[str, ...], int]:
    if written == "empty":
        return (), 0
    rng = random.Random(seed)  # the same in every run: seeded by a text
    written, _, share = written.partition(" ?")
    make = _generator(written)
    made = [
        None if share and rng.random() < float(share) else make(rng, {**words, "row": row})
        for row in range(1, ROWS + 1)
    ]
    values = tuple(value for value in made if value is not None)
    return values, ROWS - len(values)


def _generator(written: str) -> Make:
    name, _, rest = written.partition("(")
    argument = rest.removesuffix(")")
    return lambda rng, words: _GENERATORS[name](rng, words, argument)


def _plain(text: str) -> str:
    text = text.replace("ß", "ss").replace("ł", "l").replace("\u0131", "i").replace("ø", "o")
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z]", "", text)


def _filled(rng: random.Random, pattern: str) -> str:
    """Fill a pattern: # is a digit, ? a capital letter."""
    digits = re.sub("#", lambda _: rng.choice(string.digits), pattern)
    return re.sub(r"\?", lambda _: rng.choice(string.ascii_uppercase), digits)


def _day(rng: random.Random, first: int, last: int) -> str:
    start = date(first, 1, 1)
    return str(start + timedelta(days=rng.randrange((date(last, 12, 28) - start).days)))


def _email(rng: random.Random, words: dict[str, Any]) -> str:
    first, last = _plain(rng.choice(words["first"])), _plain(rng.choice(words["last"]))
    host = rng.choice(
        ["gmail.com", "web.de", "orange.fr", "posta.it", "firma.example", "uni.example.org", "mail.example"]
    )
    return f"{first}{rng.choice(['.', '_', ''])}{last}{rng.choice(['', str(rng.randrange(99))])}@{host}"


def _address(rng: random.Random, words: dict[str, Any]) -> str:
    return f"{_street(rng, words)}, {rng.choice(words['zip'])} {rng.choice(words['city'])}"


def _street(rng: random.Random, words: dict[str, Any]) -> str:
    name, number = rng.choice(words["street"]), rng.randrange(1, 240)
    before = words["country"] in {"GB", "FR"}
    return f"{number} {name}" if before else f"{name} {number}"


def _full(rng: random.Random, words: dict[str, Any]) -> str:
    return f"{rng.choice(words['first'])} {rng.choice(words['last'])}"


def _user(rng: random.Random, words: dict[str, Any]) -> str:
    first, last = _plain(rng.choice(words["first"])), _plain(rng.choice(words["last"]))
    return rng.choice([f"{first[0]}{last}", f"{first}.{last}", f"{first}{rng.randrange(99)}"])


def _note(rng: random.Random, words: dict[str, Any]) -> str:
    return str(rng.choice(words["note"])).format(
        full=_full(rng, words),
        first=rng.choice(words["first"]),
        last=rng.choice(words["last"]),
        phone=_filled(rng, rng.choice(words["phone"])),
        email=_email(rng, words),
        street=_street(rng, words),
    )


def _iban(rng: random.Random, words: dict[str, Any], argument: str) -> str:
    patterns = {
        "DE": "##################", "FR": "#######################", "ES": "####################",
        "IT": "?######################", "PT": "#####################", "PL": "########################",
        "NL": "????##########", "SE": "####################", "TR": "#####0################",
        "GB": "????##############",
    }  # fmt: skip
    country = argument.upper() or words["country"]
    bban = _filled(rng, patterns.get(country, patterns["DE"]))
    checked = iban.calc_check_digits(f"{country}00{bban}")
    return f"{country}{checked}{bban}"


def _card(rng: random.Random) -> str:
    head = rng.choice(["4", "51", "53", "55", "2221"])
    body = head + _filled(rng, "#" * (15 - len(head)))
    return body + luhn.calc_check_digit(body)


def _weighted(digits: str, weights: list[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def _national(rng: random.Random, words: dict[str, Any], kind: str) -> str:
    del words
    return _NATIONAL[kind](rng)


def _us(rng: random.Random) -> str:
    return f"{rng.randrange(100, 665):03}-{rng.randrange(1, 99):02}-{rng.randrange(1, 9999):04}"


def _de(rng: random.Random) -> str:
    """A tax number: one digit twice among the first ten, one missing; ISO 7064 mod 11,10."""
    digits = rng.sample(string.digits, 9)
    digits.insert(rng.randrange(1, 9), digits[0])
    if digits[0] == "0":
        digits = [d if d != "0" else "x" for d in digits]
        free = next(d for d in "123456789" if d not in digits)
        digits = [free if d == "x" else d for d in digits]
    product = 10
    for digit in digits:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return "".join(digits) + str((11 - product) % 10)


def _fr(rng: random.Random) -> str:
    birth = f"{rng.randrange(40, 99)}{rng.randrange(1, 12):02}"
    body = f"{rng.choice('12')}{birth}{rng.randrange(1, 95):02}{rng.randrange(1, 999):03}{rng.randrange(1, 999):03}"
    return body + nir.calc_check_digits(body)


def _es(rng: random.Random) -> str:
    number = f"{rng.randrange(10**8):08}"
    return number + dni.calc_check_digit(number)


def _it(rng: random.Random) -> str:
    body = "".join(rng.choice("BCDFGLMNPRSTVZ") for _ in range(6))
    body += f"{rng.randrange(40, 99)}{rng.choice('ABCDEHLMPRST')}{rng.randrange(1, 28):02}"
    body += f"{rng.choice('ABFHL')}{rng.randrange(100, 999)}"
    return body + codicefiscale.calc_check_digit(body)


def _br(rng: random.Random) -> str:
    digits = _filled(rng, "#########")
    for weights in (range(10, 1, -1), range(11, 1, -1)):
        digits += str((11 - _weighted(digits, list(weights)) % 11) % 11 % 10)
    return f"{digits[:3]}.{digits[3:6]}.{digits[6:9]}-{digits[9:]}"


def _pt(rng: random.Random) -> str:
    digits = rng.choice("12") + _filled(rng, "#######")
    return digits + str((11 - _weighted(digits, list(range(9, 1, -1)))) % 11 % 10)


def _pl(rng: random.Random) -> str:
    body = f"{rng.randrange(40, 99)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}{rng.randrange(10000):04}"
    return body + pesel.calc_check_digit(body)


def _nl(rng: random.Random) -> str:
    while True:
        digits = rng.choice("12") + _filled(rng, "#######")
        check = _weighted(digits, list(range(9, 1, -1))) % 11
        if check < 10:
            return digits + str(check)


def _se(rng: random.Random) -> str:
    body = f"{rng.randrange(40, 99)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}{rng.randrange(1000):03}"
    return f"19{body[:6]}-{body[6:]}{luhn.calc_check_digit(body)}"


def _tr(rng: random.Random) -> str:
    body = rng.choice("123456789") + _filled(rng, "########")
    return body + tckimlik.calc_check_digits(body)


def _jp(rng: random.Random) -> str:
    digits = _filled(rng, "###########")
    weights = [6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]
    rest = _weighted(digits, weights) % 11
    return digits + str(0 if rest <= 1 else 11 - rest)


def _cn(rng: random.Random) -> str:
    day = _day(rng, 1950, 2004).replace("-", "")
    body = f"{rng.choice(['110105', '310115', '440305', '330106'])}{day}{rng.randrange(1, 999):03}"
    return body + ric.calc_check_digit(body + "0")


def _ru(rng: random.Random) -> str:
    digits = _filled(rng, "##########")
    digits += str(_weighted(digits, [7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) % 11 % 10)
    return digits + str(_weighted(digits, [3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) % 11 % 10)


def _snils(rng: random.Random) -> str:
    digits = "1" + _filled(rng, "########")
    check = _weighted(digits, list(range(9, 0, -1))) % 101 % 100
    return f"{digits[:3]}-{digits[3:6]}-{digits[6:]} {check:02}"


_NATIONAL: dict[str, Callable[[random.Random], str]] = {
    "us": _us, "de": _de, "fr": _fr, "es": _es, "it": _it, "br": _br, "pt": _pt, "pl": _pl, "nl": _nl,
    "se": _se, "tr": _tr, "jp": _jp, "cn": _cn, "ru": _ru,
}  # fmt: skip


def _vat(rng: random.Random, _words: dict[str, Any], country: str) -> str:
    if country == "de":
        digits = rng.choice("123456789") + _filled(rng, "#######")
        product = 10
        for digit in digits:
            product = ((int(digit) + product) % 10 or 10) * 2 % 11
        return f"DE{digits}{(11 - product) % 10}"
    if country == "it":
        digits = f"{rng.randrange(10**7):07}{rng.randrange(1, 100):03}"
        return digits + luhn.calc_check_digit(digits)
    if country == "pl":
        while True:
            digits = rng.choice("123456789") + _filled(rng, "########")
            check = _weighted(digits, [6, 5, 7, 2, 3, 4, 5, 6, 7]) % 11
            if check < 10:
                return f"{digits}{check}"
    body = _filled(rng, "########")
    number = body + luhn.calc_check_digit(body)
    assert siren.is_valid(number)
    return f"FR{(12 + 3 * (int(number) % 97)) % 97:02}{number}"


def _json(rng: random.Random, words: dict[str, Any], argument: str) -> str:
    parts = []
    for field in re.findall(r"(\w+)=((?:\w+)(?:\([^()]*\))?)", argument):
        name, written = field
        if written.startswith("json2"):
            parts.append(f'"{name}": {_json(rng, words, written[6:-1])}')
        else:
            parts.append(f'"{name}": "{_generator(written)(rng, words)}"')
    return "{" + ", ".join(parts) + "}"


_WORD = [
    "Lamp",
    "Chair",
    "Kettle",
    "Rope",
    "Tent",
    "Jacket",
    "Drill",
    "Cable",
    "Basket",
    "Bottle",
    "Mirror",
    "Shelf",
    "Carpet",
]
_KIND = ["Classic", "Pro", "XL", "Eco", "Mini", "Comfort", "Basic", "Ultra", "Outdoor", "Deluxe", "Trend"]
_Full = Callable[[random.Random, dict[str, Any], str], str]

_GENERATORS: dict[str, _Full] = {
    "serial": lambda _r, w, _a: str(w["row"]),
    "n": lambda r, _w, a: str(r.randint(*map(int, a.split(",")))),
    "money": lambda r, _w, _a: f"{r.random() * 900:.2f}",
    "pct": lambda r, _w, _a: f"{r.random() * 20:.1f}",
    "flag": lambda r, _w, _a: r.choice(["true", "false"]),
    "pick": lambda r, _w, a: r.choice(a.split(",")),
    "product": lambda r, _w, _a: f"{r.choice(_WORD)} {r.choice(_KIND)} {r.randrange(10, 999)}",
    "sentence": lambda r, w, _a: r.choice(w["story"]) + r.choice(["", ".", " (2)", ", new"]),
    "story": lambda r, w, _a: ". ".join(r.sample(w["story"], 3)) + ".",
    "note": lambda r, w, _a: _note(r, w),
    "headers": lambda r, w, _a: f"From: {_full(r, w)} <{_email(r, w)}>\nTo: help@example.org\nX-Mailer: none",
    "code": lambda r, _w, a: _filled(r, a),
    "uuid": lambda r, _w, _a: re.sub(
        "x", lambda _: r.choice("0123456789abcdef"), "xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx"
    ),
    "hex": lambda r, _w, a: "".join(r.choice("0123456789abcdef") for _ in range(int(a))),
    "bytes": lambda r, _w, _a: "\\x" + "".join(r.choice("0123456789abcdef") for _ in range(40)),
    "ts": lambda r, _w, _a: f"{_day(r, 2023, 2026)} {r.randrange(24):02}:{r.randrange(60):02}:{r.randrange(60):02}",
    "day": lambda r, _w, _a: _day(r, 2016, 2026),
    "birth": lambda r, _w, _a: _day(r, 1945, 2006),
    "first": lambda r, w, _a: r.choice(w["first"]),
    "last": lambda r, w, _a: r.choice(w["last"]),
    "full": lambda r, w, _a: _full(r, w),
    "fullkana": lambda r, w, _a: r.choice(w["kana"]),
    "lastfirst": lambda r, w, _a: f"{r.choice(w['last'])}, {r.choice(w['first'])}",
    "firstnative": lambda r, w, _a: r.choice(w["firstnative"]),
    "lastnative": lambda r, w, _a: r.choice(w["lastnative"]),
    "fullnative": lambda r, w, _a: r.choice(w["fullnative"]),
    "citynative": lambda r, w, _a: r.choice(w["citynative"]),
    "addressnative": lambda r, w, _a: r.choice(w["addressnative"]),
    "patronymic": lambda r, w, _a: r.choice(w["patronymic"]),
    "user": lambda r, w, _a: _user(r, w),
    "email": lambda r, w, _a: _email(r, w),
    "emails": lambda r, w, _a: _email(r, w),
    "tags": lambda r, _w, _a: r.choice(["billing", "bug", "feature", "vip"]),
    "phone": lambda r, w, _a: _filled(r, r.choice(w["phone"])),
    "phonenat": lambda r, w, _a: _filled(r, r.choice(w["phonenat"])),
    "msisdn": lambda r, _w, _a: _filled(r, "447700900###"),
    "imei": lambda r, _w, _a: (body := _filled(r, "35693803######")) + luhn.calc_check_digit(body),
    "street": lambda r, w, _a: _street(r, w),
    "streetname": lambda r, w, _a: r.choice(w["street"]),
    "flat": lambda r, w, _a: r.choice(w["flat"]),
    "address": lambda r, w, _a: _address(r, w),
    "city": lambda r, w, _a: r.choice(w["city"]),
    "zip": lambda r, w, _a: r.choice(w["zip"]),
    "ziptown": lambda r, w, _a: f"{r.choice(w['zip'])} {r.choice(w['city'])}",
    "company": lambda r, w, _a: r.choice(w["company"]),
    "ip": lambda r, _w, _a: f"{r.randrange(11, 220)}.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(1, 255)}",
    "mac": lambda r, _w, _a: ":".join(f"{r.randrange(256):02x}" for _ in range(6)),
    "iban": _iban,
    "card": lambda r, _w, _a: _card(r),
    "nid": _national,
    "snils": lambda r, _w, _a: _snils(r),
    "vat": _vat,
    "plate": lambda r, _w, _a: _filled(r, "#### ???"),
    "vin": lambda r, _w, _a: "VSS" + "".join(r.choice("0123456789ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(14)),
    "passport": lambda r, _w, _a: _filled(r, r.choice(["C########", "#########", "??#######"])),
    "lat": lambda r, _w, _a: f"{36 + r.random() * 20:.6f}",
    "lon": lambda r, _w, _a: f"{-9 + r.random() * 30:.6f}",
    "url": lambda r, _w, _a: f"https://cdn.example.org/a/{r.randrange(10**8)}.png",
    "version": lambda r, _w, _a: f"{r.randrange(1, 9)}.{r.randrange(20)}.{r.randrange(99)}",
    "agent": lambda r, _w, _a: f"Mozilla/5.0 (X11; Linux x86_64) Firefox/{r.randrange(100, 150)}.0",
    "ean": lambda r, _w, _a: (body := _filled(r, "40#####" + "#####")) + ean.calc_check_digit(body),
    "isbn": lambda r, _w, _a: (body := _filled(r, "978#########")) + ean.calc_check_digit(body),
    "json": _json,
}
