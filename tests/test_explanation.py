"""Inputs explained one by one, as a Python user asks: pictures, maps, and the folder that is stopped and goes on."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import advex
from advex.classifier import Classifier
from advex.data.images.png import decode_png
from advex.drawing.heat import coloured
from advex.errors import AdvexWarning, DataError, InputError, SpecError
from advex.explainers import Away, GradCAM, Gradient, Toward
from advex.explanation import (
    HeatScale,
    MapRequest,
    PictureRequest,
    Subject,
    explain_into,
    explain_maps,
    explain_pictures,
    from_pictures,
    named_explainers,
)
from advex.explanation.folder import FIGURES, UNFINISHED
from advex.explanation.subjects import file_names
from advex.lookup.models import Opened
from advex.progress import Interrupted, Stopped, each_pass

SHAPE = (1, 3, 4)

# What is asked of the command line prints these; here it is the answers that count.
pytestmark = pytest.mark.filterwarnings("ignore:.*maps are doubtful", "ignore:The network returns NaN")


@pytest.fixture
def linear(toys: Any) -> Classifier:
    """Two classes; the log-odds of the second are `WEIGHT @ x` less what they are at grey."""
    weight = torch.stack([torch.zeros_like(WEIGHT), WEIGHT])
    return toys.affine(weight, torch.tensor([0.0, -float(WEIGHT.sum()) / 2], dtype=torch.float64))


WEIGHT = torch.tensor([3, -2, 0.5, 1, -1, 2, 0, 4, -3, 0.1, 1, -0.7], dtype=torch.float64)


# -- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("explainer", "sign"), [(Toward(rho=0.05), 1), (Away(rho=0.05), -1)])
def test_what_is_said_of_a_picture_is_said_of_its_eight_bits(linear: Classifier, explainer: Any, sign: int) -> None:
    """On a linear classifier the change is along the weights, and all else follows by hand."""
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    shown = explain_pictures(linear, x, torch.tensor([1]), explainer)
    change = sign * 0.05 * len(WEIGHT) ** 0.5 * WEIGHT / WEIGHT.norm()
    np.testing.assert_allclose(shown.picture[0].flatten(), 0.5 + change, atol=1e-6)
    np.testing.assert_allclose(shown.change[0].flatten(), change, atol=1e-6)
    np.testing.assert_allclose(shown.after[0, 1], 1 / (1 + np.exp(-float(WEIGHT @ change))), atol=1e-5)
    levels = np.round(255 * (0.5 + change.numpy()))
    with Image.open(io.BytesIO(shown.files.png[0])) as picture:
        np.testing.assert_array_equal(np.asarray(picture).ravel(), levels)
    rounded = levels / 255 - 0.5
    np.testing.assert_allclose(shown.files.rmse, np.sqrt(np.mean(rounded**2)), atol=1e-6)
    np.testing.assert_allclose(shown.files.confidences[0, 1], 1 / (1 + np.exp(-(WEIGHT.numpy() @ rounded))), atol=1e-6)


def test_only_pictures_can_be_shown_and_only_by_what_makes_some(linear: Classifier, toys: Any) -> None:
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    with pytest.raises(SpecError, match="gradient:of=logit .*not a picture"):
        explain_pictures(linear, x, torch.tensor([1]), Gradient())
    for wrong in (x[:, 0], x.expand(1, 2, 3, 4)):
        with pytest.raises(InputError, match="1 or 3 channels"):
            explain_pictures(linear, wrong, torch.tensor([1]))
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        explain_pictures(toys.affine(torch.ones(2, 12).double(), torch.zeros(2), box=(-1, 1)), x, torch.tensor([1]))


# -- maps --------------------------------------------------------------------------------------------------


def test_an_explainer_that_does_not_fit_does_not_lose_the_others(linear: Classifier) -> None:
    """Grad-CAM needs a layer that keeps the picture's shape, and a linear classifier has none."""
    x = torch.full((2, *SHAPE), 0.5, dtype=torch.float64)
    maps = explain_maps(linear, x, torch.tensor([1, 0]), {"cam": GradCAM(), "gradient": Gradient()})
    assert list(maps.refused) == ["cam"]
    assert list(maps.explanations) == ["gradient"]
    # Of logit 1 the gradient is the weights, of logit 0 nothing.
    np.testing.assert_allclose(maps.explanations["gradient"].map.flatten(1), torch.stack([WEIGHT, 0 * WEIGHT]))


