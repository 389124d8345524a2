"""Draws the pictures of docs/theory-concise-explanations.md: what Chalasani et al. 2020 prove, and what it looks like.

    python -m benchmarks.theory update stable spambase --data DATA/spambase --out docs/images

update: the expected update of one weight against the strength of its feature (Theorem 3.1), by Monte Carlo and as
bounded. stable: the stable-IG risk against the adversarial risk (Theorem 5.1), where they are equal and where not.
spambase: the weights of logistic regressions trained against larger and larger changes.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from advex.attacks import PGD
from advex.classifier import Classifier
from advex.goals import Misclassify, Unstable
from advex.types import Batch

INK = ["#8a8a8a", "#2a7f9e", "#b8860b", "#b03a2e"]


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal draws in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def saved(figure: Any, path: Path) -> None:
    """Write it as PNG, on white."""
    figure.savefig(path, dpi=160, facecolor="white", bbox_inches="tight")
    plt.close(figure)
    print(path)


# -- Theorem 3.1 -------------------------------------------------------------------------------------------


def updates(a: float, epsilon: float, w: float, n: int = 100_000) -> tuple[float, float, float]:
    """Of a feature of strength a and weight w > 0: mean update, three standard errors of it, and g'-bar (a - epsilon).

    Logistic loss; beside it stand four other features with weights of their own.
    """
    y = torch.where(torch.rand(n, generator=torch.Generator().manual_seed(1)) < 0.5, 1.0, -1.0).double()
    others = torch.tensor([0.5, 0.3, -0.2, 0.0]).double()
    weights = torch.tensor([w, 0.4, 0.3, -0.3, 0.1]).double()
    x = y[:, None] * torch.cat([torch.tensor([a]).double(), others]) + normal(n, 5, seed=2)
    slope = torch.sigmoid(epsilon * weights.abs().sum() - y * (x @ weights))  # g' of Eq. 9
    update = slope * (y * x[:, 0] - epsilon)
    return update.mean().item(), 3 * (update.std() / n**0.5).item(), (slope.mean() * (a - epsilon)).item()


def update(out: Path, data: Path | None) -> None:
    """Update against strength, for three epsilons and two sizes of the weight."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.9), sharey=True, layout="constrained")
    strengths = np.linspace(0, 0.6, 13)
    for axis, w in zip(axes, (0.001, 0.5), strict=True):
        for epsilon, ink in zip((0.0, 0.15, 0.3), INK, strict=False):
            found = np.array([updates(a, epsilon, w) for a in strengths])
            axis.plot(strengths, found[:, 2], color=ink, linewidth=1.4)
            axis.errorbar(strengths, found[:, 0], found[:, 1], fmt="o", color=ink, markersize=4, capsize=2,
                          label=f"ε = {epsilon:g}")  # fmt: skip
            axis.plot(epsilon, 0, marker="|", color=ink, markersize=16, markeredgewidth=2)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(f"weight {w:g}: " + ("the two are equal" if w < 0.1 else "the update lies below the bound"),
                       fontsize=10.5)  # fmt: skip
        axis.set_xlabel("strength a of the feature, E[x y]")
    axes[0].set_ylabel("expected update of its weight\n(above 0: grows, below: shrinks)")
    axes[0].legend(title="points: 100,000 draws, ±3σ\nlines: bound of Eq. 12", loc="lower right", frameon=False)
    saved(figure, out / "theory-update.png")


# -- Theorem 5.1 -------------------------------------------------------------------------------------------


def linear_risks(g: Any, count: int = 300, d: int = 4) -> tuple[Tensor, Tensor]:
    """(adversarial, stable-IG) risks of random one-layer models, each the largest over all corners and 200 points."""
    x, w, y = normal(count, d, seed=3), 1.2 * normal(count, d, seed=4), normal(count, seed=5).sign()
    cube = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=d))).double()
    within = 2 * torch.rand(200, d, generator=torch.Generator().manual_seed(6), dtype=torch.float64) - 1
    delta = 0.5 * torch.cat([cube, within])[:, None]
    before = -y * (w * x).sum(dim=1)
    moved = -y * (w * delta).sum(dim=2)
    rise = g(before + moved) - g(before)
    norm = rise.abs() * (w * delta).abs().sum(dim=2) / moved.abs()  # Lemma 4.1
    return g(before) + rise.amax(dim=0), g(before) + norm.amax(dim=0)


