"""Figures that say what others say already: a page shows them once."""

from __future__ import annotations

from collections import Counter

from advex.record import Record


def without_repeats(record: Record) -> Record:
    """A record of two classes without the figures of `btr`: a confidence below chance is there a changed decision.

    Others, and those whose two searches differ, are left as they are.
    """
    searches = record.searches
    if len(record.data.class_names) != 2 or "btr" not in searches or searches["btr"] != searches.get("attack"):
        return record
    gone = Counter(line.comparisons for line in record.differences if _repeats(line.measure))
    scored = {key for model in record.models for key in model.scores}
    return record.model_copy(
        update={
            "searches": {name: spec for name, spec in searches.items() if not _repeats(name)},
            "models": [
                model.model_copy(
                    update={"scores": {key: figure for key, figure in model.scores.items() if not _repeats(key)}}
                )
                for model in record.models
            ],
            "differences": [
                line.model_copy(update={"comparisons": max(line.comparisons - gone[line.comparisons], 1)})
                if line.measure in scored  # maps are compared by themselves
                else line
                for line in record.differences
                if not _repeats(line.measure)
            ],
            "flags": [each for each in record.flags if not _repeats(each.message) and "'btr'" not in each.message],
        }
    )


def _repeats(text: str) -> bool:
    return text == "btr" or text.startswith("btr_")