def test_maps_share_the_scale_they_are_drawn_on(linear: Classifier) -> None:
    x = torch.full((2, *SHAPE), 0.5, dtype=torch.float64)
    explanation = explain_maps(linear, x, torch.tensor([1, 1]), {"gradient": Gradient()}).explanations["gradient"]
    twice = dataclasses.replace(explanation, map=2 * explanation.map)
    scale = HeatScale.of({"gradient": explanation, "twice": twice})
    sizes = np.abs(np.concatenate([WEIGHT, WEIGHT, 2 * WEIGHT, 2 * WEIGHT]))
    assert scale.reach == pytest.approx(np.percentile(sizes, 99))
    assert scale.shared == ("gradient", "twice")


def test_a_map_that_is_not_finite_is_none() -> None:
    class Root(nn.Module):
        """A finite output with an infinite gradient at black."""

        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(dim=1).sqrt()
            return torch.stack([total, -total], dim=1)

    maps = explain_maps(Classifier(Root()), torch.zeros(1, *SHAPE), torch.tensor([0]), {"gradient": Gradient()})
    assert "not finite" in str(maps.refused["gradient"])


def test_explainers_of_one_name_are_told_apart() -> None:
    named = named_explainers(("gradient", "gradient:of=loss"))
    assert list(named) == ["gradient", "gradient-2"]
    with pytest.raises(SpecError, match="given twice"):
        named_explainers(("gradient", "gradient:of=logit"))


# -- the folder --------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A small network that counts its passes, and can be told to do something at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(24, 3))
        self.passes, self.events = 0, {}

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.events.get(self.passes, lambda: None)()
        return self.inside(x)


