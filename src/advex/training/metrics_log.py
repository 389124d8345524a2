"""What a run says of itself as it goes: `metrics.jsonl`, TensorBoard where it is asked for, and lines for people."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advex.documents import parse_json
from advex.errors import ArtifactError, DataError, SpecError, install_extra
from advex.files import read_bytes, writing
from advex.training.checkpoints import METRICS

TENSORBOARD = "tensorboard"
_SMOOTHING = 0.9  # of the numbers of steps, as people see them
_VALIDATION = {"accuracy": "validation", "robust_accuracy": "robust"}  # of the numbers of epochs


class MetricsLog:
    """`metrics.jsonl`, one line per epoch, which only grows. Numbers that are not finite are written as null.

    board: makes a TensorBoard writer of a folder, see `board_writer`; None: there is none. step: where the
    run goes on; what the board holds of later steps is hidden, for they are repeated.
    """

    def __init__(self, out: Path, *, board: Callable[..., Any] | None = None, step: int = 0) -> None:
        self.path = out / METRICS
        self._board = None if board is None else board(str(out / TENSORBOARD), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """One epoch. Raises ArtifactError when it cannot be written."""
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        if self._board is not None:
            parts = {f"parts/{name}": value for name, value in line.get("parts", {}).items()}
            for name, value in {**line, **parts}.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, line["step"])
            self._board.flush()

    def close(self) -> None:
        """Nothing comes after this."""
        if self._board is not None:
            self._board.close()


def board_writer() -> Callable[..., Any]:
    """TensorBoard's writer. Raises SpecError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SpecError(f"TensorBoard is not installed: {install_extra('tensorboard')}") from None
    return SummaryWriter


def last_figures(out: Path) -> dict[str, Any]:
    """What the log of a run folder says at its end, by name; null where it says nothing of it."""
    lines = []
    if (out / METRICS).is_file():
        for line in read_bytes(out / METRICS, 2**28, "a log of epochs", ArtifactError).splitlines():
            with contextlib.suppress(DataError):  # one that was cut off
                lines.append(parse_json(line, METRICS))
        lines = [line for line in lines if isinstance(line, dict)]
    last = lines[-1] if lines else {}
    return {
        "accuracy": last.get("accuracy"),
        "train_accuracy": last.get("train_accuracy"),
        "robust_accuracy": last.get("robust_accuracy"),
        "best_epoch": next((line.get("epoch") for line in reversed(lines) if line.get("best")), None),
        "epochs": last.get("epoch"),
        "steps": last.get("step"),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- for people --------------------------------------------------------------------------------------------


@dataclass
class RunningNumbers:
    """The numbers of the moment: those of steps smoothed, those of epochs as they are."""

    step: int = 0
    steps: int = 0
    _of_steps: dict[str, float] = field(default_factory=dict)
    _of_epochs: dict[str, float] = field(default_factory=dict)

    def add(self, report: dict[str, Any]) -> None:
        """Take in a report of the loop."""
        self.step, self.steps = report["step"], report["steps"]
        if "epoch" in report:
            self._of_epochs |= {name: report[name] for name in _VALIDATION if name in report}
            return
        before = self._of_steps
        self._of_steps = {
            name: _SMOOTHING * before[name] + (1 - _SMOOTHING) * value if name in before else value
            for name, value in report.items()
            if name not in ("step", "steps")
        }

    def texts(self) -> tuple[str, str, str]:
        """Loss and speed; the parts of the loss; accuracies."""
        numbers = dict(self._of_steps)
        first = f"loss {short(numbers.pop('loss'))}, {numbers.pop('rate'):,.0f} examples/s" if numbers else ""
        shares = {"accuracy": numbers.pop("accuracy", None)}
        shares |= {_VALIDATION[name]: value for name, value in self._of_epochs.items()}
        psi = {"psi": numbers.pop("psi")} if "psi" in numbers else {}
        parts = numbers if len(numbers) > 1 else {}  # a loss of one part is that part
        return (
            first,
            ", ".join(f"{name} {short(value)}" for name, value in {**parts, **psi}.items()),
            ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items() if share is not None),
        )


def short(value: float) -> str:
    """A number of a loss in a few digits."""
    return f"{value:.3f}" if 0.001 <= abs(value) < 100 else f"{value:.3g}"
