"""`advex annotate` from the first picture to a network that learned from the answers."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import advex
from advex import claims, goals, progress
from advex.annotation import instructions, people
from advex.annotation.models import Person
from advex.annotation.store import Store
from advex.cli import main
from advex.data import AnnotationPolicy, Dataset, concatenate
from advex.data.annotated.answers import Annotation, Judged
from advex.data.images.png import decode_png
from advex.errors import DataError, SpecError

# What `advex annotate prepare` left of two pictures when it knew data by another digest.
OLD = Path(__file__).parents[1] / "references" / "project_of_before"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """A verb in this process; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["advex", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def advex_(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Verbs, run in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(monkeypatch, *arguments)


@pytest.mark.filterwarnings("always::advex.errors.AdvexWarning")
def test_from_pictures_to_training(
    advex_: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    few = ["--data", "digits", "--max-samples", "60", "--device", "cpu"]
    assert advex_("train", "digits-robust", "epochs=1", *few, "--out", "run", "-q") == 0
    assert advex_("annotate", "prepare", "--model", "run", *few, "--out", "hitl", "--votes", "2", "-q") == 0
    store = Store(Path("hitl"))
    images = store.images()
    assert images

    # What people see is what the model judged: the file's own pixels, half ahead, and as far as is said.
    data, classifier = advex.open_dataset("digits", split="train"), advex.load("run")
    row_of = {name: row for row, name in enumerate(data.ids)}
    for image in images:
        seen, clean = (
            decode_png((store.folder / "pictures" / f"{name}.png").read_bytes()).float() / 255
            for name in (image.changed, image.original)
        )
        row = row_of[image.source_id]
        assert data.class_names[int(data.y[row])] == image.label
        assert torch.equal((clean * 255).round(), (data.batch(slice(row, row + 1)).x[0] * 255).round())
        aim = goals.Confident(data.y[row : row + 1], margin=0.5)(classifier, seen[None])
        assert bool(aim.reached)
        assert image.rmse == pytest.approx(float((seen - clean).square().mean().sqrt()), abs=1e-6)
        assert image.target != image.label

    # Again: nothing is made or added twice. Another search is refused.
    assert advex_("annotate", "prepare", "--model", "run", *few, "--out", "hitl", "-q") == 0
    assert [each.key for each in store.images()] == [each.key for each in images]
    assert advex_("annotate", "prepare", "--model", "run", *few, "--out", "hitl", "-q", "--margin", "0.6") == 1
    assert "margin is 0.5 there and 0.6 here" in capsys.readouterr().err

    # Anna calls everything unchanged; Ben is sure of even images alone, and calls the first changed.
    for name in ("anna", "ben"):
        people.invite(store.database, name)
        who = next(guest.id for guest in people.people(store.database) if guest.name == name)
        numbers = {image.key: number for number, image in enumerate(images)}
        for shown in store.next(who, 100):
            number = numbers[shown.key]
            ben = "changed" if number == 0 else "unsure" if number % 2 else "unchanged"
            store.answer(
                who, client=f"{name}-{shown.key}", image=shown.key, answer="unchanged" if name == "anna" else ben
            )
    store.close()
    capsys.readouterr()
    assert advex_("annotate", "agreement", "hitl", "--json", "--out", "page.html") == 0
    agreement = json.loads(capsys.readouterr().out)
    assert agreement[0]["class"] is None
    assert agreement[0]["images"] == len(images)
    assert "data:image/png" in Path("page.html").read_text()

    for form in ("table.csv", "table.json", "table.parquet", "folder"):
        assert advex_("annotate", "export", "hitl", form) == 0
    assert advex_("annotate", "import", "again", "folder") == 0
    assert advex_("annotate", "export", "again", "folder-again") == 0
    assert Path("folder/annotations.csv").read_bytes() == Path("folder-again/annotations.csv").read_bytes()

    # A tie of two is no majority, and weighs what it is told to; all agree on the other even ones.
    odd, total = len(images) // 2, len(images)
    expected = {(): (total - 1, 1), ("agree=all",): (total - 1 - odd, 1), ("agree=all", "unsure=0.5"): (total - 1, 0.5)}
    for number, (rules, (count, lightest)) in enumerate(expected.items()):
        changes = ["annotations=hitl", *(f"annotations.{rule}" for rule in rules)]
        assert advex_("train", "digits-robust", "epochs=1", *changes, *few, "--out", f"with-{number}", "-q") == 0
        with Path(f"with-{number}/added.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        assert min(float(row["weight"]) for row in rows) == lightest
        assert {row["source"] for row in rows} == {"digits/train"}
        assert {row["source_id"] for row in rows} <= {image.source_id for image in images}
    parts = json.loads(Path("with-0/config.json").read_text())["training"]["parts"]
    assert parts[1]["name"] == "hitl"
    assert parts[1]["answers"]["unchanged"] > 0
    assert "anna" not in Path("with-0/config.json").read_text()


@pytest.mark.parametrize("form", ["csv", "json", "folder"])
def test_a_refused_import_leaves_no_project(form: str, advex_: Callable[..., int], tmp_path: Path) -> None:
    source = tmp_path / f"answers.{form}"
    if form == "folder":
        source.mkdir()
    table = source / "annotations.csv" if form == "folder" else source
    table.write_text("picture,label,answer\nnowhere.png,cat,perhaps\n")
    project = tmp_path / "project"
    assert advex_("annotate", "import", str(project), str(source)) == 1
    assert not project.exists()
    project.mkdir()  # what was there before stays
    (project / "mine").write_text("mine")
    assert advex_("annotate", "import", str(project), str(source)) == 1
    assert (project / "mine").read_text() == "mine"


def test_names_of_a_project_do_not_speak_to_the_terminal(
    lite: Store, make: Any, serve: Callable[..., Any], advex_: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    lite.create_project("p\x1b]0;title\x07", votes=2, seed=0, alone=False, about={})
    make.fill(lite, 4, labels=("cat\x1b[2J", "dog\u202e"))
    for name in ("anna", "ben"):
        who = make.person(lite, name).id
        for number, image in enumerate(lite.next(who, 4)):
            lite.answer(who, client=f"{name}-client-{number}", image=image.key, answer="changed")
    with lite.database.write() as session:  # as an older version took it in
        session.add(Person(key="0" * 16, name="eve\x1b[31m", role="annotator", created=0))
    assert advex_("annotate", "agreement", lite.folder) == 0
    output = "".join(capsys.readouterr())
    server = serve(lite.folder)
    output += server.said() + "".join(server.links)
    assert "cat?[2J" in output
    assert "eve?[31m" in output
    assert not {"\x1b", "\x07", "\u202e"} & {*output}


def test_prepare_whose_folder_vanishes_fails(
    advex_: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["--data", "digits", "--max-samples", "30", "--device", "cpu", "-q"]
    assert advex_("train", "digits-robust", "epochs=1", *few, "--out", "run") == 0
    capsys.readouterr()

    @contextlib.contextmanager
    def removing(*_: object, **__: object) -> Iterator[Callable[..., None]]:
        """As a hand that tidies up, between two pieces."""
        yield lambda *_, **__: shutil.rmtree("hitl", ignore_errors=True)

    prepare = ("annotate", "prepare", "--model", "run", *few, "--batch-size", "10", "--out", "hitl")
    with monkeypatch.context() as patched:
        patched.setattr(progress.Terminal, "progress", removing)
        assert advex_(*prepare) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "hitl" in output.err
    shutil.rmtree("hitl", ignore_errors=True)
    assert advex_(*prepare) == 0
    assert "images" in capsys.readouterr().out


@pytest.mark.filterwarnings("always::advex.errors.AdvexWarning")
def test_a_project_of_an_earlier_version_goes_on(
    advex_: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it made is taken over, and nothing is made again; other pictures, or another search, are another's."""
    shutil.copytree(OLD, "hitl")
    search = "minimal:gradients=20"
    few = ["--data", "cifar10-sample", "--device", "cpu", "-q", "--out", "hitl"]
    prepare = ["annotate", "prepare", "--model", "builtin:cifar10-robust", *few, "--max-samples", "2", "--search"]
    with monkeypatch.context() as patched:
        patched.setattr("advex.feedback.images._made", lambda *_: pytest.fail("images are made again"))
        assert advex_(*prepare, search) == 0
        assert advex_(*prepare, "minimal:gradients=21") == 1
        assert "images.search is" in capsys.readouterr().err
        assert advex_(*prepare, search, "--max-samples", "3") == 1
        assert "data.examples is 2 there and 3 here" in capsys.readouterr().err
    with contextlib.closing(Store(Path("hitl"))) as store:
        shown = {name for image in store.images() for name in (image.changed, image.original)}
    assert shown == {path.stem for path in OLD.glob("pictures/*.png")}


@pytest.mark.filterwarnings("always::advex.errors.AdvexWarning")
def test_prepare_with_other_options_is_refused_and_the_same_goes_on(
    advex_: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every option that decides what annotators see, and none is passed over."""
    few = ["--model", "a=builtin:planted", "--data", "planted", "--split", "test", "--max-samples", "3", "-q"]
    prepare = ["annotate", "prepare", *few, "--margin", "0.1", "--device", "cpu", "--out", "hitl"]
    prepare += ["--search", "minimal:gradients=4"]
    Path("read.md").write_text("Look at the shape.")
    Path("other.md").write_text("Look at the colour.")
    assert advex_(*prepare, "--name", "Shapes", "--instructions", "read.md") == 0
    others = {
        "votes is 2 there and 5 here": ["--votes", "5"],
        "name is Shapes there and Other here": ["--name", "Other"],
        "alone is False there and True here": ["--alone"],
        "seed is 0 there and 1 here": ["--seed", "1", "--model", "b=builtin:planted"],
        "the instructions are not those in hitl/instructions.md": ["--instructions", "other.md"],
        "images.margin is 0.1 there and 0.2 here": ["--margin", "0.2"],
        "images.search is": ["--search", "minimal:gradients=5"],
        "batch_size is 64 there and 2 here": ["--batch-size", "2"],
        "data.examples is 3 there and 2 here": ["--max-samples", "2"],
        "data.digest is": ["--split", "train"],
    }
    monkeypatch.setattr("advex.feedback.images._made", lambda *_: pytest.fail("images are made again"))
    capsys.readouterr()
    for sentence, options in others.items():
        assert advex_(*prepare, *options) == 1, options
        said = capsys.readouterr().err
        assert sentence in said
        assert "hitl" in said
        assert "hoose another folder" in said
    assert Path("hitl/instructions.md").read_text() == "Look at the shape."
    for same in ([], ["--name", "Shapes"], ["--instructions", "read.md"]):
        assert advex_(*prepare, *same) == 0
    with contextlib.closing(Store(Path("hitl"))) as store:
        project = store.project()
        assert (project.name, project.votes, project.alone, project.seed) == ("Shapes", 2, False, 0)


def test_prepare_says_that_it_waits_for_a_copy(
    advex_: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.0)
    looks, look = list[str](), claims.Wait.__call__

    def counted(wait: claims.Wait, what: str) -> None:
        look(wait, what)
        looks.append(what)
        if len(looks) == 3:
            copy.close()

    monkeypatch.setattr(claims.Wait, "__call__", counted)
    with contextlib.ExitStack() as copy:
        assert copy.enter_context(claims.claimed(Path("hitl/made"), "project"))
        few = ["--data", "planted", "--split", "test", "--max-samples", "2", "--device", "cpu"]
        few += ["--search", "minimal:gradients=4"]
        assert advex_("annotate", "prepare", "--model", "builtin:planted", *few, "--out", "hitl") == 0
    assert capsys.readouterr().err.count("waiting for another process, which has the project open\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "nowhere"], "not a project"),
        (["prepare"], "Give a model, data"),
        (["serve", ".", "--database", "mysql://a/b"], "not a project"),
        (["export", "nowhere", "a.csv"], "not a project"),
    ],
)
def test_mistakes_are_one_sentence(
    advex_: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert advex_("annotate", *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_serve_refuses_other_machines_and_hands_out_links(
    lite: Store, make: Any, serve: Callable[..., Any], advex_: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    make.fill(lite, 2)
    assert advex_("annotate", "serve", lite.folder, "--host", "0.0.0.0") == 2
    assert "--allow-remote" in capsys.readouterr().err
    server = serve(lite.folder)
    assert list(server.links) == ["annotator", "owner"]
    server.stop()
    server = serve(lite.folder, "--annotator", "anna", "--annotator", "annotator")
    assert list(server.links) == ["anna", "owner"]  # a link is told once
    server.stop()
    assert list(serve(lite.folder, "--new-link", "anna", "--revoke", "annotator").links) == ["anna", "owner"]


@pytest.mark.parametrize(
    ("votes", "majority", "unanimous"),
    [
        ({"unchanged": 2}, 1, 1),
        ({"unchanged": 2, "changed": 1}, 1, 0),
        ({"unchanged": 1, "changed": 1}, 0.5, 0),
        ({"unchanged": 2, "unsure": 1}, 1, 0.5),
        ({"unsure": 2}, 0.5, 0.5),
        ({"changed": 2, "unsure": 1}, 0, 0),
        ({}, 0, 0),
    ],
)
def test_rules(votes: dict[str, int], majority: float, unanimous: float) -> None:
    judged = Judged(about=Annotation(picture="a.png", label="7"), votes=votes)
    assert AnnotationPolicy(unsure=0.5).weight(judged) == majority
    assert AnnotationPolicy(agree="all", unsure=0.5).weight(judged) == unanimous


@pytest.mark.parametrize("wrong", [{"agree": "most"}, {"unsure": -0.1}, {"unsure": 1.1}, {"unsure": float("nan")}])
def test_rules_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(wrong))):
        AnnotationPolicy(**wrong)


def test_weights_stay_with_their_examples() -> None:
    def of(name: str, weights: list[float] | None) -> Dataset:
        x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
        given = None if weights is None else torch.tensor(weights)
        return Dataset(name=name, x=x, y=y, class_names=("p", "q"), ids=("1", "2"), weights=given)

    joined = concatenate(of("a", None), of("b", [0.5, 0.25]))
    assert joined.weights is not None
    assert joined.weights.tolist() == [1, 1, 0.5, 0.25]
    taken = joined.take(torch.tensor([3, 0]))
    batch = taken.batch(slice(None))
    assert batch.weight is not None
    assert batch.weight.tolist() == [0.25, 1]
    assert concatenate(of("a", None), of("b", None)).weights is None
    with pytest.raises(DataError, match="weights"):
        of("a", [1.0])


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"", "is empty"), (b"\xff\xfe\x00", "is not UTF-8 text"), (b"x" * 2**17, "large")],
)
def test_instructions_that_cannot_be_read_are_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "instructions.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=said):
        instructions.read(path)
    assert instructions.of_project(tmp_path) is None