def network_risks(count: int = 300) -> tuple[Tensor, Tensor]:
    """The same of a random network with a hidden layer, by search; its own x' counts for both, as a lower bound."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier("mlp:features=4,classes=2,widths=16,activation=silu", box=(-9.0, 9.0)).double().eval()
    with torch.no_grad():
        classifier.network[-1].weight.mul_(5)  # pyright: ignore
    x, y = normal(count, 4, seed=7), torch.arange(count) % 2
    goal = Unstable(x=x, y=y, points=10)
    ours = PGD(norm="linf", radius=0.5, steps=10, random_start=False)(classifier, x, goal).adversarial
    worst = PGD(norm="linf", radius=0.5, steps=10)(classifier, x, Misclassify(y, temperature=1.0)).adversarial
    with torch.no_grad():
        clean, *rest = (cross_entropy(classifier(at), y, reduction="none") for at in (x, ours, worst))
        norm = torch.maximum(goal.size(classifier, ours), goal.size(classifier, worst))
    return torch.maximum(*rest), clean + norm


def stable(out: Path, data: Path | None) -> None:
    """How far the one risk lies above the other, three times."""
    shown = {
        "one layer, convex losses:\nequal (Theorem 5.1)": [("logistic", *linear_risks(softplus)),
                                                          ("hinge", *linear_risks(lambda z: (1 + z).clamp_min(0)))],
        "one layer, a loss that saturates:\nequal or above": [("sigmoid", *linear_risks(torch.sigmoid))],
        "a network with a hidden layer:\nequal or above": [("cross-entropy, by search", *network_risks())],
    }  # fmt: skip
    figure, axes = plt.subplots(1, 3, figsize=(10.4, 3.8), layout="constrained")
    for axis, (title, series) in zip(axes, shown.items(), strict=True):
        for (name, adversarial, risk), ink, mark in zip(series, (INK[1], INK[3]), "ox", strict=False):
            axis.scatter(adversarial, risk - adversarial, s=14, color=ink, marker=mark, linewidths=0.9, alpha=0.7,
                         label=name)  # fmt: skip
        axis.axhline(0, color="black", linewidth=0.8, zorder=0)
        axis.set_ylim(-0.05, 0.95)
        axis.set_title(title, fontsize=10.5)
        axis.set_xlabel("adversarial risk")
        axis.legend(loc="upper left", frameon=False)
    axes[0].set_ylabel("stable-IG risk (Eq. 17)\nless adversarial risk")
    saved(figure, out / "theory-stable.png")


# -- few weights -------------------------------------------------------------------------------------------


def table(path: Path) -> Batch:
    """A CSV of numbers whose last column is the label."""
    values = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=1))
    return Batch(x=values[:, :-1].float(), y=values[:, -1].long())


def trained(data: Batch, epsilon: float, epochs: int = 30) -> tuple[Tensor, Tensor]:
    """(w [d], bias []) of a logistic regression by Eq. 8, whose adversary needs no search: Adagrad, batches of 32."""
    rng = torch.Generator().manual_seed(0)
    w = (0.05 * torch.randn(data.x.shape[1], generator=rng)).requires_grad_(True)
    bias = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adagrad([w, bias], lr=0.01, initial_accumulator_value=0.1)
    y = 2.0 * data.y - 1
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=rng).split(32):
            optimiser.zero_grad()
            softplus(epsilon * w.abs().sum() - y[rows] * (data.x[rows] @ w + bias)).mean().backward()
            optimiser.step()
    return w.detach(), bias.detach()


def gini(values: Tensor) -> Tensor:
    """Of the sizes in each row [n, d] -> [n]."""
    ordered = values.abs().sort(dim=1).values
    d = values.shape[1]
    return (2 * torch.arange(1, d + 1) - d - 1).mul(ordered).sum(dim=1) / (d * ordered.sum(dim=1))


def spambase(out: Path, data: Path | None) -> None:
    """Weights by size on the left; on the right how sparse attributions are, and what that costs."""
    if data is None:
        raise SystemExit("spambase needs --data: the folder with its train.csv and test.csv.")
    train, test = table(data / "train.csv"), table(data / "test.csv")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
    epsilons = (0.0, 0.05, 0.1, 0.2)
    right_ones, sparse = [], []
    for epsilon, ink in zip(epsilons, INK, strict=True):
        w, bias = trained(train, epsilon)
        large = int((w.abs() > 0.05).sum())
        left.plot(range(1, len(w) + 1), w.abs().sort(descending=True).values, color=ink, linewidth=1.8,
                  label=f"ε = {epsilon:g}: {large} above 0.05")  # fmt: skip
        right_ones.append(((test.x @ w + bias > 0) == (test.y == 1)).double().mean().item())
        sparse.append(gini(test.x * w).mean().item())  # Lemma 4.1: this, times a number per example
        print(f"epsilon {epsilon:g}: accuracy {right_ones[-1]:.4f}, Gini {sparse[-1]:.4f}, {large} weights above 0.05")
    left.set_xlabel("feature, by the size of its weight")
    left.set_ylabel("|weight|")
    left.legend(frameon=False)
    left.set_title("Spambase: 57 weights", fontsize=10.5)
    right.plot(epsilons, sparse, "o-", color=INK[1], label="Gini index of the attributions")
    right.plot(epsilons, right_ones, "s-", color=INK[3], label="accuracy on the test set")
    right.set_xlabel("ε in training (standard deviations)")
    right.set_ylim(0.5, 1)
    right.legend(frameon=False, loc="lower right")
    right.set_title("sparser attributions, and their price", fontsize=10.5)
    saved(figure, out / "theory-spambase.png")


PICTURES = {"update": update, "stable": stable, "spambase": spambase}


def main() -> None:
    """Draw the pictures named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", choices=list(PICTURES))
    parser.add_argument("--data", type=Path, help="folder with spambase's train.csv and test.csv")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.pictures:
        PICTURES[name](given.out, given.data)


if __name__ == "__main__":
    main()
