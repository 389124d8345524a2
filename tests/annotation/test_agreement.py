"""Statistics of agreement against published examples, slow replicas of their definitions, and cases known by hand."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from advex.annotation import ANSWERS
from advex.annotation.agreement import (
    agreement,
    by_class,
    counts,
    disputed,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
)
from advex.annotation.store import Vote

CLOSE = 1e-12  # the same sums in another order


def table(observers: Sequence[str]) -> np.ndarray:
    """n_uc of observers given as strings of codes, one per unit; a dot is a missing one."""
    codes = sorted({code for observer in observers for code in observer} - {"."})
    units = zip(*observers, strict=True)
    return np.array([[unit.count(code) for code in codes] for unit in units])


def votes(*rows: str, labels: str = "") -> list[Vote]:
    """Votes of people a, b, ... on images 0, 1, ...: u(nchanged), s(unsure), c(hanged) or a dot."""
    words = {"u": "unchanged", "s": "unsure", "c": "changed"}
    return [
        Vote(image=image, label=labels[image] if labels else "x", person="abcdef"[person], answer=words[code], time=0)
        for person, row in enumerate(rows)
        for image, code in enumerate(row)
        if code != "."
    ]


# -- published examples --------------------------------------------------------------------------------------


def test_fleiss_of_fourteen_raters() -> None:
    """The example of ten subjects in five categories that most textbooks show: P = 0.378, P_e = 0.213, kappa 0.210."""
    n = np.array([
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ])  # fmt: skip
    assert percent_agreement(n) == pytest.approx(0.378, abs=5e-4)
    assert fleiss_kappa(n) == pytest.approx(0.210, abs=5e-4)


@pytest.mark.parametrize(
    ("observers", "alpha"),
    [
        (["0100000010", "1110010000"], 0.095),
        (["aabbdcccedda", "babbbccceddd"], 0.692),
        (["123321412...", "1233224125.3", ".3332342251.", "12332441251."], 0.743),
    ],
)
def test_alpha_of_krippendorffs_examples(observers: list[str], alpha: float) -> None:
    """Krippendorff 2011, "Computing Krippendorff's alpha-reliability", examples A, B and C."""
    assert krippendorff_alpha(table(observers)) == pytest.approx(alpha, abs=5e-4)


def test_cohen_of_fifty_proposals() -> None:
    """20 times both yes, 15 times both no, 5 and 10 times one of them: p_o = 0.7, p_e = 0.5, kappa = 0.4."""
    first = "u" * 20 + "u" * 5 + "c" * 10 + "c" * 15
    second = "u" * 20 + "c" * 5 + "u" * 10 + "c" * 15
    assert agreement(votes(first, second)).cohen.value == pytest.approx(0.4, abs=CLOSE)


def test_the_two_annotators_of_the_paper() -> None:
    """Woods et al. 2019, Sec. IV-A17: of 106 pictures that both saw, they agreed on 72."""
    n = np.array([[2, 0]] * 72 + [[1, 1]] * 34)
    assert percent_agreement(n) == pytest.approx(72 / 106, abs=CLOSE)


# -- definitions, one pair at a time ---------------------------------------------------------------------------


def alpha_by_pairs(observers: Sequence[str]) -> float:
    """alpha = 1 - D_o / D_e: the coincidence matrix filled pair by pair, as Krippendorff describes it."""
    o: defaultdict[tuple[str, str], float] = defaultdict(float)
    for unit in zip(*observers, strict=True):
        values = [value for value in unit if value != "."]
        for first, second in permutations(range(len(values)), 2):
            o[values[first], values[second]] += 1 / (len(values) - 1)
    codes = sorted({c for c, _ in o})
    n_c = {c: sum(o[c, k] for k in codes) for c in codes}
    n = sum(n_c.values())
    observed = sum(value for (c, k), value in o.items() if c != k)
    expected = sum(n_c[c] * n_c[k] for c in codes for k in codes if c != k) / (n - 1)
    return 1 - observed / expected if expected else math.nan


def percent_by_pairs(observers: Sequence[str]) -> float:
    shares = []
    for unit in zip(*observers, strict=True):
        pairs = list(combinations([value for value in unit if value != "."], 2))
        shares += [sum(a == b for a, b in pairs) / len(pairs)] if pairs else []
    return sum(shares) / len(shares) if shares else math.nan


observers = st.integers(2, 5).flatmap(
    lambda people: st.lists(st.text("abc.", min_size=people, max_size=people), min_size=1, max_size=12).map(
        lambda units: ["".join(row) for row in zip(*units, strict=True)]
    )
)


@given(observers)
def test_against_the_definitions(observers: list[str]) -> None:
    n = table(observers)
    if n.size:
        assert krippendorff_alpha(n) == pytest.approx(alpha_by_pairs(observers), abs=1e-9, nan_ok=True)
        assert percent_agreement(n) == pytest.approx(percent_by_pairs(observers), abs=1e-9, nan_ok=True)


def fleiss_by_formula(n_ij: Sequence[Sequence[int]]) -> float:
    """Fleiss 1971, in his letters: N subjects, n ratings of each, k categories."""
    big_n, n, k = len(n_ij), sum(n_ij[0]), len(n_ij[0])
    p_j = [sum(n_ij[i][j] for i in range(big_n)) / (big_n * n) for j in range(k)]
    p_i = [(sum(n_ij[i][j] ** 2 for j in range(k)) - n) / (n * (n - 1)) for i in range(big_n)]
    p_bar, p_bar_e = sum(p_i) / big_n, sum(p**2 for p in p_j)
    return (p_bar - p_bar_e) / (1 - p_bar_e) if 1 - p_bar_e > 1e-12 else math.nan


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(st.sampled_from(range(3)), min_size=n, max_size=n), min_size=1, max_size=12)
    )
)
def test_fleiss_against_his_formulas(ratings: list[list[int]]) -> None:
    n_ij = [[subject.count(category) for category in range(3)] for subject in ratings]
    assert fleiss_kappa(np.array(n_ij)) == pytest.approx(fleiss_by_formula(n_ij), abs=1e-9, nan_ok=True)


@given(st.lists(st.tuples(st.sampled_from("usc"), st.sampled_from("usc")), min_size=1, max_size=40))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was result")
def test_cohen_against_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    """The statistic, and those of which its interval is made: the same images drawn with replacement."""
    first, second = zip(*pairs, strict=True)
    draws, images = 5, len(pairs)
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=draws)
    expected = [cohen(first, second, each) for each in (np.ones(images), *weights)]
    result = agreement(votes("".join(first), "".join(second)), draws=draws).cohen
    assert result.value == pytest.approx(expected[0], abs=CLOSE, nan_ok=True)
    drawn = [each for each in expected[1:] if not math.isnan(each)]
    if len(drawn) < draws or max(drawn) == min(drawn):
        assert math.isnan(result.low)
        assert math.isnan(result.high)
    else:
        assert [result.low, result.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=CLOSE)


def cohen(first: Sequence[str], second: Sequence[str], weights: np.ndarray) -> float:
    """scikit-learn's kappa, NaN where all answers are the same."""
    seen = {*itertools.compress(first, weights), *itertools.compress(second, weights)}
    return float(cohen_kappa_score(first, second, sample_weight=weights)) if len(seen) > 1 else math.nan


