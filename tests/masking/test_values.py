"""Masked values: the same for the same input, of the same kind, and never two alike where that is promised."""

from __future__ import annotations

import hmac
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

from reconciler.masking import fakes, keyed, offsets, preserve, scrub, values
from reconciler.masking.schema import Column, Family
from reconciler.spec import masking_policy as spec

_METHOD: TypeAdapter[spec.Column] = TypeAdapter(spec.Column)
_KEY = b"a key of the tests"
_OTHER_KEY = b"another key of the tests"
_TEXT = Column(name="c", type="text", family=Family.TEXT)
_INTEGER = Column(name="c", type="bigint", family=Family.INTEGER, integer_bytes=8)
_WRITING: list[object] = [
    "hash",
    "email",
    "preserve",
    {"pattern": "??-####"},
    {"fake": "full_name", "locale": "de_DE"},
]
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)


def mask(method: object, value: object, column: Column = _TEXT, *, key: bytes = _KEY, by: object = None) -> object:
    return values.mask(_METHOD.validate_python(method), value, column, key, by=by)


@pytest.mark.parametrize("method", _WRITING, ids=str)
@given(text=texts)
def test_the_same_value_gives_the_same_result_and_an_empty_one_stays_empty(method: object, text: str) -> None:
    masked = mask(method, text)
    assert masked == mask(method, text)
    assert (masked == "") == (text == "")


@pytest.mark.parametrize("method", _WRITING, ids=str)
def test_another_key_gives_other_values(method: object) -> None:
    originals = [f"Person {number}" for number in range(20)]
    ours = [mask(method, one) for one in originals]
    assert ours != [mask(method, one, key=_OTHER_KEY) for one in originals]


def test_a_hash_is_hmac_sha256_under_a_key_of_its_own() -> None:
    subkey = hmac.digest(_KEY, b"reconciler/masking/v1/hash", "sha256")
    digest = hmac.digest(subkey, "José".encode(), "sha256")
    assert mask({"hash": {"length": 64, "prefix": "c-"}}, "José") == f"c-{digest.hex()}"


def test_pads_make_hmac_of_plain_sha256() -> None:
    inner, outer = keyed.pads(b"k" * 32)
    assert sha256(outer + sha256(inner + b"value").digest()).digest() == hmac.digest(b"k" * 32, b"value", "sha256")


def test_null_stays_null_unless_the_method_says_otherwise() -> None:
    assert [mask(method, None) for method in _WRITING] == [None] * len(_WRITING)
    assert mask({"fixed": "x", "keep_null": False}, None) == "x"
    masked = mask({"hash": {"length": 16}, "keep_null": False}, None)
    assert isinstance(masked, str)
    assert len(masked) == 16
    assert mask({"shift_days": 3, "keep_null": False}, None, Column(name="c", type="date", family=Family.DATE)) is None


@pytest.mark.parametrize("length", [28, 29, 30, 40, None])
@given(text=texts.filter(bool))
def test_an_address_fits_its_column_and_keeps_its_token(length: int | None, text: str) -> None:
    column = Column(name="c", type="varchar", family=Family.TEXT, length=length)
    masked = mask("email", text, column)
    assert isinstance(masked, str)
    assert length is None or len(masked) <= length
    token = masked.removesuffix("@example.com").rpartition(".")[2]
    assert len(token) == 16
    assert set(token) <= set("0123456789abcdef")


@pytest.mark.parametrize("kind", spec.FakeKind.__args__)  # type: ignore[attr-defined] # of a Literal
@pytest.mark.parametrize("locale", fakes.LOCALES)
def test_a_plausible_value_is_no_longer_than_it_says(kind: spec.FakeKind, locale: str) -> None:
    found = [mask({"fake": kind, "locale": locale}, str(number)) for number in range(200)]
    assert all(isinstance(one, str) and 0 < len(one) <= fakes.longest(kind, locale) for one in found)
    assert len(set(found)) > 5


