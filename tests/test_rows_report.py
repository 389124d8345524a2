"""Answers of tables in records and reports: as `answer` gives them, merged, resumed, drawn where they belong."""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advex import attacks
from advex import record as schema
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.errors import ArtifactError, InputError
from advex.evaluation import Interrupted, Settings, evaluate
from advex.evaluation.flags import flags_of_data
from advex.evaluation.merge import merge
from advex.evaluation.rows import BINS, bin_edges
from advex.evaluation.searches import harder
from advex.features import Feature, FeatureSpec
from advex.report import write_report
from advex.report.reading import read
from advex.report.row_values import SHOWN_ROWS, value_text
from advex.report.sections.answers import HEIGHT, SHOWN, TOP, WIDTH, Answers, histogram, waterfall
from advex.report.sections.maps import Maps
from advex.tabular import counterfactuals
from advex.tabular.search import as_typed

HOSTILE = '</style><script>alert(1)</script>"><img src=x onerror=alert(1)>'
QUICK = {"attack": "l2min:steps=3", "btr": "l2min:steps=3", "recheck": 0}
QUICK |= {"explanations": 6, "sweep": 0, "steps": 2, "pictures": ("toward",), "batch_size": 64}

INCOME = Feature(name="income", low=0, high=200_000, step=100, center=30_000, scale=12_000, unit="EUR")
AGE = Feature(name="age", low=18, high=90, step=1, center=40, scale=10, change="up")
HOUSING = Feature(name="housing", kind="category", values=("rent", "own", "with family"))
SEX = Feature(name="sex", kind="category", values=("f", "m"), change="never")
DEBT = Feature(name="debt", low=0, high=50_000, center=5_000, scale=4_000)
LOANS = FeatureSpec(features=(INCOME, AGE, HOUSING, SEX, DEBT), target="answer")
WEIGHTS = {"first": [1.0, 0.2, 0.0, 0.8, 0.3, 0.0, 0.0, -0.7], "second": [0.5, 0.1, 0.0, 1.5, 0.0, 0.2, 0.0, -1.2]}


def logistic(spec: FeatureSpec, weight: list[float]) -> Classifier:
    """Refused (0) or granted (1): the log-odds of granted are weight @ x."""
    classifier = Classifier(
        f"linear:features={spec.width},classes=2", features=spec, class_names=("refused", "granted")
    )
    layer: Any = classifier.network[1]  # pyright: ignore
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0] * spec.width, weight]))
        layer.bias.zero_()
    return classifier.eval()


def raw_rows(spec: FeatureSpec, count: int) -> list[dict[str, float | str]]:
    """Rows as typed, with one enormous number in each column of numbers."""
    random = np.random.default_rng(3)

    def value(feature: Feature, number: int) -> float | str:
        if feature.kind == "category":
            return feature.values[int(random.integers(len(feature.values)))]
        if number == 0:
            return float(feature.range[1])
        low, high = feature.range
        raw = float(np.clip(random.normal(feature.center, feature.scale), low, high))
        return round(low + feature.step * round((raw - low) / feature.step) if feature.step else raw, 2)

    return [{feature.name: value(feature, number) for feature in spec.features} for number in range(count)]


def table_of(spec: FeatureSpec, rows: list[dict[str, float | str]]) -> Dataset:
    x = spec.encode(rows)
    y = (x @ torch.tensor(([1.0, 0.3, 0.2, 0.5] * spec.width)[: spec.width]) > 0).long()
    names = tuple(f"loans/{number:03d}" for number in range(len(rows)))
    return Dataset(name="loans", x=x, y=y, class_names=("refused", "granted"), ids=names, features=spec)


@pytest.fixture(scope="module")
def models() -> list[tuple[str, str, Classifier]]:
    return [(name, f"runs/{name}", logistic(LOANS, weight)) for name, weight in WEIGHTS.items()]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, float | str]]:
    return raw_rows(LOANS, 120)


@pytest.fixture(scope="module")
def data(rows: list) -> Dataset:
    return table_of(LOANS, rows)


