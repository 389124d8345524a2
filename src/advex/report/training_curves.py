"""Training curves as coordinates; `training.html.j2` draws them. One scale for what is the same in all models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from advex.drawing.axes import Axis, fitting, linear, logarithmic, shares, whole
from advex.drawing.numbers import percent, significant
from advex.drawing.plot import Frame, Point, Tick, path, upwards
from advex.report.reading import TrainingHistory

STRENGTHS = ("psi",)  # parts that are no loss: the strength of a penalty
ACCURACIES = {"train_accuracy": "training", "accuracy": "validation", "robust_accuracy": "validation, attacked"}
_NO_LOSS = (*STRENGTHS, "accuracy")

FRAME = Frame(width=300, height=178, left=48, right=8, top=10, bottom=38)
APART = 4  # runs whose epochs differ more than that have axes of their own
FEW = 24  # values of a curve that are drawn as dots too
_PEAKS = 10  # learning rates that differ more than that ask for a logarithmic axis


@dataclass(frozen=True)
class Trace:
    """One curve. style: names how it is drawn. line: SVG path data. last: its last value, in digits."""

    name: str
    style: str
    line: str
    dots: tuple[Point, ...]
    last: str


@dataclass(frozen=True)
class CurvePanel:
    """The curves of one quantity of one model. note: what must be said of its axis."""

    key: str
    title: str
    frame: Frame
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    traces: tuple[Trace, ...]
    note: str
    description: str


@dataclass(frozen=True)
class SharedAxes:
    """The axes that all models share, by panel; `epochs` where the runs are about as long."""

    axes: dict[str, Axis]
    epochs: int | None

    def end(self, run: TrainingHistory) -> int:
        """The epoch with which the x axis ends."""
        return self.epochs or run.last


def shared_axes(runs: Sequence[TrainingHistory]) -> SharedAxes:
    """The axes on which all runs can be drawn."""
    lasts = [run.last for run in runs if run.last]
    rates = [_values(run, ["learning_rate"]) for run in runs]
    peaks = [max(values) for values in rates if values and max(values) > 0]
    apart = bool(peaks) and max(peaks) > _PEAKS * min(peaks)
    floor = min(peaks) / 100 if apart else 0.0  # a schedule ends near zero: how near says nothing
    all_rates = [rate for values in rates for rate in values]
    axes = {
        "loss": fitting([value for run in runs for value in _values(run, losses(run))]),
        "accuracy": shares([value for run in runs for value in _values(run, list(ACCURACIES))]),
        "learning_rate": logarithmic(all_rates, floor) if apart else linear(all_rates),
    }
    axes |= {name: logarithmic([value for run in runs for value in _values(run, [name])]) for name in STRENGTHS}
    return SharedAxes(axes, max(lasts) if lasts and max(lasts) <= APART * min(lasts) else None)


def curve_panels(run: TrainingHistory, shared: SharedAxes) -> tuple[CurvePanel, ...]:
    """The panels of one model: those that it has something for, the same ones first in every model."""
    parts = losses(run)
    titles = {"loss": "Loss and its parts" if len(parts) > 1 else "Loss", "accuracy": "Accuracy"}
    titles |= {"learning_rate": "Learning rate", **{name: f"Strength {name}" for name in STRENGTHS}}
    names = {"loss": parts, "accuracy": list(ACCURACIES)}
    made = (_panel(run, key, title, names.get(key, [key]), shared) for key, title in titles.items())
    return tuple(panel for panel in made if panel.traces)


def losses(run: TrainingHistory) -> list[str]:
    """The loss, or the part of it that is all of it, and its parts, by their last values as in the drawing."""
    parts = [name for name in run.training.parts if name not in _NO_LOSS and run.measured(name)]
    parts.sort(key=lambda name: -run.measured(name)[-1][1])
    loss = run.measured("loss")
    whole_of_it = next((name for name in parts if _same(run.measured(name), loss)), "loss")
    return ([whole_of_it] if loss else []) + [name for name in parts if name not in ("loss", whole_of_it)]


def _same(curve: list[tuple[int, float]], other: list[tuple[int, float]]) -> bool:
    return len(curve) == len(other) and all(
        math.isclose(first, second, rel_tol=1e-4) for (_, first), (_, second) in zip(curve, other, strict=True)
    )


def _values(run: TrainingHistory, names: list[str]) -> list[float]:
    return [value for name in names for _, value in run.measured(name)]


def _panel(run: TrainingHistory, key: str, title: str, names: list[str], shared: SharedAxes) -> CurvePanel:
    axis, end = shared.axes[key], max(shared.end(run), 1)
    shown = [name for name in names if run.measured(name)]
    traces = tuple(_trace(run, name, _style(key, place, name), axis, end) for place, name in enumerate(shown))
    ends = "; ".join(f"{trace.name} {_ends(run, name)}" for trace, name in zip(traces, shown, strict=True))
    return CurvePanel(
        key, title, FRAME,
        tuple(Tick(round(FRAME.x(mark, end), 2), text) for mark, text in whole(end)),
        upwards(FRAME, axis),
        traces, _note(run, shown, axis), f"{title} of {run.name} over {run.last} epochs: {ends}.",
    )  # fmt: skip


def _note(run: TrainingHistory, shown: list[str], axis: Axis) -> str:
    """What must be said under a panel."""
    if "robust_accuracy" in shown and run.training.attack:
        return f"Attacked by {run.training.attack}."
    note = "Logarithmic axis" if axis.logarithmic else ""
    return f"{note}{'; what is smaller than its foot, such as 0, is drawn there' if axis.sunk else ''}." if note else ""


def _style(key: str, place: int, name: str) -> str:
    """The class of a curve: in the model's colour what counts most."""
    if key == "accuracy":
        return {"train_accuracy": "t1", "accuracy": "main", "robust_accuracy": "main robust"}[name]
    return "main" if place == 0 else f"t{(place - 1) % 6}"


def _trace(run: TrainingHistory, name: str, style: str, axis: Axis, end: int) -> Trace:
    pieces: list[list[Point]] = [[]]
    for epoch, value in zip(run.training.epoch, run.curve(name), strict=True):
        if value is None:
            continue  # not measured here: the line goes on to where it was
        if not math.isfinite(value):
            pieces.append([])  # measured, and no number: the line breaks
            continue
        pieces[-1].append((FRAME.x(epoch, end), FRAME.y(axis.place(value))))
    points = [point for piece in pieces for point in piece]
    alone = [piece[0] for piece in pieces if len(piece) == 1]
    return Trace(
        ACCURACIES.get(name, name.replace("_", " ")),
        style,
        " ".join(path(piece) for piece in pieces if len(piece) > 1),
        tuple((round(x, 2), round(y, 2)) for x, y in (points if len(points) <= FEW else alone)),
        _last(run, name),
    )


def _last(run: TrainingHistory, name: str) -> str:
    """The last value that was measured, in digits."""
    last = next(value for value in reversed(run.curve(name)) if value is not None)
    return _digits(name, last) if math.isfinite(last) else "not finite"


def _ends(run: TrainingHistory, name: str) -> str:
    """From where to where a curve goes."""
    (first_epoch, first), (last_epoch, last) = run.measured(name)[0], run.measured(name)[-1]
    if first_epoch == last_epoch:
        return f"{_digits(name, last)} at epoch {last_epoch}"
    return f"{_digits(name, first)} at epoch {first_epoch}, {_digits(name, last)} at epoch {last_epoch}"


def _digits(name: str, value: float) -> str:
    return percent(value) if name in ACCURACIES else significant(value)
