"""Rows that learn from answers: simulated annotators, the plan, the whole way to training, going on, and the page."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("sqlalchemy", reason="the extra `annotate` is not installed")

import advex
from advex import reproduction
from advex.annotation import exchange
from advex.annotation.store import Store
from advex.cli import reproduce
from advex.data.annotated.answers import TABLE
from advex.data.images.png import decode_png
from advex.errors import ArtifactError, SpecError
from advex.feedback import folders, images
from advex.feedback.simulated_annotators import Annotator, judged, spans, wanted
from advex.papers import read
from advex.record.reproduction import AnsweredEntry, Reproduction, as_plain, read_answered, read_reproduction
from advex.report import write_report
from advex.report.pages.answers import sentences
from advex.reproduction import Work, planned, simulation
from advex.reproduction.folder import Folder
from advex.training import Diverged, run_folder

# -- the annotators ----------------------------------------------------------------------------------------------------


def test_a_share_of_the_answers_are_errors_and_the_share_is_the_one_stated() -> None:
    pictures = [f"{number:064x}" for number in range(20_000)]
    annotator = Annotator(number=1, sure=0.1, error=0.186, seed=3)
    for ahead, honest in ((0.9, "unchanged"), (0.0, "unsure"), (-0.9, "changed")):
        given = Counter(annotator(ahead, picture) for picture in pictures)
        wrong = [count for answer, count in given.items() if answer != honest]
        # Four standard deviations of a binomial count; both errors are as likely as each other.
        assert abs(sum(wrong) - 0.186 * 20_000) < 4 * math.sqrt(20_000 * 0.186 * 0.814)
        assert len(wrong) == 2
        assert abs(wrong[0] - wrong[1]) < 4 * math.sqrt(sum(wrong))


def test_two_who_ask_the_same_network_agree_as_often_as_the_papers_two() -> None:
    one, other = (Annotator(number=number, sure=0.1, error=0.186, seed=0) for number in (1, 2))
    same = sum(one(0.5, str(picture)) == other(0.5, str(picture)) for picture in range(20_000))
    assert same / 20_000 == pytest.approx(0.68, abs=4 * math.sqrt(0.68 * 0.32 / 20_000))


def test_an_answer_depends_on_the_picture_the_annotator_and_the_seed_alone() -> None:
    def said(**settings: Any) -> list[str]:
        annotator = Annotator(**{"number": 1, "sure": 0.1, "error": 0.5, "seed": 0, **settings})
        return [annotator(0.5, str(picture)) for picture in range(200)]

    assert said() == said()
    assert said() != said(seed=1)
    assert said() != said(number=2)
    assert set(said(error=0)) == {"unchanged"}
    assert "unchanged" not in said(error=1)
    assert [Annotator(number=number, sure=0, error=0, seed=0).name for number in (1, 2)] == [
        "simulated 1",
        "simulated 2",
    ]


@pytest.mark.parametrize(
    ("ahead", "answer"),
    [(1, "unchanged"), (0.2, "unchanged"), (0.199, "unsure"), (-0.199, "unsure"), (-0.2, "changed"), (-1, "changed")],
)
def test_the_judge_must_be_sure(ahead: float, answer: str) -> None:
    assert judged(ahead, 0.2) == answer


def test_who_judges_what() -> None:
    paper = read("woods2019").simulated
    assert paper is not None
    first, second = spans(paper.judged, paper.shared, 10_000)
    assert (len(first), len(second), len({*first, *second})) == (730, 2107, 2731)
    assert len({*first} & {*second}) == 106
    assert wanted(paper.judged, paper.shared) == 2731
    assert [len(each) for each in spans((40, 80), 20, images=50)] == [40, 30]
    assert [len(each) for each in spans((40, 80), 20, images=10)] == [10, 10]


# -- the plan ----------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "title": "Small", "authors": "A and B", "year": 2020, "venue": "Nowhere",
    "tables": {
        "I": {
            "title": "Here no person answered", "data": "digits",
            "columns": {"accuracy": {"title": "Accuracy", "digits": 3, "measure": "accuracy"}},
            "sections": [{"rows": [
                {"id": "plain", "label": "Plain", "published": {"accuracy": 90}, "recipe": "digits-ordinary"},
                {"id": "one", "label": "One", "published": {"accuracy": 91}, "recipe": "digits-ordinary",
                 "answers": {"start": "plain", "annotators": 1}},
                {"id": "two", "label": "Two", "published": {"accuracy": 92}, "recipe": "digits-ordinary",
                 "answers": {"start": "plain", "annotators": 2}},
            ]}],
        }
    },
    "simulated": {"judge": "recipe:digits-ordinary", "overrides": ["network=linear", "epochs=2", "robust_every=0"],
                  "judged": [10, 16], "shared": 6, "error": 0.2, "sure": 0.05},
    "scales": {
        "tiny": {
            "summary": "Tiny.", "threads": 1, "train_samples": 96, "test_samples": 12,
            "change": {"network": "linear", "epochs": 2, "batch_size": 32, "robust_every": 0},
            "evaluation": {"attack": "minimal:gradients=4", "btr": "minimal:gradients=4", "sweep": 0,
                           "explanations": 0, "recheck": 0, "steps": 2},
        },
    },
}  # fmt: skip
ROWS = "tables/I/sections/0/rows"


def written(folder: Path, **values: Any) -> str:
    """The small paper in a file, with some values changed: `a/0/b` is a place in it."""
    paper = json.loads(json.dumps(SMALL))
    for path, value in values.items():
        *outer, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        inside: Any = paper
        for part in outer:
            inside = inside[part]
        inside[last] = value
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(paper), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("simulated", None, "row one learns from answers, but nobody gives them"),
        (f"{ROWS}/2/answers/annotators", 3, "row two learns from more annotators than there are"),
        (f"{ROWS}/1/answers/start", "plian", "row one starts from 'plian': did you mean 'plain'"),
        (f"{ROWS}/1/answers/start", "two", "row one starts from two, which must come before it"),
        (f"{ROWS}/2/answers/start", "one", "row two starts from one, which must come before it and know no answers"),
        (f"{ROWS}/2/model", "builtin:planted", "row two learns from answers without a recipe, or with a model that is"),
        (f"{ROWS}/0/model", "builtin:planted", "row one starts from plain, which is no network that is trained"),
        (
            f"{ROWS}/0",
            {"id": "plain", "label": "P", "published": {}, "needs": "much"},
            "row one starts from plain, which is no network that is trained here",
        ),
        (
            f"{ROWS}/0",
            {"id": "plain", "label": "P", "published": {}, "same_as": "nobody"},
            "row plain repeats 'nobody'",
        ),
        ("simulated/shared", 11, "shared=11 images are more than one annotator judges"),
        ("simulated/judge", "this:s", "a file names no code"),
        ("simulated/judge", "hf:a/b", "a file names no code"),
        ("simulated/judge", "builtin:planted,mine:network", "a file names no code"),
        ("simulated/judge", "torchvision:resnet18", "a file names no code"),
        ("simulated/judge", "builtin:cifar10-robust", "is trained already: overrides belong to recipe:NAME"),
        ("simulated/error", 1.5, "simulated.error"),
    ],
)
def test_a_paper_that_cannot_be_says_why(tmp_path: Path, place: str, value: Any, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        read(written(tmp_path, **{place: value}))


def test_a_row_brings_the_one_it_starts_from_and_says_who_answers(tmp_path: Path) -> None:
    plan = planned(written(tmp_path), rows=["two"], scale="tiny")
    assert [one.row.id for one in plan.rows] == ["plain", "two"]
    feedback = plan.jobs[1].feedback
    assert feedback is not None
    assert (feedback.start, feedback.annotators) == ("plain", 2)
    assert plan.jobs[0].feedback is None
    assert "answers of digits-ordinary, 20 % of them errors, instead of people's" in plan.rows[1].changes
    assert not any("answers" in change for change in plan.rows[0].changes)


def test_every_scale_of_woods2019_says_that_people_are_missing() -> None:
    for scale in ("smoke", "cpu", "full"):
        plan = planned("woods2019", table="hitl", rows=["all"], scale=scale, available=lambda source: None)
        assert [job.name for job in plan.jobs] == ["adaptive-wide", "simulated-448", "simulated-1331"]
        for one in plan.rows[1:]:
            told = "; ".join(one.changes)
            assert "18.6 % of them errors, instead of people's" in told
            assert ("judged images" in told) == (scale != "full")


def test_without_the_extra_the_rows_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plan = planned(written(tmp_path), scale="tiny")
    assert [one.reason for one in plan.rows] == ["", *["needs the extra annotate"] * 2]


# -- all of it ---------------------------------------------------------------------------------------------------------


def carry_out(folder: Path, out: Path) -> Reproduction:
    plan = planned(written(folder), scale="tiny")
    return reproduction.carry_out(plan, out, Work(seed=plan.seed))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reproduction that nothing disturbed. Its folder is `done`."""
    folder = tmp_path_factory.mktemp("hitl")
    carry_out(folder, folder / "done")
    return folder / "done"


