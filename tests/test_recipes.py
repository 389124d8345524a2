"""Recipes: settings as typed and as written, what is refused, and the learning rates they stand for."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from advex import recipes, registry
from advex.data.augmentation.affine import AffineAugmentation
from advex.errors import DataError, SpecError
from advex.recipes import Recipe, learning_rate, recipe_from

DOCS = Path(__file__).parents[1] / "docs" / "recipes.md"


@pytest.mark.parametrize("name", sorted(registry.entries("recipe")))
def test_bundled_recipes_are_valid_and_say_their_source(name: str) -> None:
    recipe = recipe_from(recipes.read(name), where=name)
    recipes.fitted(recipe, (3, 32, 32), 10)
    assert "Source:" in registry.entries("recipe")[name].summary
    assert recipe_from(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


def test_overrides_as_typed() -> None:
    recipe = recipe_from(
        recipes.read("digits-robust"),
        {
            "epochs": "7", "learning_rate": "1e-2", "mean": "0.4,0.5,0.6", "milestones": "0.5,0.9",
            "network": "small_cnn:widths=8-16-32", "objective.adversarial.share": "1", "channels_last": "false",
            "objective.adversarial.attack": "pgd:norm=rmse,radius=8/255", "resize": "0.75,1.25",
            "objective.lipschitz.psi": "30", "robust_attack": "pgd:norm=linf,radius=0.1", "affine.scale": "0.7,1.4",
            "affine.erase": "0", "crop": "6",
        },
    )  # fmt: skip
    assert (recipe.epochs, recipe.learning_rate, recipe.mean) == (7, 0.01, (0.4, 0.5, 0.6))
    assert (recipe.milestones, recipe.network, recipe.channels_last) == ((0.5, 0.9), "small_cnn:widths=8-16-32", False)
    assert recipe.objective == {
        "adversarial": {"attack": "pgd:norm=rmse,radius=8/255", "share": 1},
        "lipschitz": {"psi": 30},
    }
    assert (recipe.resize, recipe.robust_attack) == ((0.75, 1.25), "pgd:norm=linf,radius=0.1")
    assert (recipe.affine, recipe.window) == (AffineAugmentation(scale=(0.7, 1.4), erase=0), 6)
    assert recipe_from({"affine": {"window": 8}}).window == 8


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("natural", {"natural": {}}),
        (
            "adversarial:attack=(pgd:norm=l2,radius=1),share=1",
            {"adversarial": {"attack": "pgd:norm=l2,radius=1", "share": 1}},
        ),
        ({"lipschitz": None, "noise": {"std": 0.1}}, {"lipschitz": {}, "noise": {"std": 0.1}}),
    ],
)  # fmt: skip
def test_an_objective_is_a_mapping_or_one_term_as_a_spec(written: Any, meant: Any) -> None:
    assert recipe_from({"objective": written}).objective == meant
    more = recipe_from({"objective": written}, {"objective.output_zeroing.strength": "0.02"})
    assert more.objective == {**meant, "output_zeroing": {"strength": 0.02}}


@pytest.mark.parametrize(
    ("values", "overrides", "said"),
    [
        ({"epoch": 3}, {}, "no setting 'epoch': did you mean 'epochs'"),
        ({}, {"epoch": "3"}, "no setting 'epoch': did you mean 'epochs'"),
        ({}, {"objectiv.lipschitz.psi": "1"}, "did you mean 'objective.lipschitz.psi'"),
        ({}, {"objective.psi": "1"}, "did you mean 'objective.lipschitz.psi'"),
        ({}, {"lr": "1"}, "it is called 'learning_rate'"),
        ({"optimizer": "sgd"}, {}, "it is called 'optimiser'"),
        ({}, {"wd": "1"}, "it is called 'weight_decay'"),
        ({}, {"bs": "1"}, "it is called 'batch_size'"),
        ({}, {"n_epochs": "1"}, "'epochs'"),
        ({}, {"objective.lipschitz": "1"}, "no setting 'objective.lipschitz'"),
        ({}, {"epochs.x": "1"}, "no setting 'epochs.x'"),
        ({"epochs": 0}, {}, "epochs = 0 is not valid"),
        ({"epochs": "many"}, {}, "epochs = 'many' is not valid"),
        ({"learning_rate": math.inf}, {}, "learning_rate = inf is not valid"),
        ({"seed": -1}, {}, "seed = -1 is not valid"),
        ({"schedule": "cosine"}, {}, "schedule = 'cosine' is not valid"),
        ({}, {"milestones": "85,97"}, "milestones.0 = 85 is not valid"),
        ({}, {"resize": "1.5,0.5"}, "resize must be a lowest and a highest factor"),
        ({}, {"crop": "-1"}, "crop = -1 is not valid"),
        ({"affine": {"rotatoin": 3}}, {}, "no setting 'affine.rotatoin': did you mean 'affine.rotation'"),
        ({}, {"affine.rotatoin": "3"}, "no setting 'affine.rotatoin': did you mean 'affine.rotation'"),
        ({}, {"affin.rotation": "3"}, "did you mean 'affine.rotation'"),
        ({}, {"affine.rotation": "many"}, "affine.rotation = 'many' is not valid"),
        ({}, {"affine.rotation": "200"}, "rotation must be 0 to 180 degrees"),
        ({}, {"affine.scale": "2,1"}, "scale a lowest and a highest factor"),
        ({"affine": 3}, {"affine.erase": "2.5"}, "affine.erase = 2.5 is not valid"),
        ({"affine": {"window": 8}, "crop": 8}, {}, "crop and affine.window both set"),
        ({"objective": 3}, {}, "objective = 3 is not valid"),
        ({"objective": "adversarail"}, {}, "did you mean 'adversarial'"),
        ({"objective": {"adversarial": {"shares": 1}}}, {}, "did you mean 'share'"),
        ({"objective": {"adversarial": {"attack": "l2min:step=3"}}}, {}, "did you mean 'steps'"),
        ({"objective": "adversarial"}, {"objective.adversarial.share": "2"}, r"share must be at most 1, not 2"),
        ({"network": "smal_cnn"}, {}, "did you mean 'small_cnn'"),
        ({"network": "small_cnn:width=4-4-4"}, {}, "did you mean 'widths'"),
        ({"robust_attack": "pdg"}, {}, "did you mean 'pgd'"),
        ({"best_by": "robust_accuracy", "robust_every": 0}, {}, "set robust_every to 1 or more"),
        ({"batch_size": 7, "accumulate": 4}, {}, "accumulate=4 leaves parts of a batch of 7 with one example"),
        (
            {"objective": {"lipschitz": {"derivative": "finite_difference"}}, "precision": "bfloat16"}, {},
            "derivative=finite_difference needs precision=float32",
        ),
    ],
)  # fmt: skip
def test_recipe_errors_name_the_setting(values: dict[str, Any], overrides: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        recipe_from(values, overrides)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- a\n- b\n", "must contain lines of the form"),
        (b"epochs: [1, 2\n", "not valid YAML"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"1: 2\n", "must contain lines of the form"),
        (b"", "must contain lines of the form"),
        (b"network: !!python/object/apply:os.system ['touch hostile']\n", "not valid YAML"),
        (b"#" * (2**20 + 1), "the limit for"),
    ],
)
def test_files_that_are_no_recipes(content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=said):
        recipes.read("recipe.yaml")
    assert not Path("hostile").exists()


def test_a_recipe_that_does_not_exist_is_guessed() -> None:
    with pytest.raises(SpecError, match="'digits-robst'.*'digits-robust'"):
        recipes.read("digits-robst")


def test_what_a_spec_leaves_open_is_taken_from_the_data() -> None:
    def network(spec: str, shape: tuple[int, ...]) -> str:
        return recipes.fitted(Recipe(network=spec), shape, 7).network

    assert network("small_cnn", (3, 16, 16)) == "small_cnn:classes=7,channels=3"
    assert network("small_cnn:widths=8-8-8,channels=1", (3, 16, 16)) == "small_cnn:widths=8-8-8,channels=1,classes=7"
    assert network("mlp", (3, 4, 5)) == "mlp:features=60,classes=7"
    assert network("linear:features=60,classes=7", (60,)) == "linear:features=60,classes=7"
    with pytest.raises(SpecError, match="did you mean 'small_cnn'"):
        network("smal_cnn", (3, 4, 5))


def test_learning_rates_by_hand() -> None:
    one_cycle = Recipe(learning_rate=0.2, warm_up=0.2)
    # A tenth of the peak, linearly up to it, half a cosine down to nothing.
    down = 0.2 * (1 + math.sqrt(0.5)) / 2
    for progress, rate in ((0, 0.02), (0.1, 0.11), (0.2, 0.2), (0.4, down), (0.6, 0.1), (1, 0)):
        assert learning_rate(one_cycle, progress) == pytest.approx(rate, abs=1e-12)
    step = Recipe(learning_rate=0.2, warm_up=0.05, schedule="step", milestones=(0.85, 0.975))
    for progress, rate in ((0.025, 0.11), (0.05, 0.2), (0.84, 0.2), (0.85, 0.02), (0.975, 0.002), (1, 0.002)):
        assert learning_rate(step, progress) == pytest.approx(rate)
    constant = Recipe(learning_rate=0.2, warm_up=0.0, schedule="constant")
    assert [learning_rate(constant, progress) for progress in (0, 0.5, 1)] == [0.2, 0.2, 0.2]


# -- docs/recipes.md -----------------------------------------------------------------------------------------


def _rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = DOCS.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_setting_is_told_with_its_default() -> None:
    told = {name.strip("`"): default.strip("`").replace(" ", "") for name, default, _ in _rows("Settings")}
    assert list(told) == list(Recipe.model_fields), "every setting, in the order of the class"
    for name, field in Recipe.model_fields.items():
        default = field.get_default(call_default_factory=True)
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
        meant = {"objective": "natural"}.get(name, str(default).lower())
        assert told[name] == meant or float(told[name]) == float(meant), name


def test_every_bundled_recipe_is_told() -> None:
    section = DOCS.read_text().split("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)`", section, re.MULTILINE) == sorted(registry.entries("recipe"))


def test_every_example_of_the_page_is_a_recipe() -> None:
    """YAML blocks, and what `advex train` is told on the command lines."""
    text = DOCS.read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        recipe_from(yaml.safe_load(block))
    for line in re.findall(r"^advex train (\S+)(.*?)(?:--|#|$)", text, re.MULTILINE):
        name, changes = line
        overrides = dict(change.split("=", 1) for change in changes.replace("'", "").split())
        recipe_from(recipes.read(name) if name in registry.entries("recipe") else {}, overrides)


@pytest.mark.slow
def test_a_table_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breast cancer and wine as CSV files, against scikit-learn's logistic regression on the same rows."""
    from sklearn.datasets import load_breast_cancer, load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    import advex

    monkeypatch.chdir(tmp_path)
    for load, name in ((load_breast_cancer, "cancer"), (load_wine, "wine")):
        loaded: Any = load(as_frame=True)
        loaded.frame.to_csv(f"{name}.csv", index=False)
        classifier = advex.train(f"{name}.csv", quiet=True)
        assert (tmp_path / "runs" / name / "config.json").is_file()
        learned, test = (advex.open_dataset(f"{name}.csv", split=split) for split in ("train", "test"))
        ours = float((classifier.predict(test.batch(slice(None)).x).argmax(1) == test.y).float().mean())
        scaler = StandardScaler().fit(learned.x)
        reference = LogisticRegression(max_iter=1000).fit(scaler.transform(learned.x), learned.y)
        assert ours >= reference.score(scaler.transform(test.x), test.y) - 0.04


def test_what_stands_in_a_recipes_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loans.CSV").write_text("income,label\n" + "".join(f"{row},{'ab'[row % 2]}\n" for row in range(40)))
    assert recipes.for_table("loans.CSV") == "table-linear"
    for name in ("digits-robust", "nothing", "recipe.yaml"):
        assert recipes.for_table(name) is None
    with pytest.raises(DataError, match=r"There is no file nowhere\.csv"):
        recipes.for_table("nowhere.csv")
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(Path("photos", name, "a.png"))
    with pytest.raises(SpecError, match="advex train RECIPE --data photos"):
        recipes.for_table("photos")
