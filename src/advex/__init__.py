"""advex: train classifiers you can question, question them by attacking them, measure if the answers hold.

The names below are loaded when first used, so that `advex --help` does not wait for torch.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from advex._version import __version__ as __version__

if TYPE_CHECKING:
    from advex import attacks as attacks
    from advex import data as data
    from advex import distances as distances
    from advex import explainers as explainers
    from advex import goals as goals
    from advex import measures as measures
    from advex import networks as networks
    from advex import objectives as objectives
    from advex import tabular as tabular
    from advex.artifacts import load as load
    from advex.artifacts import save as save
    from advex.classifier import Classifier as Classifier
    from advex.data import open_dataset as open_dataset
    from advex.notebook import compare as compare
    from advex.notebook import evaluate as evaluate
    from advex.notebook import explain as explain
    from advex.notebook import train as train
    from advex.pretrained import from_pretrained as from_pretrained
    from advex.report import write_report as write_report

# Name -> the module that holds it ("" for a module of that name itself).
_PUBLIC = {
    "Classifier": "advex.classifier",
    "from_pretrained": "advex.pretrained",
    "load": "advex.artifacts",
    "open_dataset": "advex.data",
    "save": "advex.artifacts",
    "write_report": "advex.report",
    **dict.fromkeys(("compare", "evaluate", "explain", "train"), "advex.notebook"),
    **dict.fromkeys(("attacks", "data", "distances", "explainers", "goals"), ""),
    **dict.fromkeys(("measures", "networks", "objectives", "tabular"), ""),
}


__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        near = difflib.get_close_matches(name, _PUBLIC, 1, 0.7)
        raise AttributeError(f"module 'advex' has no attribute '{name}'" + (f"; is it '{near[0]}'?" if near else ""))
    home = _PUBLIC[name]
    return getattr(importlib.import_module(home), name) if home else importlib.import_module(f"advex.{name}")


def __dir__() -> list[str]:
    return __all__
