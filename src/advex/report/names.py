"""What the keys of scores and searches mean, and what people call it."""

from __future__ import annotations

from dataclasses import dataclass

from advex.record import Record, norm_title

_MEASURES = {
    "accuracy": "Accuracy",
    "robust_accuracy": "Robust accuracy",
    "ara": "ARA",
    "sample_ara": "ARA, twice the gradients",
    "decisions_ara": "ARA by decisions",
    "certified_accuracy": "Certified accuracy",
    "certified_ara": "Certified ARA",
    "mean_corruption_error": "Mean corruption error",
    "rmse": "Mean RMSE",
    "mean_rmse": "Mean RMSE",
    "rmse_mean": "Mean RMSE",
    "median_rmse": "Median RMSE",
    "rmse_median": "Median RMSE",
    "median": "Median",
    "failures": "Not found",
    "failed": "Not found",
    "gradients": "Gradients per image",
    "reached": "Found",
    "valid": "Still succeeds after clipping",
}
_SHARES = (
    "accuracy",
    "robust_accuracy",
    "certified_accuracy",
    "certified:accuracy",
    "mean_corruption_error",
    "failures",
    "failed",
    "reached",
    "valid",
    "flat",
)  # shown in per cent
ORDER = tuple(dict.fromkeys(_MEASURES.values()))  # of columns, by title
_GOALS = {"attack": "Attack", "btr": "Better than random (BTR)"}


@dataclass(frozen=True)
class Origin:
    """Where a score comes from.

    search: its name in the record, empty for none. goal: that name without its protocol.
    """

    search: str
    goal: str
    measure: str
    published: bool


def origin(key: str, searches: dict[str, str]) -> Origin:
    """What a score's key says: GOAL_MEASURE, with the word `published` anywhere for the published protocol.

    >>> searches = {"attack": "", "btr": "", "attack_published": "", "btr_published": ""}
    >>> origin("btr_ara_published", searches)
    Origin(search='btr_published', goal='btr', measure='ara', published=True)
    >>> origin("published_valid", searches).search, origin("accuracy", searches).search
    ('attack_published', '')
    """
    published, plain = is_published(key), _unprotocolled(key)
    goals = [goal for goal in map(_unprotocolled, searches) if plain.startswith(f"{goal}_")]
    goal = max(goals, key=len, default="")
    measure = plain[len(goal) + 1 :] if goal else plain
    if published and not goal:
        goal = "attack"
    named = [name for name in searches if _unprotocolled(name) == goal]
    named.sort(key=lambda name: is_published(name) != published)
    return Origin(named[0] if named else "", goal, measure, published)


def is_published(name: str) -> bool:
    """Whether a score or search follows the published protocol, by its name."""
    return "published" in name.split("_")


def measure_title(measure: str) -> str:
    """A measure's name as people write it.

    >>> measure_title("ara"), measure_title("ara:linf"), measure_title("robust_share"), measure_title("grad_cam_gini")
    ('ARA', 'ARA in L∞', 'Robust share', 'dG of grad cam')
    """
    if measure.endswith("_gini"):  # of the maps of an explainer: only ever as a difference
        return f"dG of {measure.removesuffix('_gini').replace('_', ' ')}"
    known, _, radius = measure.partition(":")
    if radius and known in _MEASURES:
        return f"{_MEASURES[known]}{', ' if ':' in radius else ' in '}{radius_title(radius)}"
    return _MEASURES.get(measure) or measure.replace("_", " ").capitalize()


def radius_title(key: str) -> str:
    """A radius, or a norm alone, as people write it.

    >>> radius_title("linf:8/255"), radius_title("l2:0.5"), radius_title("rmse:0.01")
    ('L∞ 8/255', 'L2 0.5', 'RMSE 0.01')
    """
    norm, _, size = key.partition(":")
    return f"{norm_title(norm)} {size}".strip()


def goal_title(goal: str) -> str:
    """A goal's name as people write it.

    >>> goal_title("btr"), goal_title(""), goal_title("pgd")
    ('Better than random (BTR)', '', 'Pgd')
    """
    return _GOALS.get(goal) or goal.replace("_", " ").capitalize()


def search_title(name: str) -> str:
    """A search's name as people write it, without its protocol."""
    return goal_title(_unprotocolled(name))


def score_title(key: str, record: Record) -> str:
    """A score's full name in running text: "attack ARA", "accuracy"."""
    made = origin(key, record.searches)
    title, goal = measure_title(made.measure), "BTR" if made.goal == "btr" else _lower(goal_title(made.goal))
    text = f"{goal} {_lower(title)}".strip()
    return f"{text} (published protocol)" if made.published else text


def capital(title: str) -> str:
    """A title at the head of a column."""
    return title[:1].upper() + title[1:]


def _lower(title: str) -> str:
    """A title inside a sentence; abbreviations stay."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def _unprotocolled(name: str) -> str:
    return "_".join(part for part in name.split("_") if part != "published")


def words(name: str) -> str:
    """The name of an explainer or of something else that is typed, as people read it.

    >>> words("grad_cam_plus_plus")
    'grad cam plus plus'
    """
    return name.replace("_", " ")


def is_share(key: str, record: Record) -> bool:
    """Whether a score is a share, shown in per cent."""
    measure = origin(key, record.searches).measure
    return measure in _SHARES or measure.partition(":")[0] == "robust_accuracy"