def entry_of(out: Path) -> AnsweredEntry:
    found = read_answered(Folder(out).project("plain"))
    assert found is not None
    return found


def given(out: Path) -> list[exchange.Row]:
    """Every answer, from the database; but for the time at which it was given."""
    with contextlib.closing(Store(out / "projects" / "plain")) as store:
        return [row.model_copy(update={"time": None}) for row in exchange.rows_of(store) if row.answer]


def test_the_whole_way(done: Path) -> None:
    found = read_reproduction(done)
    assert [row.state for row in found.rows] == ["measured"] * 3
    (entry,) = found.answered
    assert entry.rows == {"one": 1, "two": 2}
    assert (entry.network, entry.judge, entry.images, entry.wanted, entry.shared) == (
        "plain",
        "digits-ordinary",
        20,
        20,
        6,
    )
    assert [sum(one.answers.values()) for one in entry.annotators] == [10, 16]
    assert entry.accuracy.n == 500  # the whole of the test split, and not the twelve images of the rows

    # What the store holds is what is told, and what the two rows learned from.
    said = given(done)
    assert Counter(row.annotator for row in said) == {"simulated 1": 10, "simulated 2": 16}
    by_picture: dict[str, Counter[str]] = {}
    for number, one in enumerate(entry.annotators, 1):
        for answer in said:
            if answer.annotator == one.name:
                by_picture.setdefault(answer.picture, Counter())[answer.answer or ""] += 1
        unchanged = sum(votes["unchanged"] > votes["changed"] for votes in by_picture.values())
        assert one.unchanged == unchanged
        row = next(name for name, annotators in entry.rows.items() if annotators == number)
        base, part = json.loads((done / "runs" / row / "config.json").read_text())["training"]["parts"]
        assert (base["examples"], part["examples"], part["name"]) == (96, unchanged, f"simulated-{number}")
        lines = (done / "runs" / row / "added.csv").read_text().splitlines()[1:]
        assert len(lines) == unchanged
        assert all(line.startswith(f"simulated-{number},") for line in lines)
    table = (done / "projects/plain/simulated-2" / TABLE).read_text(encoding="utf-8-sig")
    assert set(re.findall(r"simulated \d", table)) == {"simulated 1", "simulated 2"}


