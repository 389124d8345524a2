"""Names of people, by whichever door they come: what is a name, and who is the same person."""

from __future__ import annotations

from types import SimpleNamespace
from unicodedata import normalize

import pytest

from advex.annotation import exchange, intake, people
from advex.annotation.models import Person
from advex.annotation.store import Store
from advex.errors import DataError, SpecError

NAMES = [
    "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",  # Persian, with a zero-width non-joiner inside
    "\u0c38\u0c41\u0c30\u0c47\u0c37\u0c4d\u200c \u0c15\u0c41\u0c2e\u0c3e\u0c30\u0c4d\u200c",  # Telugu, at the ends
    "\u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Sinhala, with a joiner
    "\U0001f469\u200d\U0001f52c Ada",
    "\U0001f3f3\ufe0f\u200d\U0001f308",  # a joiner after a variation selector
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # a flag, spelt by invisible tags
    "Jos\u00e9 Nu\u00f1ez",
    "Owner",
]
NO_NAMES = [
    "", "  ", "x" * 201, "a\x00b", "a\x1b[31mb", "a\x7fb", "a\x9bb", "an\u200dna", "\u200cali", "\u0639\u200c\u200c",
    "a\u202eb", "a\u2066b", "a\u00adb", "a\ufeffb", "a\U000e0041", "a\ud800", "\u2028x\u0085\u0001",
]  # fmt: skip


def names(store: Store) -> list[str]:
    return [guest.name for guest in people.people(store.database)]


def answered_by(store: Store, make: SimpleNamespace, name: str) -> list[exchange.Row]:
    """Rows to take in: what anna said, said by somebody of this name too."""
    make.fill(store, 2)
    anna = make.person(store, "anna").id
    store.answer(anna, client="client-1", image=store.next(anna, 1)[0].key, answer="changed")
    said = next(row for row in exchange.rows_of(store) if row.answer)
    return [said.model_copy(update={"annotator": name, "client": "client-2"})]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_kept_as_it_is_written(store: Store, name: str) -> None:
    token = people.invite(store.database, f" {name}\u3000")
    entered = people.enter(store.database, token)
    assert entered is not None
    assert entered[0].name == name
    assert names(store) == [name]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_comes_in_by_no_door(lite: Store, make: SimpleNamespace, name: str) -> None:
    rows = answered_by(lite, make, name)
    with pytest.raises(SpecError, match="1 to 200"):
        people.invite(lite.database, name)
    before = exchange.rows_of(lite)
    with pytest.raises(DataError, match="1 to 200"):
        intake.take_in(lite, rows)
    assert exchange.rows_of(lite) == before
    assert names(lite) == ["anna"]


def test_composed_and_decomposed_are_one_person(store: Store, make: SimpleNamespace) -> None:
    composed, decomposed = (normalize(form, "Jos\u00e9 \u1e69") for form in ("NFC", "NFD"))
    assert composed != decomposed
    first = people.invite(store.database, decomposed)
    people.invite(store.database, composed)
    assert names(store) == [composed]
    assert people.enter(store.database, first) is None  # it was renewed
    rows = answered_by(store, make, decomposed)
    assert intake.take_in(store, rows) == (0, 1)
    assert [vote.person for vote in store.votes()] == ["anna", composed]
    people.revoke(store.database, decomposed)
    with store.database.write() as session:  # as an older version kept it
        session.query(Person).filter_by(name=composed).one().name = decomposed
    people.invite(store.database, composed)
    assert names(store) == [decomposed, "anna"]


def test_only_the_owner_is_called_owner(store: Store, make: SimpleNamespace) -> None:
    rows = answered_by(store, make, "owner")
    for owned in (False, True):
        with pytest.raises(SpecError, match="owner"):
            people.invite(store.database, "owner")
        with pytest.raises(DataError, match="owner"):
            intake.take_in(store, rows)
        if not owned:
            people.invite_owner(store.database)
    assert names(store) == ["anna", "owner"]
    with pytest.raises(SpecError, match="'eve'"):
        people.revoke(store.database, "eve")


def test_where_the_name_of_the_owner_is_taken_there_is_an_owner_all_the_same(store: Store) -> None:
    """As imports of earlier versions left it."""
    with store.database.write() as session:
        session.add(Person(key="0" * 16, name="owner", role="annotator", created=0))
    people.invite_owner(store.database)
    assert [(guest.name, guest.owner) for guest in people.people(store.database)] == [
        ("owner", False),
        ("owner-2", True),
    ]


def test_links_of_the_owner_go_on_until_they_are_ended(store: Store) -> None:
    first, second = people.invite_owner(store.database), people.invite_owner(store.database)
    entered = people.enter(store.database, first)
    assert entered is not None
    assert people.enter(store.database, second) is not None
    third = people.invite_owner(store.database, renew=True)
    assert people.enter(store.database, first) is people.enter(store.database, second) is None
    assert people.who(store.database, entered[1]) is None
    assert people.enter(store.database, third) is not None
