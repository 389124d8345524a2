"""docs/objectives.md: its Python runs, its recipes are recipes, its searches are searches, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from advex import attacks, objectives, recipes, registry
from advex.objectives import Lipschitz, Step
from advex.types import Batch

PAGE = (Path(__file__).parent.parent / "docs" / "objectives.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]
ROWS = re.findall(r"^\| .*? \| `(\w+: .*?)` \|$", PAGE, flags=re.MULTILINE)


def test_the_python_blocks_run() -> None:
    """What it registers is a term as any other while it runs, and nobody knows it afterwards."""
    known = set(registry.entries("objective"))
    names: dict[str, Any] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            exec(compile(block, "objectives.md", "exec", dont_inherit=True), names)  # noqa: S102
        assert set(names["parts"]) >= {"confidence", "flat_loss", "lipschitz", "cross_entropy"}
        assert torch.isfinite(names["loss"])
        assert all(parameter.grad.any() for parameter in names["clf"].parameters())
        # Of those it adds the penalty on a gradient has both ways.
        clf, batch = names["clf"].double(), Batch(x=torch.rand(4, 1, 8, 8).double(), y=torch.arange(4))
        found = []
        for derivative in ("exact", "finite_difference"):
            step = Step(classifier=clf, batch=batch, seed=0)
            with step.seeded():
                term = registry.make("objective", "flat_loss", derivative=derivative, probe=1e-6)
                value, _, _ = term(step, {})
            found.append(
                torch.cat(
                    [
                        one.flatten()
                        for one in torch.autograd.grad(value, list(clf.parameters()), materialize_grads=True)
                    ]
                )
            )
        assert (found[0] - found[1]).norm() < 1e-4 * found[0].norm()
    finally:
        for key in [key for key in registry._entries if key[0] == "objective" and key[1] not in known]:
            del registry._entries[key]


def test_the_yaml_blocks_are_recipes() -> None:
    """The first settings are common: every further block is added to them."""
    assert len(BLOCKS) == 6
    common = next(block for block in BLOCKS if "epochs" in block)
    for block in BLOCKS:
        recipe = recipes.recipe_from({**common, **block})
        assert objectives.build(recipe.objective)
    recipe = recipes.recipe_from(common)
    # Sec. III-I: from 0.02 to 0.2 over 10 of 200 epochs, a tenth at 170 and at 195.
    rates = [recipes.learning_rate(recipe, epoch / 200) for epoch in (0, 5, 10, 169.9, 170, 194.9, 195)]
    assert rates == pytest.approx([0.02, 0.11, 0.2, 0.2, 0.02, 0.02, 0.002])


def test_the_rows_of_the_tables_are_options() -> None:
    assert len(ROWS) == 9
    for row in ROWS:
        options = yaml.safe_load("{" + row + "}")
        term = registry.make("objective", "lipschitz", **options)
        assert all(getattr(term, key) == value for key, value in options.items())


def test_the_searches_are_searches_and_go_as_far_as_they_say(toys: Any) -> None:
    specs = re.findall(r"\| `((?:l2min|pgd):[^`]*)` \|", PAGE)
    assert len(specs) == 7
    clf = toys.affine(torch.eye(2, 12, dtype=torch.float64) * 0.01, torch.tensor([2.0, 0.0]), box=(-5.0, 5.0))
    batch = Batch(x=torch.zeros(2, 12, dtype=torch.float64), y=torch.tensor([0, 0]))
    for spec in specs:
        search: Any = attacks.build(spec)
        term = objectives.Adversarial(attack=spec, share=1.0)
        with (step := Step(classifier=clf, batch=batch, seed=0)).seeded():
            delta = term.alter(step)
        if "rmse" in spec:  # a linear loss: seven steps of a seventh, all in one direction
            radius = search.radius * clf.width
            assert delta.square().mean(dim=1).sqrt().tolist() == pytest.approx([radius, radius], rel=1e-6)
        elif "linf" in spec:
            assert delta.abs().amax().item() <= 8 / 255 * clf.width + 1e-12


def test_every_term_and_option_is_told() -> None:
    for name, entry in registry.entries("objective").items():
        assert re.search(rf"^## {name}$", PAGE, flags=re.MULTILINE), name
        section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for option in entry.options():
            assert f"`{option}" in section or f"{option}:" in section, f"{name}: {option}"


def test_defaults_are_those_that_are_told() -> None:
    section = PAGE.split("\n## lipschitz\n")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", section, flags=re.MULTILINE))
    usual = Lipschitz()
    assert set(told) | {"worse", "better"} == set(registry.entries("objective")["lipschitz"].options())
    for name, value in told.items():
        if name == "rate":
            assert usual.rate == 0.02 / 128
        elif name == "target":
            assert usual.target is None
        elif value.startswith("`"):
            assert getattr(usual, name) == value.strip("`")
        else:
            assert getattr(usual, name) == float(value)
