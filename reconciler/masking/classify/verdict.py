"""From what names and values say to a verdict on each column: kind, confidence, reason.

Called by :mod:`.proposal`. Two looks: the first finds what is certain, and from that which
tables are about people; the second decides about the rest with that in mind. A reason
never has a value in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.masking.classify import json_values, names, values
from reconciler.masking.classify.kinds import WORDS, Kind, fits
from reconciler.masking.classify.profiles import Drawn
from reconciler.masking.schema import Column, Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.masking.classify.names import Said
    from reconciler.masking.classify.profiles import DatabaseProfile
    from reconciler.masking.classify.values import Looks
    from reconciler.masking.schema import Table

PERSONAL = 0.5
"""Confidence from which a column counts as personal."""

_SURE_NAME = 0.85
_BOTH = 0.98
_SURE_VALUES = 0.9
_PROBABLY = 0.75
_PERHAPS = 0.6
_HARDLY = 0.3
_CONTRADICTED = 0.35

_MOST = 0.5
_CONFIRMS = 0.2
_ENOUGH = 5
"""Distinct values from which a share tells something."""
_VERIFIABLE = frozenset({Kind.EMAIL, Kind.IP, Kind.IBAN, Kind.CARD})
"""Kinds that values show with certainty, so that their absence says something as well."""
_BY_VALUES: Mapping[Kind, float] = {
    Kind.EMAIL: _MOST,
    Kind.IBAN: _MOST,
    Kind.CARD: _MOST,
    Kind.SECRET: _MOST,
    Kind.IP: 0.8,
    Kind.PHONE: _MOST,
    Kind.NATIONAL_ID: 0.8,
    Kind.FULL_NAME: _MOST,
    Kind.STREET: 0.6,
    Kind.COMPANY: 0.4,
}
"""Kinds that values alone show, and the share that they need; most certain first."""
_IN_PEOPLE: Mapping[Kind, float] = {
    Kind.FIRST_NAME: 0.6,
    Kind.LAST_NAME: 0.5,
    Kind.CITY: 0.5,
    Kind.DEVICE: 0.8,
    Kind.NATIONAL_ID: _MOST,
}
"""Kinds that values show where the table is about people."""
_OF_PEOPLE = frozenset(
    {
        *(Kind.EMAIL, Kind.PHONE, Kind.FIRST_NAME, Kind.LAST_NAME, Kind.FULL_NAME, Kind.BIRTH, Kind.NATIONAL_ID),
        *(Kind.STREET, Kind.IBAN, Kind.PASSPORT, Kind.USER_NAME),
    }
)
_ENUMERABLE = frozenset(
    {Kind.SPECIAL, Kind.POSTCODE, Kind.CITY, Kind.STREET, Kind.LAST_NAME, Kind.FIRST_NAME, Kind.FREE_TEXT, Kind.PHOTO}
)
"""Kinds of which a column may well have few different values, if its name is sure."""
_PERSONS = (Kind.FULL_NAME, Kind.FIRST_NAME, Kind.LAST_NAME)
_INSIDE = 0.03


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a column holds. ``kind`` None: nothing personal was found."""

    kind: Kind | None
    confidence: float
    reason: str
    paths: Mapping[str, Kind] | None = None
    """Of a JSON document: where in it personal data stands."""

    @property
    def personal(self) -> bool:
        """Whether it should be masked."""
        return self.kind is not None and self.confidence >= PERSONAL


@dataclass(frozen=True, slots=True)
class _Evidence:
    """One column: what its name says and how its values look."""

    column: Column
    said: Said | None
    looks: Looks
    drawn: Drawn

    @property
    def name_decides(self) -> bool:
        return (
            self.said is not None
            and self.said.sure
            and not self.said.negated
            and fits(self.said.kind, self.column.family)
        )


def judge(table: Table, profile: DatabaseProfile) -> Mapping[str, Verdict]:
    """Return a verdict on every column of a table, in its order."""
    gathered = [_gather(column, profile.of(table.name, column.name)) for column in table.columns]
    people = names.about_people(table.name.name) or len(set(_certain(gathered))) > 1
    things = names.about_things(table.name.name) and not people
    return {one.column.name: _verdict(one, people=people, things=things) for one in gathered}


def by_name(table: Table) -> Mapping[str, Kind]:
    """Return the columns of a table that look personal by their names and types alone."""
    people = names.about_people(table.name.name)
    found = {}
    for column in table.columns:
        said = names.column_says(column.name)
        if said is None or said.negated or not fits(said.kind, column.family):
            continue
        if said.sure or (people and said.kind is not Kind.FREE_TEXT):
            found[column.name] = said.kind
    return found


