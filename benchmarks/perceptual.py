"""The perceptual search beside the authors' way: how low it comes, what it costs, and how often the class is lost.

    python -m benchmarks.perceptual --model builtin:cifar10-ordinary,builtin:cifar10-robust --data cifar10 --n 32

Three tables, of rightly decided test images. First the mean objective J of Eq. 5 (means, T = -2, lambda = 1) at 50
gradients, over that of torch's L-BFGS at 100 (as the authors call it: lr 1, no line search; the lowest that it saw). It
knows no box, and so we have none in the first two columns; the third is of the box [0, 1], which may cost something.
Then CPU milliseconds per gradient and image, all ways in turn within each round, medians over the rounds: the authors'
way (the layers' answers in a second pass, references that keep their graph, derivatives of the weights), a careful loop
(frozen weights, one pass, image by image), the search itself with the whole batch, and the bare gradient of J of the
batch. Last the share of images that lose their class, with `perceptual=auto` and at fixed weights.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import advex
from advex import attacks
from advex.classifier import Classifier
from advex.goals import Misclassify
from advex.measures import intervals
from advex.reach import is_activation
from advex.types import take

WEIGHTS = (1e4, 1e2, 1.0)
TARGET = -2.0


class Loss:
    """J image by image or of a batch, from its definition: hooks on the activations, means of squares.

    careful: one pass, constant references; else the authors' way.
    """

    def __init__(self, classifier: Classifier, x: Tensor, y: Tensor, weight: float, *, careful: bool) -> None:
        self.network, self.y, self.weight, self.careful = classifier.network, y, weight, careful
        self.start = classifier.normalised(x)
        references = self.pass_of(self.start)[1]
        self.references = [each.detach() for each in references] if careful else references

    def pass_of(self, u: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and what the activations answer."""
        answers: list[Any] = []
        activations = [module for module in self.network.modules() if is_activation(module)]
        hooks = [
            each.register_forward_hook(lambda module, given, answer: answers.append(answer)) for each in activations
        ]
        logits = self.network(u)
        for hook in hooks:
            hook.remove()
        return logits, answers

    def __call__(self, u: Tensor) -> Tensor:
        """J [n] at normalised images."""
        logits, answers = self.pass_of(u)
        if not self.careful:
            _, answers = self.pass_of(u)
        own = logits.gather(1, self.y[:, None])[:, 0]
        margin = own - logits.scatter(1, self.y[:, None], -torch.inf).amax(dim=1)
        value = (margin - TARGET) ** 2 + ((u - self.start) ** 2).flatten(1).mean(dim=1)
        for answer, reference in zip(answers, self.references, strict=True):
            value = value + self.weight * ((answer - reference) ** 2).flatten(1).mean(dim=1)
        return value


def by_torch(loss: Loss, gradients: int) -> tuple[float, int]:
    """torch's L-BFGS on one image: the lowest J that it saw, and how many gradients it took."""
    u = loss.start.detach().clone().requires_grad_()
    seen: list[float] = []
    optimiser = torch.optim.LBFGS([u], max_iter=gradients, max_eval=gradients)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(u).sum()
        value.backward(retain_graph=not loss.careful)
        seen.append(value.item())
        return value.detach()

    optimiser.step(closure)
    return min(seen), len(seen)


def bare(loss: Loss, gradients: int) -> int:
    """The gradient of J of the whole batch, at points near x, so many times."""
    for k in range(gradients):
        u = (loss.start + 1e-3 * k).requires_grad_()
        torch.autograd.grad(loss(u).sum(), u)
    return gradients


def heights(classifier: Classifier, x: Tensor, y: Tensor) -> Iterator[str]:
    """Lines of the first table."""
    for weight in WEIGHTS:
        theirs = [
            by_torch(Loss(classifier, a, b, weight, careful=True), 100)[0]
            for a, b in zip(x.split(1), y.split(1), strict=True)
        ]
        best, loss = torch.tensor(theirs), Loss(classifier, x, y, weight, careful=True)
        mean, std = classifier.mean.tolist(), classifier.std.tolist()
        unbounded, ratios = Classifier(classifier.network, box=(-100, 101), mean=mean, std=std).eval(), []
        for network, gradients in ((unbounded, 50), (unbounded, 100), (classifier, 50)):
            search = attacks.build(f"perceptual:perceptual={weight},gradients={gradients}")
            change = search(network, x, Misclassify(y))
            value = loss(classifier.normalised(change.adversarial)).detach()
            ratios.append((value.mean() / best.mean()).item())
        yield f"| {weight:g} | {best.mean():.4f} | {' | '.join(f'{ratio:.4f}' for ratio in ratios)} |"


