"""What an attack on maps finds, by what it climbs, and what it costs.

    ADVEX_DATA=DIR python -m benchmarks.attribution_attack --part variants --n 32

Parts, each a table on images 3000 to 3000 + n - 1 of a test set, and a network. IN is the share of the 100 largest
of 1,024 pixels (channels summed) that stay, of the network's own map, the decision kept; steps of 1/255 within linf
8/255 from a random start. Intervals are bootstraps, of differences paired.

    variants   Integrated Gradients (6 points climbed, 50 judged): elements or pixels, softened or not, best by loss or
               by the measure itself
    weakness   Integrated Gradients of several networks under three attacks, beside noise: elements climbed, pixels
               climbed, pixels of the softened network climbed; and the differences from the first network, paired
    gradient   the attack against noise: +-radius in every element (10 draws, the mean) and random points (5, the
               worst)
    published  the procedure of Singh et al.'s code, one image at a time: at each step 100 right points of the
               softened network, whose slopes are summed without the explicit factor, and 100 of the network itself, by
               whose map the best point is chosen; beside ours at a fifth of its points, and at as many
    batched    seconds of all images at once and one at a time, and whether they find the same
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import advex
from advex import measures
from advex.attacks import PGD
from advex.classifier import Classifier, input_gradient
from advex.distances import TopK
from advex.explainers import Gradient, IntegratedGradients
from advex.goals import Aim, Scramble
from advex.measures import worst_case_stability
from advex.networks import second_derivatives

RADIUS, STEP, K = 8 / 255, 1 / 255, 100
STARTS = 5  # of ours, for as many points as the published procedure's
PIXELS, ELEMENTS = TopK(K), TopK(3 * K, channels="none")


class ByLoss(Scramble):
    """The same goal, whose best point is that of the lowest loss."""

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        return dataclasses.replace(super().__call__(classifier, x), score=None)


def stays(explainer: Any, classifier: Classifier, x: Tensor, near: Tensor, target: Tensor) -> Tensor:
    """IN, [n] float64; NaN where the decision changes."""
    first, second = (explainer(classifier, at, target).map.detach() for at in (x, near))
    kept = classifier.predict(near).argmax(dim=1) == target
    return torch.where(kept, 1 - PIXELS(first, second).double(), torch.nan)


def mean(values: Tensor) -> str:
    value, low, high = measures.bootstrap_mean(values)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def variants(classifier: Classifier, x: Tensor, target: Tensor, steps: int) -> None:
    judge, climb = IntegratedGradients(steps=50), IntegratedGradients(steps=6)
    search = PGD(radius=RADIUS, steps=steps, step=STEP)
    reference = judge(classifier, x, target).map.detach()
    print("| climbed | softened | best by | IN | CPU s per image |\n|---|---|---|--:|--:|")
    for distance, soften, kind in (
        (ELEMENTS, None, ByLoss), (PIXELS, None, ByLoss), (PIXELS, 50.0, ByLoss), (PIXELS, 50.0, Scramble),
        (PIXELS, 15.0, Scramble), (ELEMENTS, 50.0, Scramble),
    ):  # fmt: skip
        goal = kind(
            explainer=climb, reference=reference, target=target, decision=target, distance=distance, soften=soften
        )
        began = time.process_time()
        found = search(classifier, x, goal)
        seconds = (time.process_time() - began) / len(x)
        kept = stays(judge, classifier, x, found.adversarial, target)
        print(
            f"| {'pixels' if distance is PIXELS else 'elements'} | {soften or 'no'} | "
            f"{'loss' if kind is ByLoss else 'measure'} | {mean(kept)} | {seconds:.2f} |",
            flush=True,
        )


def weakness(models: dict[str, Classifier], x: Tensor, y: Tensor, steps: int) -> None:
    judge, climb = IntegratedGradients(steps=50), IntegratedGradients(steps=6)
    search = PGD(radius=RADIUS, steps=steps, step=STEP)
    kinds = {"elements": (ELEMENTS, None), "pixels": (PIXELS, None), "pixels, softened": (PIXELS, 50.0)}
    print(f"| network | noise | {' | '.join(kinds)} |\n|---|--:|--:|--:|--:|")
    first: list[Tensor] = []
    for name, classifier in models.items():
        reference = judge(classifier, x, y).map.detach()
        values = [sign_noise(judge, classifier, x, y, draws=5)]
        for distance, soften in kinds.values():
            goal = Scramble(
                explainer=climb, reference=reference, target=y, decision=y, distance=distance, soften=soften
            )
            values.append(stays(judge, classifier, x, search(classifier, x, goal).adversarial, y))
        print(f"| {name} | {' | '.join(map(mean, values))} |", flush=True)
        if first:
            print(f"| less the first, paired | {' | '.join(mean(b - a) for a, b in zip(first, values, strict=True))} |")
        first = first or values


def sign_noise(explainer: Any, classifier: Classifier, x: Tensor, target: Tensor, draws: int) -> Tensor:
    """IN at +-radius in every element, the mean over draws: [n]."""
    rng = torch.Generator().manual_seed(0)
    points = [(x + RADIUS * (2 * torch.randint(2, x.shape, generator=rng) - 1)).clamp(0, 1) for _ in range(draws)]
    return torch.stack([stays(explainer, classifier, x, near, target) for near in points]).nanmean(dim=0)


def gradient(classifier: Classifier, x: Tensor, target: Tensor, steps: int) -> None:
    explainer = Gradient()
    noise = sign_noise(explainer, classifier, x, target, draws=10)
    change = worst_case_stability(
        explainer, classifier, x, target, search=PGD(radius=RADIUS, steps=steps, step=STEP), distance=PIXELS
    )
    attack, random = 1 - change.attack.double(), 1 - change.random.double()
    print("| | IN |\n|---|--:|")
    for name, values in (("sign noise", noise), ("worst of 5 random points", random), ("attack", attack)):
        print(f"| {name} | {mean(values)} |")
    print(f"| sign noise less attack | {mean(noise - attack)} |")
    print(f"\nattack below the random points: {int((~change.by_attack).sum())} of {len(x)} rows")


def published(classifier: Classifier, x: Tensor, target: Tensor, steps: int, keep: Path | None = None) -> None:
    judge, path = IntegratedGradients(steps=100), IntegratedGradients(steps=20)
    search = PGD(radius=RADIUS, steps=steps, step=STEP)
    rows = [] if keep is None or not keep.exists() else [json.loads(line) for line in keep.read_text().splitlines()]
    for i in range(len(rows), len(x)):
        at, of = x[i : i + 1], target[i : i + 1]
        row = [stays(judge, classifier, at, _published(classifier, at, of, steps), of).item()]
        for start in range(STARTS):
            change = worst_case_stability(
                judge, classifier, at, of, search=search, distance=PIXELS, points=path.steps, samples=1, seed=start
            )
            row.append(1 - change.attack.double().item())
        rows.append(row)
        if keep is not None:
            with keep.open("a") as file:
                file.write(json.dumps(row) + "\n")
    theirs, *ours = torch.tensor(rows[: len(x)], dtype=torch.float64).T
    print("| | points per image | IN | less the replica's, paired |\n|---|--:|--:|--:|")
    print(f"| replica | {200 * steps} | {mean(theirs)} | |")
    for starts in (1, STARTS):
        least = torch.stack(ours[:starts]).amin(dim=0)
        points = starts * 2 * path.steps * steps
        print(f"| ours, {starts} start(s) | {points} | {mean(least)} | {mean(least - theirs)} |")


def _published(classifier: Classifier, x: Tensor, target: Tensor, steps: int) -> Tensor:
    """One image [1, ...]: what the loop comes to, best by the map of the network itself."""
    points = 100
    alpha = (torch.arange(1, points + 1) / points).reshape(-1, 1, 1, 1)
    right = IntegratedGradients(steps=points, rule="right")

    def pixels(maps: Tensor) -> Tensor:
        return maps.abs().sum(dim=1).flatten()

    top = pixels(right(classifier, x, target).map)[None].topk(K, dim=1).indices[0]
    rng = torch.Generator().manual_seed(0)
    near = (x + RADIUS * (2 * torch.rand(x.shape, generator=rng) - 1)).clamp(0, 1)
    best, least = x, 1.1
    for _ in range(steps):
        with classifier.softened(50.0), classifier.frozen(), second_derivatives.cheap(classifier.network):
            at = (alpha * near).requires_grad_(True)
            slopes, _ = input_gradient(lambda at: classifier.logits(at)[:, target[0]], at, create_graph=True)
            size = pixels(near * slopes.mean(dim=0, keepdim=True))
            (uphill,) = torch.autograd.grad(size[top].sum() / size.sum(), at)
        near = near - STEP * (alpha * uphill).sum(dim=0, keepdim=True).sign()
        near = torch.minimum(torch.maximum(near, x - RADIUS), x + RADIUS).clamp(0, 1)
        left = stays(right, classifier, x, near, target).item()
        if left < least:  # not where the decision has changed: NaN
            best, least = near, left
    return best


def batched(classifier: Classifier, x: Tensor, target: Tensor, steps: int) -> None:
    search, path = PGD(radius=RADIUS, steps=steps, step=STEP), IntegratedGradients(steps=6)

    def found(rows: slice) -> Tensor:
        goal = Scramble(
            explainer=path, reference=path(classifier, x[rows], target[rows]).map.detach(), target=target[rows],
            decision=target[rows], distance=PIXELS,
        )  # fmt: skip
        return search(classifier, x[rows], goal).delta

    found(slice(0, 1))
    print("| round | all at once, CPU s | one at a time | ratio | deltas |\n|--:|--:|--:|--:|---|")
    for number in range(3):
        times = [time.process_time()]
        together = found(slice(None))
        times.append(time.process_time())
        alone = torch.cat([found(slice(i, i + 1)) for i in range(len(x))])
        times.append(time.process_time())
        first, second = times[1] - times[0], times[2] - times[1]
        same = "equal" if torch.equal(together, alone) else f"at most {(together - alone).abs().max():.1e} apart"
        print(f"| {number + 1} | {first:.1f} | {second:.1f} | {second / first:.2f} | {same} |", flush=True)


PARTS: dict[str, Callable[..., None]] = {
    "variants": variants,
    "gradient": gradient,
    "published": published,
    "batched": batched,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "weakness"], default="variants")
    parser.add_argument("--model", default="builtin:cifar10-ordinary", help="of weakness: several, with commas")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--keep", type=Path, help="of published: a file that gets a line per image, and is gone on with"
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    models = {name: advex.load(name) for name in args.model.split(",")}
    classifier = next(iter(models.values()))
    print(
        f"{args.model}, {args.n} images, {args.steps} steps, torch {torch.__version__}, {torch.get_num_threads()} "
        f"thread(s), {platform.machine()}\n"
    )
    data = advex.open_dataset(args.data, split="test")
    if args.part != "weakness":
        x = data.batch(slice(3000, 3000 + args.n)).x.to(classifier.dtype)
        more = {"keep": args.keep} if args.part == "published" else {}
        PARTS[args.part](classifier, x, classifier.predict(x).argmax(dim=1), args.steps, **more)
        return
    batch = data.batch(slice(3000, 3000 + 10 * args.n))
    right = torch.stack([each.predict(batch.x).argmax(dim=1) == batch.y for each in models.values()])
    rows = right.all(dim=0).nonzero()[: args.n, 0]
    print(", ".join(f"{name}: {share:.1%} right" for name, share in zip(models, right.double().mean(1), strict=True)))
    print(f"{len(rows)} of {len(batch.x)} images, right by all\n")
    weakness(models, batch.x[rows], batch.y[rows], args.steps)


if __name__ == "__main__":
    main()
