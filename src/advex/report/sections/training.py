"""How each model was trained: its curves, what they come to in a sentence, and what one should see in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from advex.drawing.numbers import count, duration, joined, percent, significant
from advex.record import Flag
from advex.registry import register
from advex.report.reading import Contents, TrainingHistory, histories_of
from advex.report.sentences import figure, grouped, say
from advex.report.training_curves import ACCURACIES, CurvePanel, curve_panels, shared_axes

FALLEN = 0.02  # points of accuracy below its best from which a fall is told
SCATTERS = 5  # a fall must also be that many times the scatter of single measurements
ENDING = 3  # measurements at the end, or a fifth of all, whose middle one counts: none decides alone
STEEP = 0.1  # of the loss that a fifth more epochs would take off, at the pace of the end
MOST = 0.5  # of the right decisions that fall to the quick attack

_ACCURACY_NAMES = {"accuracy": "validation accuracy", "robust_accuracy": "robust accuracy"}
_CHECKED = ("loss", *ACCURACIES, "learning_rate")


@dataclass(frozen=True)
class Course:
    """What the page shows of one model's training. flags: by what they share, see `grouped`."""

    run: TrainingHistory
    sentence: Markup
    flags: list[tuple[tuple[str, str, str], list[Flag]]]
    panels: tuple[CurvePanel, ...]


@register("section", "training")
class TrainingSection:
    """How the models were trained, where their run folders tell: curves, and what one should see in them."""

    title, menu, place, tables = "Training", "Training", 100, ()

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        runs = histories_of(contents.record)
        return courses(runs) if runs else None


def courses(runs: Sequence[TrainingHistory]) -> dict[str, Any]:
    """The training of each model, drawn on shared axes. badge: how many things one should see in it."""
    axes = shared_axes(runs)
    noticed = [flags(run) for run in runs]
    return {
        "courses": [
            Course(run, sentence(run), grouped(seen), curve_panels(run, axes))
            for run, seen in zip(runs, noticed, strict=True)
        ],
        "own_epochs": len([run for run in runs if run.last]) > 1 and axes.epochs is None,
        "attacked": any(run.measured("robust_accuracy") for run in runs),
        "badge": sum(map(len, noticed)) or "",
    }


def noted_values(runs: Sequence[TrainingHistory]) -> list[tuple]:
    """All values that the curves are drawn from, for people who draw their own: a row per value."""
    values: list[tuple] = [("model", "epoch", "quantity", "value")]
    for run in runs:
        named = [*run.training.curves.items(), *((f"parts.{name}", of) for name, of in run.training.parts.items())]
        for place, epoch in enumerate(run.training.epoch):
            values += [(run.name, epoch, name, curve[place]) for name, curve in named if curve[place] is not None]
    return values


# -- in words ----------------------------------------------------------------------------------------------


def sentence(run: TrainingHistory) -> Markup:
    """How long it trained, and to which accuracy."""
    if not run.last:
        return say("No epoch has been recorded yet: there is no curve to draw.")
    planned = run.training.epochs or run.last
    of = count(run.last, "epoch") if run.last >= planned else f"{run.last:,} of {count(planned, 'epoch')}"
    words = say("{}{}", figure(of), _time(run))
    for key, title in _ACCURACY_NAMES.items():
        measured = run.measured(key)
        if not measured:
            continue
        (epoch, last), (best_epoch, best) = measured[-1], max(measured, key=lambda pair: pair[1])
        at = "at the end" if epoch == planned else f"at epoch {epoch:,}"
        words += say("; {} {} {}", title, figure(percent(last)), at)
        if last >= best:
            words += ", its best" if len(measured) > 1 else ""
        else:
            words += say(", best {} at epoch {}", figure(percent(best)), f"{best_epoch:,}")
    if not run.measured("accuracy"):
        words += "; the accuracy on validation data was not measured"
    if run.training.taken is not None:
        words += say("; the model is that of {}", figure(f"epoch {run.training.taken:,}"))
    elif run.training.best not in (None, run.last):
        words += f"; the network of epoch {run.training.best:,} is kept as the best"
    return words + "."


def _time(run: TrainingHistory) -> str:
    seconds, rates = run.measured("seconds"), [rate for _, rate in run.measured("rate")]
    took = f", {duration(seconds[-1][1])}" if seconds else ""
    return took + (f" at {significant(float(np.median(rates)))} examples per second" if rates else "")


# -- what one should see -------------------------------------------------------------------------------------


def flags(run: TrainingHistory) -> tuple[Flag, ...]:
    """What the noted values carry, and no more: nothing is said of a run too short to tell."""
    seen = [_interrupted(run), *_missing(run), _not_finite(run)]
    seen += [overfitting(run, name) for name in _ACCURACY_NAMES]
    codes = {flag.code for flag in seen if flag is not None}
    if not codes & {"interrupted", "overfitting"}:
        seen.append(still_falling(run))  # more epochs would help neither of those
    if "interrupted" not in codes:
        seen.append(_fragile(run))  # early in a training it says little
    return tuple(flag for flag in seen if flag is not None)


def _flag(run: TrainingHistory, code: str, severity: Literal["warning", "note"], message: str, remedy: str) -> Flag:
    return Flag(model=run.name, code=code, severity=severity, message=message, remedy=remedy)


