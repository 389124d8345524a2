"""advex: train classifiers you can question, question them by attacking them, measure whether the answers can be trusted.

The names below are loaded when first used, so that `advex --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from advex._version import __version__ as __version__

if TYPE_CHECKING:
    from advex import attacks as attacks
    from advex import data as data
    from advex import explainers as explainers
    from advex import goals as goals
    from advex import measures as measures
    from advex import networks as networks
    from advex import objectives as objectives
    from advex.artifacts import load as load
    from advex.artifacts import save as save
    from advex.classifier import Classifier as Classifier
    from advex.data import open_dataset as open_dataset

_ROOMS = ("attacks", "data", "explainers", "goals", "measures", "networks", "objectives")
_NAMES = {
    "Classifier": "advex.classifier",
    "load": "advex.artifacts",
    "save": "advex.artifacts",
    "open_dataset": "advex.data",
}
__all__ = ["__version__", *_ROOMS, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"advex.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'advex' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
