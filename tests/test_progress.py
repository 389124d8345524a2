"""Long work shows life and stops, however slow the network: between two passes, and goes on to the same result."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advex
from advex import bars, progress
from advex.evaluation import evaluate, settings_from
from advex.progress import Interrupted, Terminal
from advex.recipes import recipe_from
from advex.record import ModelEntry
from advex.training import run_folder, train
from advex.training.checkpoints import checkpoints_in

DATA = advex.open_dataset("digits", split="test", max_samples=4)
STAGES = {
    "predictions": {},
    "attack": {"attack": "minimal:gradients=40"},
    "grid": {"pictures": ("toward:steps=3",), "explanations": 1, "sweep": 1, "targets": "runner_up"},
    "maps": {"maps": ("integrated_gradients:steps=4", "occlusion"), "measures": ("gini", "random_stability")},
    "certificates": {"attack": "minimal:gradients=40", "certify": 0.25, "certify_samples": 100, "certify_examples": 2},
}  # fmt: skip


class Slow(nn.Module):
    """A network that counts its passes and does something at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.passes, self.events = 0, dict[int, Callable[[], None]]()

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.events.get(self.passes, lambda: None)()
        return self.inside(x)


def slow() -> tuple[Slow, advex.Classifier]:
    """Such a network, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Slow()
    return network, advex.Classifier(network, class_names=DATA.class_names).eval()


def timeless(models: list[ModelEntry]) -> list[ModelEntry]:
    """Without the seconds that a map took."""
    return [
        model.model_copy(
            update={"maps": {name: maps.model_copy(update={"seconds": None}) for name, maps in model.maps.items()}}
        )
        for model in models
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_an_evaluation_stops_before_the_next_pass_in_any_stage(stage: str, tmp_path: Path) -> None:
    """Not one pass more is made, and the same call ends as if nothing had been."""
    alone = {"attack": None, "btr": None, "explanations": 0, "recheck": 0, "batch_size": 1}
    settings = settings_from({**alone, **STAGES[stage]})
    network, classifier = slow()
    whole = evaluate([("a", "a", classifier)], DATA, tmp_path / "whole", settings)
    passes = network.passes
    network, classifier = slow()
    stops: list[int] = []
    stop_at = max(3, passes // 4)
    network.events = {stop_at: lambda: stops.append(1)}
    with pytest.raises(Interrupted, match="resumes from there"):
        evaluate([("a", "a", classifier)], DATA, tmp_path / "out", settings, stop=lambda: bool(stops))
    assert network.passes == stop_at
    again = evaluate([("a", "a", classifier)], DATA, tmp_path / "out", settings)
    assert timeless(again.models) == timeless(whole.models)


RECIPE = {"network": "small_cnn:widths=4-4-4", "epochs": 2, "batch_size": 16, "seed": 3, "ema": 0.9,
          "robust_samples": 4, "objective": {"adversarial": {"attack": "l2min:epsilon=0.3,steps=2"}}, "robust_every": 1,
          "robust_attack": "pgd:norm=rmse,radius=0.1,steps=2"}  # fmt: skip


def test_training_stops_within_a_step_and_within_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each seventh pass, of steps and of looks at validation data, it ends with the same bits."""
    monkeypatch.setattr("advex.training.loop._LONG_STEP", 0.0)
    recipe, data, passes = recipe_from(RECIPE), advex.open_dataset("digits", split="train", max_samples=40), 0

    def stop_at(number: int) -> Callable[[], None]:
        def tick() -> None:
            nonlocal passes
            passes += 1
            if passes >= number:
                stops.append(passes)

        return tick

    stops: list[int] = []
    with progress.each_pass(stop_at(10**9)):
        train(recipe, data, tmp_path / "whole", validation=DATA)
    total, kept = passes, set[str]()
    for number in range(20, total, 7):
        out, passes = tmp_path / str(number), 0
        stops.clear()
        with pytest.raises(Interrupted), progress.each_pass(stop_at(number)):
            train(recipe, data, out, validation=DATA, stop=lambda: bool(stops))
        assert stops[0] == stops[-1] == number  # no pass more
        kept |= {path.name for path in checkpoints_in(out)}
        train(recipe, data, out, validation=DATA, resume=True)
        for name in ("model.safetensors", "best/model.safetensors", "checkpoints/step-00000006/model.safetensors"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (number, name)
        lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (out, tmp_path / "whole")]
        first, second = ([_steady(json.loads(line)) for line in each] for each in lines)
        assert first == second
    assert len(kept) >= 4


def _steady(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("seconds", "rate")}


def test_a_long_step_shows_that_it_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bars, "PERIOD", 0.05)
    monkeypatch.setattr(progress, "_BEAT", 0.01)
    network, classifier = slow()
    network.events = {number: lambda: time.sleep(0.03) for number in range(1, 13)}
    with Terminal().progress("attack") as bar:
        bar(3, 12, "1.0 examples/s", what="a: attack")
        for _ in range(12):
            classifier.logits(DATA.batch(slice(0, 2)).x)
    lines = [line for line in capsys.readouterr().err.splitlines() if "passes" in line]
    counts = [int(found[1]) for line in lines if (found := re.search(r"(\d+) passes of the network", line))]
    assert len(counts) >= 3
    assert counts == sorted(counts)
    assert all(line.startswith(("a: attack: 3/12 (25 %)", "  ")) for line in lines)


def test_before_the_first_step_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_BEAT", 0.0)
    _, classifier = slow()
    with Terminal().progress("attack"):
        classifier.logits(DATA.batch(slice(0, 2)).x)
    assert re.fullmatch(r"attack: \d+ passes of the network\n", capsys.readouterr().err)


def test_a_signal_ends_a_training_on_a_slow_network_soon(tmp_path: Path) -> None:
    """One step takes seconds here; the signal comes in the middle of it."""
    recipe = recipe_from({"network": "linear", "epochs": 1, "batch_size": 16,
                          "objective": {"adversarial": {"attack": "pgd:norm=rmse,radius=0.1,steps=40"}}})  # fmt: skip
    data, passes = advex.open_dataset("digits", split="train", max_samples=32), 0

    def tick() -> None:
        nonlocal passes
        passes += 1
        time.sleep(0.02)
        if passes == 60:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as stopped, progress.each_pass(tick):
        run_folder.run(recipe, data, tmp_path / "run")
    assert stopped.value.signal == signal.SIGINT
    assert passes == 60


VERBS: dict[str, Callable[[Path], Any]] = {
    "explain": lambda out: advex.explain(
        "builtin:planted", advex.open_dataset("planted", split="test", max_samples=1), out=out
    ),
    "evaluate": lambda out: advex.evaluate(
        "builtin:planted", "planted", split="test", max_samples=2, out=out, attack="minimal:gradients=3", btr=None,
        explanations=0,
    ),
    "train": lambda out: advex.train("digits-ordinary", DATA, "epochs=1", "batch_size=4", out=out),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_works_in_any_thread(verb: str, tmp_path: Path) -> None:
    """As in a web server or a notebook's worker, where Python allows no handlers of signals; the others stay."""
    ended: list[BaseException | None] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        try:
            VERBS[verb](tmp_path / "out")
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [None]
    assert list((tmp_path / "out").iterdir())
    assert signal.getsignal(signal.SIGINT) is before