def test_words_are_the_ones_that_were_packaged() -> None:
    listed = "\n".join(
        f"{locale}/{name}/{word}"
        for locale in fakes.LOCALES
        for name in ("first_name", "last_name", "company", "street", "city", "country", "login")
        for word in fakes.words(locale, name)
    )
    assert sha256(listed.encode()).hexdigest() == WORDS
    assert max(len(word.encode()) for word in listed.split("\n")) <= fakes.LONGEST_WORD + len("en_US/first_name/")


WORDS = "b73005e5ba32b7f339e76f94d86fac7004dc4525ad8fb430f8416bf31b64b5ff"
_GOLDEN: list[tuple[object, object, Column, object]] = [
    ("hash", "José", _TEXT, "17f7f70b07888b87"),
    ("email", "José", _TEXT, "adam.a2cbb73e62c47ac5@example.com"),
    ({"fake": "full_name", "locale": "de_DE"}, "José", _TEXT, "Hans-Joachim Mosemann"),
    ({"fake": "phone"}, "José", _TEXT, "+1-258-555-0116"),
    ({"fake": "street", "locale": "fr"}, "José", _TEXT, "85 avenue Laroche"),
    ({"pattern": "??-####"}, "José", _TEXT, "PZ-8896"),
    ("preserve", "+49 (170) 123-ab-É漢", _TEXT, "+10 (937) 454-ev-Ö侮"),
    ("preserve", "x" * 70, _TEXT, "qdtzpgxrthnarlybsulpnrdtujrkwvpiyblpducpijjqcgywxxidfpixvxdnjtbvjzfnsa"),
    ({"preserve": "card"}, "4111 1111 1111 1111", _TEXT, "4540 4144 2981 0205"),
    ({"preserve": "iban"}, "DE89370400440532013000", _TEXT, "DE75201187484266666917"),
    ("preserve", 123456, _INTEGER, 478957),
    ("preserve", -(1 << 63), _INTEGER, -8239048374374565540),
    ({"noise": 10}, 123456, _INTEGER, 116741),
    ({"shift_days": 180}, date(2026, 11, 26), Column(name="c", type="date", family=Family.DATE), date(2026, 7, 23)),
    (
        {"shift": "36h"},
        datetime.fromisoformat("2026-11-26T01:02:03"),
        Column(name="c", type="timestamp without time zone", family=Family.TIME),
        datetime.fromisoformat("2026-11-24T18:35:47"),
    ),
    (
        "hash",
        uuid.UUID(int=5),
        Column(name="c", type="uuid", family=Family.UUID),
        uuid.UUID("a4e5c5a4-aafe-4c31-8e9e-267d363b7ea9"),
    ),
    ("hash", b"five", Column(name="c", type="bytea", family=Family.BYTES), b"t\x00\x83\x14\xf3\x02\xb8\xbd"),
]


@pytest.mark.parametrize(("method", "value", "column", "expected"), _GOLDEN, ids=str)
def test_values_of_this_version_never_change(method: object, value: object, column: Column, expected: object) -> None:
    assert mask(method, value, column) == expected


def _kinds(text: str) -> list[str]:
    return [
        "0" if one.isdigit() else "a" if one.islower() else "A" if one.isupper() else "l" if one.isalpha() else one
        for one in text
    ]


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=70))
def test_preserve_keeps_length_kinds_and_everything_else(text: str) -> None:
    masked = mask("preserve", text)
    assert isinstance(masked, str)
    assert _kinds(masked) == _kinds(text)


@given(st.text("ÀÉÖßéñøąČžАбвΩψאبकあア漢한", min_size=1, max_size=12))
def test_preserve_gives_letters_for_letters_of_other_alphabets(text: str) -> None:
    masked = mask("preserve", text)
    assert isinstance(masked, str)
    assert [one.isalpha() for one in masked] == [True] * len(text)
    assert [one.isupper() for one in masked] == [one.isupper() for one in text]


