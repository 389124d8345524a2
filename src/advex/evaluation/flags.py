"""Reasons to trust a figure less, each with its remedy. They become rows of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from advex.classifier import Classifier, returns_probabilities
from advex.data.dataset import Dataset
from advex.evaluation.shards import Shards, tensor
from advex.record import CertificateFigures, Figure, Flag

FEW_EXAMPLES = 100
LARGE_SHARE = 0.05  # below it a share of doubtful examples is a note, from it on a warning
HELPS = 0.02  # a mean RMSE that falls by more with twice the gradients was not near its end
DATA = ""  # `Flag.model` of what concerns the data, and so every model


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A model and what was found out about it.

    count: shards of each search; tables: of its explanations; certified: its certificate, if there is one.
    """

    name: str
    classifier: Classifier
    shards: Shards
    searches: Sequence[str]
    count: int
    scores: dict[str, Figure]
    tables: Sequence[pa.Table]
    certified: CertificateFigures | None = None

    def flag(self, code: str, severity: Literal["warning", "note"], message: str, remedy: str) -> Flag:
        """A flag on this model."""
        return Flag(model=self.name, code=code, severity=severity, message=message, remedy=remedy)

    def column(self, kind: str, name: str) -> Tensor:
        """One column over all examples."""
        return self.shards.column(self.name, kind, name, self.count)


def flags(tested: Tested, data: Dataset, probe: Tensor) -> list[Flag]:
    """All flags of one model. probe: some inputs [n, *shape], to ask it again."""
    return [
        *_answers(tested, probe),
        *_names(tested, data),
        *_accuracy(tested, data.chance),
        *_failures(tested),
        *_flat(tested),
        *_recheck(tested),
        *_published(tested),
        *_pictures(tested),
        *_certified(tested),
    ]


def flags_of_data(data: Dataset) -> list[Flag]:
    """What makes every figure on this data less certain."""
    found: list[Flag] = []
    if len(data) < FEW_EXAMPLES:
        found.append(
            Flag(
                model=DATA,
                code="few_examples",
                severity="note",
                message=f"Only {len(data)} examples: the intervals are wide, and rare failures are not seen.",
                remedy=f"Evaluate at least {FEW_EXAMPLES} examples, better 1000.",
            )
        )
    if data.skipped:
        first = data.skipped[0]
        found.append(
            Flag(
                model=DATA,
                code="skipped",
                severity="note",
                message=f"{len(data.skipped)} examples could not be read, e.g. {first.name}: {first.reason}",
                remedy="Mend or remove these files; the record lists them all.",
            )
        )
    return found


def _answers(tested: Tested, probe: Tensor) -> Iterator[Flag]:
    with torch.no_grad(), tested.classifier.frozen(), tested.classifier.accelerated():
        once, again = tested.classifier.logits(probe), tested.classifier.logits(probe)
    if returns_probabilities(once):
        yield tested.flag(
            "probabilities",
            "warning",
            "The network returns probabilities instead of logits: its gradients vanish where it is sure, searches "
            "stall, and it looks more robust than it is. Its confidences are wrong, too.",
            "Remove the final softmax or sigmoid and return logits.",
        )
    # Equal but for the rounding of a parallel sum.
    if (once - again).abs().max() > 1e-5 * (1 + once.abs().max()):
        yield tested.flag(
            "stochastic",
            "warning",
            "Two answers to the same input differ: noise misleads searches, and no figure can be repeated.",
            "Switch the noise off in evaluation mode, or attack the mean of many answers.",
        )


def _names(tested: Tested, data: Dataset) -> Iterator[Flag]:
    names = tested.classifier.class_names
    if names is not None and names != data.class_names:
        differing = [pair for pair in zip(names, data.class_names, strict=True) if pair[0] != pair[1]]
        yield tested.flag(
            "class_names",
            "warning",
            f"{len(differing)} of the model's class names are not the data's, e.g. '{differing[0][0]}' is called "
            f"'{differing[0][1]}' there: it may have learnt another order of classes.",
            "Compare the two lists; name or order the data's classes as in training.",
        )


def _accuracy(tested: Tested, chance: float) -> Iterator[Flag]:
    accuracy = tested.scores["accuracy"]
    if accuracy.low <= chance:
        yield tested.flag(
            "low_accuracy",
            "warning",
            f"The accuracy, {accuracy.value:.1%}, is not clearly above that of always answering the largest class, "
            f"{chance:.1%}: robustness areas and explanations say little.",
            "Check the normalisation and the order of classes, train longer, or evaluate more examples.",
        )


