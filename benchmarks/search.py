"""The size of the smallest changes that searches find, beside other libraries', in one table per network.

    python -m benchmarks.search --model builtin:cifar10-ordinary,builtin:cifar10-robust --data cifar10 --n 64 --skip 200
    python -m benchmarks.search --toys --peers

Each line is one search of misclassification, in L2, on the same rightly classified images or rows. `mean / best` is
the mean RMSE over that of the best: of the exact optimum on a toy (`tests/test_minimal.py`), otherwise of the smallest
change that any line found; both over the rows that the line moves. `off` is the share of rows more than 1 % above the
best, failures among them; `worst` the largest ratio without them. A gradient is one row's backward pass through the
network and a query one forward pass without it, per row, counted at the network whoever asks. Changes are cut to the
valid range, and count as far as they move the decision then.

`each class` sends `minimal` to every wrong class in turn and keeps the smallest. It is no bound: all of these may end
in poor minima of their own.

--peers: foolbox's DDN, adv-lib's FMN, DDN and ALMA, and pyautoattack's FAB towards each of nine classes, as they come,
for 100 steps; for development alone (`pip install foolbox adv-lib pyautoattack`). foolbox's L2 FMN is left out: in
3.3.4 its projection scales by a norm over itself, so that nothing ever shrinks, and changes are 1.5 to 6 times as
large.
"""

from __future__ import annotations

import argparse
import importlib
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import advex
from advex import attacks, goals
from advex.classifier import Classifier
from advex.types import take

EACH_CLASS = "each class"
STEPS = 100
# Of a classifier in the unit box, its inputs and their classes: the changed inputs.
Peer = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One search. rmse: [n], inf where it failed. gradients, queries: per row. seconds: of all rows."""

    search: str
    rmse: Tensor
    gradients: float
    queries: float
    seconds: float


class UnitBox(nn.Module):
    """A classifier whose valid inputs are [0, 1], which is all that the peers know."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.outside(x))

    def outside(self, unit: Tensor) -> Tensor:
        """The classifier's own input."""
        box = self.classifier.box.to(unit)
        return box.lower + (box.upper - box.lower) * unit

    def inside(self, x: Tensor) -> Tensor:
        """The input between 0 and 1."""
        box = self.classifier.box.to(x)
        return (x - box.lower) / (box.upper - box.lower)


def library(name: str) -> Any:
    """A module of another library, which is no requirement of advex."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"--peers needs other libraries ({error}): pip install foolbox adv-lib pyautoattack") from None


def foolbox_ddn(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    foolbox = library("foolbox")
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return foolbox.attacks.DDNAttack(steps=STEPS)(bounded, x, y, epsilons=None)[1]


def fab(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The nearest of all classes: by itself it would stop at the first one within a radius."""
    attack = library("pyautoattack.fab_pt").FABAttack_PT(model, norm="L2", n_iter=STEPS, device=x.device)
    found = []
    for attack.target_class in range(2, model(x[:1]).shape[1] + 1):
        found.append(attack.attack_single_run(x, y, is_targeted=True))
    every = torch.stack(found)
    moved = torch.stack([model(each).argmax(dim=1) != y for each in found])
    size = torch.where(moved, (every - x).flatten(2).norm(dim=2), torch.inf)
    return every[size.argmin(dim=0), torch.arange(len(x), device=x.device)]


PEERS: dict[str, Peer] = {
    "DDN, foolbox": foolbox_ddn,
    "DDN, adv-lib": lambda model, x, y: library("adv_lib.attacks").ddn(model, x, y, steps=STEPS),
    "FMN, adv-lib": lambda model, x, y: library("adv_lib.attacks").fmn(model, x, y, norm=2, steps=STEPS),
    "ALMA, adv-lib": lambda model, x, y: library("adv_lib.attacks").alma(model, x, y, num_steps=STEPS, distance="l2"),
    "FAB-T, pyautoattack": fab,
}
MANY_CLASSES = ("ALMA, adv-lib",)  # that cannot be asked about two