@pytest.mark.parametrize(
    "format_", ["{:03d}", "x{:03d}", "{:01d}.{:01d}.{:01d}", "é{:03d}", "-" * 40 + "{:03d}", "{:03d}" + "-" * 70]
)
def test_preserve_is_one_to_one_among_values_of_a_format(format_: str) -> None:
    originals = {
        format_.format(*(number // 100, number // 10 % 10, number % 10))
        if format_.count("{") > 1
        else format_.format(number)
        for number in range(1000)
    }
    masked = {mask("preserve", one) for one in originals}
    assert len(masked) == len(originals)


@given(st.sets(st.text("aZé9-", min_size=1, max_size=20), min_size=2, max_size=60))
def test_preserve_never_gives_two_values_the_same_result(originals: set[str]) -> None:
    assert len({mask("preserve", one) for one in originals}) == len(originals)


def test_neighbouring_values_have_nothing_in_common() -> None:
    pairs = [
        (str(mask("preserve", f"CUST{number:08d}")), str(mask("preserve", f"CUST{number + 1:08d}")))
        for number in range(300)
    ]
    same = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=True))
    assert same / (300 * 12) < 0.12  # of 4 letters and 8 digits: 7.9 % by chance


@given(st.from_regex(r"\A[0-9]{11,18}\Z"))
def test_a_valid_card_number_becomes_a_valid_one(payload: str) -> None:
    number = payload + luhn.calc_check_digit(payload)
    masked = mask({"preserve": "card"}, number)
    assert isinstance(masked, str)
    assert luhn.is_valid(masked)
    assert len(masked) == len(number)


def test_card_numbers_stay_distinct_even_if_their_check_digits_are_wrong() -> None:
    numbers = [f"4111-1111-1111-{number:04d}" for number in range(1000)]
    masked = {mask({"preserve": "card"}, one) for one in numbers}
    assert len(masked) == 1000
    assert sum(luhn.is_valid(str(one).replace("-", "")) for one in masked) == 100


@given(st.sampled_from(["DE", "GB", "fr"]), st.from_regex(r"\A[0-9A-Z]{10,26}\Z"))
def test_a_valid_account_number_becomes_a_valid_one_of_the_same_country(country: str, account: str) -> None:
    digits = 98 - int("".join(str(int(one, 36)) for one in account + country) + "00") % 97
    masked = mask({"preserve": "iban"}, f"{country}{digits:02d}{account}")
    assert isinstance(masked, str)
    assert masked[:2] == country
    assert mod_97_10.is_valid((masked[4:] + masked[:4]).upper())


def test_account_numbers_stay_distinct_whatever_their_check_digits() -> None:
    numbers = [f"DE{check:02d}0000{number:02d}" for check in range(100) for number in range(100)]
    assert len({mask({"preserve": "iban"}, one) for one in numbers}) == 10_000


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_whole_numbers_are_permuted_among_those_of_their_length_and_sign(digits: int) -> None:
    numbers = range(10 ** (digits - 1), 10**digits)
    assert sorted(preserve.integer(one, _KEY) for one in numbers) == list(numbers)
    assert sorted(preserve.integer(-one, _KEY) for one in numbers) == sorted(-one for one in numbers)


def test_numbers_stay_within_each_type_at_its_ends() -> None:
    for bits in (16, 32, 64):
        for number in range(-300, 300):
            near = max(
                -(1 << (bits - 1)), min((1 << (bits - 1)) - 1, (1 << (bits - 1)) * (1 if number > 0 else -1) - number)
            )
            assert -(1 << (bits - 1)) <= preserve.integer(near, _KEY) < 1 << (bits - 1)
    assert sorted(preserve.integer(one, _KEY) for one in range(10_000, 32_768)) == list(range(10_000, 32_768))