def test_they_say_what_the_judge_says_of_the_very_files_but_for_the_errors(done: Path) -> None:
    entry, judge = entry_of(done), advex.load(done / "runs" / "judge-digits-ordinary")
    errors: Counter[str] = Counter()
    for row in given(done):
        pixels = decode_png((done / "projects/plain/pictures" / f"{row.picture}.png").read_bytes()).float() / 255
        shares = dict(zip(judge.class_names or (), judge.predict(pixels[None])[0].tolist(), strict=True))
        ahead = shares.pop(row.label) - max(shares.values())
        number = int((row.annotator or "")[-1])
        assert row.answer == Annotator(number=number, sure=entry.sure, error=entry.error, seed=0)(ahead, row.picture)
        errors[row.annotator or ""] += row.answer != judged(ahead, entry.sure)
    assert [errors[one.name] for one in entry.annotators] == [one.errors for one in entry.annotators]
    assert sum(errors.values()) > 0


class Stop(Exception):
    """Stands for a process that dies."""


STEPS = [
    (run_folder, "run", 2),  # training the judge; the second run after the base's
    (images, "prepare", 1),
    (simulation, "_seen", 1),
    (folders, "write_folder", 1),  # the first annotator's answers are there, and in no folder
    (folders, "write_folder", 2),
    (simulation, "write_text", 1),  # all but the account of it
    (simulation, "with_annotated", 1),
    (simulation, "with_annotated", 2),
]