@pytest.fixture(scope="module")
def done(models: list, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("rows") / "out"
    record = evaluate(models, data, folder, Settings(**QUICK))
    answers, columns = (schema.read_rows(folder, name) for name in ("answers", "columns"))
    return SimpleNamespace(folder=folder, record=record, answers=answers, columns=columns)


# -- the record --------------------------------------------------------------------------------------------


def test_answers_are_what_answer_says(done: SimpleNamespace, models: list, data: Dataset) -> None:
    explained = {row["example"] for row in schema.read_rows(done.folder, "explanations")}
    assert len(explained) == 6
    for name, _, classifier in models:
        mine = [row for row in done.answers if row["model"] == name]
        assert {row["example"] for row in mine} == explained
        for example in explained:
            told = counterfactuals(
                classifier, data.x[example]
            )  # of two classes the other one: the label, if it is wrong
            found = [row for row in mine if row["example"] == example]
            assert [row["sentence"] for row in found] == list(told.sentences[: len(found)])
            assert [row["alternative"] for row in found] == list(range(max(len(told.alternatives), 1)))
            for row, one in zip(found, told.alternatives, strict=True):
                assert (row["target"], row["reached"]) == (told.target, True)
                assert (row["before"], row["after"]) == (list(one.before), list(one.after))
                assert [change["feature"] for change in json.loads(row["changes"])] == [c.feature for c in one.changes]


def test_every_change_typed_in_gets_its_answer(done: SimpleNamespace, models: list, rows: list) -> None:
    weight = {name: np.array(WEIGHTS[name]) for name, _, _ in models}
    features = {feature.name: feature for feature in LOANS.features}
    assert all(row["reached"] for row in done.answers)
    for row in done.answers:
        values = json.loads(row["row"])
        assert values == rows[row["example"]]
        changed = dict(values)
        for one in json.loads(row["changes"]):
            feature = features[one["feature"]]
            assert one["before"] == values[feature.name]
            changed[feature.name] = one["after"]
            if feature.kind == "category":
                assert one["moved"] is None
            else:
                assert one["moved"] == pytest.approx((one["after"] - one["before"]) / feature.scale)
        odds = weight[row["model"]] @ LOANS.encode([as_typed(changed)])[0].double().numpy()
        assert (odds > 0) == (row["target"] == 1)
        share = 1 / (1 + math.exp(-odds))
        assert row["after"][1] == pytest.approx(share, abs=1e-5)  # the network answers in single precision


def test_distributions_count_every_row(done: SimpleNamespace, rows: list) -> None:
    columns = {column["name"]: column for column in done.columns}
    assert list(columns) == [feature.name for feature in LOANS.features]
    for name in ("housing", "sex"):
        counted = Counter(row[name] for row in rows)
        assert columns[name]["counts"] == [counted[value] for value in columns[name]["values"]]
    for name in ("income", "age", "debt"):
        values, edges = [row[name] for row in rows], columns[name]["edges"]
        assert (columns[name]["least"], columns[name]["most"]) == pytest.approx((min(values), max(values)), rel=1e-6)
        inside = list(zip(edges[:-1], edges[1:], strict=True))
        expected = [sum(low <= value < high for value in values) for low, high in inside]
        expected[0] += sum(value < edges[0] for value in values)
        expected[-1] += sum(value >= edges[-1] for value in values)
        assert columns[name]["counts"] == expected
        assert sum(expected) == len(rows)
        assert edges[-1] < max(values)  # the enormous one does not squeeze the others
    assert [columns[name]["change"] for name in ("income", "age", "sex")] == ["free", "up", "never"]
    assert (columns["income"]["unit"], columns["income"]["step"], columns["debt"]["step"]) == ("EUR", 100, None)


@given(st.lists(st.integers(-50, 400), min_size=1, max_size=300), st.sampled_from([0.1, 1.0, 2.5, 1000.0]))
def test_bins_hold_as_many_steps_each(places: list[int], step: float) -> None:
    values = step * np.array(places, dtype=np.float64)
    edges = bin_edges(values, step)
    assert 1 <= len(edges) - 1 <= BINS
    widths = np.diff(edges) / step
    np.testing.assert_allclose(widths, widths[0], rtol=1e-6)
    assert widths[0] == pytest.approx(round(widths[0]))  # whole steps
    assert (np.abs(edges / step % 1 - 0.5) < 1e-6).all()  # no value lies on an edge


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_bins_rise(values: list[float]) -> None:
    edges = bin_edges(np.array(values))
    assert 1 <= len(edges) - 1 <= BINS
    assert edges[0] <= np.median(values) <= edges[-1]
    assert edges[0] < edges[-1]


def test_an_evaluation_goes_on_where_it_stopped(
    done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(Interrupted):
        evaluate(
            models,
            data,
            tmp_path / "out",
            Settings(**QUICK),
            progress=events.append,
            stop=lambda: sum(event["phase"] == "answers" and event["done"] > 0 for event in events) == 2,
        )
    events.clear()
    evaluate(models, data, tmp_path / "out", Settings(**QUICK), progress=events.append)
    answered = [event["rate"] is None for event in events if event["phase"] == "answers" and event["done"]]
    assert answered == [True] * 2 + [False] * 10
    assert schema.read_rows(tmp_path / "out", "answers") == done.answers


def test_merged_records_are_as_if_made_at_once(
    done: SimpleNamespace, models: list, data: Dataset, tmp_path: Path
) -> None:
    for one in models:
        evaluate([one], data, tmp_path / one[0], Settings(**QUICK))
    made = merge([tmp_path / "first", tmp_path / "second"], tmp_path / "both")
    assert [model.answered for model in made.models] == [model.answered for model in done.record.models]
    assert schema.read_rows(tmp_path / "both", "answers") == done.answers
    assert schema.read_rows(tmp_path / "both", "columns") == done.columns
    sections = [Answers()(read(folder)) for folder in (tmp_path / "both", done.folder)]
    assert sections[0] == sections[1]


def test_a_row_for_which_nothing_is_found_says_so(data: Dataset, tmp_path: Path) -> None:
    stubborn = logistic(LOANS, [0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 0.0])  # always granted
    record = evaluate([("stubborn", "", stubborn)], data, tmp_path, Settings(**QUICK))
    answers = schema.read_rows(tmp_path, "answers")
    assert [(row["reached"], row["changes"], row["after"]) for row in answers] == [(False, "[]", None)] * 6
    answered = record.models[0].answered
    assert answered is not None
    assert (answered.found.value, answered.found.n) == (0.0, 6)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("No change was found with which the answer would have been refused") >= 6


def test_the_label_is_asked_about_where_the_model_is_wrong(tmp_path: Path) -> None:
    spec = FeatureSpec(features=(INCOME, DEBT))
    classifier = Classifier("linear:features=2,classes=3", features=spec)
    layer: Any = classifier.network[1]  # pyright: ignore
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 0.5, 0.0]))
    x = spec.encode([{"income": 54_000, "debt": 5_000}] * 3)
    data = Dataset(
        name="three", x=x, y=torch.tensor([0, 1, 2]), class_names=("a", "b", "c"), ids=("0", "1", "2"), features=spec
    )
    evaluate([("one", "", classifier.eval())], data, tmp_path, Settings(**QUICK))
    asked = {row["example"]: row["target"] for row in schema.read_rows(tmp_path, "answers")}
    assert asked == {0: 1, 1: 1, 2: 2}  # it says a: of the one that is a, the runner-up