@given(observers, st.randoms())
def test_the_order_of_images_and_people_does_not_matter(observers: list[str], random: object) -> None:
    units = list(zip(*observers, strict=True))
    shuffled = [random.sample(unit, len(unit)) for unit in random.sample(units, len(units))]  # pyright: ignore
    turned = ["".join(row) for row in zip(*shuffled, strict=True)]
    for statistic in (krippendorff_alpha, fleiss_kappa, percent_agreement):
        if table(observers).size:
            assert statistic(table(turned)) == pytest.approx(statistic(table(observers)), abs=1e-9, nan_ok=True)


# -- what is reported ----------------------------------------------------------------------------------------


def test_perfect_agreement_is_one_and_nothing_says_how_certain() -> None:
    result = agreement(votes("ucsucs", "ucsucs"))
    for each in (result.percent, result.cohen, result.fleiss, result.alpha):
        assert each.value == 1
        assert math.isnan(each.low)
        assert math.isnan(each.high)
    assert result.answered == {"unchanged": 4, "unsure": 4, "changed": 4}


def test_one_doubt_among_thirty_is_no_certain_zero() -> None:
    """A third of the resamples lack the only answer that differs: of the others' kappas, all 0, nothing follows."""
    result = agreement(votes("u" * 30, "u" * 29 + "c"))
    for each in (result.cohen, result.fleiss, result.alpha):
        assert each.value == pytest.approx(0, abs=0.02)
        assert math.isnan(each.low)
    assert result.percent.low < result.percent.value < result.percent.high


def test_what_says_nothing_is_not_a_number() -> None:
    for few in ([], votes("ucs"), votes("u..", ".c."), votes("uuu", "uuu")):
        result = agreement(few)
        assert math.isnan(result.alpha.value)
        assert math.isnan(result.cohen.value)
        assert math.isnan(result.fleiss.low)
    assert agreement(votes("uuu", "uuu")).percent.value == 1  # they agree; whether by chance nobody can tell
    assert agreement(votes("ucs")).images == 0


def test_cohen_is_the_mean_over_pairs_that_share_images() -> None:
    rows = ["ucucuc..", "uccuuc..", "..ucucsu"]
    pairs = [(0, 1), (0, 2), (1, 2)]
    each = []
    for first, second in pairs:
        both = [(a, b) for a, b in zip(rows[first], rows[second], strict=True) if "." not in (a, b)]
        each.append(cohen_kappa_score(*zip(*both, strict=True)))
    assert agreement(votes(*rows)).cohen.value == pytest.approx(np.mean(each), abs=CLOSE)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Two people who agree on 70 % of images: of 200 studies of 60 images each, 95 % +- 5 % of intervals hold 0.7."""
    rng = np.random.default_rng(0)
    held = 0
    for study in range(200):
        agree = rng.random(60) < 0.7
        first = rng.choice(list("uc"), 60)
        second = [a if same else ("c" if a == "u" else "u") for a, same in zip(first, agree, strict=True)]
        result = agreement(votes("".join(first), "".join(second)), draws=200, seed=study).percent
        assert result.low <= result.value <= result.high
        held += result.low <= 0.7 <= result.high
    assert 180 <= held <= 200


def test_by_class_is_the_statistic_of_each_class_alone() -> None:
    given = votes("ucusc", "uccuc", labels="ppqqq")
    result = by_class(given)
    assert list(result) == ["p", "q"]
    assert repr(result["p"]) == repr(agreement([vote for vote in given if vote.label == "p"]))  # nan is not nan
    assert result["q"].images == 3


def test_disagreements_the_most_divided_first() -> None:
    given = votes("uusu", "uccu", "uuu.", "ucs.")
    # Equal pairs: of image 2 one in six, of image 1 two; of the others all.
    assert disputed(given) == [
        (2, {"unchanged": 1, "unsure": 2, "changed": 1}),
        (1, {"unchanged": 2, "unsure": 0, "changed": 2}),
    ]
    images, n = counts(given)
    assert images == [0, 1, 2, 3]
    assert n.sum() == len(given) == 14
    assert tuple(ANSWERS) == ("unchanged", "unsure", "changed")
