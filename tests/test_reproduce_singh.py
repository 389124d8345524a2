"""The tables of Singh et al. 2020 as a file: what is printed, and that every row can be trained as it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from advex import bundled, papers, recipes, registry
from advex.data import Dataset, ids
from advex.errors import DataError
from advex.evaluation.plan import plan_of
from advex.reproduction import Work, carry_out
from advex.reproduction.plan import planned

# IN, K, natural accuracy, accuracy under PGD-40.
TABLE_1 = {
    "cifar10-natural": (40.25, 49.17, 95.26, 0.0), "cifar10-pgd-10": (69.00, 72.27, 87.32, 44.07),
    "cifar10-art": (92.90, 91.76, 89.84, 37.58), "svhn-natural": (60.43, 56.50, 95.66, 0.0),
    "svhn-pgd-7": (39.67, 55.56, 92.84, 50.12), "svhn-art": (61.37, 72.60, 95.47, 43.56),
    "gtsrb-natural": (68.74, 76.48, 99.43, 19.9), "gtsrb-ig": (74.81, 75.55, 97.02, 75.24),
    "gtsrb-ig-sum": (74.04, 76.84, 95.68, 77.12), "gtsrb-pgd-7": (86.13, 88.42, 98.36, 87.49),
    "gtsrb-art": (91.96, 89.34, 98.47, 84.66), "flower-natural": (38.22, 56.43, 93.91, 0.0),
    "flower-ig": (64.68, 75.91, 85.29, 24.26), "flower-ig-sum": (66.33, 79.74, 82.35, 47.06),
    "flower-pgd-7": (80.84, 84.14, 92.64, 69.85), "flower-art": (79.84, 84.87, 93.21, 33.08),
}  # fmt: skip
TABLE_4 = {
    "maps-natural": (13.72, 9.5, 4.5, 16.52),
    "maps-pgd-10": (54.8, 54.06, 45.05, 59.80),
    "maps-art": (76.07, 70.31, 48.31, 62.35),
}
TABLE_5 = {
    "form-direct": (74.78, 71.40, 91.34, 15.15), "form-l2": (68.41, 69.75, 91.66, 16.64),
    "form-cosine": (91.25, 89.28, 89.21, 35.95), "form-least": (90.75, 83.32, 89.94, 37.93),
    "form-art": (92.90, 91.76, 89.84, 37.50),
}  # fmt: skip
# GT-Known and Top-1 Loc of the gradient, of CAM, and accuracy.
TABLE_2 = {
    "cub-adl": (52.93, 43.78, 56.85, 47.53, 80.0), "cub-natural": (50.2, 42.0, 60.37, 50.0, 81.12),
    "cub-pgd-7": (66.73, 47.48, 55.24, 39.45, 70.3), "cub-art": (82.65, 65.22, 58.87, 46.02, 77.51),
    "cub-vgg-adl": (63.18, 43.59, 69.36, 50.88, 70.31), "cub-vgg-natural": (72.54, 53.81, 48.75, 35.03, 72.94),
    "cub-vgg-art": (76.50, 57.74, 52.88, 40.75, 74.51), "cub-se-adl": (62.29, 80.34),
}  # fmt: skip
TABLE_3 = {
    "corrupted-natural": (
        49.16, 61.42, 59.22, 83.55, 53.84, 79.16, 79.18, 84.53, 91.6, 94.37, 87.63, 84.44, 74.12, 79.76, 65.04,
    ),
    "corrupted-pgd-10": (
        83.32, 84.33, 73.73, 83.09, 81.27, 79.60, 82.07, 82.68, 68.81, 85.97, 57.86, 81.68, 85.56, 85.56, 83.64,
    ),
    "corrupted-art": (
        85.44, 86.41, 77.07, 86.07, 81.70, 83.14, 85.54, 84.99, 71.04, 89.42, 56.69, 84.72, 87.64, 87.89, 86.02,
    ),
}  # fmt: skip
# Of each network under the changes made on natural, PGD-10 and ART, and without.
TABLE_6 = {
    "transfer-natural": (0.0, 80.35, 49.09, 95.26),
    "transfer-pgd-10": (86.44, 44.07, 71.34, 87.32),
    "transfer-art": (88.45, 72.72, 37.58, 89.84),
}
# Top-1 Seg by integrated gradients and by the gradient (Sec. 5, in the text).
TABLE_7 = {"masks-natural": (33.7, 24.4), "masks-pgd-7": (42.2, 24.6), "masks-art": (60.4, 31.7)}
ADL = {"cub-se-adl", "cub-adl", "cub-vgg-adl"}
TEXT = {"attacks-jarn", "attacks-cure"}


@pytest.mark.parametrize(
    ("table", "printed"),
    [("1", TABLE_1), ("2", TABLE_2), ("3", TABLE_3), ("4", TABLE_4), ("5", TABLE_5), ("6", TABLE_6), ("7", TABLE_7)],
)
def test_the_tables_are_as_printed(table: str, printed: dict[str, tuple[float, ...]]) -> None:
    rows = {row.id: row for row in papers.read("singh2020").tables[table].rows if row.published}
    assert {name: tuple(rows[name].published.values()) for name in printed} == printed
    assert rows.keys() - printed.keys() <= {"inner-both"}  # of the text of App. C


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
def test_every_row_can_be_planned_but_those_without_data(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)  # building the networks takes long, and has its tests
    plan = planned("singh2020", rows=["all"], scale=scale, available=lambda source: None)
    without = {each.row.id for each in plan.rows if each.job is None}
    assert without == {"flower-ig", "flower-ig-sum", "gtsrb-pgd-equal", *ADL, *TEXT}
    (choice,) = plan.choices
    candidates = ["gtsrb-pgd-2", "gtsrb-pgd-3", "gtsrb-pgd-4", "gtsrb-pgd-5"]
    assert (choice.name, choice.like.name, [job.name for job in choice.of]) == (
        "gtsrb-pgd-equal", "gtsrb-art", candidates,
    )  # fmt: skip
    radii = {str(job.recipe.objective["adversarial"]["attack"]).split(",")[1] for job in choice.of}
    assert radii == {f"radius={n}/255" for n in (2, 3, 4, 5)}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
def test_every_column_is_something_that_its_evaluation_measures(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt key would be a column that is empty for ever."""
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)
    plan = planned("singh2020", rows=["all"], scale=scale, available=lambda source: None)
    for each in plan.rows:
        if each.job is None:
            continue
        evaluation = plan_of(each.together[1] if each.together else each.job.evaluation)
        keys = {"accuracy"} | {f"robust_accuracy:{task.key}" for task in evaluation.radii}
        keys |= {f"accuracy:{task.key}:{name}" for task in evaluation.radii if task.alone for name in task.searches}
        keys |= {f"accuracy:{task.key}" for task in evaluation.corruptions}
        keys |= {f"{task.name}_reached" for task in evaluation.searches}
        measured = [key for task in evaluation.measures for key in task.entries]
        keys |= {f"{task.name}_{key}" for task in evaluation.maps for key in measured}
        if evaluation.settings.transfer:
            marks = {other.row.mark for other in plan.rows if other.together == each.together}
            keys |= {f"transferred:{task.key}:{mark}" for task in evaluation.radii for mark in marks}
        for column in plan.paper.tables[each.table].columns.values():
            wanted = {name for name in (column.measure, column.by_protocol) if name}
            if each.table == "4" and scale != "full":  # GradSHAP is left out at scale cpu
                wanted = {name for name in wanted if "expected" not in name}
            assert wanted <= keys, (each.row.id, wanted - keys)


