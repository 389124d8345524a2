"""The tables of Elliott et al. 2021 as a file: what is printed, and that every row is an explainer that is run."""

from __future__ import annotations

import re

import pytest

from advex import papers, recipes
from advex.evaluation.plan import plan_of
from advex.explainers import build
from advex.explainers.enlarged import Enlarged
from advex.registry import describe
from advex.reproduction.plan import planned

PAPER = "elliott2021"
# Value, percent, mean, best.
TABLE_1 = {
    "guided-backprop": (0.48, 0.52, 0.49, 0.48), "grad-cam": (0.49, 0.51, 0.48, 0.48),
    "guided-grad-cam": (0.46, 0.49, 0.45, 0.45), "excitation": (0.48, 0.50, 0.44, 0.44),
    "smooth-grad": (0.47, 0.49, 0.47, 0.47), "integrated-gradients": (0.44, 0.51, 0.48, 0.44),
    "extremal": (0.55, 0.52, 0.54, 0.52), "rise": (0.51, 0.52, 0.48, 0.48), "norm-grad": (0.49, 0.52, 0.46, 0.47),
    "selective-norm-grad": (0.49, 0.52, 0.47, 0.47), "none-2.5": (0.50, 0.47, 0.46, 0.46),
    "us-2.5": (0.44, 0.44, 0.43, 0.43), "us-guided": (0.41, 0.43, 0.43, 0.41),
}  # fmt: skip
# Deletion, insertion.
TABLE_2 = {
    "gradient": (0.19, 0.51), "deconvolution": (0.21, 0.56), "guided-backprop": (0.14, 0.57),
    "excitation": (0.12, 0.63), "grad-cam": (0.11, 0.64), "extremal": (0.16, 0.62), "rise": (0.12, 0.65),
    "norm-grad": (0.09, 0.58), "selective-norm-grad": (0.10, 0.59), "blur-difference": (0.14, 0.59),
    "none-0": (0.10, 0.42), "none-2.5": (0.15, 0.54), "us-0": (0.07, 0.54), "us-1": (0.09, 0.61),
    "us-2.5": (0.11, 0.62), "us-5": (0.12, 0.63),
}  # fmt: skip
# Standard, difficult, of the original size; then 1.5 times as large.
TABLE_3 = {
    "centre": (69.6, 42.4, 69.6, 42.4), "gradient": (76.3, 56.9, 84.6, 70.0), "deconvolution": (67.5, 44.2, 75.0, 53.5),
    "guided-backprop": (75.9, 53.0, 83.7, 67.1), "excitation": (77.1, 56.6, 84.0, 67.5),
    "grad-cam": (86.6, 74.0, 89.1, 77.7), "extremal": (88.0, 77.3, 86.4, 71.0), "rise": (86.7, 75.4),
    "norm-grad": (81.9, 64.9, 88.6, 75.6), "selective-norm-grad": (86.0, 72.7, 90.1, 80.8),
    "none-2.5": (81.2, 62.9, 86.0, 71.6), "us-2.5": (85.1, 69.0, 88.2, 76.5),
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "prefix", "printed"), [("1", "loc", TABLE_1), ("2", "del", TABLE_2), ("3", "point", TABLE_3)]
)
def test_the_tables_are_as_printed(table: str, prefix: str, printed: dict[str, tuple[float, ...]]) -> None:
    rows = {row.id: row for row in papers.read(PAPER).tables[table].rows if row.published}
    assert {name: tuple(row.published.values()) for name, row in rows.items()} == {
        f"{prefix}-{name}": values for name, values in printed.items()
    }


@pytest.mark.parametrize("scale", ["smoke", "short", "cpu", "full"])
def test_every_row_is_an_explainer_that_its_network_is_asked_with(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)  # building the networks takes long, and has its tests
    plan = planned(PAPER, scale=scale, available=lambda source: None)
    (job,) = plan.jobs
    evaluation = plan_of(job.evaluation)
    explainers = {task.name: task.explainer for task in evaluation.maps}
    measures = {key for task in evaluation.measures for key in task.entries}
    assert all(each.job is not None for each in plan.rows)
    for each in plan.rows:
        row, table = each.row, plan.paper.tables[each.table]
        if not row.explainer:
            continue
        assert row.explainer in explainers
        for column in table.columns.values():
            for name in filter(None, (column.measure, column.by_protocol)):
                assert re.sub(r"^\{\w*\}_", "", name) in measures, name
        assert ("large" in row.also) == ("larger" in row.published)
        for explainer in row.also.values():
            larger, usual = explainers[explainer], explainers[row.explainer]
            if isinstance(larger, Enlarged):
                assert (describe(build(str(larger.explainer))), larger.by) == (describe(usual), 1.5)
            elif explainer != row.explainer:  # the centre is that of any size
                assert vars(larger) == {**vars(usual), "resize": 1.5}
    # What their labels say of the perceptual maps is what is run.
    for each in plan.rows:
        if each.row.label.startswith(("Perceptual", "No perceptual")):
            made = explainers[each.row.explainer]
            sigma = re.search(r"sigma ([\d.]+)", each.row.label)
            assert vars(made)["sigma"] == (float(sigma[1]) if sigma else 0)
            assert vars(made)["guided"] == ("guided" in each.row.label)
            assert (vars(made)["perceptual"] == 0) == each.row.label.startswith("No perceptual")


def test_thresholds_of_the_protocol_are_chosen_on_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)
    (job,) = planned(PAPER, scale="cpu", available=lambda source: None).jobs
    entries = {key: entry.spec for task in plan_of(job.evaluation).measures for key, entry in task.entries.items()}
    for key, column in papers.read(PAPER).tables["1"].columns.items():
        if column.by_protocol is not None:
            ours, theirs = (entries[(name or "").removeprefix("{}_")] for name in (column.measure, column.by_protocol))
            assert f"rule={key}" in ours
            assert f"rule={key}" in theirs
            assert ("chosen_on=half" in ours, "chosen_on=same" in theirs) == (True, True)


def test_what_a_scale_asks_about_and_at_which_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """At cpu 500 rightly classified pictures, lambda' auto and 1e4; at full 1e4 and auto, and removal as published."""
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)
    for scale, weights in (("smoke", ("auto", 1e4)), ("cpu", ("auto", 1e4)), ("full", (1e4, "auto"))):
        plan = planned(PAPER, scale=scale, available=lambda source: None)
        (job,) = plan.jobs
        explainers = {task.name: task.explainer for task in plan_of(job.evaluation).maps}
        rows = (plan.paper.rows["loc-us-2.5"], plan.paper.rows["loc-us-other"])
        first, second = (vars(explainers[row.explainer]) for row in rows)
        assert (first.pop("perceptual"), second.pop("perceptual")) == weights
        assert first == second
        assert (job.test_samples, job.right_samples) == {
            "smoke": (8, None), "cpu": (None, 500), "full": (2000, None),
        }[scale]  # fmt: skip
        assert any("classified correctly" in change for change in plan.changes) == (scale == "cpu")