def _failures(tested: Tested) -> Iterator[Flag]:
    for search in tested.searches:
        rmse = tested.column(search, "rmse")
        failed = int(torch.isinf(rmse).sum())
        if failed:
            yield tested.flag(
                "failures",
                "warning",
                f"The search '{search}' found no change that reaches its goal on {failed} of {len(rmse)} examples.",
                "Give it more gradients, or another search. If it still fails, gradients may be masked.",
            )
    for key, figure in tested.scores.items():
        if key.endswith("_ara") and math.isinf(figure.value):
            yield tested.flag(
                "infinite_area",
                "warning",
                f"{key} is infinite: the search failed on a larger share of examples than a naive answer gets right.",
                "The area says nothing until the search succeeds: give it more gradients, or another search.",
            )


def _flat(tested: Tested) -> Iterator[Flag]:
    for search in tested.searches:
        blind = tested.column(search, "flat").double().mean().item()
        if blind > 0:
            yield tested.flag(
                "flat_gradients",
                _severity(blind),
                f"On {blind:.1%} of the examples the gradient vanished somewhere during the search '{search}': "
                "it was blind there, and the radii may be too large.",
                "Return logits instead of probabilities, avoid saturating or quantising layers, or use a "
                "smooth activation.",
            )


def _recheck(tested: Tested) -> Iterator[Flag]:
    again = tested.shards.find(tested.name, "recheck", 0)
    if again is None:  # not asked for, or a search without a number of gradients
        return
    once, longer = tested.column("attack", "rmse")[tensor(again, "example")], tensor(again, "rmse")
    gained = int((torch.isinf(once) & torch.isfinite(longer)).sum())
    both = torch.isfinite(once) & torch.isfinite(longer) & (once > 0)
    before, after = once[both].sum().item(), longer[both].sum().item()
    fall = 1 - after / before if before else 0.0
    n, helped = int(both.sum()), []
    if gained:
        helped.append(f"{gained} more of {len(once)} examples are overcome")
    if fall > HELPS:
        helped.append(f"the mean RMSE of {n} falls by {fall:.1%} (from {before / n:.4g} to {after / n:.4g})")
    if helped:
        yield tested.flag(
            "more_steps",
            "warning",
            f"More steps still help: with twice the gradients of the attack, {' and '.join(helped)}. "
            "Smaller changes exist, so the areas are too large.",
            "Give the attack more gradients, until this flag goes.",
        )


def _published(tested: Tested) -> Iterator[Flag]:
    for search in tested.searches:
        valid = tested.scores.get(f"{search}_valid")
        if valid is not None and valid.value < 1:
            yield tested.flag(
                "published_invalid",
                "note",
                f"{1 - valid.value:.1%} of the changes found by '{search}' lose their effect once cut to valid inputs: "
                "the published protocol does not keep to the box.",
                "Use these figures only to compare with printed ones.",
            )


def _pictures(tested: Tested) -> Iterator[Flag]:
    drawn = [table for table in tested.tables if not table.column("png_prediction").null_count]
    if not drawn:
        return
    lost = torch.cat([tensor(table, "prediction") != tensor(table, "png_prediction") for table in drawn]).double()
    if lost.any():
        yield tested.flag(
            "png",
            _severity(lost.mean().item()),
            f"{lost.mean().item():.1%} of the explanation pictures are decided differently once saved as 8-bit PNG: "
            "what is seen is not what the network was asked.",
            "Trust the figures of the PNG, which are given beside the others; a larger rho makes them agree.",
        )


def _certified(tested: Tested) -> Iterator[Flag]:
    entry = tested.certified
    if entry is None:
        return
    smoothed = tested.scores["certified_accuracy"]
    if smoothed.high < entry.accuracy.low:
        yield tested.flag(
            "noise",
            "note",
            f"The network does not bear the noise that certifies it (sigma {entry.sigma:g}): of {entry.examples} "
            f"examples {smoothed.value:.1%} are surely right with it, {entry.accuracy.value:.1%} are right without it.",
            f"Train with such noise (objective.noise.std={entry.sigma:g} objective.noise.clip=false), or certify with "
            "a smaller sigma.",
        )
    if entry.examples < min(FEW_EXAMPLES, tested.scores["accuracy"].n):
        yield tested.flag(
            "few_certified",
            "note",
            f"Only {entry.examples} of {tested.scores['accuracy'].n} examples were certified: what is certain has wide "
            "intervals.",
            f"Certify more (--certify-examples), at least {FEW_EXAMPLES} where there are so many.",
        )


def _severity(share: float) -> Literal["warning", "note"]:
    return "warning" if share >= LARGE_SHARE else "note"
