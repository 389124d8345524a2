"""What a run writes down as it goes: `metrics.jsonl`, one line per epoch, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advex.errors import SpecError
from advex.training.checkpoints import METRICS, writing

TENSORBOARD = "tensorboard"


class Journal:
    """Append-only. Numbers that are not finite are written as null.

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
        raise SpecError("TensorBoard is not installed: pip install 'advex[tensorboard]'.") from None
    return SummaryWriter


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