def _gather(column: Column, drawn: Drawn) -> _Evidence:
    readable = column.family in (Family.TEXT, Family.INTEGER, Family.NUMBER, Family.OTHER)
    looks = values.look(drawn.values) if readable else values.EMPTY
    return _Evidence(column, names.column_says(column.name), looks, drawn)


def _certain(gathered: Sequence[_Evidence]) -> Iterator[Kind]:
    """Yield kinds of data about people that a table certainly has."""
    for one in gathered:
        kind = _shown(one, _BY_VALUES)
        if kind is None and one.name_decides and one.said is not None and not one.looks.few:
            kind = one.said.kind
        if kind in _OF_PEOPLE:
            yield kind


def _shown(one: _Evidence, shares: Mapping[Kind, float]) -> Kind | None:
    """Return what values alone show."""
    if one.looks.distinct < _ENOUGH or one.looks.few:
        return None
    return next(
        (kind for kind, least in shares.items() if fits(kind, one.column.family) and one.looks.share(kind) >= least),
        None,
    )


def _verdict(one: _Evidence, *, people: bool, things: bool) -> Verdict:
    if one.column.family is Family.JSON:
        return _document(one)
    if one.column.family is Family.BOOLEAN and not (one.said is not None and one.said.kind is Kind.SPECIAL):
        return Verdict(None, 0.0, "true or false")
    named, valued = _named(one, people=people, things=things), _valued(one, people=people)
    text = _prose(one, people=people, things=things)
    if text is not None and _within(one):
        valued = None
    for found in (named, valued, text):
        if found is not None and found.personal:
            return found
    return named or Verdict(None, 0.0, _nothing(one))


def _within(one: _Evidence) -> bool:
    """Whether a column of free text only resembles something else, because of what stands in it."""
    return one.said is not None and one.said.kind is Kind.FREE_TEXT and one.looks.share(Kind.EMAIL) < _MOST


def _named(one: _Evidence, *, people: bool, things: bool) -> Verdict | None:
    """Judge by the name, with what values say to it."""
    said = one.said
    if said is None or said.negated or not fits(said.kind, one.column.family) or said.kind is Kind.FREE_TEXT:
        return None
    if said.kind is Kind.PHOTO and max(one.looks.inside, one.looks.naming) >= _CONFIRMS:
        return None  # the signature under a letter
    if said.kind is Kind.BIRTH:
        return _birth(one)
    return _confirmed(one, said, people=people) or _unconfirmed(one, said, people=people, things=things)


def _confirmed(one: _Evidence, said: Said, *, people: bool) -> Verdict | None:
    """Return a verdict where values agree with the name, or know better."""
    tells, share, looked = (
        f"the name says {WORDS[said.kind]}",
        one.looks.share(said.kind),
        one.looks.distinct >= _ENOUGH,
    )
    if looked and said.kind in _PERSONS and (better := _which_name(one, said.kind)) is not None:
        return Verdict(better, _SURE_VALUES, f"{tells}; {_figures(one, better)}")
    if looked and share >= _CONFIRMS:
        return Verdict(said.kind, _BOTH if said.sure else _SURE_VALUES, f"{tells}; {_figures(one, said.kind)}")
    stronger = _valued(one, people=people)
    if stronger is not None and stronger.kind in _VERIFIABLE:
        return stronger
    if share >= _MOST and (people or said.sure):
        return Verdict(said.kind, _PERHAPS, f"{tells}; {_figures(one, said.kind)}")
    return None


def _unconfirmed(one: _Evidence, said: Said, *, people: bool, things: bool) -> Verdict:
    """Return a verdict where values say nothing to the name, or the opposite."""
    tells = f"the name says {WORDS[said.kind]}"
    if one.looks.few and not (said.sure and said.kind in _ENUMERABLE):
        confidence = _PERHAPS if said.sure and people else _HARDLY
        return Verdict(said.kind, confidence, f"{tells}, but there are only {one.looks.distinct} different values")
    if said.sure and one.looks.distinct >= _ENOUGH and said.kind in _VERIFIABLE:
        confidence = _PERHAPS if people else _CONTRADICTED
        return Verdict(said.kind, confidence, f"{tells}, though the values do not look like that")
    if said.sure:
        return Verdict(said.kind, _PERHAPS if things else _SURE_NAME, tells + _unseen(one))
    if people:
        return Verdict(said.kind, _PROBABLY, f"{tells}, in a table about people" + _unseen(one))
    return Verdict(said.kind, _HARDLY, f"{tells}, but nothing else does")


def _which_name(one: _Evidence, said: Kind) -> Kind | None:
    """Return which part of a name the values are, where that is clearly not the part that the name says."""
    best = max(_PERSONS, key=one.looks.share)
    return best if not one.looks.few and one.looks.share(best) > max(_MOST, one.looks.share(said) + _CONFIRMS) else None


