"""`py.typed`: what a type checker says of a user's script, outside of the package."""

from __future__ import annotations

import json
import subprocess
import sys
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
TYPES = ["Perturbation", "Tensor", "Explanation", "Tensor", "Tensor", "int", "Explained", "float"]


@pytest.mark.slow
def test_a_users_script_is_understood_and_its_mistakes_are_seen(tmp_path: Path) -> None:
    """By pyright, the one checker of types here."""
    (tmp_path / "script.py").write_text(SCRIPT)
    lines = SCRIPT.splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if "epsilon=3" in line or "predict(" in line]
    command = [sys.executable, "-m", "pyright", "script.py", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)["generalDiagnostics"]
    errors = [each["range"]["start"]["line"] + 1 for each in said if each["severity"] == "error"]
    revealed = [each["message"] for each in said if each["severity"] == "information"]
    assert sorted(set(errors)) == wrong, done.stdout
    assert len(revealed) == len(TYPES)
    for message, name in zip(revealed, TYPES, strict=True):
        assert message.rstrip("\"'").endswith(name), message
