"""Answers out and in again: nothing is lost, nothing is altered, nothing hostile gets in."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from advex.annotation import PICTURES, exchange, intake
from advex.annotation.store import NewImage, Store
from advex.errors import AdvexError, DataError, SpecError

HOSTILE = (
    '=HYPERLINK("x")',
    "'=1+1",
    "<script>alert(1)</script>",
    "a,b;c\td",
    'say "cat"',
    "Zürich 猫",
    "-1",
    "'",
)


@pytest.fixture
def answered(store: Store, make: SimpleNamespace) -> Store:
    """Two people, answers, an undo and an answer after it; an image without any."""
    make.fill(store, 9, labels=HOSTILE)
    for name in ("anna", "=ben"):
        who = make.person(store, name).id
        images = store.next(who, 8)
        for number, image in enumerate(images[:7]):
            client = f"{'anna' if name == 'anna' else 'ben'}-client-{number}"
            store.answer(who, client=client, image=image.key, answer=("changed", "unsure", "unchanged")[number % 3])
    store.undo(who, client="ben-undo-0", undoes="ben-client-0")
    store.answer(who, client="ben-client-9", image=images[0].key, answer="unsure", milliseconds=77)
    return store


@pytest.mark.parametrize("form", exchange.FORMS)
def test_export_and_import_give_the_same_back(answered: Store, form: str, tmp_path: Path) -> None:
    rows = exchange.rows_of(answered)
    assert len({row.image for row in rows}) == 9
    assert sum(row.answer is not None for row in rows) == 16
    exchange.write(tmp_path / f"a{form}", rows)
    assert exchange.read(tmp_path / f"a{form}") == rows
    shutil.copytree(answered.folder / PICTURES, tmp_path / "other" / PICTURES)
    other = Store(tmp_path / "other")
    try:
        other.create_project("other", votes=2, seed=1, alone=False, about={})
        assert intake.take_in(other, exchange.read(tmp_path / f"a{form}")) == (9, 16)
        assert exchange.rows_of(other) == rows
        assert intake.take_in(other, rows) == (0, 0)  # again: nothing happens
        assert exchange.rows_of(other) == rows
        exchange.write(tmp_path / f"b{form}", exchange.rows_of(other))
        assert (tmp_path / f"a{form}").read_bytes() == (tmp_path / f"b{form}").read_bytes()
    finally:
        other.close()


def test_no_cell_is_a_formula(answered: Store, tmp_path: Path) -> None:
    import csv

    exchange.write(tmp_path / "a.csv", exchange.rows_of(answered))
    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@")]
    assert "'=ben" in cells


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1", "\uff1d1", '"=1']
)
def test_names_that_a_spreadsheet_would_run_come_back_as_they_were(answered: Store, tmp_path: Path, name: str) -> None:
    rows = [row.model_copy(update={"label": name, "source_id": name}) for row in exchange.rows_of(answered)]
    exchange.write(tmp_path / "a.csv", rows)
    text = (tmp_path / "a.csv").read_bytes().decode()
    assert "'" + name.lstrip("'")[:1] in text or name[0] == '"'
    assert exchange.read(tmp_path / "a.csv") == rows


def test_conflicts_are_refused_whole(answered: Store) -> None:
    rows = exchange.rows_of(answered)
    before = list(rows)
    given = next(row for row in rows if row.answer == "unsure")
    fresh = given.model_copy(update={"annotator": "cora", "client": "cora-client-1", "round": 1})
    new = fresh.model_copy(update={"source_id": "new", "client": "new-client"})
    cases = [
        ({"answer": "changed"}, given.client),
        ({"client": "another-client-id"}, given.annotator),
        ({"client": "another-client-id", "round": 8}, "another-client-id"),
        ({"picture": "0" * 64}, "0" * 64),
    ]
    for changes, named in cases:
        with pytest.raises(DataError, match=str(named)):
            intake.take_in(answered, [fresh, new, given.model_copy(update=changes)])
        assert exchange.rows_of(answered) == before
    assert intake.take_in(answered, [fresh]) == (0, 1)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"picture\nx\n", "answer 1: picture"),
        ("a.csv", b"\xff\xfe\x00", r"a\.(csv|json|parquet)"),
        ("a.csv", b'picture\n"x', r"a\.(csv|json|parquet)"),
        ("a.json", b"{}", r"a\.(csv|json|parquet)"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'[{"__class__": "os.system"}]', "answer 1"),
        ("a.parquet", b"PAR1 no", r"a\.(csv|json|parquet)"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        exchange.read(tmp_path / name)


HEAD = ",".join(exchange.COLUMNS)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (f"{HEAD}\n{'0' * 64}{',' * 16}\n", "line 2.* 17 .* 16"),
        (f"{HEAD}\n{'0' * 64},\n", "line 2.* 2 .* 16"),
        (f"{HEAD},label\n", "'label'"),
        (f"{HEAD}\n{'0' * 64}{',' * 8}x{',' * 7}\n", "answer 1: rmse"),
        (f"{HEAD}\n{'0' * 64}{',' * 12}x,,,\n", "answer 1: round"),
    ],
)
def test_a_csv_whose_lines_do_not_fit(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=sentence):
        exchange.read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"confidences": 1}, "answer 1: confidences"),
        ({"confidences": "[1]"}, "answer 1: confidences"),
        ({"confidences": "{"}, "answer 1: confidences"),
        ({"confidences": None, "more": 1}, "answer 1: more"),
        ({"picture": b"\xff"}, "answer 1: picture"),
        ({"rmse": [0.1]}, "answer 1: rmse"),
        ({"confidences": None, "round": 2**40}, "answer 1: round"),
        ({}, "answer 1: confidences"),
    ],
)
def test_a_parquet_of_other_columns(answered: Store, tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = next(row for row in exchange.rows_of(answered) if row.answer).model_dump(exclude={"confidences"})
    pq.write_table(pa.Table.from_pylist([row | changes]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=sentence):
        exchange.read(tmp_path / "a.parquet")


def test_a_parquet_that_unpacks_to_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(exchange, "_MOST", 100_000)
    pq.write_table(pa.table({"label": ["x" * 1000] * 1000}), tmp_path / "a.parquet", use_dictionary=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match="100,000"):
        exchange.read(tmp_path / "a.parquet")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    (tmp_path / "a.parquet").mkdir()
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(DataError, match=name):
            exchange.read(tmp_path / name)


def test_names_and_forms(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\.parquet"):
        exchange.read(_touched(tmp_path / "a.xlsx"))
    with pytest.raises(SpecError, match=r"\.parquet"):
        exchange.write(tmp_path / "a.xlsx", [])
    with pytest.raises(AdvexError, match="missing.csv"):
        exchange.read(tmp_path / "missing.csv")


def _touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("answer", "perhaps"), ("client", "a b"), ("round", 0), ("round", 2**70), ("rmse", 2), ("label", "x\ud800"),
        ("time", "now"), ("time", "2026-99-99T99:99:99.999Z"), ("time", "2026-02-30T00:00:00.000Z"),
        ("time", "0000-01-01T00:00:00.000Z"), ("time", "\u0662\u0660\u0662\u0666-01-01T00:00:00.000Z"),
    ],
)  # fmt: skip
def test_impossible_values_name_the_answer(answered: Store, tmp_path: Path, field: str, value: object) -> None:
    import json

    rows = [row.model_dump() for row in exchange.rows_of(answered) if row.answer][:3]
    rows[2][field] = value
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=f"answer 3: {field}"):
        exchange.read(tmp_path / "a.json")
    rows[2]["time"] = None
    rows[2][field] = None
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="answer 3: "):
        exchange.read(tmp_path / "a.json")


def test_every_column_of_an_image_is_a_column_of_the_table() -> None:
    assert {field.name for field in dataclasses.fields(NewImage)} - {"changed"} <= set(exchange.COLUMNS)


def test_times_of_any_year_come_back() -> None:
    for time in ("0001-01-01T00:00:00.000Z", "0987-06-05T04:03:02.001Z", "9999-12-31T23:59:59.999Z"):
        assert exchange.as_text(exchange.as_number(time)) == time


def test_what_a_database_cannot_hold_is_told(answered: Store) -> None:
    """PostgreSQL keeps no NUL in its texts; SQLite does."""
    given = next(row for row in exchange.rows_of(answered) if row.answer)
    new = given.model_copy(update={"label": "a\x00b", "source_id": "new", "client": "new-client"})
    before = exchange.rows_of(answered)
    if answered.database.sqlite:
        assert intake.take_in(answered, [new]) == (1, 1)
        return
    with pytest.raises(DataError, match="NUL"):
        intake.take_in(answered, [new])
    assert exchange.rows_of(answered) == before