def test_rows_of_other_columns_are_refused(models: list, data: Dataset, tmp_path: Path) -> None:
    others = FeatureSpec(features=(*LOANS.features[:-1], Feature(name="debt", low=0, high=1, scale=2)))
    with pytest.raises(InputError, match="columns of .*'first'"):
        evaluate(models, table_of(others, raw_rows(others, 5)), tmp_path, Settings(**QUICK))


def test_a_record_without_answers_is_as_it_was(models: list, data: Dataset, tmp_path: Path) -> None:
    plain = Classifier("linear:features=8,classes=2", box=(-1e6, 1e6)).eval()  # knows nothing of columns
    record = evaluate([("plain", "", plain)], data, tmp_path, Settings(**QUICK))
    assert record.models[0].answered is None
    assert not (tmp_path / "answers.parquet").exists()
    text = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    del text["models"][0]["answered"]  # as older versions wrote it
    schema.write_text(tmp_path / "record.json", json.dumps(text))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="explanations"' in page
    assert 'id="answers"' not in page
    evaluate(models[:1], data, tmp_path / "first", Settings(**QUICK))
    with pytest.raises(ArtifactError, match="explained in sentences in only one"):
        merge([tmp_path / "first", tmp_path], tmp_path / "both")


# -- the page ----------------------------------------------------------------------------------------------


