"""What a run writes down as it goes: `metrics.jsonl`, one line per epoch, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from advex.errors import SpecError
from advex.training.checkpoints import METRICS

TENSORBOARD = "tensorboard"


class Journal:
    """Append-only. Numbers that are not finite are written as null."""

    def __init__(self, out: Path, *, tensorboard: bool = False) -> None:
        self.path = out / METRICS
        self._board = _board(out / TENSORBOARD) if tensorboard else None

    def write(self, line: dict[str, Any]) -> None:
        """One epoch."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in {**line, **line.get("parts", {})}.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, line["step"])
            self._board.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SpecError("tensorboard is not installed: pip install 'advex[tensorboard]'.") from None
    return SummaryWriter(str(folder))
