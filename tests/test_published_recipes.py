"""The recipes of Woods et al. 2019, Sec. III-I: networks counted by hand, schedules by epoch, a step of each family.

And what only they use: windows of larger pictures, and balanced classes.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from advex import networks, objectives, recipes, registry
from advex.cli import main
from advex.data.dataset import Dataset
from advex.errors import SpecError
from advex.objectives import Lipschitz
from advex.recipes import Recipe, recipe_from
from advex.training import train
from advex.training.order import evened
from advex.training.run import Run, begin, class_weights, completed, seen
from advex.types import Batch

# family: shape of an example as it is opened, classes, side of what the network sees
FAMILIES = {
    "cifar10": ((3, 32, 32), 10, 32),
    "ilsvrc2012": ((3, 224, 224), 1000, 224),
    "coco": ((3, 96, 96), 80, 96),
    "jsrt": ((1, 768, 768), 2, 256),
}
PUBLISHED = [
    name
    for name in sorted(registry.entries("recipe"))
    if name.split("-")[0] in FAMILIES and name.split("-")[1] in ("ordinary", "adversarial", "lipschitz", "robust")
]


@functools.cache
def recipe_of(name: str) -> Recipe:
    return recipe_from(recipes.read(name), where=name)


def test_all_families_are_there() -> None:
    kinds = {family: [name.split("-")[1] for name in PUBLISHED if name.startswith(family)] for family in FAMILIES}
    assert kinds["cifar10"] == kinds["coco"] == ["adversarial", "lipschitz", "ordinary", "robust"]
    assert kinds["ilsvrc2012"] == kinds["jsrt"] == ["lipschitz", "ordinary", "robust"]


# -- networks ------------------------------------------------------------------------------------------------

# Stem; blocks, stage by stage; last norm; linear layer. A block from v to w channels has 2 v + 9 v w + 2 w + 9 w w, and
# 9 v w more where v is not w: its shortcut.
BY_HAND = {
    # 3 x 16 x 9; 7 x 4672; (32 + 4608 + 64 + 9216 + 4608) + 6 x 18560; 73920 + 6 x 73984; 128; 650
    "cifar10": 432 + 32_704 + 18_528 + 111_360 + 73_920 + 443_904 + 128 + 650,
    # 3 x 64 x 49; 2 x 73984; (128 + 73728 + 256 + 147456 + 73728) + 295424; 1180416 + 1180672; 4720128 + 4720640
    "ilsvrc2012": 9_408 + 147_968 + 590_720 + 2_361_088 + 9_440_768 + 1_024 + 513_000,
    # 3 x 32 x 16; 7 x 18560; (64 + 18432 + 128 + 36864 + 18432) + 6 x 73984; 295296 + 6 x 295424; 256; 128 x 80 + 80
    "coco": 1_536 + 129_920 + 73_920 + 443_904 + 295_296 + 1_772_544 + 256 + 10_320,
    # 64 x 81; 7 x 73984; (128 + 55296 + 192 + 82944 + 55296) + 6 x 166272; (192 + 110592 + 256 + 147456 + 110592)
    # + 6 x 295424; 256; 258
    "jsrt": 5_184 + 517_888 + 193_856 + 997_632 + 369_088 + 1_772_544 + 256 + 258,
}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith(("ordinary", "robust"))])
def test_networks_have_the_size_counted_by_hand(name: str) -> None:
    family = name.split("-")[0]
    shape, classes, side = FAMILIES[family]
    recipe = recipes.fitted(recipe_of(name), shape, classes)
    with torch.device("meta"):
        network = networks.build(recipe.network)
        logits = network(torch.empty(2, shape[0], side, side))
    assert sum(parameter.numel() for parameter in network.parameters()) == BY_HAND[family]
    assert logits.shape == (2, classes)
    ordinary = name.endswith("ordinary")
    assert any(isinstance(module, torch.nn.ReLU) for module in network.modules()) == ordinary
    assert any(isinstance(module, networks.HalfHuberReLU) for module in network.modules()) != ordinary


# -- schedules -----------------------------------------------------------------------------------------------

# (epochs, end of the warm-up, milestones, peak); the rate there starts at a tenth of the peak
SCHEDULES = {
    "cifar10": (200, 10, 170, 195, 0.2),
    "ilsvrc2012": (65, 10, 50, 60, 0.3),
    "coco": (80, 10, 55, 70, 0.2),
    "jsrt": (200, 10, 170, 195, 0.2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_rates_change_with_the_papers_epochs(name: str) -> None:
    """Step by step around each change: also with as many steps per epoch as ImageNet has."""
    epochs, warm, first, second, peak = SCHEDULES[name.split("-")[0]]
    recipe = recipe_of(name)
    assert (recipe.epochs, recipe.learning_rate, recipe.momentum, recipe.nesterov) == (epochs, peak, 0.9, False)
    for steps in (7, 6673):
        total = epochs * steps

        def rate(step: int) -> float:
            return recipes.learning_rate(recipe, step / total)  # noqa: B023

        assert rate(0) == pytest.approx(peak / 10)
        assert rate(warm * steps // 2) == pytest.approx(0.55 * peak, rel=0.1 / warm)
        for step in (warm * steps, first * steps - 1):
            assert rate(step) == pytest.approx(peak), step
        for step in (first * steps, second * steps - 1):
            assert rate(step) == pytest.approx(peak / 10), step
        for step in (second * steps, total - 1):
            assert rate(step) == pytest.approx(peak / 100), step


@pytest.mark.parametrize("name", PUBLISHED)
def test_psi_grows_by_two_percent_per_batch_at_most(name: str) -> None:
    """The authors' psi = 220 exp(0.02 sum), with an increment of 1 at most for each batch."""
    recipe = recipe_of(name)
    penalty = objectives.build(recipe.objective).terms.get("lipschitz")
    assert (penalty is not None) == name.endswith(("lipschitz", "robust"))
    if isinstance(penalty, Lipschitz):
        assert penalty.rate * recipe.batch_size == pytest.approx(0.02, rel=1e-6)
        assert (penalty.psi, penalty.better, penalty.worse, penalty.z, penalty.q) == (220, 1, 0.01, 2, 0)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("robust")])
