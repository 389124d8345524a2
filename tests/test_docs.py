"""The documents: their Python runs, their commands exist, their links lead somewhere; notebooks run."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.main import get_command

import advex
from advex import cli, registry
from advex.data import splits
from advex.errors import DataError
from advex.recipes import recipe_from

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SCRIPTS = sorted(ROOT.glob("examples/*.py"))
# Pages whose Python other modules of tests run, and hold to what it says.
ELSEWHERE = {
    "README.md", "annotated.md", "certified.md", "explainers.md", "extending.md", "generation.md", "objectives.md",
    "sparsity-and-stability.md", "trust.md",
}  # fmt: skip


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


# -- Python ----------------------------------------------------------------------------------------------------


def loans() -> None:
    rng = np.random.default_rng(0)
    lines = [
        f"{income},{age},{home},{sex},{'yes' if income + 5000 * (home == 'own') > 30000 else 'no'}"
        for income, age, home, sex in zip(
            rng.integers(10, 60, 300) * 1000, rng.integers(18, 70, 300), rng.choice(["own", "rent"], 300),
            rng.choice(["f", "female", "m"], 300), strict=True,
        )
    ]  # fmt: skip
    Path("loans.csv").write_text("\n".join(["income,age,housing,sex,accepted", *lines]) + "\n")


def run_of_loans() -> None:
    loans()
    Path("recipe.yaml").write_text("network: linear\nepochs: 3\n")
    advex.train("recipe.yaml", "loans.csv", out="runs/loans", split="train", quiet=True)


def picture() -> None:
    Image.new("RGB", (40, 32), "red").save("my.jpg")


def radiographs() -> None:
    """Made ones, and a model of their regions."""
    from tests.test_jsrt import NODULES, OTHERS, stored, write

    names = ("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002")  # as the tables have them
    pictures = {f"{name}.IMG": stored(seed).astype(">u2").tobytes() for seed, name in enumerate(names)}
    write(Path("path/to/jsrt"), pictures, "\n".join(NODULES), "\n".join(OTHERS))
    advex.save(advex.Classifier("linear:features=65536,classes=2"), "runs/jsrt")


def pretrained() -> None:
    """A folder as timm writes it."""
    from tests.test_weight_names import saved

    from advex import networks

    pictures = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "input_size": [3, 64, 64]}
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": pictures, "label_names": ["cat", "dog"]}
    saved(Path("path/to/folder"), config, None, networks.build("resnet:depth=18,classes=2").state_dict())


PREPARED: dict[str, Callable[[], None]] = {
    "index.md": picture, "python.md": picture, "tables.md": loans, "tables-counterfactuals.md": run_of_loans,
    "loaders.md": radiographs, "models.md": pretrained,
}  # fmt: skip


@pytest.mark.parametrize("name", [path.name for path in PAGES if path.name not in ELSEWHERE and blocks(path, "python")])
def test_the_python_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, each block with the names of those before it."""
    (path,) = [path for path in PAGES if path.name == name]
    monkeypatch.chdir(tmp_path)
    PREPARED.get(name, lambda: None)()
    names: dict[str, Any] = {}
    for block in blocks(path, "python"):
        exec(compile(block, name, "exec"), names)  # noqa: S102


# -- files -----------------------------------------------------------------------------------------------------


def test_the_recipes_of_the_page_on_theory_are_recipes() -> None:
    written = blocks(ROOT / "docs/theory-concise-explanations.md", "yaml")
    made = [recipe_from(yaml.safe_load(block)) for block in written]
    assert [[*recipe.objective] for recipe in made] == [["adversarial"], ["stable_ig"], ["stable_ig"]]


def test_the_description_of_a_table_describes_one(tmp_path: Path) -> None:
    (sheet,) = blocks(ROOT / "docs/tables.md", "yaml")
    (tmp_path / "loans.yaml").write_text(sheet)
    rng = np.random.default_rng(0)
    rows = [
        f"{1000 * rng.integers(20, 90)},{20 + k % 50},{('primary', 'secondary', 'university')[k % 3]},{'fm'[k % 2]},"
        f"row {k},{k % 4},{k % 9 + 0.5},{('no', 'yes')[k // 3 % 2]}"
        for k in range(120)
    ]
    header = "income,age,school,sex,name,region,co,accepted"
    (tmp_path / "loans.csv").write_text("\n".join([header, *rows]) + "\n")
    assert splits(tmp_path / "loans.csv") == ("test", "train", "validation")
    data = advex.open_dataset(tmp_path / "loans.csv", split="train")
    assert (len(data), data.class_names) == (77, ("refused", "granted"))
    assert data.features is not None
    columns = {column.name: column for column in data.features.features}
    assert [*columns] == ["income", "age", "school", "sex", "region", "co"]
    assert (columns["income"].high, columns["income"].unit) == (200000, "EUR")
    assert [columns[name].change for name in ("age", "school", "sex")] == ["up", "up", "never"]
    missing = [re.sub(r"(?<=,)0\.5(?=,)", "-200", row) for row in rows]
    (tmp_path / "loans.csv").write_text("\n".join([header, *missing]) + "\n")
    with pytest.raises(DataError, match=r"'co' in \d+ rows"):
        advex.open_dataset(tmp_path / "loans.csv", split="train")


def test_json_and_toml_can_be_read() -> None:
    (printed,) = blocks(ROOT / "docs/cli.md", "json")
    assert json.loads(printed)["models"]["robust"]["accuracy"].keys() == {"value", "low", "high", "n", "failures"}
    (declared,) = blocks(ROOT / "docs/plugins.md", "toml")
    groups = tomllib.loads(declared)["project"]["entry-points"]
    assert {*groups} == {registry.PLUGINS, registry.SECTIONS}


