"""Tables: CSV files read, described, inferred, encoded; and trained on and evaluated from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advex import data as sets
from advex.cli import main
from advex.data import Dataset, describe, open_dataset, spec_to_yaml, splits
from advex.data.tables.csv_file import read_csv
from advex.errors import DataError, SpecError
from advex.recipes import TABLE, fitted, for_table, recipe_from

LOANS = """income,age,sex,joined,accepted
30000,25,m,2001-02-03,no
45000.5,41,f,2001-02-04,yes
12000,33,f,2001-02-03,no
90000,58,m,2001-02-03,yes
"""


@pytest.fixture
def csv(tmp_path: Path) -> Any:
    """Writes a CSV file, and a YAML beside it if there is one; returns its path as text."""

    def write(text: str | bytes, sheet: str | None = None, name: str = "loans.csv") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        if sheet is not None:
            path.with_suffix(".yaml").write_text(sheet)
        return str(path)

    return write


def kinds(found: Dataset) -> dict[str, str]:
    assert found.features is not None
    return {f.name: f.kind if f.step is None else f"{f.kind} by {f.step:g}" for f in found.features.features}


# -- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a,b\n1,2\n3,4\n", [1, 3]),
        ("a;b\n1,5;2\n3,25;4\n", [1.5, 3.25]),
        ("a\tb\n1\t2\n3\t4\n", [1, 3]),
        ('a,b\n"1,234",2\n"5,678.5",3\n', [1234, 5678.5]),
        ("\ufeffa,b\n1,2\n", [1]),
        ("a,b\n1,2\n", [1]),
        ("a,b\n1,2\n\n3,4\n", [1, 3]),
        ("a,b\ninf,1\nnan,2\n,3\n?,4\n NA,5\n7,6\n", [np.nan] * 5 + [7]),
    ],
)
def test_numbers_are_read_as_they_are_meant(csv: Any, text: str, numbers: list[float]) -> None:
    np.testing.assert_array_equal(read_csv(Path(csv(text))).columns["a"].numbers, numbers)


def test_texts_are_read_as_they_are_typed(csv: Any) -> None:
    frame = read_csv(Path(csv('a,b,c\n"x, ""y""\nz", true,2001-02-03\nq, ?,2001-02-04\n')))
    assert frame.columns["a"].texts == ("q", 'x, "y"\nz')
    assert frame.columns["b"].texts == ("true",)
    assert frame.columns["b"].codes.tolist() == [0, -1]
    assert frame.columns["c"].texts == ("2001-02-03", "2001-02-04")


@pytest.mark.parametrize(("encoding", "note"), [("latin-1", "Windows-1252"), ("utf-16", None), ("utf-8", None)])
def test_other_encodings_are_read(csv: Any, encoding: str, note: str | None) -> None:
    frame = read_csv(Path(csv("a,b\ncafé,1\n".encode(encoding))))
    assert frame.columns["a"].texts == ("café",)
    assert (note in frame.notes[0]) if note else not frame.notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("  \n\n", "is empty"),
        ("a,b\n", "a header but no rows"),
        ("a,b,a\n1,2,3\n", "several columns called 'a'"),
        ("a,,b\n1,2,3\n", "column 2 has no name"),
        ("a\n1\n", "one column"),
        ("1,2\n3,4\n", "no header"),
        ("a,b\n1,2\n3\n", "line 3 has 1 values, but the header has 2"),
        ("a,b\n1,2,3\n", "line 2 has 3 values, but the header has 2"),
        (b"a,b\n\0\0,1\n", "not text"),
        ('a,b\n"' + "x" * 9_000_000 + "\n", "values, but the header|longer than"),
    ],
)
def test_what_is_no_table_is_refused(csv: Any, text: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_dataset(csv(text))


def test_ten_thousand_columns(csv: Any) -> None:
    header = ",".join(f"c{i}" for i in range(10_000))
    rows = "".join(",".join(str((i * k) % 7) for i in range(10_000)) + f",{k % 2}\n" for k in range(4))
    found = open_dataset(csv(f"{header},label\n{rows}"))
    assert found.features is not None
    assert found.features.target == "label"
    assert 8000 < len(found.features.features) <= 10_000


# -- what the columns are ------------------------------------------------------------------------------------


def test_columns_are_inferred(csv: Any) -> None:
    found = open_dataset(csv(LOANS))
    assert kinds(found) == {"income": "number", "age": "number by 1", "sex": "category", "joined": "category"}
    assert found.class_names == ("no", "yes")
    assert found.y.tolist() == [0, 1, 0, 1]
    assert describe(found).startswith("loans: 4 rows, 4 columns (encoded: 6), 2 classes; 'accepted' is predicted")
    assert found.features is not None
    assert found.features.decode(found.x)[1] == {"income": 45000.5, "age": 41.0, "sex": "f", "joined": "2001-02-04"}


def test_numbers_are_scaled_by_their_deviation_unless_they_are_standardised(csv: Any) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=500)
    z = (z - z.mean()) / z.std()
    rows = "".join(f"{a:.6f},{2000 + 10 * a:.3f},{b},{b}\n" for a, b in zip(z, rng.integers(0, 2, 500), strict=True))
    found = open_dataset(csv(f"z,year,code,y\n{rows}"))
    assert found.features is not None
    first, year, code = found.features.features
    assert (first.center, first.scale) == (0.0, 1.0)
    np.testing.assert_allclose((year.center, year.scale), (2000, 10), rtol=1e-3)
    assert code.values == ("0", "1")


def test_what_tells_nothing_is_left_out_and_named(csv: Any) -> None:
    found = open_dataset(csv(",id,always,none,a,y\n1,11,7,,1.5,0\n2,12,7,,2.5,1\n3,13,7,,0.5,1\n"))
    assert kinds(found) == {"a": "number"}
    assert "4 columns left out: '' (it numbers the rows), 'id' (it numbers the rows), 'always' (always 7)" in describe(
        found
    )


def test_a_column_without_a_name_is_left_out_for_the_true_reason(csv: Any) -> None:
    assert "'' (it has no name)" in describe(open_dataset(csv(",a,y\n0.5,1.5,0\n7.25,2.5,1\n0.5,0.5,1\n")))
    counted = "".join(f"{i},{i % 4}.5,{i % 2}\n" for i in range(12))
    assert "'' (it numbers the rows)" in describe(open_dataset(csv(f",a,y\n{counted}")))


def test_a_table_may_be_a_tsv(csv: Any, tmp_path: Path) -> None:
    text = LOANS.replace(",", "\t")
    table = csv(text, "target: accepted\n", "loans.tsv")
    for source in (table, str(tmp_path / "loans.yaml"), str(tmp_path)):
        assert open_dataset(source).class_names == ("no", "yes")
    assert for_table(table) == TABLE
    csv("not a table", None, "._loans.tsv")
    assert not splits(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,y\n1,1\n2,1\n", r"'y' has 1 class \("),
        ("a,y\n1,\n2,\n", r"'y' has 0 classes \("),
        ("a,price\n1,0.5\n2,1.5\n", "'price' has decimal numbers, such as 0.5, but only classes can be predicted"),
        ("a,y\n" + "".join(f"{i % 3},{i}\n" for i in range(1001)), "'y' has over 1,000 values, but only classes"),
        ("a,y\n" + "".join(f"{i % 3},r{i}\n" for i in range(10)), "'y' has another value in every row, so no class"),
        ("a,y\n1,0\n1,1\n", "no column is left"),
        (
            "a,y\n" + "".join(f"{i}.5,{i % 2}\n" for i in range(40)) + "12 kg,1\n",
            "but other values in 1 row: '12 kg'",
        ),
        ("a,y\n1e300,0\n-1e300,1\n0.5,1\n", "too far for single precision"),
        ("a,y\n1.5,0\n,1\n2.5,1\n", "values are missing .*'a' in 1 rows.*missing: drop"),
    ],
)
def test_bad_tables_say_what_is_wrong(csv: Any, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_dataset(csv(text))


def test_missing_values_are_dropped_or_filled_in(csv: Any) -> None:
    text = "a,c,y\n1.5,p,0\n,q,1\n3.5,?,1\n2.5,p,0\n4.5,p,\n"
    dropped = open_dataset(csv(text, "missing: drop"))
    assert [row["a"] for row in dropped.features.decode(dropped.x)] == [1.5, 2.5]  # pyright: ignore
    assert {each.name[-1]: each.reason for each in dropped.skipped} == {
        "1": "'a' is missing", "2": "'c' is missing", "4": "it has no label",
    }  # fmt: skip
    filled = open_dataset(csv(text, "missing: impute"))
    assert filled.features is not None
    rows = filled.features.decode(filled.x)
    assert (rows[1]["a"], rows[2]["c"], len(rows)) == (3.0, "p", 4)
    assert "2 missing values filled in" in filled.notes


# -- the YAML beside it --------------------------------------------------------------------------------------

SHEET = """
target: accepted
classes: {yes: granted, no: refused}
columns:
  income: {kind: number, low: 0, high: 100000, change: free, scale: 1000, unit: EUR}
  age: {change: up}
  sex: {kind: category, values: [f, m, d], change: never}
  joined: {kind: ignore}
