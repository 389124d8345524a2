"""What the store promises of answers, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from advex.annotation import FILE, PICTURES, database, exchange, pages, people
from advex.annotation import project as projects
from advex.annotation.database import Database, Unusable, migrations
from advex.annotation.forms import LastAnswer
from advex.annotation.models import Answer, Assignment, Base
from advex.annotation.store import Refused, Store
from advex.errors import AdvexError, ArtifactError, SpecError


def rounds(store: Store) -> list[tuple[str, int, str]]:
    """(client, round, answer) of every row, in order."""
    with store.database.read() as session:
        return [(row.client, row.round, row.answer) for row in session.query(Answer).order_by(Answer.id)]


def give(store: Store, who: int, image: str, answer: str, client: str) -> None:
    store.answer(who, client=client, image=image, answer=answer)


@contextlib.contextmanager
def refused(kind: str) -> Iterator[None]:
    """What is done here is refused as a `conflict`, or as `unknown`."""
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.kind == kind


# -- answers -------------------------------------------------------------------------------------------------


def test_an_answer_outlives_the_process(store: Store, url: str | None, make: SimpleNamespace) -> None:
    make.fill(store, 3)
    anna = make.person(store, "anna").id
    image = store.next(anna, 1)[0]
    store.answer(anna, client="client-1", image=image.key, answer="unsure", milliseconds=1234)
    again = Store(store.folder, url)
    try:
        (vote,) = again.votes()
        assert (vote.label, vote.person, vote.answer) == (image.label, "anna", "unsure")
        with again.database.read() as session:
            assert session.query(Answer).one().milliseconds == 1234
    finally:
        again.close()


def test_the_same_submit_counts_once(store: Store, make: SimpleNamespace) -> None:
    make.fill(store, 2)
    anna = make.person(store, "anna").id
    first, second = store.next(anna, 2)
    for _ in range(3):
        give(store, anna, first.key, "changed", "client-1")
    assert rounds(store) == [("client-1", 1, "changed")]
    with refused("conflict"):
        give(store, anna, second.key, "changed", "client-1")
    with refused("conflict"):
        give(store, anna, first.key, "unsure", "client-1")
    with refused("conflict"):
        give(store, anna, first.key, "changed", "client-2")
    assert rounds(store) == [("client-1", 1, "changed")]


def test_undo_is_a_row_and_a_new_answer_the_next_round(store: Store, make: SimpleNamespace) -> None:
    make.fill(store, 1)
    anna = make.person(store, "anna").id
    image = store.next(anna, 1)[0].key
    give(store, anna, image, "changed", "client-1")
    assert store.next(anna, 5) == []
    for _ in range(2):
        store.undo(anna, client="client-2", undoes="client-1")
    assert store.votes() == []
    assert [each.key for each in store.next(anna, 5)] == [image]  # it is asked again
    give(store, anna, image, "unchanged", "client-3")
    expected = [("client-1", 1, "changed"), ("client-2", 2, "undone"), ("client-3", 3, "unchanged")]
    assert rounds(store) == expected
    assert [vote.answer for vote in store.votes()] == ["unchanged"]
    for undoes, kind in (("client-1", "conflict"), ("client-2", "unknown"), ("client-9", "unknown")):
        with refused(kind):
            store.undo(anna, client=f"{undoes}-again", undoes=undoes)
    assert rounds(store) == expected


def test_nobody_undoes_or_answers_for_another(store: Store, make: SimpleNamespace) -> None:
    make.fill(store, 1)
    anna, ben = make.person(store, "anna").id, make.person(store, "ben").id
    image = store.next(anna, 1)[0].key
    give(store, anna, image, "changed", "client-1")
    with refused("unknown"):
        store.undo(ben, client="client-2", undoes="client-1")
    with refused("unknown"):  # it was not handed to ben
        give(store, ben, image, "changed", "client-3")
    with refused("unknown"):
        store.picture(ben, image, "changed")
    assert store.picture(anna, image, "changed").is_file()


@pytest.mark.parametrize("answer", ["undone", "", "Unchanged", "yes"])
def test_unknown_answers_are_refused(store: Store, make: SimpleNamespace, answer: str) -> None:
    make.fill(store, 1)
    anna = make.person(store, "anna").id
    with refused("unknown"):
        give(store, anna, store.next(anna, 1)[0].key, answer, "client-1")


def test_many_at_once_leave_one_answer_per_round(store: Store, make: SimpleNamespace) -> None:
    """Twelve requests for one image: six with one client id, six with their own."""
    make.fill(store, 1)
    anna = make.person(store, "anna").id
    image = store.next(anna, 1)[0].key
    outcomes: list[str] = []
    start = threading.Barrier(12)

    def submit(number: int) -> None:
        start.wait()
        try:
            give(store, anna, image, "unsure", "client-0" if number < 6 else f"client-{number}")
        except Refused as error:
            outcomes.append(error.kind)
        else:
            outcomes.append("kept")

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((client, of, answer),) = rounds(store)
    assert (of, answer) == (1, "unsure")
    assert outcomes.count("kept") == (6 if client == "client-0" else 1)
    assert set(outcomes) <= {"kept", "conflict"}
    assert len(outcomes) == 12


# -- what the tables alone enforce ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"client": "client-1", "round": 2, "answer": "undone"},  # a client id twice
        {"round": 1},  # a round twice
        {"round": 2},  # an answer where an undo should be
        {"round": 3, "answer": "undone"},
        {"round": 0},
        {"round": 3, "answer": "perhaps"},
        {"round": 3, "image": 2},  # never handed out
    ],
)
def test_the_database_refuses_what_cannot_be(store: Store, make: SimpleNamespace, changes: dict[str, Any]) -> None:
    make.fill(store, 2)
    anna = make.person(store, "anna").id
    image = store.next(anna, 1)[0].key
    give(store, anna, image, "changed", "client-1")
    with store.database.read() as session:
        first = session.query(Answer).one().image
    other = 3 - first
    values = {"client": "client-2", "image": first, "person": anna, "answer": "changed", "time": 1} | changes
    values["image"] = other if changes.get("image") else first
    with pytest.raises(IntegrityError), store.database.write() as session:
        session.add(Answer(**values))
    assert rounds(store) == [("client-1", 1, "changed")]


@pytest.mark.parametrize("statement", ["UPDATE answers SET answer = 'unsure'", "DELETE FROM answers"])
def test_answers_cannot_be_altered_or_removed(store: Store, make: SimpleNamespace, statement: str) -> None:
    make.fill(store, 1)
    anna = make.person(store, "anna").id
    give(store, anna, store.next(anna, 1)[0].key, "changed", "client-1")
    with pytest.raises(DBAPIError), store.database.write() as session:
        session.execute(text(statement))
    assert rounds(store) == [("client-1", 1, "changed")]


# -- asking --------------------------------------------------------------------------------------------------


def test_everybody_has_an_order_of_their_own_that_stays(store: Store, url: str | None, make: SimpleNamespace) -> None:
    make.fill(store, 30, votes=3)
    names = ["anna", "ben", "cora"]
    orders = [[each.key for each in store.next(make.person(store, name).id, 30)] for name in names]
    assert all(len(set(order)) == 30 for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    again = Store(store.folder, url)
    try:
        guests = people.people(again.database)
        assert [[each.key for each in again.next(guest.id, 30)] for guest in guests] == orders
    finally:
        again.close()


def test_an_image_goes_to_as_many_people_as_votes_are_wanted(store: Store, make: SimpleNamespace) -> None:
    make.fill(store, 10, votes=2)
    who = [make.person(store, name).id for name in ("anna", "ben", "cora")]
    given = [{each.key for each in store.next(each, count)} for each, count in zip(who, (10, 6, 50), strict=True)]
    assert [len(keys) for keys in given] == [10, 6, 4]
    assert given[1].isdisjoint(given[2])
    assert [store.progress(each).left for each in who] == [10, 6, 4]


def test_what_was_handed_out_and_not_answered_lapses(tmp_path: Path, url: str | None, make: SimpleNamespace) -> None:
    """Then another may get it; the answer of the first still counts when it comes."""
    store = Store(tmp_path / "here", url, hours=0) if url else Store(_made(tmp_path / "here"), hours=0)
    try:
        make.fill(store, 1, votes=1)
        anna, ben = make.person(store, "anna").id, make.person(store, "ben").id
        image = store.next(anna, 1)[0].key
        assert [each.key for each in store.next(ben, 1)] == [image]
        give(store, anna, image, "changed", "client-1")
        give(store, ben, image, "unchanged", "client-2")
        assert sorted(vote.person for vote in store.votes()) == ["anna", "ben"]
        assert store.next(make.person(store, "cora").id, 1) == []  # answered: no place is free any more
    finally:
        store.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_places_are_never_given_twice(store: Store, make: SimpleNamespace) -> None:
    """Ten people ask at once for everything."""
    make.fill(store, 20, votes=2)
    who = [make.person(store, f"person {number}").id for number in range(10)]
    start = threading.Barrier(10)

    def ask(person: int) -> None:
        start.wait()
        store.next(person, 20)

    threads = [threading.Thread(target=ask, args=(person,)) for person in who]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.database.read() as session:
        taken = [row.image for row in session.query(Assignment)]
    assert sorted(taken) == sorted([*set(taken)] * 2)
    assert len(set(taken)) == 20


def test_progress_names_the_answer_that_an_undo_would_take_back(store: Store, make: SimpleNamespace) -> None:
    make.fill(store, 3)
    anna = make.person(store, "anna").id
    assert store.progress(anna).last is None
    first, second, _ = store.next(anna, 3)
    give(store, anna, first.key, "changed", "client-1")
    give(store, anna, second.key, "changed", "client-2")
    progress = store.progress(anna)
    assert (progress.answered, progress.left, progress.last) == (2, 1, LastAnswer(client="client-2", image=second))
    store.undo(anna, client="client-3", undoes="client-2")
    progress = store.progress(anna)
    assert (progress.answered, progress.left, progress.last) == (1, 2, LastAnswer(client="client-1", image=first))


def test_images_added_twice_are_there_once(store: Store, make: SimpleNamespace) -> None:
    make.fill(store, 4)
    keys = [image.key for image in store.images()]
    make.fill(store, 6, votes=9)
    assert [image.key for image in store.images()][:4] == keys
    assert len(set(keys)) == 4
    assert len(store.images()) == 6
    assert store.project().votes == 2  # what was asked of people stays


# -- links ---------------------------------------------------------------------------------------------------


def test_tokens_are_kept_as_hashes_alone(store: Store, make: SimpleNamespace) -> None:
    make.fill(store, 1)
    token = people.invite(store.database, "anna")
    entered = people.enter(store.database, token)
    assert entered is not None
    session_token = entered[1]
    assert len({token, session_token}) == 2
    assert min(len(token), len(session_token)) >= 22  # 128 bits in base 64
    with store.database.read() as session:
        tables = Base.metadata.sorted_tables
        everything = str([tuple(row) for table in tables for row in session.execute(table.select())])
    assert "anna" in everything
    assert token not in everything
    assert session_token not in everything


def test_a_new_link_ends_the_old_one_and_its_sessions(store: Store, make: SimpleNamespace) -> None:
    first = people.invite(store.database, "anna")
    entered = people.enter(store.database, first)
    assert entered is not None
    guest, session = entered
    assert people.who(store.database, session) == guest
    assert people.who(store.database, first) is None  # a link is no session
    assert people.enter(store.database, session) is None  # nor the other way round
    second = people.invite(store.database, "anna")
    assert people.who(store.database, session) is None
    assert people.enter(store.database, first) is None
    entered = people.enter(store.database, second)
    assert entered is not None
    assert entered[0] == guest
    people.revoke(store.database, "anna")
    assert people.who(store.database, entered[1]) is None
    assert people.enter(store.database, second) is None


def test_leaving_ends_one_session_alone(store: Store) -> None:
    token = people.invite(store.database, "anna")
    sessions = [entered[1] for _ in range(2) if (entered := people.enter(store.database, token))]
    people.leave(store.database, sessions[0])
    assert [people.who(store.database, each) is None for each in sessions] == [True, False]


# -- the schema ----------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_of_the_models_and_unmake_them(store: Store) -> None:
    with store.database._transaction(write=True) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        command.downgrade(migrations(connection), "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
        command.upgrade(migrations(connection), "head")
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_newer_or_foreign_database_is_refused(store: Store, url: str | None) -> None:
    with store.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ArtifactError):
        Store(store.folder, url)


@pytest.mark.parametrize("damage", [lambda data: b"not a database at all" * 100, lambda data: data[: len(data) // 2]])
def test_a_damaged_file_is_told_before_anything_is_asked(
    lite: Store, make: SimpleNamespace, damage: Callable[[bytes], bytes]
) -> None:
    make.fill(lite, 300)
    lite.close()  # the last one writes everything into the file itself
    path = lite.folder / "annotation.sqlite"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Unusable, match=re.escape(FILE)):
        Store(lite.folder)


def test_urls_that_mean_nothing() -> None:
    for url, named in (("nonsense", "postgresql://"), ("mysql://a/b", "mysql")):
        with pytest.raises(SpecError, match=named):
            Database(url)


# -- when the disk fails ---------------------------------------------------------------------------------------


def limit(store: Store, pages: int) -> None:
    """From now on SQLite finds a full disk as soon as its file has so many pages."""
    event.listen(store.database.engine, "begin", lambda connection: _limit(connection, pages))


def _limit(connection: Any, pages: int) -> None:
    connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_what_a_full_disk_refuses_is_not_acknowledged_and_can_be_sent_again(lite: Store, make: SimpleNamespace) -> None:
    make.fill(lite, 300, votes=1)
    anna = make.person(lite, "anna").id
    keys = [each.key for each in lite.next(anna, 300)]
    limit(lite, 1)  # it stays as large as it is
    kept: list[str] = []

    def go_on() -> None:
        for number, key in enumerate(keys):
            give(lite, anna, key, "changed", f"client-{number}")
            kept.append(f"client-{number}")

    with pytest.raises(Unusable, match=re.escape(FILE)):
        go_on()
    assert kept == [client for client, _, _ in rounds(lite)]  # reading goes on
    assert len(kept) < len(keys)
    limit(lite, 2**30)
    go_on()
    assert len(lite.votes()) == len(keys)


def test_a_project_that_may_not_be_written(lite: Store, make: SimpleNamespace) -> None:
    make.fill(lite, 1)
    anna = make.person(lite, "anna").id
    key = lite.next(anna, 1)[0].key
    event.listen(lite.database.engine, "begin", lambda connection: connection.exec_driver_sql("PRAGMA query_only = ON"))
    with pytest.raises(Unusable, match=re.escape(FILE)):
        give(lite, anna, key, "changed", "client-1")
    assert lite.votes() == []


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Nothing may be written into a folder, by whomever runs the tests."""
    paths, rights = [folder, *folder.rglob("*")], os.geteuid()
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if rights == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(rights)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("killed", [False, True])
def test_a_project_on_a_disk_that_may_not_be_written_can_be_read(make: SimpleNamespace, killed: bool) -> None:
    """Also where the server was killed: what it acknowledged may still lie beside the file."""
    with tempfile.TemporaryDirectory() as scratch:  # not `tmp_path`, which others may not enter
        Path(scratch).chmod(0o755)
        store = Store(_project(Path(scratch) / "a project?#%20"))
        make.fill(store, 3)
        anna = make.person(store, "anna").id
        give(store, anna, store.next(anna, 1)[0].key, "changed", "client-1")
        if killed:
            shutil.copytree(store.folder, Path(scratch) / "killed")
        folder = Path(scratch) / "killed" if killed else store.folder
        store.close()
        assert (folder / f"{FILE}-wal").exists() == killed
        with unwritable(folder), projects.opened(folder) as read:
            assert [vote.answer for vote in read.votes()] == ["changed"]
            assert len(exchange.rows_of(read)) == 3
            assert "Agreement" in pages.standalone(read)
            for write in (lambda: people.invite(read.database, "ben"), lambda: read.next(anna, 1)):
                with pytest.raises(Unusable, match=re.escape(FILE)):
                    write()
        with projects.opened(folder) as again:
            assert people.invite(again.database, "ben")


