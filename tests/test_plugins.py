"""Packages of others: an entry point is enough to be listed, named and built; none of them can break advex."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = '''
from dataclasses import dataclass
import torch
from advex import attacks
from advex.registry import register

@register("attack", "stay", cites="nobody2026")
@dataclass(frozen=True, kw_only=True)
class Stay:
    """No step at all.

    radius: of the ball that it does not leave.
    """
    radius: float = 0.5

    def __call__(self, classifier, x, goal, *, seed=0, mask=None, max_batch=None):
        return attacks.PGD(radius=0, steps=1)(classifier, x, goal, seed=seed, mask=mask, max_batch=max_batch)
'''
GOAL = '''
from dataclasses import dataclass
import torch
from torch import Tensor
from advex.goals.goal import Aim, goal

@goal("doubt")
@dataclass(frozen=True)
class Doubt:
    """The confidence of class y below `below`.

    y: [n] int64. below: in (0, 1].
    """
    y: Tensor
    below: float = 0.9

    @classmethod
    def at(cls, classifier, x, y, *, below: float = 0.9):
        return cls(y, below)

    def __call__(self, classifier, x):
        s = classifier.logits(x).softmax(dim=1).gather(1, self.y[:, None])[:, 0]
        return Aim(loss=s - self.below, reached=(s < self.below).detach())
'''
DISTANCE = '''
from dataclasses import dataclass
from advex.distances.distance import rows
from advex.registry import register

@register("distance", "largest_change")
@dataclass(frozen=True)
class LargestChange:
    """The largest change, as a share of the first map's largest element."""
    highest = float("inf")

    def __call__(self, first, second):
        a, b = rows(first, second)
        return (b - a).abs().amax(dim=1) / a.abs().amax(dim=1)

    smooth = __call__
