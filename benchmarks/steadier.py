"""Whether a way to train makes maps hold still: strengths chosen on validation pictures, figures of test pictures.

    python -m benchmarks.steadier --data digits --recipe digits-ordinary \\
        --change network=small_cnn:widths=8-16-16,activation=softplus \\
        --variant ema=0.99 --family "objective.r2et.k=6 objective.r2et.strength=0.03,0.1,0.3"

A variant is changes of the recipe, with spaces between them; of a family the last one has several values. A quarter of
the training pictures is set apart. Each member of a family is trained on the rest with the first seed; the one with
the highest IN on those set apart is chosen, if its accuracy there is at most `--allowed` below the recipe's. The
recipe, every variant and what was chosen are then trained with each seed and judged on `--n` test pictures: accuracy;
IN of the gradient and of integrated gradients under `--measure`; beside it that at the worst of its random points; and
the paired difference from the recipe with the same seed.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import advex
from advex import measures, registry
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.measures.case import Case, apply

MEASURE = "worst_case:search=(pgd:radius=8/255,steps=10,step=2/255),distance=(top_k:k=6),samples=3"
EXPLAINERS = ("gradient", "integrated_gradients:steps=10")


@dataclass(frozen=True)
class Judged:
    """Of pictures [n]: whether the answer is right; by explainer, IN at the worst point and at the worst random one."""

    right: Tensor
    attacked: dict[str, Tensor]
    random: dict[str, Tensor]


def trained(options: argparse.Namespace, data: Dataset, variant: str, seed: int) -> Classifier:
    with tempfile.TemporaryDirectory() as folder:
        settings = [*options.change, *variant.split(), f"seed={seed}", "robust_every=0"]
        return advex.train(options.recipe, data, *settings, out=Path(folder) / "run", quiet=True)


def judged(options: argparse.Namespace, classifier: Classifier, data: Dataset) -> Judged:
    measure, n = registry.build("measure", options.measure), options.n
    batch = data.batch(slice(0, n))
    answers = classifier.predict(batch.x).argmax(dim=1)
    found, random = {}, {}
    for spec in EXPLAINERS:
        explainer = registry.build("explainer", spec)
        explanation = explainer(classifier, batch.x, answers)
        case = Case(classifier=classifier, x=batch.x, y=batch.y, explainer=explainer, explanation=explanation)
        values = apply(measure, case).values
        found[spec], random[spec] = 1 - values[""], 1 - values["random"]
    return Judged(answers == batch.y, found, random)


def mean(values: Tensor, sign: str = "") -> str:
    value, low, high = measures.bootstrap_mean(values)
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def chosen(options: argparse.Namespace, parts: tuple[Dataset, Dataset], family: str) -> str:
    """The member of a family, `CHANGE ... KEY=VALUE,VALUE,...`, with the highest mean IN that keeps its accuracy."""
    rest, apart = parts
    key, values = family.rsplit("=", 1)
    seed = options.seeds[0]
    plain = judged(options, trained(options, rest, "", seed), apart)
    best = ("", -1.0)
    print(f"\n| {key}, {len(plain.right)} pictures set apart | accuracy | IN, mean of both maps |\n|---|--:|--:|")
    print(f"| the recipe | {plain.right.double().mean():.1%} | {level(plain):.3f} |")
    for value in values.split(","):
        member = judged(options, trained(options, rest, f"{key}={value}", seed), apart)
        print(f"| {value} | {member.right.double().mean():.1%} | {level(member):.3f} |", flush=True)
        lost = int(plain.right.sum() - member.right.sum())
        if lost <= round(options.allowed * len(plain.right)) and level(member) > best[1]:
            best = (f"{key}={value}", level(member))
    print(f"chosen: {best[0] or 'none, for all lose too much accuracy'}")
    return best[0]


def level(judged: Judged) -> float:
    return float(sum(each.nanmean() for each in judged.attacked.values()) / len(judged.attacked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--recipe", default="digits-ordinary")
    parser.add_argument("--change", action="append", default=[], help="of the recipe, in all variants")
    parser.add_argument("--variant", action="append", default=[], help="changes, as they are")
    parser.add_argument("--family", action="append", default=[], help="the last change has several values")
    parser.add_argument("--measure", default=MEASURE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--train", type=int, default=None, help="so many training pictures")
    parser.add_argument("--allowed", type=float, default=0.02)
    options = parser.parse_args()
    data = advex.data.open_dataset(options.data, split="train", max_samples=options.train)
    test = advex.data.open_dataset(options.data, split="test")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    parts = data.take(order[len(data) // 4 :]), data.take(order[: len(data) // 4])
    variants = ["", *options.variant, *(chosen(options, parts, family) for family in options.family)]
    print(f"\n{len(parts[0])} pictures to train on, {options.n} test pictures; torch {torch.__version__}, "
          f"{platform.processor() or platform.machine()}")  # fmt: skip
    heads = " | ".join(f"IN of {each.partition(':')[0]} | of random points | less the recipe" for each in EXPLAINERS)
    print(f"| change | seed | accuracy | {heads} |\n|---|--:|--:|" + "--:|--:|--:|" * len(EXPLAINERS))
    plain: dict[int, Judged] = {}
    for variant in dict.fromkeys(variants):
        for seed in options.seeds:
            own = judged(options, trained(options, parts[0], variant, seed), test)
            plain.setdefault(seed, own)
            cells = [f"`{variant or 'the recipe'}`", str(seed), f"{own.right.double().mean():.1%}"]
            for each in EXPLAINERS:
                change = own.attacked[each] - plain[seed].attacked[each]
                cells += [
                    mean(own.attacked[each]),
                    f"{own.random[each].nanmean():.3f}",
                    mean(change, "+") if variant else "",
                ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
