"""CSV files as people have them: numbers, headers, gaps, keys and dates in the styles of the world."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advex.classifier import Classifier
from advex.data import Dataset, describe, open_dataset, spec_to_yaml
from advex.data.tables.csv_file import read_csv
from advex.data.tables.layout import HEAD
from advex.data.tables.numbers import amounts
from advex.errors import AdvexWarning, DataError
from advex.explanation.rows import from_csv
from advex.explanation.subjects import Failure, Subject
from advex.report.row_values import value_text
from advex.tabular.search import counterfactuals

Write = Callable[..., str]


@pytest.fixture
def csv(tmp_path: Path) -> Write:
    """Writes a CSV file, and a YAML beside it if there is one; returns its path as text."""

    def write(text: str | bytes, description: str | None = None, name: str = "a.csv") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        if description is not None:
            path.with_suffix(".yaml").write_text(description)
        return str(path)

    return write


def rows(*texts: str, header: str = "x,age,label", delimiter: str = ",") -> str:
    """A table of 60 rows whose first column goes through these texts."""
    lines = [header]
    for number in range(60):
        text = texts[number % len(texts)]
        cell = f'"{text}"' if delimiter in text else text
        lines.append(delimiter.join([cell, str(20 + number % 37), ("no", "yes", "yes")[number % 3]]))
    return "\n".join(lines) + "\n"


def feature(data: Dataset, name: str = "x") -> Any:
    assert data.features is not None
    return next((each for each in data.features.features if each.name == name), None)


def values(data: Dataset, name: str = "x") -> list[Any]:
    assert data.features is not None
    return [row[name] for row in data.features.decode(data.x)]


# -- numbers -------------------------------------------------------------------------------------------------

CLOTHES = {
    "German": (["1.000,50", "12,5", "2.000.000,00"], [1000.5, 12.5, 2e6]),
    "Swiss": (["1'000", "12.5", "2\u2019000\u2019000"], [1000, 12.5, 2e6]),
    "French": (["1\u00a0000,5", "12", "2\u202f000\u202f000"], [1000.5, 12, 2e6]),
    "Indian": (["1,20,000", "3,000", "12,34,567.5"], [120000, 3000, 1234567.5]),
    "English": (["1,234", "5,678.5", "12"], [1234, 5678.5, 12]),
    "minus": (["\u22121.5", "\u20132", "3"], [-1.5, -2, 3]),
    "accounts": (["(1,234.50)", "7.25", "8-"], [-1234.5, 7.25, -8]),
    "exponents": (["1.5E-3", "2e+05", "-7E0"], [0.0015, 2e5, -7]),
    "points and commas": (["1000,5", "12.5", "7"], [1000.5, 12.5, 7]),
    "wide": (["\uff11\uff12", "\uff13.5", "4"], [12, 3.5, 4]),
}
UNITS = {
    "%": (["20.5%", "0%", "7 %"], [20.5, 0, 7]),
    "$": (["$1,000.00", "-$5", "0"], [1000, -5, 0]),
    "\u20ac": (["1.000,50 \u20ac", "12,5\u20ac", "-3,1 \u20ac"], [1000.5, 12.5, -3.1]),
    "EUR": (["EUR 5", "EUR 6.5", "EUR 1,000"], [5, 6.5, 1000]),
    "\u00b0C": (["20.5 \u00b0C", "\u22123 \u00b0C", "0 \u00b0C"], [20.5, -3, 0]),
}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("style", CLOTHES)
def test_numbers_in_the_clothes_of_the_world(csv: Write, style: str, delimiter: str) -> None:
    texts, numbers = CLOTHES[style]
    data = open_dataset(csv(rows(*texts, header=delimiter.join(("x", "age", "label")), delimiter=delimiter)))
    assert feature(data).kind == "number"
    np.testing.assert_allclose(values(data)[:3], numbers, rtol=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_a_sign_that_all_share_is_the_unit(csv: Write, unit: str) -> None:
    texts, numbers = UNITS[unit]
    path = csv(rows(*texts))
    data = open_dataset(path)
    assert (feature(data).kind, feature(data).unit) == ("number", unit)
    np.testing.assert_allclose(values(data)[:3], numbers, rtol=1e-6, atol=1e-6)
    assert f"the unit {unit} in 'x'" in describe(data)
    assert data.features is not None
    again = open_dataset(csv(rows(*texts), spec_to_yaml(data.features, data.class_names)))
    assert again.features == data.features


def test_measures_have_their_unit_where_they_are_many_and_codes_stay_codes(csv: Write) -> None:
    assert feature(open_dataset(csv(rows(*(f"{i} kg" for i in range(30)))))).unit == "kg"
    assert feature(open_dataset(csv(rows("1A", "2A", "3A", "4A")))).values == ("1A", "2A", "3A", "4A")
    assert feature(open_dataset(csv(rows("0-18", "19-64", "65+")))).kind == "category"
    addresses = [f"192.168.1.{i}" for i in range(25)]
    assert feature(open_dataset(csv(rows(*addresses)))).kind == "category"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["1.234", "5,5", "7.5"], r"'1.234' may be either.*`decimal:"),
        ([*(f"{i}%" for i in range(30)), "0.5"], r"several units \('0.5', '0%'\)"),
        ([f"{i}{'kM'[i % 2]}" for i in range(1, 40)], "several units"),
        ([f"{i}.5" for i in range(40)] + ["#DIV/0!"], "other values in 1 row: '#DIV/0!'.*missing_values"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused_with_the_remedy(
    csv: Write, texts: list[str], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(csv(rows(*texts)))


def test_the_description_decides_what_the_marks_mean(csv: Write) -> None:
    text = rows("1.234", "5.678", "9.000", header="x;age;label", delimiter=";")
    assert values(open_dataset(csv(text)))[:2] == [1.234, 5.678]
    assert values(open_dataset(csv(text, 'decimal: ","')))[:2] == [1234, 5678]
    spaced = rows("1_234", "5_678", "9", header="x;age;label", delimiter=";")
    assert values(open_dataset(csv(spaced, "thousands: _")))[:2] == [1234, 5678]
    assert feature(open_dataset(csv(spaced, 'thousands: "."'))).kind == "category"
    assert (
        values(
            open_dataset(
                csv(
                    rows("#DIV/0!", *(f"{i}.5" for i in range(40))),
                    "missing: drop\ncolumns: {x: {missing_values: ['#DIV/0!']}}",
                )
            )
        )[0]
        == 0.5
    )


@given(
    st.lists(st.decimals(-(10**9), 10**9, places=2), min_size=1, max_size=20), st.sampled_from([",.", ".,", " ,", "'."])
)
def test_what_was_written_in_a_style_is_read_back(numbers: list[Any], style: str) -> None:
    group, decimal = style
    texts = [f"{number:,.2f}".replace(",", "g").replace(".", decimal).replace("g", group) for number in numbers]
    found = amounts("x", texts, decimal=decimal, sure=False)
    assert found is not None
    assert found.values == [float(number) for number in numbers]


# -- the first lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "note"),
    [
        ("sep=;\n", None),
        ('"sep=;"\n', None),
        ("Customers of 2024\n\n", "skipped.*'Customers of 2024'"),
        ("# exported\n# unit: euro\n", "skipped.*'# exported'"),
        ("#", None),
        ("\n\n", None),
    ],
)
def test_lines_before_the_table_are_passed_over(csv: Write, before: str, note: str | None) -> None:
    text = rows("1", "2", "4", header="x;age;label", delimiter=";")
    data = open_dataset(csv(before + text))
    assert (len(data), feature(data).kind, feature(data).high) == (60, "number", 4.0)
    assert [each for each in data.notes if "skipped" in each] == [] if note is None else "skipped" in data.notes[0]


def test_empty_columns_and_rows_are_left_out_and_counted(csv: Write) -> None:
    text = rows("1,5", "2", "4", header="x;age;label;;", delimiter=";").replace("\n", ";;\n")
    data = open_dataset(csv(text.replace(";;;;", ";;", 1) + ";;;;\n;;;;\n"))
    assert len(data) == 60
    assert "2 empty columns without a name left out" in data.notes
    assert "2 empty rows at the end left out" in data.notes
    with pytest.raises(DataError, match="column 4 has no name"):
        open_dataset(csv("x;age;label;\n1;2;a;3\n2;3;b;4\n"))


@pytest.mark.parametrize("ends", ["\r", "\r\n", "\n"])
def test_lines_may_end_in_any_way(csv: Write, ends: str) -> None:
    assert len(open_dataset(csv(rows("1", "2", "4").replace("\n", ends)))) == 60


@pytest.mark.parametrize(
    "text",
    [
        "5,1,1,1,2\n3,1,1,2,2\n8,7,5,1,4\n",
        "5.1,3.5,setosa\n4.9,3.0,setosa\n6.1,2.8,virginica\n",
        "p,x,s\ne,x,y\np,b,s\ne,b,y\n",
        "1,ann,yes\n2,bob,no\n3,eve,yes\n",
    ],
)
def test_a_first_line_of_the_kind_of_all_others_is_no_header(csv: Write, text: str) -> None:
    with pytest.raises(DataError, match="header: none"):
        open_dataset(csv(text))
    names = [f"n{i}" for i in range(text.partition("\n")[0].count(",") + 1)]
    data = open_dataset(csv(text, f"header: none\nnames: {names}\ncolumns: {{n1: {{kind: category}}}}"))
    assert (len(data), data.features.target) == (text.count("\n"), names[-1])  # pyright: ignore
    bare = open_dataset(csv(text, "header: none\ncolumns: {column 2: {kind: category}}"))
    assert bare.features.target == f"column {len(names)}"  # pyright: ignore


@pytest.mark.parametrize("text", ["country,2019,2020\nA,1.5,0\nB,2.5,1\nA,3.5,0\n", "a,b\nyes,no\nno,yes\nyes,yes\n"])
def test_a_header_may_look_a_little_like_data(csv: Write, text: str) -> None:
    assert len(open_dataset(csv(text))) == 3


def test_a_first_line_may_be_said_to_be_the_header(csv: Write) -> None:
    data = open_dataset(csv("2019,2020,2021\n1.5,2.5,0\n1.6,2.6,1\n", "header: first line"))
    assert (len(data), data.features.target) == (2, "2021")  # pyright: ignore


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("header: none\nnames: [a, b]", "2 names, but the first line has 3 values"),
        ("names: [a, b, c]", "header: none"),
        ("thousands: 5", "cannot separate digits"),
        ('decimal: "."\nthousands: "."', "cannot separate digits"),
        ("encoding: klingon", "no text encoding called 'klingon'"),
        ("encoding: hex", "no text encoding called 'hex'"),
        ("encoding: ascii", "not text in the encoding ascii"),
    ],
)
def test_impossible_descriptions_of_a_file_are_refused(csv: Write, description: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(csv("1,\u00e9,0\n2,f,1\n3,f,0\n", description))


def test_an_encoding_that_cannot_be_told_is_asked_for(csv: Write) -> None:
    text = "\u5e74\u9f62,\u8077\u696d,label\n" + "".join(f"{20 + i},\u5b66\u751f{i % 3},{i % 2}\n" for i in range(30))
    with pytest.raises(DataError, match="neither UTF-8 nor Windows-1252.*encoding: shift_jis"):
        open_dataset(csv(text.encode("shift_jis")))
    data = open_dataset(csv(text.encode("shift_jis"), "encoding: shift_jis"))
    assert feature(data, "\u8077\u696d").values == ("\u5b66\u751f0", "\u5b66\u751f1", "\u5b66\u751f2")
    for encoding in ("cp1251", "koi8-r"):
        name = "\u0432\u043e\u0437\u0440\u0430\u0441\u0442"
        data = open_dataset(
            csv(rows("1", "2", "3", header=f"{name},age,label").encode(encoding), f"encoding: {encoding}")
        )
        assert feature(data, name).high == 3.0


def test_a_header_may_be_longer_than_the_default_of_pythons_reader(csv: Write) -> None:
    names = [f"{'measurement':_<50}{i}" for i in range(4000)]
    lines = [",".join([*names, "label"])] + [
        ",".join([*(str((i * k) % 7) for i in range(4000)), str(k % 2)]) for k in range(4)
    ]
    assert len(lines[0]) > 131_072
    assert len(open_dataset(csv("\n".join(lines) + "\n"))) == 4


# -- gaps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["NA", "Na", "None", "null", "?"])
def test_a_value_that_is_listed_is_a_value(csv: Write, text: str) -> None:
    table = rows(text, "K", "Ca")
    if text != "None":
        with pytest.raises(DataError, match="`values:`"):
            open_dataset(csv(table))
    data = open_dataset(csv(table, f"columns: {{x: {{values: ['{text}', K, Ca]}}}}"))
    assert values(data)[:3] == [text, "K", "Ca"]
    data = open_dataset(csv(table, "columns: {x: {missing_values: []}}"))
    assert set(feature(data).values) == {text, "K", "Ca"}
    if text != "None":  # in the other columns the same text is a gap, and does not make a number a text
        both = table.replace("20,no", f"{text},no", 1)
        data = open_dataset(csv(both, f"missing: drop\ncolumns: {{x: {{values: ['{text}', K, Ca]}}}}"))
        assert (len(data), feature(data, "age").kind) == (59, "number")


def test_a_value_may_stand_for_none(csv: Write) -> None:
    table = rows("-200", "1037", "1074.5")
    assert feature(open_dataset(csv(table))).low == -200
    data = open_dataset(csv(table, "missing: drop\ncolumns: {x: {missing_values: [-200]}}"))
    assert (len(data), feature(data).low) == (40, 1037.0)
    data = open_dataset(csv(rows("unknown", "a", "b"), "missing: drop\ncolumns: {x: {missing_values: [unknown]}}"))
    assert feature(data).values == ("a", "b")


def test_classes_may_look_like_gaps(csv: Write) -> None:
    text = "x,label\n" + "".join(f"{i}.5,{('NA', 'K')[i % 2]}\n" for i in range(20))
    assert open_dataset(csv(text, "target: label\nclasses: {NA: sodium, K: potassium}")).class_names == (
        "sodium", "potassium",
    )  # fmt: skip


# -- keys, codes and dates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Unnamed: 0", lambda i: i),
        ("observation", lambda i: i + 1),
        ("PassengerId", lambda i: 7 * i + 3),
        ("customer_id", lambda i: 1000 - 3 * i),
        ("account", lambda i: 500_000 + i),
        ("who", lambda i: f"person {i}"),
        ("id", lambda i: f"{i:08x}-aa"),
    ],
)
def test_columns_that_only_say_which_row_it_is_are_left_out(csv: Write, name: str, key: Callable[[int], Any]) -> None:
    text = rows("1.5", "2.5", "4.5", header=f"x,age,label,{name}").split("\n")
    text[1:61] = [f"{line},{key(i)}" for i, line in enumerate(text[1:61])]
    for description in (None, "splits: {train: 0.7, test: 0.3}"):
        path = csv("\n".join(text), f"target: label\n{description or ''}")
        data = open_dataset(path, split="train" if description else None)
        assert feature(data, name) is None
        assert f"left out: '{name}' (it " in describe(data)
    kept = "category" if isinstance(key(0), str) else "number"
    data = open_dataset(csv("\n".join(text), f"target: label\ncolumns: {{'{name}': {{kind: {kept}}}}}"))
    assert feature(data, name) is not None


def test_measurements_that_happen_to_differ_stay(csv: Write) -> None:
    years = "".join(f"{1950 + i},{i % 7 + 0.5},{i % 2}\n" for i in range(60))
    assert feature(open_dataset(csv(f"year,x,label\n{years}")), "year") is not None


@pytest.mark.parametrize("codes", [("01067", "10115", "99084"), ("007", "012", "100"), ("00", "01", "10")])
def test_leading_zeros_keep_a_column_text(csv: Write, codes: tuple[str, ...]) -> None:
    data = open_dataset(csv(rows(*codes)))
    assert feature(data).values == codes
    assert values(data)[:3] == list(codes)
    new = open_dataset(
        csv(f"x,age,label\n{codes[1]},30,no\n", name="new.csv"), features=data.features, class_names=data.class_names
    )
    assert values(new) == [codes[1]]
    assert open_dataset(csv(rows("0", "5", "0.5"))).features.features[0].kind == "number"  # pyright: ignore


@pytest.mark.parametrize(
    "form", ["{y}-{m:02}-{d:02}", "{y}-{m:02}-{d:02} 10:30:00", "{d:02}.{m:02}.{y}", "{m}/{d}/{y}", "{d} March {y}"]
)
def test_dates_are_left_out_by_name_and_their_days_counted_if_wanted(csv: Write, form: str) -> None:
    table = rows(*(form.format(y=1950 + i, m=i % 12 + 1, d=i % 28 + 1) for i in range(60)))
    data = open_dataset(csv(table))
    assert feature(data) is None
    assert "'x' (dates; `kind: number` in the YAML converts them to days)" in describe(data)
    path = csv(table, "columns: {x: {kind: number}}")
    if not form.startswith("{y}"):
        with pytest.raises(DataError, match="other values.*Dates such as 2001-02-03"):
            open_dataset(path)
        return
    data = open_dataset(path)
    days = np.datetime64("1950-01-01", "D").astype(int)
    assert (values(data)[0], feature(data).unit) == (days, "days since 1970-01-01")


def test_sentences_about_days_show_dates(csv: Write) -> None:
    text = rows(*(f"{1950 + i}-{i % 12 + 1:02}-{i % 28 + 1:02}" for i in range(60)))
    data = open_dataset(csv(text, "columns: {x: {kind: number}, age: {kind: ignore}}"))
    model = Classifier("linear:features=1,classes=2", features=data.features, class_names=data.class_names)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor([-1.0, 1.0]).reshape(parameter.shape) * (parameter.ndim > 1))
    result = counterfactuals(model, data.x[3], 1)
    ((change,),) = [each.changes for each in result.alternatives]
    before, after = (str(np.datetime64(int(days), "D")) for days in (change.before, change.after))
    assert before == "1953-04-04"
    assert after > "1975"
    assert f"been {after} instead of {before}" in result.sentences[0]
    assert value_text(change.after, change.unit) == after
    assert "days since" not in describe(data) + " ".join(result.sentences)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_leading_zeros_are_noticed_wherever_they_are(csv: Write, encoding: str) -> None:
    text = ["x,age,label", *(f"{10000 + i % 9000},{i},{'né' if i % 2 else 'yes'}" for i in range(300_000))]
    assert sum(map(len, text)) > HEAD
    last = '01067,7,"within\n5,0123,quotes\n"\n'
    assert read_csv(Path(csv("\n".join(text).encode(encoding)))).columns["x"].texts is None
    columns = read_csv(Path(csv("\n".join([*text, last]).encode(encoding)))).columns
    assert columns["x"].texts is not None
    assert "01067" in columns["x"].texts
    assert columns["age"].texts is None


@pytest.mark.parametrize("place", [0, 600])
def test_long_cells_are_read_and_those_without_an_end_refused(csv: Write, place: int) -> None:
    table = ["x,age,label", *(f"{i},{i},{('no', 'yes')[i % 2]}" for i in range(1000))]
    table[place + 1] = f"007,{'9' * 200_000}x,no"
    assert "007" in (read_csv(Path(csv("\n".join(table)))).columns["x"].texts or ())
    table[place + 1] = f'007,"{"9" * 9_000_000},no'
    with pytest.raises(DataError, match="is a quote not closed"):
        read_csv(Path(csv("\n".join(table))))


def test_labels_that_training_never_saw_are_named(csv: Write, tmp_path: Path) -> None:
    csv(rows("1", "2", "4"), name="t/train.csv")
    csv(rows("1", "2", "4").replace("yes", "yes."), name="t/test.csv")
    data = open_dataset(tmp_path / "t", split="train")
    assert data.class_names == ("no", "yes", "yes.")
    assert "1 class not in the training rows: 'yes.'" in data.notes
    assert "classes that may be the same: 'yes' and 'yes.'" in data.notes


def test_units_of_two_files_agree_or_are_refused(csv: Write, tmp_path: Path) -> None:
    csv(rows("1%", "2%", "4%"), name="t/train.csv")
    csv(rows("$1", "$2", "$4"), name="t/test.csv")
    with pytest.raises(DataError, match=r"'x' has different units.*'\$' and '%'"):
        open_dataset(tmp_path / "t", split="train")
    trained = open_dataset(csv(rows("1%", "2%", "4%")))
    with pytest.raises(DataError, match=r"'\$'.*'%'"):
        open_dataset(csv(rows("$1", "$2", "$4")), features=trained.features, class_names=trained.class_names)
    plain = open_dataset(csv(rows("1", "2", "4")), features=trained.features, class_names=trained.class_names)
    assert plain.x.equal(trained.x)


# -- rows for a trained model --------------------------------------------------------------------------------


def test_a_row_of_the_training_file_is_explained_though_columns_were_left_out(csv: Write) -> None:
    text = "when,price,share,age,zip,label\n" + "".join(
        f'{1950 + i}-02-03,"${i},000.50",{i}%,{20 + i % 9},{("01067", "10115")[i % 2]},{("no", "yes")[i % 3 % 2]}\n'
        for i in range(1, 61)
    )
    data = open_dataset(csv(text, "columns: {when: {kind: number}, share: {kind: ignore}}"))
    assert data.features is not None
    model = Classifier(
        f"linear:features={data.features.width},classes=2", features=data.features, class_names=["no", "yes"]
    )
    row = csv("\n".join(text.split("\n")[i] for i in (0, 8)) + "\n", name="row.csv")
    with pytest.warns(AdvexWarning, match="not trained on it: 'share'"):
        (subject,) = from_csv([Path(row)], model)
    assert isinstance(subject, Subject)
    assert subject.x.equal(data.x[7])
    row = csv("\n".join(text.replace("age", "agee").split("\n")[i] for i in (0, 8)), name="row.csv")
    (failure,) = from_csv([Path(row)], model)
    assert isinstance(failure, Failure)
    assert re.search("has no column 'age'.*The model has no column 'share', 'agee'", str(failure.error))