def test_tables_of_one_evaluation_ask_their_networks_together() -> None:
    rows = ["transfer-art", "corrupted-art"]
    plan = planned("singh2020", rows=rows, scale="smoke", available=lambda source: None)
    groups = {group.name: {mark: job.name for mark, job in group.jobs.items()} for group in plan.groups}
    networks = {"natural": "cifar10-natural", "pgd": "cifar10-pgd-10", "art": "cifar10-art"}
    assert groups == {"table-6-1": networks, "table-3-1": networks}
    assert {job.name for job in plan.jobs} == set(networks.values())
    with_settings = {group.name: group.evaluation for group in plan.groups}
    assert with_settings["table-6-1"].transfer
    assert len(with_settings["table-3-1"].corruptions) == 15
    short = planned("singh2020", rows=rows, scale="short", available=lambda source: None)
    assert {each.reason for each in short.rows if each.row.id in rows} == {
        "needs another scale: short has no settings of its table"
    }


def test_rows_without_their_data_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)

    def available(source: str) -> None:
        if source in ("svhn", "flowers17:held_out=8"):
            raise DataError("not here")

    rows = planned("singh2020", rows=["svhn-art", "flower-art", "gtsrb-art"], scale="full", available=available).rows
    reasons = {each.row.id: each.reason for each in rows if each.job is None}
    lacking = {"svhn-art": "svhn", "svhn-pgd-7": "svhn", "flower-art": "flowers17", "flower-pgd-7": "flowers17"}
    assert reasons == {name: f"needs --data {data}=PATH" for name, data in lacking.items()}