def test_every_sentence_stands_on_the_page(done: SimpleNamespace, tmp_path: Path) -> None:
    page = html.unescape(write_report(done.folder, tmp_path / "page.html").read_text(encoding="utf-8"))
    told = re.findall(r'<p class="saying">(.*?)</p>', page)
    plain = [text.replace("\u202f%", " %").replace("→", "->") for text in told]
    assert sorted(plain) == sorted(row["sentence"] for row in done.answers)
    assert ('id="answers"' in page, 'id="explanations"' in page, "<script" in page) == (True, False, False)
    assert 'download="answers.csv"' in page
    again = write_report(done.folder, tmp_path / "again.html").read_bytes()
    assert again == (tmp_path / "page.html").read_bytes()


def test_bars_are_as_long_as_the_changes(done: SimpleNamespace) -> None:
    section = Answers()(read(done.folder))
    assert section is not None
    assert (len(section["rows"]), section["total"], section["several"]) == (6, 6, True)
    by_id = {f"loans/{row['example']:03d}": row["example"] for row in done.answers}
    for sheet in section["rows"]:
        mine = [row for row in done.answers if row["example"] == by_id[sheet.id]]
        changes = [one for row in mine for one in json.loads(row["changes"])]
        bars = [bar for line in sheet.lines for each in line.counterfactuals for bar in each.bars]
        lengths = [1.0 if one["moved"] is None else abs(one["moved"]) for one in changes]
        for bar, one, length in zip(bars, changes, lengths, strict=True):
            assert bar.feature == one["feature"]
            assert bar.width == pytest.approx(max(50 * length / max(lengths), 0.6), abs=0.01)
            falls = one["moved"] is not None and one["moved"] < 0
            assert bar.x == pytest.approx(50 - 50 * length / max(lengths) if falls else 50, abs=0.01)
            assert (bar.before, bar.moved == "") == (value_text(one["before"]), one["moved"] is None)


def test_values_are_marked_where_they_are(done: SimpleNamespace, rows: list) -> None:
    section = Answers()(read(done.folder))
    assert section is not None
    columns = {column["name"]: column for column in done.columns}
    for sheet in section["rows"]:
        row = rows[int(sheet.id.removeprefix("loans/"))]
        assert [spread.name for spread in sheet.shown] == list(row)
        assert sheet.folded == ()
        changed = {
            (line.index, bar.feature) for line in sheet.lines for each in line.counterfactuals for bar in each.bars
        }
        for spread in sheet.shown:
            assert {(mark.index, spread.name) for mark in spread.marks} == {
                pair for pair in changed if pair[1] == spread.name
            }
            if spread.categories:
                assert [one.name for one in spread.categories if one.mine] == [row[spread.name]]
                assert max(one.width for one in spread.categories) == 100
                marked = {one.name for one in spread.categories if one.marks}
                assert marked == {mark.text for mark in spread.marks}
            else:
                edges = columns[spread.name]["edges"]
                place = (row[spread.name] - edges[0]) / (edges[-1] - edges[0])
                assert spread.x == pytest.approx(WIDTH * min(max(place, 0), 1), abs=0.06)  # of a rounded drawing
                assert spread.high.startswith("≥")


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=24))
def test_histograms_are_as_high_as_their_counts(counts: list[int]) -> None:
    tops = [float(top) for top in re.findall(r"M[\d.]+ ([\d.]+)h", histogram(counts))]
    filled = [count for count in counts if count]
    assert len(tops) == len(filled)
    for top, count in zip(tops, filled, strict=True):
        assert HEIGHT - top == pytest.approx(max((HEIGHT - TOP) * count / max(counts), 1), abs=0.06)


