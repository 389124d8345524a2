"""`py.typed`: what a type checker says of a user's script, outside of the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
import advex
from advex.attacks import PGD, Minimal
from advex.explainers import IntegratedGradients, Toward
from advex.goals import Become, Misclassify

clf = advex.load("builtin:cifar10-robust")
data = advex.open_dataset("cifar10-sample")
x, y = data[0]
batch = data.batch(slice(0, 4))
found = PGD(radius="8/255", steps=10)(clf, batch.x, Misclassify(batch.y))
reveal_type(found)
reveal_type(Minimal()(clf, batch.x, Become("dog")).delta)
reveal_type(Toward(rho=0.1)(clf, batch.x, "dog"))
reveal_type(IntegratedGradients(steps=20)(clf, batch.x, batch.y).map)
reveal_type(x)
reveal_type(y)
reveal_type(advex.explain(clf, "a.png", target="dog"))
reveal_type(advex.evaluate({"mine": clf}, data, attack="minimal")["mine"]["accuracy"].value)
PGD(radius="8/255", epsilon=3)
clf.predict("a.png")
"""
# What no script of a user sees of torch takes mypy a minute.
INTERNAL = (
    "torch._decomp.*,torch._dynamo.*,torch._inductor.*,torch._prims.*,torch._refs.*,torch.distributed.*,torch.fx.*"
)
MYPY = f"[mypy]\n[mypy-{INTERNAL},torch.ao.*,torch.export.*,torch.onnx.*]\nfollow_imports = skip\n"
Check = Callable[[Path], list[tuple[int, str, str]]]
TYPES = ["Perturbation", "Tensor", "Explanation", "Tensor", "Tensor", "int", "Explained", "float"]


def by_pyright(folder: Path) -> list[tuple[int, str, str]]:
    """(line, error or note, message)."""
    options = ["--outputjson", "--pythonpath", sys.executable]
    said = json.loads(checked("pyright", *options, folder=folder))["generalDiagnostics"]
    kinds = {"information": "note", "error": "error", "warning": "warning"}
    return [(each["range"]["start"]["line"] + 1, kinds[each["severity"]], each["message"]) for each in said]


def by_mypy(folder: Path) -> list[tuple[int, str, str]]:
    (folder / "mypy.ini").write_text(MYPY)
    said = checked("mypy", "--no-error-summary", "--cache-dir", str(folder / "cache"), folder=folder)
    lines = re.findall(r"^script\.py:(\d+): (error|note): (.*?)(?:  \[[\w-]+\])?$", said, re.MULTILINE)
    return [(int(number), kind, message) for number, kind, message in lines]


def checked(tool: str, *options: str, folder: Path) -> str:
    command = [sys.executable, "-m", tool, "script.py", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("check", [by_pyright, by_mypy])
def test_a_users_script_is_understood_and_its_mistakes_are_seen(check: Check, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    wrong = [number for number, line in enumerate(SCRIPT.splitlines(), 1) if "epsilon=3" in line or "predict(" in line]
    said = check(tmp_path)
    assert sorted({line for line, kind, _ in said if kind == "error"}) == wrong, said
    revealed = [message for _, kind, message in said if kind == "note"]
    assert len(revealed) == len(TYPES)
    for message, name in zip(revealed, TYPES, strict=True):
        assert message.rstrip("\"'").endswith(name), message
