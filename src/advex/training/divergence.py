"""Telling a run that has gone wrong from one that is merely bad, and saying why."""

from __future__ import annotations

import math

import torch

from advex.errors import AdvexError
from advex.objectives import Lipschitz
from advex.objectives.step import Parts
from advex.precision import has_bfloat16
from advex.training import checkpoints
from advex.training.run import Run

# The running mean of cross-entropy may grow to so many times its lowest value (or ln(classes), that of a
# network that knows nothing, where this is more). Bad runs that went on to learn something stayed below
# 500, a linear network at a learning rate of 100 among them; most that exploded passed 10,000 at once.
EXPLODED = 1_000.0
_SMOOTHING = 0.9
# How far a penalty may outweigh ln(classes), while all is well, before it is the likely cause of a divergence.
_HEAVY = 3.0
_GROWN = 10.0  # the same for an adaptive psi, above its least value


class Diverged(AdvexError, FloatingPointError):
    """The loss, or a weight, became infinite, NaN or absurdly large."""


def watch(run: Run, loss: float, parts: Parts) -> None:
    """Raise Diverged, with step, likely cause and last good checkpoint, unless a step's numbers are sane."""
    position = run.position
    if not math.isfinite(loss):
        raise Diverged(_sentence(run, f"The loss became {loss}", parts))
    now = float(parts.get("cross_entropy", loss))
    position.smooth = now if position.smooth is None else _SMOOTHING * position.smooth + (1 - _SMOOTHING) * now
    lowest = position.calm.get("smooth", math.inf)
    if position.smooth < lowest:
        position.calm = {**parts, "smooth": position.smooth}
    elif not position.smooth <= EXPLODED * max(lowest, _ignorance(run)):
        raise Diverged(_sentence(run, f"The cross-entropy grew to {now:.3g}", parts))


def watch_weights(run: Run) -> None:
    """Raise Diverged when a weight, or a running statistic, is not finite: such a state must not be kept."""
    for name, value in run.classifier.state_dict().items():
        if not torch.isfinite(value).all():
            raise Diverged(_sentence(run, f"The weights '{name}' are not finite", {}))


def _ignorance(run: Run) -> float:
    """Cross-entropy of a network that knows nothing."""
    return math.log(len(run.data.class_names))


def _sentence(run: Run, what: str, parts: Parts) -> str:
    position = run.position
    broken = [name for name, value in parts.items() if not math.isfinite(value)]
    named = f" ({', '.join(broken)})" if broken else ""
    kept = checkpoints.checkpoints_in(run.out)
    last = f"The last good checkpoint is {kept[0]}." if kept else "There is no checkpoint yet."
    return f"{what}{named} at step {position.step + 1} (epoch {position.epoch + 1}). {_cause(run, parts)} {last}"


def _cause(run: Run, parts: Parts) -> str:
    """The likely one, and what to try. A penalty is suspected by its weight while all was well: later all is large."""
    recipe, calm = run.recipe, run.position.calm or parts
    penalty, psi = run.objective.terms.get("lipschitz"), parts.get("psi", 0.0)
    if isinstance(penalty, Lipschitz) and psi > _GROWN * penalty.psi:
        return (
            f"psi has grown from {penalty.psi:.3g} to {psi:.3g}, probably too fast: "
            f"try objective.lipschitz.rate={penalty.rate / 4:.2g}, or a lower objective.lipschitz.target."
        )
    for name, term in run.objective.terms.items():
        weight = calm.get(name, 0.0) / _ignorance(run)
        option = next((each for each in ("psi", "strength") if hasattr(term, each)), None)
        if option is None or not weight > _HEAVY:
            continue
        return (
            f"The penalty '{name}', {weight:.3g} times the cross-entropy of a network at chance, is probably "
            f"too strong: try objective.{name}.{option}={getattr(term, option) / weight:.2g}."
        )
    rate = run.optimiser.param_groups[0]["lr"]
    rounded = recipe.precision != "float32" and has_bfloat16(run.classifier.device)
    precise = ", or precision=float32" if rounded else ""
    return (
        f"The learning rate, {rate:.3g} there, is probably too high: "
        f"try learning_rate={recipe.learning_rate / 4:.2g}{precise}."
    )