@given(st.sets(st.integers(-(1 << 63), (1 << 63) - 1), max_size=50))
def test_distinct_numbers_stay_distinct_and_zero_stays_zero(numbers: set[int]) -> None:
    masked = {mask("preserve", one, _INTEGER) for one in numbers}
    assert len(masked) == len(numbers)
    assert mask("preserve", 0, _INTEGER) == 0


def test_segments_cover_every_number_once() -> None:
    reached = -(1 << 63)
    for segment in preserve.segments():
        assert segment.low == reached
        assert segment.rows > 0
        reached += segment.rows * segment.columns
    assert reached == 1 << 63


@given(st.dates(), st.integers(1, 400))
def test_a_shifted_date_is_another_one_within_the_limit(day: date, most: int) -> None:
    masked = mask({"shift_days": most}, day, Column(name="c", type="date", family=Family.DATE))
    assert isinstance(masked, date)
    assert 1 <= abs((masked - day).days) <= most


@given(st.datetimes(), st.timedeltas(timedelta(0), timedelta(days=300)))
def test_dates_with_the_same_key_keep_their_interval(start: datetime, apart: timedelta) -> None:
    if start.year > 9990:
        start = start.replace(year=2000, day=1)
    column = Column(name="c", type="timestamp without time zone", family=Family.TIME)
    rule = {"shift_days": 30, "by": "customer_id"}
    first, second = (
        mask(rule, start.replace(year=max(start.year, 5)), column, by="7"),
        mask(rule, start.replace(year=max(start.year, 5)) + apart, column, by="7"),
    )
    assert isinstance(first, datetime)
    assert isinstance(second, datetime)
    assert second - first == apart


def test_offsets_reach_both_ends_and_never_zero() -> None:
    found = {offsets.offset(str(number), _KEY, "shift", 3) for number in range(300)}
    assert found == {-3, -2, -1, 1, 2, 3}


@given(st.integers(-(1 << 15), (1 << 15) - 1), st.integers(1, 100))
def test_noise_stays_within_its_share_and_its_type(number: int, percent: int) -> None:
    column = Column(name="c", type="smallint", family=Family.INTEGER, integer_bytes=2)
    masked = mask({"noise": percent}, number, column)
    assert isinstance(masked, int)
    assert -(1 << 15) <= masked < 1 << 15
    assert abs(masked - number) <= abs(number) * percent / 100 + 1


def test_buckets_begin_where_people_expect() -> None:
    numeric = Column(name="c", type="numeric", family=Family.NUMBER)
    day = Column(name="c", type="date", family=Family.DATE)
    zoned = Column(name="c", type="timestamp with time zone", family=Family.TIME)
    assert mask({"bucket": 1000}, -1, _INTEGER) == -1000
    assert mask({"bucket": 0.25}, Decimal("1.30"), numeric) == Decimal("1.25")
    assert mask({"bucket": "week"}, date(2026, 11, 26), day) == date(2026, 11, 23)
    assert mask({"bucket": "quarter"}, date(2026, 11, 26), day) == date(2026, 10, 1)
    assert mask({"bucket": "decade"}, date(2026, 11, 26), day) == date(2020, 1, 1)
    assert mask({"bucket": "hour"}, datetime(2026, 1, 2, 3, 4, tzinfo=UTC), zoned) == datetime(
        2026, 1, 2, 3, tzinfo=UTC
    )


def test_partial_masks_everything_where_nothing_would_be_hidden() -> None:
    rule = {"partial": {"first": 2, "last": 2}}
    assert [mask(rule, text) for text in ("abcdef", "abcde", "abcd", "a")] == ["ab**ef", "ab*de", "****", "*"]


def test_columns_that_ignore_case_are_masked_alike_whatever_the_case() -> None:
    column = Column(name="c", type="citext", family=Family.TEXT, folds_case=True)
    for method in _WRITING:
        assert mask(method, "José ÄRGER", column) == mask(method, "josé ärger", column)


