"""What one training step costs by each objective, in one table.

    python -m benchmarks.training --data cifar10
    python -m benchmarks.training --network preact_resnet:depth=14 --batch 64 --rounds 5
    python -m benchmarks.training --attributional --data gtsrb --batch 64 \\
        --network preact_resnet:depth=8,activation=relu,classes=43

Every variant takes one step per round, one after the other, so that a slow minute hits all of them.
`seconds` are the processor's, so that other work beside it counts little; `time` is the median over rounds of them
divided by those of the step `--against` (the plain one) in the same round.
`memory` is the peak of one step above the resting process, in a process of its own, as a share of that step's.
`error` and `cosine` compare the penalty's part of the parameter gradient (the gradient less that of
cross-entropy) with the eager exact one. The network has had a few steps of training: the last layer of
each block of a fresh one is zero.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import advex
from advex import objectives
from advex.classifier import Classifier
from advex.objectives import Adversarial, Natural, Objective, Step
from advex.types import Batch
from benchmarks.memory import above_rest, in_a_process

ATTACK = "l2min:epsilon=0.1,steps=7"
LIPSCHITZ: dict[str, Any] = {"psi": 12_000.0}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class AttackOnAll:
    """Half-half as the authors' code does it: all are attacked, half of the results are used."""

    def alter(self, step: Step) -> Tensor:
        found = Adversarial(attack=ATTACK, share=1.0).alter(step)
        half = round(0.5 * len(found))
        return torch.cat([found[:half], step.x[half:]])


@dataclass(frozen=True)
class Variant:
    objective: Objective
    compiled: bool = False
    penalised: bool = False


VARIANTS = {
    "plain": Variant(objectives.make("natural")),
    "plain, compiled": Variant(objectives.make("natural"), compiled=True),
    "Lipschitz, exact": Variant(objectives.make("lipschitz", **LIPSCHITZ), penalised=True),
    "Lipschitz, exact, compiled": Variant(objectives.make("lipschitz", **LIPSCHITZ), compiled=True, penalised=True),
    "Lipschitz, finite difference": Variant(
        objectives.make("lipschitz", derivative="finite_difference", **LIPSCHITZ), penalised=True
    ),
    "Lipschitz, finite difference, compiled": Variant(
        objectives.make("lipschitz", derivative="finite_difference", **LIPSCHITZ), compiled=True, penalised=True
    ),
    "L2,min half-half, attack on all": Variant(Objective({"natural": Natural(), "all": AttackOnAll()})),
    "L2,min half-half, attack on the half": Variant(objectives.make("adversarial", attack=ATTACK, share=0.5)),
}
PGD = "pgd:norm=linf,radius=8/255,steps=10,step=2/255"
ATTRIBUTIONAL = {
    "PGD-10": Variant(objectives.make("adversarial", attack=PGD, share=1.0)),
    "L_attr": Variant(objectives.make("attributional", inner="none")),
    "ART": Variant(objectives.make("attributional")),
    "ART, its search alone": Variant(objectives.make("attributional", strength=0.0)),
    "ART, its search on cross-entropy": Variant(objectives.make("attributional", inner="loss")),
}
VARIANTS |= ATTRIBUTIONAL


def step(classifier: Classifier, variant: Variant, batch: Batch) -> tuple[float, Tensor]:
    """Seconds of one step without the optimiser, and its parameter gradient."""
    classifier.zero_grad(set_to_none=True)
    began = time.process_time()
    loss, _, _ = variant.objective(classifier, batch, variant.objective.start(), rng=torch.Generator().manual_seed(1))
    loss.backward()
    seconds = time.process_time() - began
    return seconds, torch.cat([p.grad.flatten().double() for p in classifier.parameters() if p.grad is not None])