@contextmanager
def counted(network: nn.Module) -> Iterator[dict[str, int]]:
    """Counts rows of forward and of backward passes."""
    rows = {"forward": 0, "backward": 0}

    def forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows["forward"] += len(inputs[0])

    def backward(module: nn.Module, gradients: tuple[Tensor, ...]) -> None:
        rows["backward"] += len(gradients[0])

    handles = [network.register_forward_pre_hook(forward), network.register_full_backward_pre_hook(backward)]  # pyright: ignore[reportArgumentType]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def changed_by(spec: str, classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """What one of advex's searches makes of x."""
    if spec != EACH_CLASS:
        return x + attacks.build(spec)(classifier, x, goals.Misclassify(y)).delta
    classes = classifier.predict(x[:1]).shape[1]
    found = [attacks.Minimal()(classifier, x, goals.Become((y + k) % classes)) for k in range(1, classes)]
    nearest = torch.stack([result.rmse for result in found]).argmin(dim=0)
    return x + torch.stack([result.delta for result in found])[nearest, torch.arange(len(x), device=x.device)]


def measure(name: str, classifier: Classifier, x: Tensor, y: Tensor) -> Line:
    """One line of the table."""
    began = time.perf_counter()
    with counted(classifier.network) as rows, classifier.frozen():
        if name in PEERS:
            unit = UnitBox(classifier).eval()
            changed = unit.outside(PEERS[name](unit, unit.inside(x).clamp(0, 1), y).detach())
        else:
            changed = changed_by(name, classifier, x, y)
    seconds = time.perf_counter() - began
    delta = classifier.box.confine(x, (changed - x).to(x.dtype))
    rmse = torch.where(classifier.predict(x + delta).argmax(dim=1) != y, classifier.norm("rmse").size(delta), torch.inf)
    gradients, queries = rows["backward"] / len(x), (rows["forward"] - rows["backward"]) / len(x)
    return Line(search=name, rmse=rmse, gradients=gradients, queries=queries, seconds=seconds)


def table(lines: list[Line], exact: Tensor | None) -> str:
    """The lines as Markdown."""
    best = torch.stack([line.rmse for line in lines]).amin(dim=0) if exact is None else exact
    text = [
        "| search | mean RMSE | mean / best | off | worst | gradients | queries | failures | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for line in lines:
        moved = torch.isfinite(line.rmse)
        ratio, mean = line.rmse / best, line.rmse[moved].mean()
        worst = max(ratio[moved].tolist(), default=math.nan)
        text.append(
            f"| {line.search} | {mean:.6f} | {mean / best[moved].mean():.4f} | {(ratio > 1.01).double().mean():.0%} "
            f"| {worst:.3f} | {line.gradients:.0f} | {line.queries:.0f} | {int((~moved).sum())} | {line.seconds:.0f} |"
        )
    return "\n".join(text)


def networks(args: argparse.Namespace) -> Iterator[tuple[str, Classifier, Tensor, Tensor, Tensor | None]]:
    """(name, classifier, inputs, their classes, exact RMSE where it is known)."""
    for source in filter(None, args.model.split(",")):
        classifier = advex.load(source)
        data = advex.open_dataset(args.data, split="test", max_samples=2 * (args.skip + args.n) + 100, seed=0)
        batch = data.batch(slice(None))
        right = (classifier.predict(batch.x).argmax(dim=1) == batch.y).nonzero()[:, 0]
        kept = take(batch, right[args.skip : args.skip + args.n])
        yield source, classifier, kept.x, kept.y, None
    if args.toys:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        makers: Any = importlib.import_module("conftest")
        toys: Any = importlib.import_module("test_minimal").TOYS
        for name, make in toys.items():
            classifier, x, exact = make(SimpleNamespace(affine=makers.affine, spheres=makers.spheres))
            classifier, x = classifier.float(), x.float()
            yield name, classifier, x, classifier.predict(x).argmax(dim=1), exact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folders of saved classifiers or builtin:NAME, with commas")
    parser.add_argument("--toys", action="store_true", help="also small networks of which the optimum is known")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many right images")
    parser.add_argument(
        "--search", nargs="*", default=["minimal:gradients=40", "minimal", "minimal:gradients=300"],
        help=f"of advex: specs, or '{EACH_CLASS}'",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, help="also other libraries', all or these (development only)"
    )
    args = parser.parse_args()
    if not (args.model or args.toys):
        parser.error("Of which networks? --model, or --toys, or both.")
    searches = [*args.search, *([] if args.peers is None else args.peers or PEERS)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    for name, classifier, x, y, exact in networks(args):
        lines, classes = [], classifier.predict(x[:1]).shape[1]
        for search in searches:
            if search in MANY_CLASSES and classes < 3:
                continue
            lines.append(measure(search, classifier, x, y))
            print(f"{name}, {search}: {lines[-1].seconds:.0f} s", file=sys.stderr, flush=True)
        print(f"\n{name}, n = {len(x)}\n\n{table(lines, exact)}", flush=True)


if __name__ == "__main__":
    main()
