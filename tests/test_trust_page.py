"""docs/trust.md: its Python runs, and no option of what it is about is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from advex import registry

PAGE = (Path(__file__).parent.parent / "docs" / "trust.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_python_runs(capsys: pytest.CaptureFixture) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "trust.md", "exec"), names)  # noqa: S102
    assert names["worst"].distance.isfinite().all()
    assert names["moved"].reached.any()


def test_no_option_is_missing() -> None:
    """Of the measures, the distances, the goals on maps, and the terms of training."""
    told = {
        "The measure": [("measure", name) for name in ("worst_case", "ifia")],
        "Related measures": [("measure", name) for name in ("along_input", "manipulated")],
        "Distances": [("distance", name) for name in registry.entries("distance")],
        "Goals on maps": [("goal", name) for name in ("scramble", "mass_centre", "toward_map")],
        "Training networks with stable maps": [
            ("objective", name) for name in ("attributional", "stable_ig", "alignment")
        ],
    }
    for title, things in told.items():
        words = set(re.findall(r"`(\w+)`", section(title)))
        for kind, name in things:
            missing = {name, *registry.entries(kind)[name].options()} - words
            assert not missing, (title, name, missing)


def test_defaults_are_as_printed() -> None:
    """Of `worst_case`, and of `ifia` what is its own."""
    usual = {**vars(registry.build("measure", "ifia")), **vars(registry.build("measure", "worst_case"))}
    printed = dict(re.findall(r"^\| `(\w+)`[^|]* \| `?(\w+)", section("The measure"), flags=re.MULTILINE))
    assert printed == {name: as_written(value) for name, value in usual.items()}


def as_written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else f"{value:g}"


def test_flags_and_links_are_there() -> None:
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (root / "docs" / target).exists(), target
    known = (root / "src/advex/evaluation/steadiness.py").read_text(encoding="utf-8")
    for code in re.findall(r"\(`(\w+)`\)", section("What each figure does and does not tell you")):
        assert f'"{code}"' in known, code