def costs(classifier: Classifier, x: Tensor, y: Tensor, rounds: int, gradients: int) -> str:
    """The line of the second table."""
    search, few = attacks.build(f"perceptual:perceptual=100,gradients={gradients}"), min(4, len(x))

    def each(careful: bool) -> Callable[[], float]:
        def run() -> float:
            classifier.requires_grad_(not careful)
            total = 0
            for i in range(few):
                rows = slice(i, i + 1)
                total += by_torch(Loss(classifier, x[rows], y[rows], 100.0, careful=careful), gradients)[1]
            return float(total)

        return run

    def ours() -> float:
        return float(search(classifier, x, Misclassify(y)).gradients.sum())

    ways: dict[str, Callable[[], float]] = {
        "authors": each(False), "careful": each(True), "ours": ours,
        "bare": lambda: float(len(x) * bare(Loss(classifier, x, y, 100.0, careful=True), gradients)),
    }  # fmt: skip
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            began = time.process_time()
            count = run()
            if number:  # the first round warms up
                spent[name].append(1000 * (time.process_time() - began) / count)
            classifier.requires_grad_(False)
    cost = {name: statistics.median(values) for name, values in spent.items()}
    ratios = (
        statistics.median(a / b for a, b in zip(spent[first], spent[second], strict=True))
        for first, second in (("authors", "ours"), ("careful", "ours"), ("ours", "bare"))
    )
    line = " | ".join(f"{cost[name]:.2f}" for name in ways)
    return f"| {line} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


def losses(classifier: Classifier, x: Tensor, y: Tensor, rows: int) -> Iterator[str]:
    """Lines of the third table."""
    for weight in ("auto", *WEIGHTS):
        change = attacks.build(f"perceptual:perceptual={weight}")(classifier, x, Misclassify(y), max_batch=rows)
        low, high = intervals.wilson(int(change.reached.sum()), len(x))
        rmse = change.rmse[change.reached].mean() if change.reached.any() else torch.nan
        share, gradients = change.reached.double().mean(), change.gradients.double().mean()
        yield f"| {weight} | {share:.1%} [{low:.1%}, {high:.1%}] | {rmse:.4f} | {gradients:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:cifar10-ordinary,builtin:cifar10-robust")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--n", type=int, default=32, help="images of a batch, in the first two tables")
    parser.add_argument("--flipped", type=int, default=100, help="images of the third table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gradients", type=int, default=15, help="of each way and round, in the second table")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    for source in args.model.split(","):
        classifier = advex.load(source).eval().requires_grad_(False)
        most = max(args.n, args.flipped)
        batch = advex.open_dataset(args.data, split="test", max_samples=2 * most + 100, seed=0).batch(slice(None))
        right = (classifier.predict(batch.x).argmax(dim=1) == batch.y).nonzero()[:, 0]
        few, many = take(batch, right[: args.n]), take(batch, right[: args.flipped])
        modules = sum(map(is_activation, classifier.modules()))
        print(f"\n{source}, {modules} layers")
        print("\n| lambda' | J of torch at 100 | ours at 50 | at 100 | at 50, in the box |\n|--:|--:|--:|--:|--:|")
        for line in heights(classifier, few.x, few.y):
            print(line, flush=True)
        print(
            "\n| authors | careful | ours | bare | authors / ours | careful / ours | ours / bare |\n"
            "|--:|--:|--:|--:|--:|--:|--:|"
        )
        print(costs(classifier, few.x, few.y, args.rounds, args.gradients), flush=True)
        print(
            f"\nn = {len(many.x)}\n\n| lambda' | lost their class | mean RMSE of these | gradients |\n|--:|--:|--:|--:|"
        )
        for line in losses(classifier, many.x, many.y, args.n):
            print(line, flush=True)


if __name__ == "__main__":
    main()