def test_the_robust_ones_are_the_lipschitz_ones_with_an_adversary(name: str) -> None:
    robust, lipschitz = recipe_of(name), recipe_of(name.replace("robust", "lipschitz"))
    adversary = robust.objective["adversarial"]
    assert adversary == {"attack": "l2min:epsilon=0.1,steps=7", "share": 0.5}
    assert robust.model_copy(update={"objective": lipschitz.objective}) == lipschitz
    assert {key: value for key, value in robust.objective.items() if key != "adversarial"} == lipschitz.objective


def test_what_a_family_shares() -> None:
    """Networks apart, only objective and (ImageNet, Sec. IV-B1) weight decay differ within a family."""
    for family in FAMILIES:
        all_of = [recipe_of(name) for name in PUBLISHED if name.startswith(family)]
        for one in all_of:
            differing = {key for key in Recipe.model_fields if getattr(one, key) != getattr(all_of[0], key)}
            assert differing <= {"network", "objective", *(["weight_decay"] if family == "ilsvrc2012" else [])}
    assert recipe_of("ilsvrc2012-ordinary").weight_decay == 1e-4
    assert recipe_of("ilsvrc2012-lipschitz").weight_decay == recipe_of("ilsvrc2012-robust").weight_decay == 1e-6


# -- the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def advex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`advex ...` in an empty folder: what it says on stdout. It must succeed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["advex", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capfd.readouterr()
        assert not ended.value.code, told.err
        return told.out

    return run


def test_a_dry_run_prints_every_bundled_recipe(advex: Callable[..., str]) -> None:
    for name in registry.entries("recipe"):
        printed = yaml.safe_load(advex("train", name, "--dry-run"))
        assert recipe_from(printed) == recipe_of(name), name


SMALL = {
    "cifar10": "preact_resnet:depth=8,widths=2-2-2",
    "ilsvrc2012": "preact_resnet:depth=10,widths=2-2-2-2,stem=imagenet",
    "coco": "preact_resnet:depth=8,widths=2-2-2,stem=4x4s3",
    "jsrt": "preact_resnet:depth=8,widths=2-2-2,stem=9x9pool8",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_on_data_of_the_papers_size(family: str, advex: Callable[..., str]) -> None:
    """Of the recipe with every term, through the command line; only the network is thinner, and the batch smaller."""
    if family == "jsrt":
        pytest.importorskip("kornia")
    shape, _, side = FAMILIES[family]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (8, *shape), dtype=np.uint8)
    examples: Any = x.astype(np.float32) / 255 if family == "jsrt" else x
    y = np.arange(8) % 2
    np.savez("data.npz", x_train=examples[:6], y_train=y[:6], x_test=examples[6:], y_test=y[6:])
    command = ["train", f"{family}-robust", f"network={SMALL[family]}", "batch_size=6", "accumulate=1"]
    command += ["--data", "data.npz", "--dry-run"]
    fitted = yaml.safe_load(advex(*command))["network"]
    assert fitted == SMALL[family] + f",classes=2,channels={shape[0]}"
    assert not list(Path().glob("runs*"))


# -- what the network sees -----------------------------------------------------------------------------------


