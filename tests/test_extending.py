"""The files of docs/extending.md, installed as a package of somebody else's: listed, under contract, used and shown.

Nothing of advex names any of them. This is the proof that an addition is one new file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"```\w+\n(?:# |\{# )(\S+)(?: #\})?\n(.*?)```", re.DOTALL)
KINDS = {
    "attack": {"momentum", "single_elements"},
    "goal": {"forget"},
    "objective": {"doubt"},
    "explainer": {"left_out", "midpoints"},
    "distance": {"moved_weight"},
    "measure": {"on_the_thing"},
    "corruption": {"lamp_light"},
    "dataset": {"bright-squares"},
    "section": {"effort"},
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has the page's files installed."""
    place = tmp_path_factory.mktemp("site")
    for name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        room = "theirs_report" if name.startswith("effort") else "theirs"
        (place / room).mkdir(exist_ok=True)
        (place / room / name).write_text(text, encoding="utf-8")
        (place / room / "__init__.py").touch()
    described = place / "theirs-0.1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 0.1\n")
    (described / "entry_points.txt").write_text(
        "[advex.plugins]\nall = theirs\n\n[advex.report_sections]\nall = theirs_report\n"
    )
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def run(installed: dict[str, str], *arguments: str, cwd: Path = ROOT) -> str:
    """The standard output of a Python with those arguments."""
    ended = subprocess.run(
        [sys.executable, *arguments], env=installed, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def test_they_are_listed_as_somebody_elses(installed: dict[str, str]) -> None:
    entries = json.loads(run(installed, "-m", "advex", "list", "--json"))
    theirs = {(entry["kind"], entry["name"]) for entry in entries if entry["distribution"] == "theirs 0.1"}
    assert theirs == {(kind, name) for kind, names in KINDS.items() for name in names}


@pytest.mark.slow
def test_the_contracts_cover_them(installed: dict[str, str]) -> None:
    """The contract tests run over the registry: each of theirs is in several of them, and passes."""
    names = {name for kind, names in KINDS.items() if kind != "section" for name in names}
    chosen = ("-k", " or ".join(sorted(names)), "-p", "no:cacheprovider", "-q", "-rA", "--doctest-modules")
    report = run(installed, "-m", "pytest", str(ROOT / "tests" / "contracts"), *chosen)
    passed = [line for line in report.splitlines() if line.startswith("PASSED")]
    for name in names:
        assert sum(name in line for line in passed) >= 4, name


def test_they_are_trained_evaluated_recorded_and_shown(installed: dict[str, str], tmp_path: Path) -> None:
    recipe = tmp_path / "squares.yaml"
    recipe.write_text(
        "network: mlp:widths=32\nobjective:\n  natural: {}\n  doubt: {strength: 0.05}\n"
        "epochs: 20\nbatch_size: 10\nlearning_rate: 0.05\nrobust_every: 0\n"
    )
    folder, record_folder = tmp_path / "run", tmp_path / "record"
    run(installed, "-m", "advex", "train", str(recipe), "--data", "bright-squares", "--out", str(folder), "-q")
    run(
        installed, "-m", "advex", "evaluate", "--model", str(folder), "--data", "bright-squares", "--out",
        str(record_folder), "-q", "--attack", "none", "--btr", "none", "--radius", "linf:0.5", "--suite", "momentum",
        "--search", "single_elements:radius=0.5,steps=20@misclassify,momentum:radius=0.05@forget:k=5",
        "--maps", "left_out:value=0.5,gradient", "--measures",
        "on_the_thing,worst_case:distance=moved_weight,search=(momentum:radius=0.02,steps=3)",
    )  # fmt: skip
    record = json.loads((record_folder / "record.json").read_text())
    assert "radius=0.5" in record["radii"]["linf:0.5"]["searches"]["momentum"]
    assert any("single_elements" in spec for spec in record["searches"].values())
    assert any("@forget" in spec for spec in record["searches"].values())
    (model,) = record["models"]
    assert "doubt" in model["training"]["objective"]
    assert record["measures"]["on_the_thing"]["title"] == "Points at the object"
    assert record["measures"]["on_the_thing"]["of"] == "placed"
    # A square has 9 of 64 pixels: what counts for the class lies on it, as the measure sees by the data's evidence.
    assert model["maps"]["left_out"]["figures"]["on_the_thing"]["value"] > 0.9
    maps = pq.read_table(record_folder / "maps.parquet")
    assert set(maps.column("on_the_thing").to_pylist()) <= {0.0, 1.0}
    run(installed, "-m", "advex", "report", str(record_folder))
    page = (record_folder / "report.html").read_text(encoding="utf-8")
    for text in ("What the searches cost", "gradients per example", "Points at the object", "left_out"):
        assert text in page