def _project(folder: Path) -> Path:
    (folder / PICTURES).mkdir(parents=True)
    return folder


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_nothing_is_acknowledged_once_the_folder_is_gone(lite: Store, make: SimpleNamespace, how: str) -> None:
    make.fill(lite, 2)
    anna = make.person(lite, "anna").id
    key = lite.next(anna, 1)[0].key
    if how == "removed":
        shutil.rmtree(lite.folder)
    else:
        lite.folder.rename(lite.folder.with_name("elsewhere"))
        if how == "replaced":
            with contextlib.closing(Store(_project(lite.folder))) as other:
                make.fill(other, 2)
    for _ in range(2):
        with pytest.raises(Unusable, match=re.escape(FILE)):
            give(lite, anna, key, "changed", "client-1")


def test_another_program_that_writes_for_long(
    lite: Store, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.fill(lite, 1)
    monkeypatch.setattr(database, "_BUSY", 10)
    with (
        contextlib.closing(Store(lite.folder)) as other,
        lite.database.write(),
        pytest.raises(Unusable, match=re.escape(FILE)),
    ):
        make.person(other, "anna")


def test_a_database_that_ends_is_told_and_used_again_when_it_is_back(
    own_postgres: Any, tmp_path: Path, make: SimpleNamespace
) -> None:
    (tmp_path / "project").mkdir()
    with contextlib.closing(Store(tmp_path / "project", f"{own_postgres.url}/postgres")) as store:
        make.fill(store, 1)
        anna = make.person(store, "anna").id
        key = store.next(anna, 1)[0].key
        own_postgres.kill()
        with pytest.raises(Unusable):
            give(store, anna, key, "changed", "client-1")
        own_postgres.start()
        give(store, anna, key, "changed", "client-1")
        assert [vote.answer for vote in store.votes()] == ["changed"]


def test_commits_reach_the_disk_whatever_a_server_is_set_to(store: Store) -> None:
    with store.database.write() as session:
        name = "PRAGMA synchronous" if store.database.sqlite else "SHOW synchronous_commit"
        assert str(session.execute(text(name)).scalar_one()) in ("2", "on")


def test_passwords_are_not_told(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(AdvexError) as caught:
        Database("postgresql://anna:hunter2@127.0.0.1:1/nowhere")
    assert "hunter2" not in str(caught.value)
    assert "anna:***@" in str(caught.value)


def test_a_project_must_be_prepared_first(lite: Store) -> None:
    with pytest.raises(ArtifactError, match=re.escape(FILE)):
        lite.project()