def counting() -> tuple[Counting, Opened]:
    """The network, and the model that it is in: with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Counting()
    return network, Opened(name="a", source="a", classifier=Classifier(network).eval())


SUBJECTS = [
    Subject(name=f"{number}.png", x=torch.rand(SHAPE, generator=torch.Generator().manual_seed(number)))
    for number in range(4)
]
REQUESTS = [
    PictureRequest(targets=("all",), rhos=(0.05, 0.1), steps=3),
    MapRequest(targets=("all",), explainers=named_explainers(("gradient", "integrated_gradients:steps=3"))),
]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=REQUESTS, ids=["pictures", "maps"])
def request_of(request: pytest.FixtureRequest) -> Any:
    """Changed pictures, and maps."""
    return request.param


@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError, signal.SIGTERM])
def test_a_folder_that_was_broken_off_goes_on_to_the_same_files(end: Any, request_of: Any, tmp_path: Path) -> None:
    """The journal is a file after each input: what no handler sees, SIGKILL, leaves the same folder."""
    network, model = counting()
    whole = explain_into(tmp_path / "whole", model, SUBJECTS, request_of)
    passes = network.passes

    def broken() -> None:
        if isinstance(end, signal.Signals):
            signal.raise_signal(end)
        else:
            raise end

    network, model = counting()
    network.events = {passes // 2 + 2: broken}  # in the third of four inputs
    with pytest.raises(Interrupted if end is signal.SIGTERM else end) as stopped:
        explain_into(tmp_path / "broken", model, SUBJECTS, request_of)
    if end is signal.SIGTERM:
        assert stopped.value.signal == signal.SIGTERM
        assert "after 2 of 4 inputs" in str(stopped.value)
        assert network.passes == passes // 2 + 2  # no pass more
    assert not (tmp_path / "broken" / FIGURES).exists()
    with (tmp_path / "broken" / UNFINISHED).open("a", encoding="utf-8") as file:
        file.write('{"key": "cut off by a cra')  # no more than a power cut can do
    again, model = counting()
    resumed = explain_into(tmp_path / "broken", model, SUBJECTS, request_of)
    assert again.passes == passes // 2
    assert resumed == whole
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_only_answers_to_the_same_question_are_kept(tmp_path: Path) -> None:
    """Other weights, another request, another picture, a file that was taken away: each is asked anew."""
    request = REQUESTS[0]
    assert isinstance(request, PictureRequest)
    network, model = counting()
    explain_into(tmp_path / "whole", model, SUBJECTS, request)
    each = network.passes // 4

    def resumed(request: PictureRequest, subjects: list[Subject], shift: float = 0.0, lost: str = "") -> int:
        """How many inputs are asked about again in a folder that was broken off after two of four."""
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        network, model = counting()
        network.events = {2 * each + 1: lambda: (_ for _ in ()).throw(KeyboardInterrupt)}
        with pytest.raises(KeyboardInterrupt):
            explain_into(folder, model, SUBJECTS, REQUESTS[0])
        if lost:
            (folder / lost).unlink()
        network, model = counting()
        with torch.no_grad():
            network.inside[0].bias += shift  # pyright: ignore[reportOperatorIssue]
        explain_into(folder, model, subjects, request)
        return network.passes

    assert resumed(request, SUBJECTS) == 2 * each
    assert resumed(request, SUBJECTS, shift=0.25) == 4 * each
    assert resumed(request, SUBJECTS, lost="1.toward-0.rho0.1.png") == 3 * each
    assert resumed(request, [dataclasses.replace(SUBJECTS[0], x=1 - SUBJECTS[0].x), *SUBJECTS[1:]]) == 3 * each
    assert resumed(dataclasses.replace(request, seed=1), SUBJECTS) == 4 * each


def test_one_bad_file_among_twenty_does_not_lose_the_other_nineteen(tmp_path: Path) -> None:
    _, model = counting()
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for number, path in enumerate(paths):
        Image.new("L", (4, 3), 10 * number).save(path)
    paths[7].write_bytes(paths[7].read_bytes()[:40])
    request = PictureRequest(targets=("predicted",), steps=2)
    subjects = from_pictures(paths, model.classifier, SHAPE)
    with pytest.warns(AdvexWarning, match=r"7\.png .*\(7\.png is left out"):
        result = explain_into(tmp_path / "why", model, subjects, request)
    assert [each["name"] for each in result["inputs"]] == [path.name for path in paths if path != paths[7]]
    assert [each["name"] for each in result["failed"]] == ["7.png"]
    alone = explain_into(tmp_path / "alone", model, from_pictures(paths[8:9], model.classifier, SHAPE), request)
    assert result["inputs"][7]["explanations"][0]["after"] == pytest.approx(
        alone["inputs"][0]["explanations"][0]["after"], abs=1e-6
    )
    with pytest.raises(DataError, match="7.png cannot be read"):
        explain_into(tmp_path / "none", model, subjects[7:8], request)
    assert not (tmp_path / "none").exists()


def test_what_one_explainer_cannot_map_is_left_out_and_named(linear: Classifier, tmp_path: Path) -> None:
    model = Opened(name="a", source="a", classifier=linear)
    subject = Subject(name="x", x=torch.full(SHAPE, 0.5, dtype=torch.float64))
    request = MapRequest(explainers=named_explainers(("grad_cam", "gradient")))
    with pytest.warns(AdvexWarning, match=r"\(The explainer grad_cam is left out.\)"):
        result = explain_into(tmp_path, model, [subject], request)
    (answer,) = result["inputs"]
    assert [each["explainer"] for each in answer["maps"]] == ["gradient"]
    assert list(answer["refused"]) == ["grad_cam"]
    with Image.open(tmp_path / answer["maps"][0]["picture"]) as picture:
        times = picture.width // SHAPE[2]
        drawn = np.asarray(picture)[times // 2 :: times, times // 2 :: times]
    np.testing.assert_array_equal(
        drawn, coloured(WEIGHT.numpy().reshape(SHAPE[1:]), answer["maps"][0]["scale"]["reach"])
    )


def test_a_network_that_answers_nan_is_not_explained(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * float("nan")

    model = Opened(name="a", source="a", classifier=Classifier(Broken()))
    with pytest.raises(InputError, match="returns NaN or infinity for 0.png"):
        explain_into(tmp_path / "why", model, SUBJECTS, REQUESTS[0])


def test_what_no_gradient_reaches_is_said_and_not_drawn(tmp_path: Path) -> None:
    """A network that rounds its input has no gradient: there is a word for it in each answer and on each sheet."""

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = (4 * x).round().flatten(1).sum(dim=1)
            return torch.stack([bright, 20 - bright], dim=1)

    classifier = Classifier(Rounded())
    subject = Subject(name="a", x=torch.rand(1, 4, 4))
    confidences = classifier.predict(subject.x[None])[0]
    by_name = named_explainers(["gradient", "feature_ablation"])
    for request in (PictureRequest(steps=5), MapRequest(explainers=by_name)):
        answer = request.answer(classifier, subject, confidences, tmp_path, "a")
        answer |= {"name": "a", "says": "0", "confidences": confidences.tolist()}
        explained = answer.get("explanations") or answer["maps"]
        for each in explained:
            assert bool(each["doubts"]) == (each.get("explainer") != "feature_ablation")
        lines = [" ".join(cell.lines) for row in request.sheet_rows(answer, tmp_path) for cell in row.cells]
        assert sum("no gradient reached" in line for line in lines) == len(
            [each for each in explained if each["doubts"]]
        )
        for each in explained:
            if "rmse" in each:
                assert each["rmse"] == 0


def test_files_of_inputs_never_share_a_name() -> None:
    names = file_names(["a b.png", "a/b.jpg", "A_B", "...", "ünï.png", "x" * 300])
    assert len({name.casefold() for name in names}) == len(names)
    assert all(name and len(name) <= 84 and "/" not in name for name in names)


# -- between two passes of a network -----------------------------------------------------------------------


def test_whoever_counts_passes_may_stop_before_the_next() -> None:
    network, model = counting()

    def ticks() -> Iterator[None]:
        yield
        yield
        raise Stopped

    counted, outside = ticks(), list[int]()

    def ask() -> None:
        with each_pass(lambda: outside.append(1)), each_pass(lambda: next(counted)):
            for _ in range(3):
                model.classifier.predict(SUBJECTS[0].x[None])

    with pytest.raises(Stopped):
        ask()
    assert network.passes == 1
    model.classifier.predict(SUBJECTS[0].x[None])  # nobody listens any more
    assert (network.passes, len(outside)) == (2, 3)


# -- the command -------------------------------------------------------------------------------------------


def test_a_command_that_was_killed_is_not_refused_its_own_folder(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier("small_cnn:channels=1,classes=10,widths=4-8-8").eval()
    advex.save(classifier, tmp_path / "run")
    command = [sys.executable, "-m", "advex", "explain", "--data", "digits", "--index", "0,1,2,3,4,5", "-m", "run"]
    command += ["--size", "1x8x8", "--steps", "400", "--target", "predicted", "-q", "--out", "why"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    journal, end = tmp_path / "why" / UNFINISHED, time.monotonic() + 60
    while not (journal.is_file() and journal.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "why").glob("digits_*.difference.png")}
    kept = len(journal.read_bytes().splitlines())
    assert 0 < kept < 6
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "why" / FIGURES).read_text(encoding="utf-8"))
    assert len(result["inputs"]) == 6
    assert not journal.exists()
    again = {path for path, time_ns in finished.items() if path.stat().st_mtime_ns != time_ns}
    assert len(finished) - len(again) >= kept  # what was finished was not made again
    picture = decode_png((tmp_path / "why" / result["inputs"][0]["picture"]).read_bytes())
    assert torch.equal(picture, advex.open_dataset("digits", split="test").x[0])


# -- what is asked of whom -------------------------------------------------------------------------------------


def test_a_model_without_the_datas_classes_is_told_and_a_size_is_asked_for(tmp_path: Path) -> None:
    from advex.explanation.inputs import Inputs
    from advex.lookup.models import Opened
    from advex.progress import QUIET

    torch.manual_seed(0)
    inputs = Inputs([], "digits", "test", "0", None, QUIET)
    for names, warns in ((tuple("abcdefghij"), True), (tuple("0123456789"), False), (None, False)):
        classifier = Classifier("linear:features=64,classes=10", class_names=names)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            inputs.pictures(Opened(name="m", source="m", classifier=classifier))
        assert [each.category for each in said] == ([AdvexWarning] if warns else [])
    with pytest.raises(SpecError, match="The input size of .* is unknown.*--size 224"):
        Inputs([tmp_path / "a.png"], None, None, "0", None, QUIET).pictures(
            Opened(name="m", source="m", classifier=Classifier("linear:features=64,classes=10"))
        )


def test_pictures_need_no_report(tmp_path: Path) -> None:
    from advex.errors import ArtifactError
    from advex.report import write_report

    for verb, name in (("explain", "explanations"), ("generate", "generated")):
        folder = tmp_path / verb
        folder.mkdir()
        (folder / f"{name}.json").write_text("{}")
        with pytest.raises(ArtifactError, match=rf"pictures from advex {verb}.*{name}\.json"):
            write_report(folder)
        (folder / "sheet.png").touch()
        with pytest.raises(ArtifactError, match=r"see .*sheet\.png"):
            write_report(folder)