def _interrupted(run: TrainingHistory) -> Flag | None:
    planned = run.training.epochs
    if planned is None or run.last >= planned:
        return None
    if run.training.finished:
        return _flag(
            run, "ended_early", "note",
            f"The model was saved, but {run.last:,} of {count(planned, 'epoch')} are recorded.",
            "Nothing, if it was meant to end early. Otherwise lines of metrics.jsonl are lost.",
        )  # fmt: skip
    return _flag(
        run, "interrupted", "warning",
        f"The run stands at {run.last:,} of {count(planned, 'epoch')}: it was interrupted, or is still running.",
        "If it was interrupted, run the same command again to resume.",
    )  # fmt: skip


def _missing(run: TrainingHistory) -> list[Flag]:
    remedy = "Nothing: these entries are missing from the curves, not from the model."
    return [_flag(run, "metrics", "note", note, remedy) for note in run.training.notes]


def _not_finite(run: TrainingHistory) -> Flag | None:
    where = []
    for name in (*_CHECKED, *run.training.parts):
        pairs = zip(run.training.epoch, run.curve(name), strict=False)
        epochs = [epoch for epoch, value in pairs if value is not None and not math.isfinite(value)]
        if epochs:
            many = f" and {count(len(epochs) - 1, 'other')}" if len(epochs) > 1 else ""
            where.append(f"{name.replace('_', ' ')} in epoch {epochs[0]:,}{many}")
    if not where:
        return None
    return _flag(
        run, "not_finite", "warning", f"Not finite: {joined(where)}. The lines have gaps there.",
        "Use a lower learning rate, or a weaker penalty.",
    )  # fmt: skip


def overfitting(run: TrainingHistory, name: str) -> Flag | None:
    """A validation accuracy that has fallen clearly below its best, while that on the training data rose.

    Clearly: the middle one of the last fifth of the measurements, at least three, lies `FALLEN` below the best,
    and by `SCATTERS` times the scatter of single measurements. Where n values only scatter around a constant, it
    does so in at most 4 of 100 runs.
    """
    measured, learnt = run.measured(name), dict(run.measured("train_accuracy"))
    if len(measured) <= ENDING:
        return None
    epoch, best = max(measured, key=lambda pair: pair[1])
    after = [(at, value) for at, value in measured if at > epoch][-max(ENDING, len(measured) // 5) :]
    seen = [learnt[at] for at, _ in after if at in learnt]
    if len(after) < ENDING or epoch not in learnt or not seen:
        return None
    end, rose = float(np.median([value for _, value in after])), float(np.median(seen)) - learnt[epoch]
    if best - end < max(FALLEN, SCATTERS * _scatter(measured)) or rose <= 0:
        return None
    return _flag(
        run, "overfitting", "warning",
        f"The {_ACCURACY_NAMES[name]} fell from {percent(best)} at epoch {epoch:,} to {percent(end)} (median "
            f"of the last {len(after)}), while the training accuracy rose by {100 * rose:.1f} points.",
        "Keep the model of the best epoch, or train for fewer epochs; use more data, augmentation or weight decay.",
    )  # fmt: skip


def _scatter(measured: list[tuple[int, float]]) -> float:
    """Standard deviation of single measurements around a slow course, from the steps of the second half.

    By the middle one of the steps, which a few large ones do not move: 0.6745 of the standard deviation, for
    normal steps, whose variance is twice that of a measurement.
    """
    steps = np.abs(np.diff([value for _, value in measured[len(measured) // 2 :]]))
    return float(np.median(steps)) / 0.6745 / math.sqrt(2)


def still_falling(run: TrainingHistory) -> Flag | None:
    """A loss that at the pace of its last epochs would lose `STEEP` of its size in a fifth more of them.

    The pace is the least-squares slope over the last fifth, at least 4 epochs, where it is at least 3 times its
    standard error; and what it takes off must count beside what the whole run took off.
    """
    measured = run.measured("loss")
    if len(measured) < 8:
        return None
    at, loss = np.array(measured[-max(4, len(measured) // 5) :]).T
    centred = at - at.mean()
    slope = float(centred @ loss / (centred @ centred))
    rest = loss - loss.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / (len(at) - 2) / float(centred @ centred))
    now = float(loss.mean() + slope * centred[-1])
    gain, taken = -slope * run.last / 5, measured[0][1] - now
    if gain < STEEP * abs(now) or gain < STEEP * taken or -slope < 3 * error:
        return None
    return _flag(
        run, "still_falling", "note",
        f"The loss was still falling at the end: by {significant(-slope, 2)} per epoch over the last "
            f"{len(at)} epochs, to {significant(loss[-1])}.",
        "Train for more epochs, as long as the validation accuracy rises too.",
    )  # fmt: skip


def _fragile(run: TrainingHistory) -> Flag | None:
    """Whether most right decisions of the last epoch where both were measured fall to the quick attack."""
    accuracy = dict(run.measured("accuracy"))
    both = [(epoch, accuracy[epoch], robust) for epoch, robust in run.measured("robust_accuracy") if epoch in accuracy]
    if not both or both[-1][1] <= 0 or both[-1][2] > (1 - MOST) * both[-1][1]:
        return None
    epoch, clean, robust = both[-1]
    return _flag(
        run, "robust_gap", "note",
        f"The quick attack reduces the validation accuracy from {percent(clean)} to {percent(robust)} (epoch "
            f"{epoch:,}).",
        "For a robust model: attack a larger share of each batch, use a stronger penalty, or train for more epochs.",
    )  # fmt: skip