# -- the published folders, whose pictures have many sizes ---------------------------------------------------


def picture(path: Path, number: int) -> None:
    """One of another size each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (*rng.integers(30, 60, 2), 3), dtype=np.uint8)).save(path)


def birds(root: Path) -> None:
    tables: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    for number in range(1, 9):
        name = f"{number % 2}.bird/{number}.jpg"
        picture(root / "images" / name, number)
        for table, cell in zip(tables.values(), (name, number % 2, number % 4 // 2), strict=True):
            table.append(f"{number} {cell}\n")
    tables["bounding_boxes"] = [f"{number} 5.0 5.0 20.0 16.0\n" for number in range(1, 9)]
    for table, lines in tables.items():
        (root / f"{table}.txt").write_text("".join(lines))


def flowers(root: Path) -> None:
    """The pictures of the first two classes; those of the others are named by the deals, and not there."""
    for number in range(1, 161):
        picture(root / "jpg" / f"image_{number:04d}.jpg", number)
    deal = {key: np.array([[number]]) for number, key in enumerate(("trn", "val", "tst"), 1)}
    savemat(root / "datasplits.mat", {f"{key}{number}": rows for key, rows in deal.items() for number in (1, 2, 3)})


def signs(root: Path) -> None:
    header, rows = "Filename;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n", "{};5;5;20;20;{}\n"
    for label in (0, 1):
        folder = root / "Final_Training" / "Images" / f"{label:05d}"
        names = [f"{track:05d}_00000.ppm" for track in range(3)]
        for number, name in enumerate(names):
            picture(folder / name, 10 * label + number)
        (folder / f"GT-{label:05d}.csv").write_text(header + "".join(rows.format(name, label) for name in names))
    picture(root / "Final_Test" / "Images" / "00000.ppm", 5)
    (root / "GT-final_test.csv").write_text(header + rows.format("00000.ppm", 1))


@pytest.mark.parametrize(
    ("name", "written", "row", "size"),
    [
        ("cub", birds, "cub-natural", 256),
        ("flowers17", flowers, "flower-natural", 128),
        ("gtsrb", signs, "gtsrb-natural", 32),
    ],
)
def test_published_folders_are_read_in_the_papers_size(
    name: str, written: Callable[[Path], None], row: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / name
    root.mkdir()
    written(root)
    (job,) = planned("singh2020", rows=[row], scale="full", data={name: str(root)}).jobs
    train, test = Work().open(job)
    assert train.shape == test.shape == (3, size, size)
    assert isinstance(train, Dataset)
    assert len(train) > len(test) - (name == "cub") > 0
    monkeypatch.setenv("ADVEX_DATA", str(tmp_path))  # where nobody names it
    (unnamed,) = planned("singh2020", rows=[row], scale="full").jobs
    assert Work().open(unnamed)[0].ids == train.ids


def test_flowers_are_72_of_each_class_and_8_as_in_the_paper(tmp_path: Path) -> None:
    root = tmp_path / "my, flowers"
    flowers(root)
    (job,) = planned("singh2020", rows=["flower-natural"], scale="full", data={"": str(root)}).jobs
    assert registry.parse(job.data) == ("flowers17", {"held_out": 8, "root": str(root)})
    parts = ids(job.data, ["train", "test"])
    assert {part: len(names) / 17 for part, names in parts.items()} == {"train": 72, "test": 8}
    own = f"flowers17:root=({root}),deal=2"
    for given, opened in (("flowers17", "flowers17:held_out=8"), (own, own)):
        plan = planned(
            "singh2020", rows=["flower-natural"], scale="full", data={"": given}, available=lambda source: None
        )
        assert plan.jobs[0].data == opened
    for label in "ab":  # no published folder, but class folders
        picture(tmp_path / "other" / label / "1.png", 1)
    plan = planned("singh2020", rows=["flower-natural"], scale="full", data={"": str(tmp_path / "other")})
    assert (plan.jobs[0].data, plan.jobs[0].size) == (str(tmp_path / "other"), (128, 128))
    (smoke,) = planned("singh2020", rows=["flower-natural"], scale="smoke").jobs
    assert (smoke.data, smoke.size) == ("planted", None), "a size is of the paper's pictures"


def test_places_of_birds_of_many_sizes(tmp_path: Path) -> None:
    """From the published folder to Table 2, on a thinner network: of each picture the middle is judged."""
    birds(tmp_path)
    paper = yaml.safe_load(registry.file_of("paper", "singh2020").read_text(encoding="utf-8"))
    paper["sets"]["cub"]["size"] = 40
    paper["scales"]["full"]["change"] = {
        "network": "resnet:depth=50,width=2", "epochs": 1, "batch_size": 4, "crop": 32, "robust_every": 0,
    }  # fmt: skip
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(paper), encoding="utf-8")
    plan = planned(str(tmp_path / "paper.yaml"), rows=["cub-natural"], scale="full", data={"cub": str(tmp_path)})
    tables = carry_out(plan, tmp_path / "out", Work()).tables
    (row,) = (row for table in tables for row in table.rows)
    assert {name: figure.n for name, figure in row.measured.items()} == dict.fromkeys(row.measured, 4)
    assert {"gradient_known", "cam_known", "box", "gaussian"} <= row.measured.keys()


@pytest.mark.parametrize("scale", ["smoke", "short", "cpu", "full"])
def test_figures_6_and_10_have_what_they_draw(scale: str) -> None:
    paper = papers.read("singh2020")
    assert {"along_input", "manipulated"} <= {
        spec.partition(":")[0] for spec in paper.scales[scale].evaluation["measures"]
    }
    assert {maps.boxes for maps in paper.maps.values()} == {("along_input", "ifia", "ifia-2"), ()}


def test_bundled_networks_are_rows_and_changed_by_no_scale() -> None:
    for scale in ("smoke", "cpu", "full"):
        plan = planned("singh2020", rows=["bundled"], scale=scale, available=lambda source: None)
        assert [group.name for group in plan.groups] == ["table-3-3", "table-bundled-transfer-1"]
        for job in plan.jobs:
            kind = job.name.removeprefix("bundled-")
            assert job.model == f"builtin:cifar10-{kind}"
            held = yaml.safe_load(bundled.folder(f"builtin:cifar10-{kind}").joinpath("recipe.yaml").read_text())
            assert held["network"].startswith(job.recipe.network)
            assert held["epochs"] == job.recipe.epochs


def test_of_a_table_those_rows_are_run_that_its_scale_names_or_all() -> None:
    def rows(table: str, scale: str) -> list[str]:
        plan = planned("singh2020", table=table, scale=scale, available=lambda source: None)
        return [each.row.id for each in plan.rows if each.table == table]

    assert "gtsrb-art" in rows("1", "cpu")
    assert "cifar10-art" not in rows("1", "cpu")
    assert {"corrupted-robust", "corrupted-gtsrb-art"} <= set(rows("3", "cpu"))
    assert rows("bundled", "short") == [
        f"bundled-{kind}" for kind in ("ordinary", "adversarial", "lipschitz", "robust")
    ]


def test_rows_differ_in_what_they_say() -> None:
    """Objective by row, as the paper's text and tables have it; all else is the recipe's."""
    plan = planned("singh2020", rows=["all"], scale="full", available=lambda source: None)
    objectives = {job.name: job.recipe.objective for job in plan.jobs}
    assert objectives["cifar10-natural"] == {"natural": {}}
    assert objectives["gtsrb-igr"].keys() == {"adversarial", "alignment"}
    assert objectives["gtsrb-ig-sum"]["stable_ig"]["at"] == "worst"
    forms = {name: objectives[name]["attributional"].get("form") for name in ("form-direct", "form-l2", "form-cosine")}
    assert list(forms.values()) == ["direct", "l2", "cosine"]
    assert objectives["gtsrb-art-lambda0"]["attributional"]["strength"] == 0
    svhn = {job.recipe.network for job in plan.jobs if job.name.startswith("svhn")}
    assert svhn == {"wide_resnet:depth=40,width=2"}
    cub = {job.recipe.network for job in plan.jobs if job.name.startswith("cub")}
    assert cub == {"resnet:depth=50", "vgg:depth=16,head=gap"}
    assert {job.recipe.network for job in plan.jobs if not job.model} == {"wide_resnet:depth=28,width=10", *svhn, *cub}
    assert objectives["beta-25"]["attributional"]["beta"] == 25
    assert objectives["lambda-0.75"]["attributional"]["strength"] == 0.75
    assert "steps=2," in objectives["steps-2"]["attributional"]["attack"]
