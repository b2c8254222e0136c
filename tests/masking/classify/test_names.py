"""What names of columns and tables say."""

from __future__ import annotations

from importlib import resources

import pytest
import yaml

from reconciler.masking.classify import names
from reconciler.masking.classify.kinds import Kind
from reconciler.masking.classify.text import fold


def said(name: str) -> str | None:
    found = names.column_says(name)
    return None if found is None or found.negated else str(found.kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("email", Kind.EMAIL),
        ("EMailAdresse", Kind.EMAIL),
        ("kundenemail", Kind.EMAIL),
        ("fname", Kind.FIRST_NAME),
        ("FirstName", Kind.FIRST_NAME),
        ("frst_nm", Kind.FIRST_NAME),
        ("prénom", Kind.FIRST_NAME),
        ("nachname", Kind.LAST_NAME),
        ("dob", Kind.BIRTH),
        ("gebdat", Kind.BIRTH),
        ("tel_nr", Kind.PHONE),
        ("company_phone", Kind.PHONE),
        ("plz", Kind.POSTCODE),
        ("lieu_naissance", Kind.CITY),
        ("nom_naissance", Kind.LAST_NAME),
        ("slry", Kind.INCOME),
        ("shenfenzheng", Kind.NATIONAL_ID),
        ("data_rozhdeniya", Kind.BIRTH),
        ("rechnungsanschrift", Kind.STREET),
        ("birth_year", Kind.BIRTH),
    ],
)
def test_a_name_says_what_a_column_holds_in_several_languages_and_spellings(name: str, kind: Kind) -> None:
    assert said(name) == str(kind)


@pytest.mark.parametrize(
    "name",
    [
        *("email_sent_count", "email_verified_at", "phone_model", "address_space", "city_id", "mail_template"),
        *("first_name_required", "card_type", "iban_valid", "has_phone", "passport_expiry", "emailtemplate"),
        *("tariff_name", "product_name", "created_at", "status", "id", "amount"),
    ],
)
def test_a_name_about_such_data_is_not_taken_for_it(name: str) -> None:
    assert said(name) is None


@pytest.mark.parametrize("table", ["customer", "kunden", "tbl_mitarbeiter", "Klienci", "app_users", "shain", "yonghu"])
def test_tables_of_people_are_recognised(table: str) -> None:
    assert names.about_people(table)


@pytest.mark.parametrize("table", ["product", "artikel", "user_roles", "customer_device", "templates"])
def test_tables_of_things_are_not_taken_for_tables_of_people(table: str) -> None:
    assert not names.about_people(table)


def test_the_lexicon_is_text_in_the_form_that_names_are_compared_in() -> None:
    written = yaml.safe_load(resources.files("reconciler.masking.classify.words").joinpath("columns.yaml").read_text())
    phrases = [
        phrase
        for strengths in written["kinds"].values()
        for languages in strengths.values()
        for listed in languages.values()
        for phrase in listed
    ]
    groups = [words for group in ("people", "things", "not") for words in written[group].values()]
    words = [word for group in groups for word in group]
    assert [one for one in (*phrases, *words) if not isinstance(one, str) or one != fold(one)] == []
    assert set(written["kinds"]) <= {str(kind) for kind in Kind}