def network(args: argparse.Namespace) -> tuple[Classifier, Batch]:
    """A classifier after a few steps of training, in training mode, and the batch to measure on."""
    torch.manual_seed(0)
    classifier = Classifier(args.network, mean=MEAN, std=STD).train()
    data = advex.open_dataset(args.data, split="train", max_samples=args.batch * (args.steps + 1), seed=0)
    batches = list(data.batches(args.batch))
    optimiser = torch.optim.SGD(classifier.parameters(), lr=0.05, momentum=0.9)
    for batch in batches[:-1]:
        step(classifier, VARIANTS["plain"], batch)
        optimiser.step()
    layout = torch.contiguous_format if args.contiguous else torch.channels_last
    x = batches[-1].x.contiguous(memory_format=layout)
    return classifier.to(memory_format=layout), Batch(x=x, y=batches[-1].y)  # pyright: ignore


def peak(args: argparse.Namespace) -> float:
    """MB that one step of `args.memory` takes at most above the resting process."""
    variant = VARIANTS[args.memory]
    classifier, batch = network(args)
    with classifier.accelerated(compiled=variant.compiled):
        return above_rest(
            lambda: step(classifier, variant, batch), before=lambda: classifier.zero_grad(set_to_none=True)
        )


def peaks(names: list[str]) -> dict[str, float]:
    """`peak` of each variant."""
    found = {}
    for name in names:
        found[name] = in_a_process("benchmarks.training", *sys.argv[1:], "--memory", name)
        print(f"{name}: {found[name]:.0f} MB", file=sys.stderr)
    return found


def timed(
    classifier: Classifier, batch: Batch, names: list[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Seconds of each round's step, and the gradient, of each variant."""
    compiled = copy.deepcopy(classifier)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gradients = {}
    with compiled.accelerated(compiled=True):
        for number in range(-2, rounds):
            for name in names:
                variant = VARIANTS[name]
                taken, gradients[name] = step(compiled if variant.compiled else classifier, variant, batch)
                if number >= 0:
                    seconds[name].append(taken)
                print(f"round {number}: {name}: {taken:.2f} s", file=sys.stderr)
    return seconds, gradients


def table(seconds: dict[str, list[float]], gradients: dict[str, Tensor], memory: dict[str, float], against: str) -> str:
    """The variants as Markdown."""
    lines = ["| step | seconds | time | memory | error | cosine |", "|---|--:|--:|--:|--:|--:|"]
    exact = gradients.get("Lipschitz, exact")
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, seconds[against], strict=True))
        error, cosine = "", ""
        if VARIANTS[name].penalised and exact is not None and name != "Lipschitz, exact":
            part, wanted = gradients[name] - gradients["plain"], exact - gradients["plain"]
            error = f"{(part - wanted).norm() / wanted.norm():.2%}"
            cosine = f"{part @ wanted / part.norm() / wanted.norm():.5f}"
        held = f"{memory[name] / memory[against]:.2f}" if memory else ""
        lines.append(f"| {name} | {statistics.median(taken):.2f} | {ratio:.2f} | {held} | {error} | {cosine} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="preact_resnet:depth=44")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="of training before measuring")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help="variants, separated by semicolons; 'plain' is always among them")
    parser.add_argument("--attributional", action="store_true", help="attributional training instead of the penalty")
    parser.add_argument("--against", default="plain", help="the step that times and memory are shares of")
    parser.add_argument("--contiguous", action="store_true", help="pictures and weights not in channels-last order")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print(peak(args))
        return
    usual = ATTRIBUTIONAL if args.attributional else VARIANTS.keys() - ATTRIBUTIONAL.keys()
    names = [name for name in VARIANTS if name == "plain" or name in (args.only.split(";") if args.only else usual)]
    classifier, batch = network(args)
    print(
        f"{args.network}, batch {args.batch}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}\n"
    )
    seconds, gradients = timed(classifier, batch, names, args.rounds)
    print(table(seconds, gradients, {} if args.no_memory else peaks(names), args.against))


if __name__ == "__main__":
    main()