def wide(count: int) -> FeatureSpec:
    numbers = [Feature(name=f"number {place}", low=-5, high=5) for place in range(count - 1)]
    codes = Feature(name="code", kind="category", values=tuple(f"code {place}" for place in range(40)))
    return FeatureSpec(features=(*numbers, codes))


def test_of_many_columns_those_that_change_are_shown(tmp_path: Path) -> None:
    spec = wide(100)
    weight = [0.0] * spec.width
    weight[70], weight[90] = 1.0, -0.5
    data = table_of(spec, raw_rows(spec, 30))
    evaluate([("wide", "", logistic(spec, weight))], data, tmp_path, Settings(**QUICK))
    section = Answers()(read(tmp_path))
    assert section is not None
    for sheet in section["rows"]:
        names = [spread.name for spread in sheet.shown]
        changed = {bar.feature for line in sheet.lines for each in line.counterfactuals for bar in each.bars}
        assert changed <= {"number 70", "number 90"}
        assert set(names[: len(changed)]) == changed
        assert (len(names), len(sheet.folded), sheet.hidden) == (SHOWN, 60, 100 - SHOWN - 60)
        for spread in (*sheet.shown, *sheet.folded):
            if spread.name == "code":
                assert 8 <= len(spread.categories) <= 10
                assert len(spread.categories) + spread.others == 40
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "60 more columns" in page
    assert "28 further columns" in page


@pytest.mark.filterwarnings("ignore:input_x_gradient.* maps are doubtful")  # of the logit that is 0 throughout
def test_maps_of_rows_are_bars_of_columns(models: list, data: Dataset, rows: list, tmp_path: Path) -> None:
    evaluate(models, data, tmp_path, Settings(**QUICK, maps=("input_x_gradient",)))
    contents = read(tmp_path)
    section = Maps()(contents)
    assert section is not None
    # Of the log-odds, all is in the logit of `granted`; that of `refused` is 0 throughout and has no map.
    explained = {row["example"] for row in contents.rows("answers")}
    mapped = [row for row in contents.rows("maps") if row["example"] in explained and row["target"] == 1]
    count = len({row["example"] for row in mapped})
    assert (len(section["rows"]), section["total"], section["pictures"]) == (count, count, ())
    for sheet in section["rows"]:
        row = rows[int(sheet.id.removeprefix("loans/"))]
        x = data.x[int(sheet.id.removeprefix("loans/"))].double().numpy()
        for line in sheet.lines:
            assert line.target == "granted"
            values = x * WEIGHTS[line.model]
            sums = {one.name: values[where].sum() for one, where in zip(LOANS.features, LOANS.slices, strict=True)}
            (chart,) = line.charts
            expected = {name: value for name, value in sums.items() if value}
            assert {weight.feature for weight in chart.weights} == set(expected)
            largest = max(map(abs, expected.values()), default=1.0)
            for weight in chart.weights:
                value = expected[weight.feature]
                assert weight.width == pytest.approx(50 * abs(value) / largest, abs=0.02)
                assert weight.x == pytest.approx(50 + min(50 * value / largest, 0), abs=0.02)
                assert weight.value.startswith(value_text(row[weight.feature]))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count('data-map="input_x_gradient"') == len(mapped) > count


def test_no_more_rows_than_a_page_bears(models: list, tmp_path: Path) -> None:
    many = table_of(LOANS, raw_rows(LOANS, 50))
    evaluate(models[:1], many, tmp_path, Settings(**{**QUICK, "explanations": 50}))
    section = Answers()(read(tmp_path))
    assert section is not None
    assert (len(section["rows"]), section["total"]) == (SHOWN_ROWS, 50)
    assert f"{SHOWN_ROWS} of 50 explained rows are shown" in write_report(tmp_path).read_text(encoding="utf-8")