def _unseen(one: _Evidence) -> str:
    return "" if one.looks.distinct or one.drawn.values else "; there are no values to look at"


def _birth(one: _Evidence) -> Verdict:
    share = values.birth_years(one.drawn.values)
    if not one.drawn.values:
        return Verdict(Kind.BIRTH, _SURE_NAME, "the name says a date of birth; there are no values to look at")
    if one.column.family is not Family.TEXT and share < _CONFIRMS:
        return Verdict(Kind.BIRTH, _CONTRADICTED, "the name says a date of birth, but nobody was born then")
    return Verdict(
        Kind.BIRTH,
        _BOTH if share else _SURE_NAME,
        "the name says a date of birth; " + _percent(share, one, "lie in a lifetime"),
    )


def _valued(one: _Evidence, *, people: bool) -> Verdict | None:
    """Judge by values alone."""
    kind = _shown(one, _BY_VALUES)
    if kind is not None:
        confidence = _SURE_VALUES if kind in _VERIFIABLE else _PROBABLY
        return Verdict(kind, confidence, _figures(one, kind))
    kind = _best_name(one) if people else None
    if kind is None and people:
        kind = _shown(one, _IN_PEOPLE)
    if kind is not None:
        return Verdict(kind, _PERHAPS, f"{_figures(one, kind)}, in a table about people")
    return None


def _best_name(one: _Evidence) -> Kind | None:
    """Return whether values are rather given names or rather family names, where they are names."""
    shown = [kind for kind in (Kind.FIRST_NAME, Kind.LAST_NAME) if _shown(one, {kind: _IN_PEOPLE[kind]})]
    return max(shown, key=one.looks.share, default=None)


def _prose(one: _Evidence, *, people: bool, things: bool) -> Verdict | None:
    """Judge longer text: by what stands in it, then by what it is called."""
    if one.column.family is not Family.TEXT:
        return None
    said = one.said if one.said is not None and one.said.kind is Kind.FREE_TEXT and not one.said.negated else None
    share = max(one.looks.inside, one.looks.naming if said is not None or _is_prose(one, things=things) else 0.0)
    if share >= _INSIDE and one.looks.distinct >= _ENOUGH:
        found = f"{round(share * 100)} % of {one.looks.distinct} different values have something personal in them"
        return Verdict(Kind.FREE_TEXT, _SURE_VALUES if share > _CONFIRMS else _PROBABLY, found)
    if said is None or not said.sure or (one.looks.few and not one.looks.prose):
        return None
    return Verdict(
        Kind.FREE_TEXT, _PROBABLY if people or not one.looks.distinct else _PERHAPS, "the name says free text"
    )


def _is_prose(one: _Evidence, *, things: bool) -> bool:
    """Whether a column holds sentences, so that names in it are of people and not of works."""
    return one.looks.prose >= _MOST and not things


def _document(one: _Evidence) -> Verdict:
    parsed = json_values.paths(one.drawn.values)
    kinds = {path: kind for path, found in parsed.known.items() if (kind := _leaf(path, found)) is not None}
    if any(_leaf("", found) is not None for found in parsed.others.values()) or json_values.overlap(kinds):
        return Verdict(Kind.JSON, _PROBABLY, "its documents hold something personal under keys that differ")
    if not kinds:
        return Verdict(None, 0.0, "nothing personal was found in its documents" if parsed.known else _nothing(one))
    places = ", ".join(f"{path} {WORDS[kind]}" for path, kind in kinds.items())
    return Verdict(Kind.JSON, _SURE_VALUES, f"in its documents, {places}", kinds)


def _leaf(path: str, found: Sequence[str]) -> Kind | None:
    """Judge what stands at one path of many documents, as if it were a column."""
    name = path.rpartition(".")[2].replace("[*]", "").strip('"')
    column = Column(name=name, type="text", family=Family.TEXT)
    verdict = _verdict(_gather(column, Drawn(tuple(found), len(found))), people=True, things=False)
    return verdict.kind if verdict.personal else None


def _figures(one: _Evidence, kind: Kind) -> str:
    return _percent(one.looks.share(kind), one, f"look like {WORDS[kind]}")


def _percent(share: float, one: _Evidence, what: str) -> str:
    return f"{round(share * 100)} % of {len(one.drawn.values)} sampled values {what}"


def _nothing(one: _Evidence) -> str:
    if one.said is not None and one.said.sure and one.said.negated:
        return f"the name is about {WORDS[one.said.kind]}, but is none itself"
    if not one.drawn.values:
        return "the name says nothing personal; there are no values to look at"
    return "neither its name nor its values look personal"