'''
SECTION = """
import sys
from advex.registry import register

@register("section", "note")
def note():
    "A note of theirs."
    return "noted"
"""


def install(folder: Path, name: str, points: dict[str, list[str]], files: dict[str, str]) -> None:
    """A distribution as an installer leaves it: a package, and beside it its dist-info folder."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    described = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    groups = (
        f"[{group}]\n" + "".join(f"point{i} = {module}\n" for i, module in enumerate(modules))
        for group, modules in points.items()
    )
    (described / "entry_points.txt").write_text("\n".join(groups))


def advex(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "advex", *arguments)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A plugin with an attack, a goal, a distance, a section, a recipe and a norm of its own."""
    files = {
        "their_package/__init__.py": "",
        "their_package/__main__.py": "raise RuntimeError('a program, which nobody started')",
        "their_package/stay.py": ATTACK,
        "their_package/deep/__init__.py": "from advex.recipes import register_files\nregister_files(__name__)\n",
        "their_package/deep/doubt.py": GOAL,
        "their_package/deep/their-recipe.yaml": "# Theirs.\nnetwork: linear\nepochs: 2\n",
        "their_package/distance.py": DISTANCE,
        "their_sections.py": SECTION,
    }
    points = {"advex.plugins": ["their_package"], "advex.report_sections": ["their_sections"]}
    install(tmp_path, "their-plugin", points, files)
    return tmp_path


def test_what_a_plugin_registers_is_listed_as_its_own(theirs: Path) -> None:
    ended = advex(theirs, "list", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    listed = {(entry["kind"], entry["name"]): entry for entry in json.loads(ended.stdout)}
    added = {key for key, entry in listed.items() if entry["distribution"] == "their-plugin 1.2"}
    expected = {"attack": "stay", "goal": "doubt", "distance": "largest_change", "section": "note"}
    assert added == {*expected.items(), ("recipe", "their-recipe")}
    assert listed["attack", "stay"]["options"] == {"radius": 0.5}
    assert listed["attack", "stay"]["file"] == str(theirs / "their_package" / "stay.py")
    assert listed["attack", "pgd"]["distribution"] == ""
    lines = advex(theirs, "list", "goal").stdout.splitlines()
    place = lines.index("goal doubt: The confidence of class y below `below`.")
    assert lines[place + 1] == "    below=0.9"
    assert lines[place + 2].endswith("doubt.py, from their-plugin 1.2")


def test_what_a_plugin_registers_is_built_from_its_spec_and_used(theirs: Path) -> None:
    script = """
import torch
from advex import goals, registry
from advex.classifier import Classifier
classifier = Classifier(torch.nn.Linear(3, 2))
x, y = torch.rand(4, 3), torch.zeros(4, dtype=torch.int64)
goal = goals.at("doubt:below=1", classifier, x, y)
print(goal(classifier, x).reached.tolist())
result = registry.build("attack", "stay:radius=1")(classifier, x, goal)
print(result.reached.tolist(), result.size.tolist())
map = torch.tensor([[1.0, -2.0]])
print(registry.build("distance", "largest_change")(map, 2 * map).item())
print(registry.describe(registry.build("goal", "doubt")), registry.build("recipe", "their-recipe:epochs=3").epochs)
"""
    ended = python(theirs, "-c", script)
    assert ended.stderr == ""
    yes = str([True] * 4)
    assert ended.stdout.splitlines() == [yes, f"{yes} {[0.0] * 4}", "1.0", "doubt:below=0.9 3"]


def test_sections_of_a_report_are_found_without_model_code(theirs: Path) -> None:
    script = (
        "import sys\nfrom advex import registry\nprint(registry.build('section', 'note'))\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'their_package')])"
    )
    assert python(theirs, "-c", script).stdout == "noted\n[]\n"


@pytest.mark.parametrize(
    ("line", "broken"),
    [("        return cls(y, below)", "        return cls(y, y[len(y)])"),
     ("        s = classifier.logits(x)", "        raise KeyError('scale')\n        s = classifier.logits(x)")],
    ids=["bound", "asked"],
)  # fmt: skip
def test_an_error_in_a_plugin_s_code_is_a_sentence_that_names_it(theirs: Path, line: str, broken: str) -> None:
    assert line in GOAL
    (theirs / "their_package" / "deep" / "doubt.py").write_text(GOAL.replace(line, broken))
    arguments = ["evaluate", "--model", "builtin:cifar10-ordinary", "--data", "cifar10-sample", "--max-samples", "2",
                 "--attack", "none", "--btr", "none", "--pictures", "none", "--search", "pgd:steps=1@doubt",
                 "--out", str(theirs / "out")]  # fmt: skip
    ended = advex(theirs, *arguments)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    kind = "IndexError" if "y[len(y)]" in broken else "KeyError: 'scale'"
    assert last.startswith(f"error: their-plugin 1.2: its plugin 'their_package.deep.doubt' failed ({kind}")
    assert "Traceback" not in ended.stderr
    assert "Traceback" in advex(theirs, *arguments, "--verbose").stderr


def test_a_plugin_that_cannot_be_imported_is_named_and_breaks_nothing(tmp_path: Path) -> None:
    files = {
        "broken/__init__.py": "",
        "broken/bad.py": "import no_such_module_anywhere",
        "broken/good.py": ATTACK,
        "exits.py": "raise SystemExit(3)",
    }
    install(tmp_path, "broken-plugin", {"advex.plugins": ["broken", "exits", "absent"]}, files)
    ended = advex(tmp_path, "list", "attack")
    assert ended.returncode == 0
    assert "attack stay" in ended.stdout
    assert "attack pgd" in ended.stdout
    warned = ended.stderr.splitlines()
    assert len(warned) == 3
    assert all(line.startswith("warning: broken-plugin 1.2: ") for line in warned)
    assert any("'broken.bad'" in line and "ModuleNotFoundError" in line for line in warned)
    assert any("'exits'" in line and "SystemExit: 3" in line for line in warned)
    assert any("'absent'" in line for line in warned)


@pytest.mark.parametrize("first", ["their_copy", "advex.attacks"])
def test_a_plugin_cannot_take_a_name_that_another_thing_has(tmp_path: Path, first: str) -> None:
    """Whichever is imported first, ours is the one; and of two plugins always the same."""
    copy = ATTACK.replace('"stay"', '"pgd"')
    install(tmp_path, "a-copy", {"advex.plugins": ["their_copy"]}, {"their_copy.py": copy + ATTACK})
    install(tmp_path, "b-copy", {"advex.plugins": ["another_copy"]}, {"another_copy.py": ATTACK})
    script = (
        f"import {first}, warnings\nfrom advex import registry\nwarnings.simplefilter('always')\n"
        "print(registry.entries('attack')['pgd'].module, registry.entries('attack')['stay'].module)\n"
        "print(registry.describe(registry.build('attack', 'pgd'))[:4])"
    )
    ended = python(tmp_path, "-c", script)
    assert ended.stdout == "advex.attacks.pgd their_copy\npgd:\n"
    both = "Two attacks are called 'pgd': advex.attacks.pgd.PGD and their_copy.Stay. The one of a-copy 1.2 is left out."
    assert both in ended.stderr
    assert "their_copy.Stay and another_copy.Stay. The one of b-copy 1.2 is left out." in ended.stderr
    assert len(advex(tmp_path, "list", "attack").stderr.splitlines()) == 2  # each is said once


def test_nothing_is_imported_because_a_file_names_it(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "recipe.yaml").write_text("network: hostile\nobjective: hostile.thing\n")
    ended = advex(theirs, "train", str(tmp_path / "recipe.yaml"), "--data", "digits", "--out", str(tmp_path / "run"))
    assert ended.returncode == 2
    assert "There is no" in ended.stderr
    assert "imported" not in ended.stderr