def hostile(folder: Path) -> Path:
    """A record of a table whose names, categories and units are made to break a page."""
    spec = FeatureSpec(
        features=(
            Feature(name=HOSTILE, low=0, high=10, unit=HOSTILE),
            Feature(name="B" * 200, kind="category", values=(HOSTILE, "C" * 300, "many words" + " and many words" * 9)),
        ),
        target="answer",
    )
    data = table_of(spec, raw_rows(spec, 12))
    evaluate([("D" * 90, "", logistic(spec, [1.0, -9.0, -5.0, -4.0]))], data, folder, Settings(**QUICK))
    return folder


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    page = write_report(hostile(tmp_path)).read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert html.escape(HOSTILE).replace("&quot;", "&#34;") in page
    assert not re.search(r"<(script|img)\b", page.split("</style>", 1)[1])
    assert page.count("</style>") == 1


def test_values_are_written_in_full() -> None:
    assert [value_text(value) for value in (1e-7, -1234.5, 2.0**40, 3, "a b")] == [
        "0.0000001", "−1,234.5", "1,099,511,627,776", "3", "a b",
    ]  # fmt: skip


@pytest.mark.browser
def test_in_a_browser(done: SimpleNamespace, tmp_path: Path, browser: Any) -> None:
    """No message, no request, nothing wider than a phone, whatever the columns are called."""
    pages = [write_report(done.folder, tmp_path / "loans.html"), write_report(hostile(tmp_path / "hostile"))]
    for path in pages:
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        said: list[str] = []
        asked: list[str] = []
        tab.on("console", lambda message, said=said: said.append(message.text))
        tab.on("request", lambda request, asked=asked: asked.append(request.url))
        tab.goto(path.as_uri())
        for width in (1280, 390):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            over = "[...document.querySelectorAll('#answers *')].filter(e => e.getBoundingClientRect().right > "
            assert tab.evaluate(f"{over}{width + 1}).map(e => e.outerHTML.slice(0, 80))") == []
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


def test_shares_are_shapley_values_of_the_changes(done: SimpleNamespace, models: list, data: Dataset) -> None:
    """By averaging over all orders, one prediction after another; they add up to what the change does."""
    spec, several = data.features, 0
    assert spec is not None
    for name, _, classifier in models:
        for row in [each for each in done.answers if each["model"] == name and each["reached"]]:
            changes, old, target = json.loads(row["changes"]), json.loads(row["row"]), row["target"]
            total = row["after"][target] - row["before"][target]
            assert sum(change["share"] for change in changes) == pytest.approx(total, abs=1e-6)
            sums = dict.fromkeys([change["feature"] for change in changes], 0.0)
            orders = list(itertools.permutations(changes))
            for order in orders:
                now, before = dict(old), row["before"][target]
                for change in order:
                    now[change["feature"]] = change["after"]
                    after = float(classifier.predict(spec.encode([as_typed(now)]).to(classifier.dtype))[0, target])
                    sums[change["feature"]] += (after - before) / len(orders)
                    before = after
            assert [sums[change["feature"]] for change in changes] == pytest.approx(
                [change["share"] for change in changes], abs=1e-5
            )
            several += len(changes) > 1
    assert several  # not of one change alone, where there is nothing to share


def test_a_waterfall_goes_from_the_answer_before_to_the_answer_after(done: SimpleNamespace) -> None:
    contents = read(done.folder, Answers.tables)
    section = Answers()(contents)
    assert section is not None
    assert section["waterfalls"]
    checked = 0
    for sheet in section["rows"]:
        for line in sheet.lines:
            mine = [row for row in done.answers if row["model"] == line.model and row["reached"]]
            for each in (each for each in line.counterfactuals if each.steps):
                (row,) = [row for row in mine if row["sentence"].split(":")[0] == each.sentence.split(":")[0]
                          and json.loads(row["changes"])[0]["feature"] == each.bars[0].feature
                          and sheet.id == contents_id(done, row)]  # fmt: skip
                first, *changes, last = each.steps
                ends = [100 * row[key][row["target"]] for key in ("before", "after")]
                assert [first.width, last.width] == pytest.approx(ends, abs=0.01)
                at = first.width
                for step in changes:
                    moved = step.width if step.kind == "rise" else -step.width
                    assert step.x == pytest.approx(min(at, at + moved), abs=0.02)
                    at += moved
                assert at == pytest.approx(last.width, abs=0.05)
                checked += 1
    assert checked
    html = write_report(done.folder, done.folder / "waterfall.html").read_text()
    assert html.count('class="moves waterfall"') == checked


