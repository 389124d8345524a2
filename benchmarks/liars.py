"""Whether gradients that lie are told from those that do not, on the bundled networks.

    python -m benchmarks.liars [--n 24] [--model builtin:cifar10-ordinary,builtin:cifar10-robust] --data FOLDER

One line per network and kind: the median error of the gradient against finite differences, the share of images on which
the answers stay the same to the last digit nearby, and how much of the attack's mean RMSE is left after a walk of 100
decisions. Images from number 3000 on, default search, seed 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from advex import goals
from advex.attacks import Minimal
from advex.attacks.boundary_walk import walk
from advex.attacks.slopes import compare_slopes
from advex.classifier import Classifier
from advex.data import open_dataset
from advex.lookup.models import open_models

Map = Callable[[Tensor], Tensor]
FIRST = 3000


class Backward(torch.autograd.Function):
    """A function with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Map, back: Map) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.back(gradients[0]), None, None


class Around(nn.Module):
    """A classifier with something before it, in data space, and after it."""

    def __init__(self, classifier: Classifier, before: Map, after: Map) -> None:
        super().__init__()
        self.classifier, self.before, self.after = classifier, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.classifier.logits(self.before(x)))


def same(x: Tensor) -> Tensor:
    """x."""
    return x


def at_random(gradient: Tensor) -> Tensor:
    """Another gradient of the same size."""
    return torch.randn_like(gradient) * gradient.square().mean().sqrt()


def half_detached(x: Tensor) -> Tensor:
    """x, of which every second column is cut off from the graph."""
    return torch.where(torch.arange(x.shape[-1]) % 2 == 0, x, x.detach())


def rounded(levels: int) -> Map:
    """Inputs rounded, with a gradient as if they were not."""
    return lambda x: Backward.apply(x, lambda x: (levels * x).round() / levels, same)  # pyright: ignore


KINDS: dict[str, tuple[Any, Map]] = {
    "as it is": (same, same),
    "logits times 0.001": (same, lambda logits: logits * 0.001),
    "logits times 100": (same, lambda logits: logits * 100),
    "a random gradient": (lambda x: Backward.apply(x, torch.clone, at_random), same),
    "half of the pixels detached": (half_detached, same),
    "x + 0.01 sin(300 x)": (lambda x: x + 0.01 * torch.sin(300 * x), same),
    "rounded to 8 bits, straight through": (rounded(255), same),
    "rounded to 4 bits, straight through": (rounded(15), same),
}


def lines(model: str, x: Tensor, y: Tensor) -> Iterator[str]:
    """A line of figures for each kind."""
    honest = open_models([model])[0].classifier
    for kind, (before, after) in KINDS.items():
        classifier = Classifier(Around(honest, before, after)).eval()
        result = Minimal()(classifier, x, goals.Misclassify(y))
        moved = result.reached & (result.rmse > 0)
        goal, delta = goals.Misclassify(y[moved]), result.delta[moved]
        with classifier.frozen():
            slopes = compare_slopes(classifier, goal, x[moved] + delta)
            walked = walk(classifier, x[moved], goal, delta, queries=100, seed=0).size
        left = (walked.sum() / result.rmse[moved].sum()).item()
        yield (
            f"| {model} | {kind} | {int(moved.sum())} | {result.rmse[moved].mean():.5f} | "
            f"{slopes.error.nanmedian():.3f} | {slopes.constant.double().mean():.2f} | {left:.4f} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--model", default="builtin:cifar10-ordinary,builtin:cifar10-robust")
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    batch = open_dataset(options.data, split="test").batch(slice(FIRST, FIRST + options.n))
    print("| network | kind | n | mean RMSE | error of the gradient | constant | left after the walk |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for model in options.model.split(","):
        for line in lines(model, batch.x, batch.y):
            print(line, flush=True)


if __name__ == "__main__":
    main()