# Languages of blocks -> what holds them to what they say.
HELD = {
    "python": "test_the_python_of_a_page_runs", "sh": "test_doc_commands.py", "bash": "test_doc_commands.py",
    "yaml": "here, test_recipes.py, test_objectives_page.py", "json": "test_json_and_toml_can_be_read",
    "toml": "test_json_and_toml_can_be_read", "html": "test_extending.py", "text": "what is printed, not typed",
}  # fmt: skip


def test_no_block_is_of_a_kind_that_nobody_looks_at() -> None:
    opened = [
        kind for page in PAGES for kind in re.findall(r"^```(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert {*opened} <= {*HELD}
    recipes_told = {page.name for page in PAGES if blocks(page, "yaml")}
    assert recipes_told == {"recipes.md", "objectives.md", "tables.md", "theory-concise-explanations.md"}


# -- commands --------------------------------------------------------------------------------------------------


def commands(path: Path) -> list[list[str]]:
    """The words of every `advex ...` in the blocks of shell commands."""
    lines = "\n".join(block for block in blocks(path, "(?:sh|text)?")).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"^\$ |^\.venv/bin/", "", line.strip()) for line in lines]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("advex ")]


def unknown(words: list[str]) -> str:
    """What of a command the program does not know: a verb or an option; nothing if all is well."""
    command: Any = get_command(cli.app)
    words = words[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return words[0]
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    known |= {"--help", "-h", "--install-completion", "--show-completion"}
    return next((word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known), "")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_commands_of_a_page_exist(path: Path) -> None:
    assert [" ".join(words) for words in commands(path) if unknown(words)] == []


def test_commands_that_do_not_exist_are_noticed() -> None:
    assert unknown(shlex.split("advex judg --model a")) == "judg"
    assert unknown(shlex.split("advex annotate prepare --models a")) == "--models"
    assert unknown(shlex.split("advex explain a.png -m builtin:x --target cat")) == ""


# -- links -----------------------------------------------------------------------------------------------------


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """As GitHub and the site make them of headings."""
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """The pages that `make docs` makes are known to it alone, which refuses what it does not know."""
    made = {f"{name.lower()}.md" for name in ("NUMBERS", "CHANGELOG", "SECURITY", "CONTRIBUTING", "RELEASING")}
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]+))?\)", prose(path)):
        if path.parent.name == "docs" and (target in made or target.startswith(("reference/", "examples/"))):
            continue
        to = path.parent / target if target else path
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), f"{target}#{anchor}"


# -- other libraries' names ------------------------------------------------------------------------------------


def is_ours(name: str) -> bool:
    """Whether it is a command, something in Python, or the name or spec of a registered thing."""
    if name.startswith("advex "):
        return not unknown(shlex.split(name))
    if name.startswith("advex."):
        room, _, last = name.rpartition(".")
        return hasattr(importlib.import_module(room), last)
    kinds = [kind for kind in registry.ROOMS if registry.parse(name)[0] in registry.entries(kind)]
    if ":" in name:
        for kind in kinds:
            registry.build(kind, name)
    return bool(kinds)


def test_our_column_of_every_table_names_what_is_there() -> None:
    page = (ROOT / "docs/coming-from.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == [
        "captum", "foolbox", "RobustBench and AutoAttack", "Quantus", "DiCE", "Label Studio"
    ]  # fmt: skip
    for section in sections:
        rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
        assert len(rows) >= 6
        for _, ours, *_ in rows:
            named = re.findall(r"`([^`]+)`", ours)
            assert named or ours.strip() == "-", ours
            assert [name for name in named if not is_ours(name)] == []


def test_what_is_not_there_is_noticed() -> None:
    assert not is_ours("fab")
    assert not is_ours("advex robustify")
    assert not is_ours("advex.attacks.FAB")


# -- the notebooks of examples/ --------------------------------------------------------------------------------


def test_there_are_six_notebooks() -> None:
    assert len(SCRIPTS) == 6


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_pair_holds_the_same_cells(script: Path, tmp_path: Path) -> None:
    """In a process of its own; the outputs beside the script are of an earlier run."""
    command = [sys.executable, "-m", "benchmarks.notebooks", script.stem, "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    paths = script.with_suffix(".ipynb"), tmp_path / f"{script.stem}.ipynb"
    kept, ran = (nbformat.read(path, as_version=4) for path in paths)
    assert [cell.source for cell in kept.cells] == [cell.source for cell in ran.cells], "make examples"
    for before, after in zip(kept.cells, ran.cells, strict=True):
        kinds = [[output.output_type for output in cell.get("outputs", [])] for cell in (before, after)]
        assert kinds[0] == kinds[1], before.source
        assert "stderr" not in [output.get("name") for output in after.get("outputs", [])], after.source


# A folder of somebody's own machine. Python's own names of temporary folders and placeholders such as path/to are none.
_PLACE = re.compile(r"(?<![\w~.+-])/(?:work|root|home|Users|tmp|mnt|private|var/folders)/\w")


def test_no_page_example_or_output_names_a_folder_of_a_machine() -> None:
    places = ("*.md", "docs/**/*.md", "examples/*", "benchmarks/**/*.py", "tests/references/**/*.json", "src/**/*.yaml")
    files = [path for pattern in places for path in ROOT.glob(pattern) if path.is_file()]
    assert len(files) > 60
    assert {path.suffix for path in files} >= {".md", ".ipynb", ".py", ".json", ".yaml"}
    for place in ("in /home/ann/photos", '"/tmp/advex-1x2y/a.png"', "(/Users/ann)"):
        assert _PLACE.search(place)
    found = [f"{path.relative_to(ROOT)}: {match[0]}" for path in files
             for match in _PLACE.finditer(path.read_text(encoding="utf-8"))]  # fmt: skip
    assert not found