def contents_id(done: SimpleNamespace, row: Any) -> str:
    """The id of a row's example."""
    return next(each["id"] for each in schema.read_rows(done.folder, "examples") if each["example"] == row["example"])


@pytest.mark.parametrize(
    ("before", "shares"), [(0.05, (-0.225, 0.775)), (0.9, (0.3, -1.1)), (0.3, (-0.7, 1.5, -0.2)), (0.2, (0.1, 0.3))]
)
def test_a_way_that_leaves_the_probabilities_is_drawn_whole_and_to_scale(before: float, shares: Any) -> None:
    changes = [{"feature": str(place), "share": share} for place, share in enumerate(shares)]
    first, *moves, last = waterfall({"target": 0, "before": [before], "after": [before + sum(shares)]}, changes)
    scale = first.width / before
    leaves = any(not 0 <= before + sum(shares[:count]) <= 1 for count in range(len(shares) + 1))
    assert (scale < 99.9) == leaves
    assert last.x == first.x
    at = first.x + first.width
    for step, share in zip(moves, shares, strict=True):
        assert 0 <= step.x <= step.x + step.width <= 100.02
        assert step.width == pytest.approx(scale * abs(share), abs=0.1)
        assert (step.x if share >= 0 else step.x + step.width) == pytest.approx(at, abs=0.2)
        at += scale * share
    assert at == pytest.approx(last.x + last.width, abs=0.2)


def test_records_without_shares_have_no_waterfall() -> None:
    changes = [{"feature": "age", "before": 1.0, "after": 2.0, "moved": 1.0}]
    assert waterfall({"target": 0, "before": [0.2], "after": [0.8]}, changes) == ()


def test_remedies_are_for_what_was_done_and_what_the_data_have(models: list, data: Dataset, tmp_path: Path) -> None:
    settings = {**QUICK, "btr": None, "explanations": 0, "attack": "counterfactual"}
    part = data.take(slice(0, 20))
    record = evaluate(models[:1], part, tmp_path / "part", Settings(**settings))
    (few,) = [flag for flag in record.flags if flag.code == "few_examples"]
    assert few.remedy == f"Evaluate more of the {len(data):,} examples in the data (--max-samples)."
    whole = dataclasses.replace(part, counts=None)
    (few,) = [flag for flag in flags_of_data(whole) if flag.code == "few_examples"]
    assert few.remedy.startswith("The data have no more examples")
    fixed = FeatureSpec(features=(SEX, dataclasses.replace(AGE, high=40)), target="answer")
    stuck = logistic(fixed, [0.0, 0.0, 0.0])
    layer: Any = stuck.network[1]  # pyright: ignore
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([9.0, 0.0]))  # no row has another answer
    rows = fixed.encode([{"sex": "f", "age": str(age)} for age in range(20, 40)])
    same = Dataset(
        name="same", x=rows, y=torch.zeros(20).long(), class_names=("refused", "granted"),
        ids=tuple(map(str, range(20))), features=fixed,
    )  # fmt: skip
    for spec, said in (
        ("counterfactual:features=2", r"counterfactual:features=4,rungs=16\)"),
        ("l2min:steps=3", r"^'l2min' moves in a straight line.*--attack counterfactual"),
    ):
        record = evaluate([("a", "a", stuck)], same, tmp_path / spec[:3], Settings(**{**settings, "attack": spec}))
        (failures,) = [flag for flag in record.flags if flag.code == "failures"]
        assert re.search(said, failures.remedy)
        assert "gradients" not in failures.remedy


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("minimal:gradients=50", r"^Give 'minimal' more gradients \(minimal:gradients=100\).*may be masked"),
        ("pgd:steps=7", r"^Give 'pgd' more steps \(pgd:steps=14\)"),
        ("hop_skip_jump", r"^Give 'hop_skip_jump' more \w+ \(hop_skip_jump:\w+=\d+\), or use another search\.$"),
    ],
)
def test_a_remedy_for_pictures_names_the_attack_and_its_option(spec: str, said: str) -> None:
    assert re.search(said, harder(attacks.build(spec), False))