def pictures(n: int, shape: tuple[int, ...], labels: list[int] | None = None, classes: int = 2) -> Dataset:
    x = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    y = torch.tensor(labels) if labels else torch.arange(n) % classes
    names = tuple(f"class {number}" for number in range(classes))
    return Dataset(name="pictures", x=x, y=y, class_names=names, ids=tuple(map(str, range(n))))


def test_larger_pictures_are_cut_to_train_and_the_centre_is_measured(tmp_path: Path) -> None:
    data = pictures(8, (3, 12, 14))
    recipe = recipe_from(
        {"network": "mlp:widths=4", "crop": 8, "epochs": 1, "batch_size": 4, "robust_every": 0, "mean": 0.0, "std": 1.0}
    )
    fitted = recipes.fitted(recipe, data.shape, 2)
    assert fitted.network == "mlp:widths=4,features=192,classes=2"
    run = begin(fitted, data, tmp_path, "cpu")
    batch = run.batch(torch.arange(8), run.pixels(torch.arange(8)))
    assert batch.x.shape == (8, 3, 8, 8)
    whole = data.batch(slice(None)).x
    windows = whole.unfold(2, 8, 1).unfold(3, 8, 1)
    for row in range(8):  # each is a window of its own picture
        there = (windows[row].permute(1, 2, 0, 3, 4) == batch.x[row]).flatten(2).all(dim=2)
        assert there.sum() == 1
    assert torch.equal(seen(recipe, data).x, data.x[:, :, 2:10, 3:11])
    classifier = train(recipe, data, tmp_path / "run", validation=pictures(2, (3, 12, 14)))
    assert yaml.safe_load((tmp_path / "run" / "config.json").read_text())["input_shape"] == [3, 8, 8]
    assert classifier(torch.rand(2, 3, 8, 8)).shape == (2, 2)


def test_without_a_window_nothing_is_copied() -> None:
    data = pictures(4, (3, 8, 8))
    assert seen(recipe_from({}), data) is data
    assert seen(recipe_from({"crop": 8}), data).x.data_ptr() == data.x.data_ptr()