"""


def test_a_description_decides(csv: Any) -> None:
    found = open_dataset(csv(LOANS, SHEET))
    assert found.features is not None
    income, age, sex = found.features.features
    assert (income.low, income.high, income.scale, income.unit) == (0, 100_000, 1000, "EUR")
    assert (age.change, age.step) == ("up", 1.0)
    assert (sex.values, sex.change) == (("f", "m", "d"), "never")
    assert found.class_names == ("granted", "refused")
    assert found.y.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        ("tagret: accepted", "unknown key 'tagret': did you mean 'target'"),
        ("columns: {age: {chnage: up}}", "unknown key 'columns.age.chnage': did you mean 'change'"),
        ("columns: {agee: {change: up}}", "column 'agee': did you mean 'age'"),
        ("columns: {age: {change: sideways}}", "columns.age.change = 'sideways' is not valid"),
        ("columns: {age: {scale: 0}}", "columns.age.scale"),
        ("columns: {sex: {kind: category, low: 1}}", "low is not allowed for a column with kind: category"),
        ("columns: {sex: {kind: number}}", "'sex' contains numbers, but other values in 4 rows"),
        ("columns: {age: {kind: number, values: [a, b]}}", "values is not allowed for a column with kind: number"),
        ("splits: {train: 0.5, test: 0.2}", "add up to 1"),
        ("target: nothing", "no column 'nothing'"),
        ("- a list", "must contain lines"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system [ls]", "must contain lines"),
    ],
)
def test_a_wrong_description_is_refused(csv: Any, sheet: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_dataset(csv(LOANS, sheet))


def test_codes_may_be_categories(csv: Any) -> None:
    found = open_dataset(
        csv("a,b,y\n0,01,0\n1,02,1\n2,02,0\n10,01,1\n", "categorical: all\ncolumns: {b: {values: ['01', '02']}}")
    )
    assert found.features is not None
    assert [feature.values for feature in found.features.features] == [("0", "1", "2", "10"), ("01", "02")]


def test_what_was_inferred_can_be_written_down(csv: Any) -> None:
    first = open_dataset(csv(LOANS))
    assert first.features is not None
    again = open_dataset(csv(LOANS, spec_to_yaml(first.features, first.class_names)))
    assert again.features == first.features
    assert again.class_names == first.class_names
    assert torch.equal(again.x, first.x)


def test_a_single_file_is_dealt_into_splits(csv: Any) -> None:
    text = "a,y\n" + "".join(f"{i}.25,{i % 2}\n" for i in range(100))
    path = csv(text, "splits: {train: 0.64, validation: 0.16, test: 0.2}")
    assert splits(path) == ("test", "train", "validation")
    parts = {name: open_dataset(path, split=name) for name in splits(path)}
    assert {name: len(part) for name, part in parts.items()} == {"train": 64, "validation": 16, "test": 20}
    assert len({name for part in parts.values() for name in part.ids}) == 100
    assert parts["test"].features == parts["train"].features
    other = open_dataset(csv(text, "splits: {train: 0.64, validation: 0.16, test: 0.2}\nseed: 1"), split="test")
    assert other.ids != parts["test"].ids
    with pytest.raises(DataError, match="several splits"):
        open_dataset(path)


def test_a_folder_has_the_splits_of_its_files(csv: Any, tmp_path: Path) -> None:
    csv("a,c,y\n1.5,p,0\n2.5,q,1\n3.5,q,1\n", name="t/train.csv")
    csv("a,c,y\n9.5,p,1\n2.5,r,0\n", name="t/test.csv")
    test = open_dataset(tmp_path / "t", split="test")
    assert splits(tmp_path / "t") == ("test", "train")
    assert test.features is not None
    assert test.features.features[0].high == 9.5  # ranges are those of all rows, categories of the training split
    assert test.ids == ("test/000000",)
    assert test.skipped[0].reason == "'c' is 'r', a category not seen in training"
    (tmp_path / "t" / "features.yaml").write_text("columns: {a: {change: up}}")
    assert open_dataset(tmp_path / "t", split="test").features.features[0].change == "up"  # pyright: ignore


def test_a_yaml_may_name_a_table_elsewhere(csv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv(LOANS, name="shared/loans.csv")
    monkeypatch.setenv("ADVEX_DATA", str(tmp_path / "shared"))
    (tmp_path / "mine.yaml").write_text("file: loans.csv\ncategorical: [age]")
    assert kinds(open_dataset(tmp_path / "mine.yaml"))["age"] == "category"


# -- a trained model's features ------------------------------------------------------------------------------


def test_rows_are_encoded_by_given_features(csv: Any) -> None:
    train = open_dataset(csv(LOANS))
    new = (
        "age,accepted,sex,joined,income,extra\n26,yes,f,2001-02-03,30000,1\n99,yes,f,2001-02-03,30000,1\n"
        "26,no,x,2001-02-03,30000,1\n26,maybe,f,2001-02-03,30000,1\n"
    )
    found = open_dataset(csv(new, name="new.csv"), features=train.features, class_names=train.class_names)
    assert found.features == train.features
    assert found.class_names == ("no", "yes")
    assert found.y.tolist() == [1]
    assert found.features.decode(found.x)[0]["age"] == 26.0  # pyright: ignore
    assert [each.reason for each in found.skipped] == [
        "'age' is outside 25 to 58, the range seen in training",
        "'sex' is 'x', a category not seen in training",
        "label 'maybe' is not among the 2 classes",
    ]
    with pytest.raises(DataError, match="2 columns are missing: 'income', 'joined'"):
        open_dataset(csv("age,sex,accepted\n26,f,yes\n", name="new.csv"), features=train.features)
    with pytest.raises(DataError, match="none of its 1 row can be read"):
        open_dataset(
            csv(new.replace("26,yes", "1,yes").split("\n99")[0] + "\n", name="new.csv"), features=train.features
        )


def test_samples_keep_their_features(csv: Any) -> None:
    found = open_dataset(csv(LOANS), max_samples=2)
    assert found.features is not None
    assert found.counts == (2, 2)
    assert found.take(slice(0, 1)).features is found.features
    whole = open_dataset(csv(LOANS))
    assert torch.equal(whole.sample(2, 0).x, found.x)
    other = open_dataset(csv(LOANS, "columns: {age: {change: never}}"))
    assert sets.dataset.content(other) != sets.dataset.content(whole)  # pyright: ignore


def test_networks_fit_the_table_or_say_so() -> None:
    recipe = recipe_from({"network": "linear"})
    made = fitted(recipe, (26,), 2)
    assert made.network == "linear:features=26,classes=2"
    assert (made.mean, made.std) == (0.0, 1.0)
    assert fitted(made, (26,), 2) == made
    assert fitted(recipe_from({"network": "linear", "mean": 0.5}), (26,), 2).mean == 0.5
    with pytest.raises(SpecError, match="26 elements"):
        fitted(recipe_from({"network": "linear:features=64"}), (26,), 2)


def advex(*arguments: str | Path) -> int:
    """The command line in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["advex", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_train_and_evaluate_from_the_command_line(csv: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    rows = "".join(
        f"{income},{'mf'[i % 2]},{'yes' if income > 40_000 else 'no'}\n"
        for i, income in enumerate(rng.integers(0, 90_000, 200))
    )
    path = csv(f"income,sex,accepted\n{rows}", "splits: {train: 0.8, test: 0.2}\ncolumns: {sex: {change: never}}")
    run, record = tmp_path / "run", tmp_path / "record"
    (tmp_path / "r.yaml").write_text("network: linear\nepochs: 4\nbatch_size: 16\nrobust_every: 0")
    assert advex("train", tmp_path / "r.yaml", "--data", path, "--out", run) == 0
    assert "income  whole numbers" in capsys.readouterr().err
    features = json.loads((run / "config.json").read_text())["features"]
    assert features["features"][1]["change"] == "never"
    # A file of its own, with a range of its own: the model's columns are what counts.
    other = csv("income,sex,accepted\n20000,m,no\n60000,f,yes\n80000,f,yes\n", name="other.csv")
    assert advex("evaluate", "--model", run, "--data", other, "--out", record, "--json") == 0
    assert json.loads(capsys.readouterr().out)["models"]["run"]["accuracy"]["value"] == 1.0
    assert advex("evaluate", "--model", run, "--data", "digits", "--out", tmp_path / "no") != 0
    assert "digits is not a table" in capsys.readouterr().err


# -- real ones -----------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(("name", "columns"), [("mushroom", 21), ("spambase", 57)])
def test_real_tables_open(name: str, columns: int) -> None:
    found = open_dataset(name, split="train" if splits(name) else None)
    assert found.features is not None
    assert len(found.features.features) == columns
    assert not found.skipped
    assert torch.equal(found.features.nearest(found.x), found.x)
    rows = found.features.decode(found.x[:50])
    assert torch.equal(found.features.encode(rows), found.x[:50])