@pytest.mark.parametrize(("place", "step", "nth"), STEPS)
def test_wherever_it_dies_it_goes_on_to_the_same_end(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, step: str, nth: int
) -> None:
    original, calls = getattr(place, step), []

    def dying(*arguments: Any, **options: Any) -> Any:
        calls.append(step)
        if len(calls) == nth:
            raise Stop
        return original(*arguments, **options)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(place, step, dying)
        with pytest.raises(Stop):
            carry_out(tmp_path, out)
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    pictures = {path: path.stat().st_mtime_ns for path in out.glob("projects/plain/pictures/*.png")}
    found = carry_out(tmp_path, out)
    assert [row.measured for row in found.rows] == [row.measured for row in read_reproduction(done).rows]
    assert repr(entry_of(out)) == repr(entry_of(done))  # in which nan is not nan
    assert given(out) == given(done)
    # What was finished was not made again.
    assert all(
        path.stat().st_mtime_ns == time for path, time in (made | pictures).items() if path.parent.name != "best"
    )


def test_rows_that_cannot_learn_fail_and_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*arguments: Any, **options: Any) -> None:
        raise Diverged("The loss became nan.")

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "run", diverging)
        rows = carry_out(tmp_path, tmp_path / "out").rows
    assert [row.state for row in rows] == ["failed"] * 3
    assert rows[1].reason == "There is no plain to make images with."
    with monkeypatch.context() as patched:
        patched.setattr(Annotator, "__call__", lambda annotator, ahead, picture: "changed")
        rows = carry_out(tmp_path, tmp_path / "out").rows
    assert [row.state for row in rows] == ["measured", "failed", "failed"]
    assert rows[2].reason == "No image was called unchanged: there is nothing more to learn from."


def test_what_is_done_is_read(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation.Simulation, "added_to", None)
    assert repr(carry_out(done.parent, done).answered) == repr(read_reproduction(done).answered)


def test_others_than_the_project_are_refused(done: Path, tmp_path: Path) -> None:
    plan = planned(written(tmp_path, **{"simulated/error": 0.3}), scale="tiny")
    plan = dataclasses.replace(plan, name=str(done.parent / "small.yaml"))
    with pytest.raises(ArtifactError, match=re.escape("one: answers: error is 0.2 there and 0.3 here")):
        reproduction.carry_out(plan, done, Work(seed=plan.seed))


def test_a_judge_of_other_classes_is_refused(tmp_path: Path) -> None:
    paper = written(tmp_path, **{"simulated/judge": "builtin:cifar10-robust", "simulated/overrides": []})
    with pytest.raises(SpecError, match="digits/train"):
        reproduction.carry_out(planned(paper, scale="tiny"), tmp_path / "out", Work())


def test_the_project_says_that_no_person_answered(done: Path) -> None:
    with contextlib.closing(Store(done / "projects" / "plain")) as store:
        assert store.project().about["answers"] == "simulated by digits-ordinary: no person answered"


# -- told --------------------------------------------------------------------------------------------------------------


def test_every_place_says_that_no_person_answered(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_reproduction(done)
    reproduce.show(found)
    words = " ".join(capsys.readouterr().out.split())
    assert (
        "No people answered. simulated 1 and simulated 2 ask a network, digits-ordinary, and 20 % of its answers"
        in words
    )
    page = write_report(done).read_text(encoding="utf-8")
    for text in sentences(entry_of(done)):
        assert text.split(":")[0].replace("'", "&#39;") in page
    assert "no people answered" in page
    assert page.count("<figure data-verdict=") == len(entry_of(done).pairs)
    assert page.count("simulated 1: ") + page.count("simulated 2: ") == sum(
        len(pair.answers) for pair in entry_of(done).pairs
    )
    assert "<script" not in page


def test_a_page_without_the_pictures_says_so(done: Path, tmp_path: Path) -> None:
    found = read_reproduction(done)
    (tmp_path / "reproduction.json").write_text(
        found.model_copy(update={"grids": [], "tables": found.tables}).model_dump_json(), encoding="utf-8"
    )
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("The picture is missing.") == 2 * len(found.answered[0].pairs)


def test_agreement_that_is_undefined_stays_strict_json(done: Path) -> None:
    found = read_reproduction(done)
    entry = found.answered[0]
    undefined = entry.agreement["alpha"].model_copy(update={"value": math.nan})
    entry = entry.model_copy(update={"agreement": {"alpha": undefined}})
    values = as_plain(found.model_copy(update={"answered": [entry]}))
    assert values["answered"][0]["agreement"]["alpha"]["value"] is None
    json.dumps(values, allow_nan=False)
    assert "Krippendorff's alpha undefined" in sentences(entry)[-1]


def test_an_answered_json_that_is_none_is_refused(tmp_path: Path) -> None:
    assert read_answered(tmp_path) is None
    (tmp_path / "answered.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="answered.json is not .*: network: it is missing"):
        read_answered(tmp_path)