def test_standardised_in_training_is_standardised_when_measured(tmp_path: Path) -> None:
    """A window that is neither turned nor erased is the same in both."""
    pytest.importorskip("kornia")
    data = pictures(4, (1, 24, 24))
    still = {"rotation": 0, "shear": 0, "scale": [1, 1], "erase": 0, "window": 8, "standardise": True}
    recipe = recipe_from({"network": "small_cnn", "affine": still, "batch_size": 4})
    run = begin(recipes.fitted(recipe, data.shape, 2), data, tmp_path, "cpu")
    expected = seen(recipe, data).x
    torch.testing.assert_close(run.batch(torch.arange(4), run.pixels(torch.arange(4))).x, expected, rtol=0, atol=1e-5)
    z = (expected.double() - 0.5) / 0.125
    assert z.mean(dim=(1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(z.var(dim=(1, 2, 3), correction=0), torch.ones(4).double(), rtol=1e-4, atol=0)
    plain = recipe_from({"network": "small_cnn", "affine": {**still, "standardise": False}, "batch_size": 4})
    run = begin(recipes.fitted(plain, data.shape, 2), data, tmp_path, "cpu")
    batch = run.batch(torch.arange(4), run.pixels(torch.arange(4)))
    torch.testing.assert_close(batch.x, data.batch(slice(None)).x[:, :, 8:16, 8:16])


# -- balanced classes ----------------------------------------------------------------------------------------


def test_class_weights_by_hand() -> None:
    """6 examples of 3 classes that have any: 6 / (3 x 3), 6 / (3 x 2), 6 / (3 x 1); none of the last."""
    weights = class_weights(pictures(6, (1, 2, 2), [0, 0, 0, 1, 1, 2], classes=4))
    assert weights.tolist() == pytest.approx([2 / 3, 1.0, 2.0, 0.0])
    # On average 1, and each class as much as the next.
    assert (weights * torch.tensor([3, 2, 1, 0])).tolist() == pytest.approx([2, 2, 2, 0])
    # Of what is trained on, not of the set that it was drawn from.
    drawn = pictures(6, (1, 2, 2), [0, 0, 0, 1, 1, 2], classes=4).take(torch.tensor([0, 1, 2, 5]))
    assert class_weights(drawn).tolist() == pytest.approx([4 / 6, 0, 2, 0])


def test_the_weighted_loss_by_hand(toys: Any) -> None:
    """Cross-entropies ln 2 and ln 4, weights 0.5 and 3; nothing but cross-entropy is weighted."""
    x = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    clf = toys.affine(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), box=(-9.0, 9.0))
    y, weight = torch.tensor([0, 1]), torch.tensor([0.5, 3.0], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    zeroing = objectives.build({"output_zeroing": {"strength": 0.1}})
    loss, parts, _ = zeroing(clf, Batch(x=x, y=y, weight=weight), {}, rng=rng)
    expected = (0.5 * math.log(2) + 3 * math.log(4)) / 2
    assert parts["cross_entropy"] == pytest.approx(expected)
    assert loss.item() == pytest.approx(expected + 0.1 * math.log(3) ** 2 / 2)
    smoothed = objectives.build({"natural": {"label_smoothing": 0.2}})
    loss, _, _ = smoothed(clf, Batch(x=x, y=y, weight=weight), {}, rng=rng)
    of_second = 0.9 * math.log(4) + 0.1 * math.log(4 / 3)
    assert loss.item() == pytest.approx((0.5 * math.log(2) + 3 * of_second) / 2)
    # Eq. 15 meets the loss that is trained on: ln(target / L) of the weighted one.
    adaptive = objectives.build({"lipschitz": {"psi": 1.0, "target": 3.0}})
    _, _, state = adaptive(clf, Batch(x=x, y=y, weight=weight), adaptive.start(), rng=rng)
    assert state["lipschitz.integral"] == pytest.approx(2 * math.log(3 / expected))


def test_the_balanced_gradient_is_that_of_classes_drawn_equally_often(tmp_path: Path) -> None:
    """9 of one class and 3 of another: the same step as with each of the 3 there three times, and without weights."""
    recipe = {"network": "linear", "batch_size": 18, "epochs": 1, "accumulate": 1}
    data = pictures(12, (1, 2, 2), [0] * 9 + [1] * 3)
    evened = data.take(torch.tensor([*range(12), 9, 10, 11, 9, 10, 11]))

    def gradient(run: Run) -> torch.Tensor:
        objective, batch = run.objective, run.batch(rows := torch.arange(len(run.data)), run.pixels(rows))
        loss, _, _ = objective(run.classifier, batch, objective.start(), rng=torch.Generator())
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(run.classifier.parameters()))])

    def run(balanced: bool, of: Dataset) -> Run:
        made = recipe_from({**recipe, "balanced": balanced})
        return begin(recipes.fitted(made, of.shape, 2), of, tmp_path, "cpu")

    torch.testing.assert_close(gradient(run(True, data)), gradient(run(False, evened)), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(gradient(run(False, data)), gradient(run(False, evened)), rtol=1e-2)


def test_as_many_examples_of_each_class_as_are_asked_for() -> None:
    """Of 5, 3 and 1 examples 4 each: one of the first is left out, those of the second come once, and one twice."""
    labels = torch.tensor([0, 1, 0, 3, 0, 1, 0, 1, 0])
    seen = []
    for seed in range(20):
        numbers = evened(labels, 4, torch.Generator().manual_seed(seed))
        assert len(numbers.unique()) == 12  # who comes back has another number
        rows = numbers % 9
        assert labels[rows].bincount(minlength=4).tolist() == [4, 4, 0, 4]
        counts = rows.bincount(minlength=9)
        assert sorted(counts[labels == 0].tolist()) == [0, 1, 1, 1, 1]
        assert sorted(counts[labels == 1].tolist()) == [1, 1, 2]
        assert sorted((numbers // 9)[rows == 3].tolist()) == [0, 1, 2, 3]
        seen.append(tuple(numbers.tolist()))
    assert len(set(seen)) == 20


def test_an_example_that_comes_back_is_altered_in_another_way(tmp_path: Path) -> None:
    data = pictures(4, (1, 8, 8), [0, 0, 0, 1])
    made = recipe_from({"network": "linear", "batch_size": 6, "pad": 4, "per_class": 3, "epochs": 2})
    run = begin(recipes.fitted(made, data.shape, 2), data, tmp_path, "cpu")
    assert run.steps == 2
    (numbers,) = run.batches(0)
    batch = run.batch(numbers, run.pixels(numbers))
    assert batch.index is not None
    assert batch.y.tolist() == [int(number % 4 == 3) for number in numbers]
    alone = batch.x[batch.y == 1]
    assert len(alone.unique(dim=0)) == 3
    with pytest.raises(SpecError, match="omit one of them"):
        recipe_from({"balanced": True, "per_class": 3})


# -- runs of before ------------------------------------------------------------------------------------------


def test_a_run_from_before_a_setting_was_there_goes_on(tmp_path: Path) -> None:
    recipe = recipes.fitted(recipe_from({"network": "linear"}), (1, 2, 2), 2)
    run = begin(recipe, pictures(4, (1, 2, 2)), tmp_path, "cpu")
    newer = ("crop", "affine", "balanced", "per_class")
    older = {key: value for key, value in run.identity["recipe"].items() if key not in newer}
    assert completed({**run.identity, "recipe": older}) == run.identity
    assert completed({**run.identity, "recipe": {**older, "crop": 2}}) != run.identity
    assert completed({}) == {}
