"""What a GPU makes of advex, in less than ten minutes: `python -m benchmarks.gpu`.

Of networks for pictures of CIFAR and of ImageNet, randomly initialised: a search as it is, in bfloat16, channels last,
compiled, and compiled with CUDA graphs (`reduce-overhead`), each set beside bare gradients of as many rows; a step of
training; where the host waits for the device; pictures on their way to it; memory; and whether the answers are those
of the CPU. Figures are of arms that take turns: ratios hold elsewhere, seconds do not. What time does not allow is left
out, and said. `--minutes`: when to end. `--tiny`: smaller, and on a CPU too, to see that all of it runs. `--out`: a
file of JSON, one figure a line. A table of them is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advex import attacks
from advex.classifier import Classifier, input_gradient
from advex.contexts import pixelwise
from advex.data.dataset import Dataset
from advex.goals import Misclassify
from advex.recipes import fitted, recipe_from
from advex.training.loop import _step
from advex.training.run import begin
from advex.training.steps import prepared
from advex.waits import sent

NETWORKS = {
    "cifar": ("preact_resnet:depth=20,classes=10", 32),
    "imagenet": ("preact_resnet:depth=18,widths=64-128-256-512,stem=imagenet,classes=1000", 224),
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "plain": {"natural": {}},
    "lipschitz": {"lipschitz": {"psi": 1.0, "target": 1.0}},
    "attacked": {"adversarial": {"attack": "pgd:norm=linf,radius=8/255,steps=3", "share": 1.0}},
}
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


@dataclass
class Bench:
    """What has been measured, and how much time is left."""

    tiny: bool
    ends: float
    figures: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, part: str, name: str, value: float | str, unit: str = "") -> None:
        """One figure."""
        self.figures.append({"part": part, "name": name, "value": value, "unit": unit})
        print(json.dumps(self.figures[-1]), flush=True)

    def turns(self, part: str, arms: dict[str, Callable[[], Any]], *, rounds: int, share: float) -> dict[str, float]:
        """Median seconds of each arm, which take turns after one each that is not counted (and compiles).

        share: of the time that is left. An arm that fails, or for which there is no time, is told and left out.
        """
        until, took = time.monotonic() + share * (self.ends - time.monotonic()), dict[str, list[float]]()
        for number in range(rounds + 1):
            for name, arm in arms.items():
                if time.monotonic() > until and not (number == 1 and took.get(name) == []):
                    continue
                if number and name not in took:
                    continue
                try:
                    began = _now()
                    arm()
                    took.setdefault(name, []).extend([_now() - began] if number else [])
                except Exception as error:  # a benchmark goes on with what works
                    took.pop(name, None)
                    self.tell(part, name, f"failed: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
        for name in arms:
            if not took.get(name) and not any(each["name"] == name and each["part"] == part for each in self.figures):
                self.tell(part, name, "no time left")
        return {name: statistics.median(times) for name, times in took.items() if times}


def _now() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def _problem(which: str, rows: int, tiny: bool) -> tuple[Classifier, Tensor, Tensor]:
    spec, side = NETWORKS[which]
    side = min(side, 64) if tiny else side
    torch.manual_seed(0)
    classifier = Classifier(spec, mean=0.5, std=0.25).to(DEVICE).eval()
    x = torch.rand(rows, 3, side, side).to(DEVICE)
    return classifier, x, classifier.predict(x).argmax(dim=1)


@contextlib.contextmanager
def _graphed(classifier: Classifier) -> Iterator[None]:
    """Inside, the network is compiled with CUDA graphs, whose answers lie where the next ones will."""
    with classifier.accelerated(compiled=True, bfloat16=True):
        compiled = torch.compile(classifier.network, dynamic=False, mode="reduce-overhead")

        def network(x: Tensor) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(x).clone()

        assert classifier._compiled is not None
        classifier._compiled[classifier.network] = network
        yield


def searches(bench: Bench, which: str, share: float) -> None:
    """A search and its variants beside bare gradients of the same rows; microseconds per row and gradient."""
    rows = 4 if bench.tiny else {"cifar": 256, "imagenet": 64}[which]
    steps = 4 if bench.tiny else 40
    classifier, x, y = _problem(which, rows, bench.tiny)
    search, goal = attacks.build(f"minimal:gradients={steps}"), Misclassify(y)

    def bare() -> int:
        with classifier.frozen():
            for _ in range(steps):
                input_gradient(lambda v: classifier.logits(v).logsumexp(dim=1), x)
        return rows * steps

    def searched(*contexts: Callable[[], Any]) -> int:
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            return int(search(classifier, x, goal, seed=0).gradients.sum())

    layout, fast = partial(pixelwise, classifier), partial(classifier.accelerated, bfloat16=True)
    arms: dict[str, Callable[[], int]] = {
        "bare gradients": bare,
        "search": searched,
        "search, bfloat16": partial(searched, fast),
        "search, channels last": partial(searched, layout),
        "search, channels last, bfloat16": partial(searched, layout, fast),
    }
    if not bench.tiny:
        compiled = partial(classifier.accelerated, compiled=True, bfloat16=True)
        arms["search, channels last, bfloat16, compiled"] = partial(searched, layout, compiled)
        arms["search, channels last, bfloat16, reduce-overhead"] = partial(
            searched, layout, partial(_graphed, classifier)
        )
    gradients: dict[str, int] = {}
    peaks: dict[str, float] = {}

    def run(name: str, arm: Callable[[], int]) -> None:
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        gradients[name] = arm()
        if ON_GPU:
            peaks[name] = torch.cuda.max_memory_allocated() / 2**20

    part = f"{which}, {rows} pictures of {x.shape[-1]}"
    took = bench.turns(part, {name: partial(run, name, arm) for name, arm in arms.items()}, rounds=5, share=share)
    each = {name: 1e6 * seconds / gradients[name] for name, seconds in took.items()}
    for name, microseconds in each.items():
        bench.tell(part, name, round(microseconds, 2), "us per row and gradient")
        if "bare gradients" in each:
            bench.tell(part, f"{name} / bare gradients", round(microseconds / each["bare gradients"], 3))
    for name, peak in peaks.items():
        bench.tell(part, f"memory of {name}", round(peak), "MiB")


def waits(bench: Bench) -> None:
    """Where the host waits for the device in a search and in a step of training, as CUDA itself sees it."""
    if not ON_GPU:
        bench.tell("waits", "counted", "on a GPU alone (tests/test_waits.py counts them on a CPU)")
        return
    classifier, x, y = _problem("cifar", 64, bench.tiny)
    search = attacks.build("minimal:gradients=40")
    _told_waits(bench, "waits of a search of 40 gradients", lambda: search(classifier, x, Misclassify(y), seed=0))
    for name, step in _steps(bench, 64).items():
        step()
        _told_waits(bench, f"waits of a {name} step", step)


def _told_waits(bench: Bench, part: str, act: Callable[[], Any]) -> None:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            act()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{each.filename.partition('/advex/')[2] or Path(each.filename).name}:{each.lineno}"
        for each in heard
        if "synchroniz" in str(each.message)
    )
    bench.tell(part, "all", places.total())
    for place, count in places.most_common(8):
        bench.tell(part, place, count)


def _steps(bench: Bench, batch: int) -> dict[str, Callable[[], Any]]:
    """One step of training by each objective."""
    n = 4 * batch
    pixels = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    classes = tuple("abcdefghij")
    data = Dataset(name="drawn", x=pixels, y=torch.arange(n) % 10, ids=tuple(map(str, range(n))), class_names=classes)
    steps: dict[str, Callable[[], Any]] = {}
    for name, objective in OBJECTIVES.items():
        settings = {"network": NETWORKS["cifar"][0], "objective": objective, "batch_size": batch}
        run = begin(fitted(recipe_from(settings), data.shape, 10), data, None, DEVICE)
        run.classifier.train()

        def step(run: Any = run) -> None:
            index = run.batches(0)[0]
            with prepared(run) as loss_of, run.reading([index]) as read:
                _step(run, loss_of, index, read, {})

        steps[name] = step
    return steps


def training(bench: Bench, share: float) -> None:
    """Pictures per second in training."""
    batch = 16 if bench.tiny else 256
    took = bench.turns("training", dict(_steps(bench, batch)), rounds=2 if bench.tiny else 20, share=share)
    for name, seconds in took.items():
        bench.tell("training", name, round(batch / seconds), "pictures of 32 a second")


def data(bench: Bench, share: float) -> None:
    """Bytes in memory to pictures on the device, chosen at random."""
    side, rows = (64, 8) if bench.tiny else (224, 128)
    pixels = torch.randint(0, 256, (4 * rows, 3, side, side), dtype=torch.uint8)
    index = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:rows]
    arms: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: pixels[index].to(DEVICE).float().div_(255),
        "pinned": lambda: sent(pixels[index], DEVICE).float().div_(255),
        "floats sent": lambda: pixels[index].float().div_(255).to(DEVICE),
    }
    for name, seconds in bench.turns("data", arms, rounds=20, share=share).items():
        bench.tell("data", name, round(rows / seconds), f"pictures of {side} a second")


def equality(bench: Bench) -> None:
    """The same search on the CPU: which rows reach the goal, and how far."""
    classifier, x, y = _problem("cifar", 4 if bench.tiny else 32, bench.tiny)
    search = attacks.build(f"minimal:gradients={20 if bench.tiny else 40}")
    logits = classifier(x).cpu()
    here = search(classifier, x, Misclassify(y), seed=0)
    classifier = classifier.to("cpu")
    bench.tell("against the CPU", "largest difference of logits", (logits - classifier(x.cpu())).abs().max().item())
    at_home = search(classifier, x.cpu(), Misclassify(y.cpu()), seed=0)
    both = here.reached.cpu() & at_home.reached
    ratio = here.rmse.cpu()[both] / at_home.rmse[both]
    alike = (here.reached.cpu() == at_home.reached).float().mean().item()
    bench.tell("against the CPU", "share of rows that end alike", alike)
    bench.tell("against the CPU", "mean of the sizes' ratios", ratio.mean().item() if both.any() else "none reached")
    if both.any():
        bench.tell("against the CPU", "largest relative difference of a size", (ratio - 1).abs().max().item())


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="smaller, in a minute on a CPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="end after so many")
    parser.add_argument("--out", type=Path, help="a file of JSON lines")
    given = parser.parse_args()
    bench = Bench(tiny=given.tiny, ends=time.monotonic() + 60 * (1.0 if given.tiny else given.minutes))
    bench.tell("machine", "device", torch.cuda.get_device_name() if ON_GPU else "cpu")
    bench.tell("machine", "torch", str(torch.__version__))
    if not (ON_GPU or bench.tiny):
        raise SystemExit("There is no GPU here: --tiny shows on a CPU that all of it runs.")
    equality(bench)
    waits(bench)
    data(bench, share=0.1)
    training(bench, share=0.15)
    searches(bench, "cifar", share=0.45)
    searches(bench, "imagenet", share=1.0)
    if given.out is not None:
        given.out.write_text("".join(json.dumps(figure) + "\n" for figure in bench.figures))
    print("\n| part | what | value | unit |\n|---|---|---|---|")
    for figure in bench.figures:
        print("| {part} | {name} | {value} | {unit} |".format(**figure))


if __name__ == "__main__":
    main()
