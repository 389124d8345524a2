"""Telling a run that has gone wrong from one that is merely bad, and saying why."""

from __future__ import annotations

import math

import torch

from advex.errors import AdvexError
from advex.objectives.step import Parts
from advex.training import checkpoints
from advex.training.run import Run

# A smoothed cross-entropy above this many times ln(classes), that of a network that knows nothing, is no
# slow start: good runs stay below 3 times even under strong attacks.
_EXPLODED = 20.0
_SMOOTHING = 0.9


class Diverged(AdvexError, FloatingPointError):
    """The loss, or a weight, became infinite, NaN or absurdly large."""


def watch(run: Run, loss: float, parts: Parts) -> None:
    """Raise Diverged, with step, likely cause and last good checkpoint, unless a step's numbers are sane."""
    position = run.position
    now = parts.get("cross_entropy", loss)
    position.smooth = now if position.smooth is None else _SMOOTHING * position.smooth + (1 - _SMOOTHING) * now
    if not math.isfinite(loss):
        raise Diverged(_sentence(run, f"The loss became {loss}", parts))
    if position.smooth > _EXPLODED * math.log(len(run.data.class_names)):
        raise Diverged(_sentence(run, f"The cross-entropy grew to {position.smooth:.3g}", parts))


def watch_weights(run: Run) -> None:
    """Raise Diverged when a weight is not finite: such a state must not become a checkpoint."""
    for name, parameter in run.classifier.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(_sentence(run, f"The weights '{name}' are not finite", {}))


def _sentence(run: Run, what: str, parts: Parts) -> str:
    recipe, position = run.recipe, run.position
    rate = run.optimiser.param_groups[0]["lr"]
    broken = [name for name, value in parts.items() if not math.isfinite(value)]
    named = f" ({', '.join(broken)})" if broken else ""
    heaviest = max(parts, key=lambda name: parts[name] if math.isfinite(parts[name]) else 0.0, default="")
    psi = parts.get("psi", 0.0)
    if psi and (broken == ["lipschitz"] or heaviest == "lipschitz"):
        weaker = recipe.objective.get("lipschitz", {}).get("psi", psi) / 10
        cause = f"psi = {psi:.3g} is probably too strong a penalty: try objective.lipschitz.psi={weaker:.2g}."
    else:
        lower = recipe.learning_rate / 4
        cause = f"The learning rate, {rate:.3g} there, is probably too high: try learning_rate={lower:.2g}"
        cause += ", or precision=float32." if recipe.precision == "bfloat16" else "."
    kept = checkpoints.found(run.out)
    last = f"The last good checkpoint is {kept[0]}." if kept else "There is no checkpoint yet."
    return f"{what}{named} at step {position.step + 1} (epoch {position.epoch + 1}). {cause} {last}"
