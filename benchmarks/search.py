"""Quality and cost of the searches on one network and one batch, in one table.

    python -m benchmarks.search --model builtin:cifar10-robust --data cifar10 --n 128
    python -m benchmarks.search --network preact_resnet:depth=44 --n 128 --only minimal --compile --bf16

`overhead` is the wall time divided by (gradients per image x one bare forward and input-backward pass of the
same network and batch); the bare pass is timed before and after each search, and the median is used.
`ratio` is the mean RMSE divided by that of the papers' own attack, `algorithm1:published=true`, whose result
is not cut to the valid range; `valid` is the share of results that still reach the goal once it is.
`--only "minimal;each class"` sends `minimal` to every wrong class in turn and keeps the smallest: how much is lost by
following the wrong class. It is no bound: all of these may end in poor minima of their own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

import advex
from advex import attacks, goals
from advex.classifier import Classifier, input_gradient
from advex.goals import Goal
from advex.types import Perturbation, concatenate, take

EACH_CLASS = "each class"
SEARCHES = {
    "misclassify": (
        "algorithm1:published=true",
        "algorithm1",
        "minimal",
        "minimal:gradients=40",
        "pgd:norm=l2,radius=0.5,steps=40",
        "l2min",
    ),
    "below_chance": ("algorithm1:published=true", "algorithm1", "minimal", "minimal:gradients=40"),
}
COLUMNS = (
    "goal", "search", "mode", "gradients", "mean RMSE", "median RMSE", "ratio", "failures", "valid", "seconds",
    "overhead",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table. gradients: mean per image. seconds: wall time. bare: of one pass."""

    goal: str
    search: str
    mode: str
    found: Perturbation
    valid: float
    seconds: float
    bare: float

    @property
    def gradients(self) -> float:
        return self.found.gradients.double().mean().item()

    @property
    def overhead(self) -> float:
        return self.seconds / (self.gradients * self.bare)


def bare_pass(classifier: Classifier, x: Tensor, goal: Goal) -> float:
    """Seconds of one forward and input-backward pass of the network alone."""
    with classifier.frozen():
        began = time.perf_counter()
        input_gradient(lambda changed: goal(classifier, changed).loss, x)
        return time.perf_counter() - began


def to_each_class(classifier: Classifier, x: Tensor, goal: Goal) -> Perturbation:
    """The smallest of one search per wrong class (`goal` is Misclassify), and the gradients of all."""
    y = cast(goals.Misclassify, goal).y
    classes = classifier.predict(x[:1]).shape[1]
    found = [attacks.Minimal()(classifier, x, goals.Become((y + k) % classes)) for k in range(1, classes)]
    smallest = torch.stack([one.rmse for one in found]).argmin(dim=0)
    best = take(concatenate(found), smallest * len(x) + torch.arange(len(x), device=x.device))
    return replace(best, gradients=torch.stack([one.gradients for one in found]).sum(dim=0))


def search_of(spec: str) -> Callable[[Classifier, Tensor, Goal], Perturbation]:
    """The search of a line of the table."""
    return to_each_class if spec == EACH_CLASS else attacks.build(spec)


def measure(
    classifier: Classifier, x: Tensor, goal: Goal, name: str, spec: str, *, compiled: bool, bfloat16: bool
) -> Row:
    """Run one search, with bare passes timed around it."""
    bare = [bare_pass(classifier, x, goal) for _ in range(3)]
    with classifier.accelerated(compiled=compiled, bfloat16=bfloat16):
        if compiled:  # paid once per network and batch size: an evaluation of many batches hardly feels it
            search_of(spec)(classifier, x, goal)
        began = time.perf_counter()
        found = search_of(spec)(classifier, x, goal)
        seconds = time.perf_counter() - began
    bare += [bare_pass(classifier, x, goal) for _ in range(3)]
    clipped = classifier.box.confine(x, found.delta)
    with classifier.frozen(), torch.no_grad():
        holds = goal(classifier, x + clipped).reached & found.reached
    valid = (holds.sum() / found.reached.sum().clamp_min(1)).item()
    mode = "+".join(["compile"] * compiled + ["bf16"] * bfloat16) or "float32"
    return Row(name, spec, mode, found, valid, seconds, statistics.median(bare))


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|---|" + "--:|" * (len(COLUMNS) - 3),
    ]
    for row in rows:
        reference = next((r for r in rows if r.goal == row.goal and "published" in r.search), None)
        both = row.found.reached if reference is None else row.found.reached & reference.found.reached
        mean, median = row.found.rmse[both].mean().item(), row.found.rmse[both].median().item()
        ratio = "" if reference is None else f"{mean / reference.found.rmse[both].mean().item():.3f}"
        lines.append(
            f"| {row.goal} | {row.search} | {row.mode} | {row.gradients:.1f} | {mean:.5f} | {median:.5f} | {ratio} "
            f"| {int((~row.found.reached).sum())} | {row.valid:.0%} | {row.seconds:.1f} | {row.overhead:.2f} |"
        )
    return "\n".join(lines)


def examples(classifier: Classifier, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """n images that the classifier gets right; for a fresh network, noise and its own answers."""
    if args.model is None:
        x = torch.rand(args.n, *map(int, args.shape.split("x")), generator=torch.Generator().manual_seed(0))
        return x, classifier.predict(x).argmax(dim=1)
    data = advex.open_dataset(args.data, split="test", max_samples=4 * args.n + 200, seed=0)
    batch = data.batch(slice(None))
    right = (classifier.predict(batch.x).argmax(dim=1) == batch.y).nonzero()[:, 0]
    kept = take(batch, right[args.skip : args.skip + args.n])
    return kept.x, kept.y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a saved classifier, or builtin:NAME")
    parser.add_argument("--network", default="preact_resnet:depth=44", help="spec of a fresh network, without --model")
    parser.add_argument("--shape", default="3x32x32", help="input shape for a fresh network")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many right images")
    parser.add_argument("--only", help="specs to run, separated by semicolons")
    parser.add_argument("--goals", default="misclassify,below_chance")
    parser.add_argument("--compile", action="store_true", help="also run compiled")
    parser.add_argument("--bf16", action="store_true", help="also run in bfloat16")
    args = parser.parse_args()

    torch.manual_seed(0)
    classifier = advex.load(args.model) if args.model else advex.Classifier(args.network).eval()
    x, y = examples(classifier, args)
    modes = [(False, False)] + [(True, False)] * args.compile + [(False, True)] * args.bf16
    if args.compile and args.bf16:
        modes.append((True, True))
    make: dict[str, Callable[[Tensor], Goal]] = {"misclassify": goals.Misclassify, "below_chance": goals.BelowChance}
    print(
        f"{args.model or args.network}, n = {len(x)}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}\n"
    )
    rows = []
    for name in args.goals.split(","):
        for spec in args.only.split(";") if args.only else SEARCHES[name]:
            for compiled, bfloat16 in modes:
                rows.append(measure(classifier, x, make[name](y), name, spec, compiled=compiled, bfloat16=bfloat16))
                print(f"{name} {spec} {rows[-1].mode}: {rows[-1].seconds:.1f} s", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main()
