"""Robust accuracy of the bundled networks by the suite `standard`, beside pyautoattack's standard version (`--peer`).

    python -m benchmarks.suite --model builtin:cifar10-robust --data cifar10 --n 100 --radius linf:8/255,l2:0.5
    python -m benchmarks.suite --peer ...

The same images for both. A gradient is one image's forward pass with a derivative, a query one without; both programs'
passes are counted at the network, and are given per image, of all n.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import advex
from advex.attacks.suite import Ball, members, overcome
from advex.classifier import Classifier
from advex.goals import Misclassify
from advex.measures import wilson
from advex.types import take

PEER_NORMS = {"linf": "Linf", "l2": "L2"}


@dataclass
class Passes:
    """Rows that a network was asked about. gradients: with a derivative by the input. queries: without."""

    gradients: int = 0
    queries: int = 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One network at one radius by one program. stands: [n] bool. broken: by search, how many it moved."""

    model: str
    radius: str
    program: str
    stands: Tensor
    accuracy: float
    passes: Passes
    seconds: float
    broken: dict[str, int] = field(default_factory=dict)


@contextmanager
def counted(network: nn.Module) -> Iterator[Passes]:
    """Counts the rows that the network is asked about."""
    passes = Passes()

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled() and inputs[0].requires_grad:
            passes.gradients += len(inputs[0])
        else:
            passes.queries += len(inputs[0])

    handle = network.register_forward_pre_hook(hook)
    try:
        yield passes
    finally:
        handle.remove()


def ours(name: str, classifier: Classifier, x: Tensor, y: Tensor, text: str, suite: str) -> Line:
    """`evaluate --radius` without its record."""
    ball = Ball.of(text)
    searches = members((suite,), ball)
    right = classifier.predict(x).argmax(dim=1) == y
    began = time.perf_counter()
    with counted(classifier.network) as passes:
        at = right.nonzero()[:, 0]
        by = torch.cat([
            overcome(searches, classifier, x[rows], Misclassify(y[rows]), ball).by for rows in at.split(128)
        ])  # fmt: skip
    stands = right.clone()
    stands[at] = by < 0
    broken = {search: int((by == number).sum()) for number, search in enumerate(searches)}
    seconds = time.perf_counter() - began
    return Line(
        model=name, radius=text, program=f"advex, {suite}", stands=stands, accuracy=right.double().mean().item(),
        passes=passes, seconds=seconds, broken=broken,
    )  # fmt: skip


def peer(name: str, classifier: Classifier, x: Tensor, y: Tensor, text: str) -> Line:
    """pyautoattack's standard version."""
    from pyautoattack import AutoAttack  # pyright: ignore[reportMissingImports]

    ball = Ball.of(text)
    right = classifier.predict(x).argmax(dim=1) == y
    began = time.perf_counter()
    with counted(classifier.network) as passes, classifier.frozen():
        attack = AutoAttack(classifier, norm=PEER_NORMS[ball.norm.name], eps=ball.radius, seed=0, device="cpu")
        changed = attack.run_standard_evaluation(x, y, batch_size=128)
        changed = changed[0] if isinstance(changed, tuple) else changed
    stands = classifier.predict(changed.clamp(0, 1)).argmax(dim=1) == y
    return Line(
        model=name, radius=text, program="pyautoattack, standard", stands=stands,
        accuracy=right.double().mean().item(), passes=passes, seconds=time.perf_counter() - began,
    )  # fmt: skip


def show(line: Line, before: Line | None) -> str:
    """A line of the table, in Markdown."""
    hits, n = int(line.stands.sum()), len(line.stands)
    low, high = wilson(hits, n)
    ratio = "" if before is None else f"{before.passes.gradients / max(line.passes.gradients, 1):.2f}"
    only = [] if before is None else [before.stands & ~line.stands, ~before.stands & line.stands]
    alone = ", ".join(str(int(each.sum())) for each in only)
    broken = ", ".join(f"{search} {count}" for search, count in line.broken.items())
    return (
        f"| {line.model} | {line.radius} | {line.program} | {n} | {line.accuracy:.1%} | {hits / n:.1%} "
        f"[{100 * low:.1f}, {100 * high:.1f}] | {line.passes.gradients / n:.0f} | {line.passes.queries / n:.0f} "
        f"| {ratio} | {alone} | {broken} | {line.seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folders of saved classifiers or builtin:NAME, with commas")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--radius", default="linf:8/255,l2:0.5")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--peer", action="store_true", help="also pyautoattack (development only)")
    parser.add_argument("--out", type=Path, help="also a JSON line per row, with what stands")
    args = parser.parse_args()
    data = advex.open_dataset(args.data, split="test", max_samples=args.n, seed=0)
    batch = take(data.batch(slice(None)), slice(0, args.n))
    print(f"n = {len(batch)}, torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}\n")
    print("| network | radius | program | n | accuracy | robust accuracy | gradients | queries | ours / theirs "
          "| only they, only we moved | first moved by | seconds |")  # fmt: skip
    print("|---|---|---|--:|--:|--:|--:|--:|--:|--:|---|--:|")
    for source in args.model.split(","):
        classifier = advex.load(source)
        for radius in args.radius.split(","):
            lines = [ours(source, classifier, batch.x, batch.y, radius, args.suite)]
            if args.peer:
                lines.append(peer(source, classifier, batch.x, batch.y, radius))
            for line, before in zip(lines, [None, *lines], strict=False):
                print(show(line, before), flush=True)
                if args.out is not None:
                    row = {"model": source, "radius": radius, "program": line.program, "stands": line.stands.tolist(),
                           "gradients": line.passes.gradients, "queries": line.passes.queries}  # fmt: skip
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
    print(f"python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
