"""The tables of Singh et al. 2020 as a file: what is printed, and that every row can be trained as it says."""

from __future__ import annotations

import pytest

from advex import papers, recipes
from advex.errors import DataError
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


@pytest.mark.parametrize(("table", "printed"), [("1", TABLE_1), ("4", TABLE_4), ("5", TABLE_5)])
def test_the_tables_are_as_printed(table: str, printed: dict[str, tuple[float, ...]]) -> None:
    rows = {row.id: row for row in papers.read("singh2020").tables[table].rows if row.published}
    assert {name: tuple(rows[name].published.values()) for name in printed} == printed
    assert rows.keys() - printed.keys() <= {"inner-both"}  # of the text of App. C


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
def test_every_row_can_be_planned_but_those_without_data(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)  # building the networks takes long, and has its tests
    plan = planned("singh2020", rows=["all"], scale=scale, available=lambda source: None)
    without = {each.row.id for each in plan.rows if each.job is None}
    assert without == {"flower-ig", "flower-ig-sum"}


def test_rows_without_their_data_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)

    def available(source: str) -> None:
        if source in ("svhn", "flowers17"):
            raise DataError("not here")

    rows = planned("singh2020", rows=["svhn-art", "flower-art", "gtsrb-art"], scale="full", available=available).rows
    reasons = {each.row.id: each.reason for each in rows if each.job is None}
    lacking = {"svhn-art": "svhn", "svhn-pgd-7": "svhn", "flower-art": "flowers17", "flower-pgd-7": "flowers17"}
    assert reasons == {name: f"needs --data {data}=PATH" for name, data in lacking.items()}


@pytest.mark.parametrize("scale", ["smoke", "short", "cpu", "full"])
def test_figures_6_and_10_have_what_they_draw(scale: str) -> None:
    paper = papers.read("singh2020")
    assert {"along_input", "manipulated"} <= {
        spec.partition(":")[0] for spec in paper.scales[scale].evaluation["measures"]
    }
    assert {maps.boxes for maps in paper.maps.values()} == {"along_input"}


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
    assert {job.recipe.network for job in plan.jobs} == {"wide_resnet:depth=28,width=10", *svhn}