def test_blanks_at_the_end_count_only_where_the_type_has_them() -> None:
    padded = Column(name="c", type="character(9)", family=Family.TEXT, length=9, fixed_length=True)
    assert mask("preserve", "ab12     ", padded) == mask("preserve", "ab12")
    assert mask("preserve", "ab12 ") != mask("preserve", "ab12")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12.500"), "12.5"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0.0"), "0"),
        (12.5, "12.5"),
        (12, "12"),
        (True, "true"),
        (date(33, 4, 3), "0033-04-03"),
        (datetime.fromisoformat("2026-01-02T03:04:05.120000"), "2026-01-02 03:04:05.12"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02 03:04:05+00"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (b"\x01\xff", "01ff"),
    ],
    ids=str,
)
def test_equal_values_of_different_types_have_one_text(value: object, text: str) -> None:
    assert keyed.canonical(value, _TEXT) == text


def test_a_uuid_becomes_a_random_looking_uuid() -> None:
    column = Column(name="c", type="uuid", family=Family.UUID)
    masked = mask("hash", uuid.UUID(int=5), column)
    assert isinstance(masked, uuid.UUID)
    assert (masked.version, masked.variant) == (4, uuid.RFC_4122)


def test_arrays_are_masked_element_by_element() -> None:
    column = Column(name="c", type="text[]", family=Family.TEXT, array=True)
    assert mask("email", ["a", None, ""], column) == [mask("email", "a"), None, ""]
    assert mask("null", ["a"], column) is None


_LETTER = """\
Dear Anna, write to jose.muñoz@shop.example.org. or call +49 (170) 123-45 67, 0170 1234567.
Card 4111 1111 1111 1111, account DE89 3704 0044 0532 0130 00, from 10.0.0.17 and fe80:0:0:0:1:2:3:4 or ::1."""


def test_free_text_loses_what_looks_personal() -> None:
    assert mask("text", _LETTER) == (
        "Dear [name], write to [email]. or call [phone], [phone].\n"
        "[name] [card], account [iban], from [ip] and [ip] or [ip]."
    ).replace("[name] [card]", "Card [card]")


def test_free_text_loses_values_of_other_columns() -> None:
    rule = _METHOD.validate_python({"text": ["email"], "names": ["first_name"]})
    assert values.mask(rule, "Told Xaver twice", _TEXT, _KEY, row=("Xaver", "")) == "Told [name] twice"


@pytest.mark.parametrize("text", ["released at 10:15:30", "version 1.2.3", "std::vector", "order 4711", "Willow"])
def test_free_text_keeps_what_is_not_personal(text: str) -> None:
    assert scrub.scrub(text, scrub.FINDINGS) == text


def test_documents_are_masked_by_path_and_containers_do_not_slip_through() -> None:
    rule = {"json": {"$.email": "email", "$.list[*].name": {"fixed": "x"}, '$."a b"[1]': "preserve", "$.tags": "hash"}}
    document = {"email": "a@b", "list": [{"name": "n", "id": 1}, 5], "a b": [1, 22.5, True], "tags": ["secret"], "z": 0}
    column = Column(name="c", type="jsonb", family=Family.JSON)
    masked = mask(rule, document, column)
    assert isinstance(masked, dict)
    assert masked["email"] == mask("email", "a@b")
    assert masked["list"] == [{"name": "x", "id": 1}, 5]
    assert masked["tags"] is None
    assert masked["a b"][0] == 1
    assert masked["a b"][1] == Decimal(str(mask("preserve", "22.5")))
    assert masked["z"] == 0


def test_methods_that_depend_on_other_rows_are_refused() -> None:
    for method in ("shuffle", {"sql": "1"}):
        with pytest.raises(ValueError, match="depends on more"):
            mask(method, 1, _INTEGER)
        with pytest.raises(ValueError, match="depends on more"):
            mask(method, "a")
