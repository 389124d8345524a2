"""Maps of how much each input element counts, by every explainer, and what every measure says of them.

Every example is mapped; of the examples that a report shows, the values of the map are kept as well.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.drawing.numbers import percent
from advex.errors import SpecError
from advex.evaluation import places, settled, steadiness
from advex.evaluation.columns import beside, mean_over, table, tensor, without
from advex.evaluation.flags import flag, severity
from advex.evaluation.mapping import Group, cases, groups, kind, made_of, together
from advex.evaluation.plan import Plan
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import Contrast, contrast, mean, value_figure
from advex.evaluation.tasks import MapTask
from advex.measures.case import NO_GRADIENT, Case, Measured, apply, values_of
from advex.record import Better, Figure, Flag, MapFigures, ModelEntry
from advex.record.tables import MOVED, TRACE, Columns, Table, maps_of
from advex.registry import describe
from advex.types import FLAT, INCOMPLETE, Explanation

SUMS: dict[str, Better] = {"change": "neither", "completeness": "low"}  # figures of methods that promise a sum
OWNER = ("model", "explainer")
LOCATED = (
    "planted, photos-sample, voc, coco, coco:outlines=true, imagenet with its boxes, tiny-imagenet, gtsrb, cub, "
    "flowers17 and flowers102 with their masks, parquet:boxes=COLUMN"
)
_BESIDE: dict[Table, Columns] = {
    "moved": MOVED,
    "traces": TRACE,
}  # tables with rows for each example that is shown, lists in a shard
_SHARD = {
    table: pa.list_(pa.struct([(name, kind) for name, kind in columns.items() if name != "example"]))
    for table, columns in _BESIDE.items()
}
SECONDS = "seconds"  # of a shard: what one of its maps took
DOUBT = "map"  # beside the measures' keys in a row's `undefined`: why the map itself is doubtful


def check(plan: Plan, classifier: Classifier, data: Dataset) -> None:
    """Raise before hours of searching: AdvexError for a map, and for a measure that cannot be asked about such maps."""
    for task in plan.measures if plan.maps else ():
        if "evidence" in task.measure.needs and data.evidence is None:
            if len(data.shape) != 3:
                raise SpecError(
                    f"The measure '{task.name}' needs positions in pictures, which {data.name} does not "
                    "have: omit it. For columns use deletion, insertion:fill=mean or regions, which test "
                    "what the output depends on."
                )
            raise SpecError(
                f"The measure '{task.name}' needs data that locate the labelled object (boxes or outlines), "
                f"which {data.name} does not: omit it, or use data that do: {LOCATED}."
            )
    for group in groups(plan.maps):
        with cases(group, classifier, data, plan, range(1)) as made:
            for _, case, _ in made:
                for measure in plan.measures:
                    getattr(measure.measure, "check", lambda case: None)(case)


def pieces(work: Evaluation, model: str) -> Pieces:
    """Every explainer's maps of all examples, measured."""
    for group in groups(work.plan.maps):
        make = partial(_shared, group, work.classifiers[model], work.data, work.plan, frozenset(work.explained))
        yield work.pieces(model, kind(group), make)


def _shared(
    group: Group, classifier: Classifier, data: Dataset, plan: Plan, shown: Collection[int], rows: range
) -> pa.Table:
    """The maps of some rows by a group of explainers, measured."""
    with cases(group, classifier, data, plan, rows) as made:
        return together((task, _measured(case, seconds, plan, shown, rows)) for task, case, seconds in made)


def _measured(case: Case, seconds: float, plan: Plan, shown: Collection[int], rows: range) -> pa.Table:
    """What every measure says of the maps of some rows. shown: the examples whose values are kept."""
    values: dict[str, Tensor] = {}
    reasons: list[dict[str, str]] = [{} for _ in rows]
    moved: list[list[dict[str, object]]] = [[] for _ in rows]
    traces: list[list[dict[str, object]]] = [[] for _ in rows]
    parts: dict[str, list[list[float] | None]] = {}
    for measure in plan.measures:
        measured = apply(measure.measure, case)
        if settled.settles(measure):
            parts[settled.column(measure)] = settled.parts(measured, len(rows))
            measured = dataclasses.replace(measured, undefined=_lasting(measured))
        own = {key: measured.values[name] for name, key in measure.keys.items()}
        settled.note(measure, measured, own, reasons)
        values |= {} if settled.settles(measure) else own
        for place, row in enumerate(rows if measured.moved is not None else ()):
            if row in shown:
                parts_of = zip(("x", "map", "wanted"), (*(measured.moved or ()), measured.wanted), strict=True)
                at = {name: None if part is None else _listed(part[place]) for name, part in parts_of}
                moved[place].append({"measure": next(iter(measure.keys.values())), **at})
        for place in (place for place, row in enumerate(rows) if row in shown):
            traces[place] += _traced(next(iter(measure.keys.values())), measured, place)
    explanation: Explanation = case.explanation
    for words, doubtful in explanation.doubts().items():
        for row in doubtful.nonzero()[:, 0].tolist():
            reasons[row][DOUBT] = words
            if words == FLAT:  # no figure of what is no explanation
                reasons[row] |= {key: NO_GRADIENT for task in plan.measures for key in task.keys.values()}
                parts = {name: [*every[:row], None, *every[row + 1 :]] for name, every in parts.items()}
                values = {key: value.index_fill(0, torch.tensor(row), torch.nan) for key, value in values.items()}
    flat, none = explanation.map.detach().flatten(1), [None] * len(rows)
    sums = explanation.completeness
    return table(
        {name: kind for name, kind in maps_of(values).items() if name not in OWNER}
        | _SHARD
        | {SECONDS: pa.float64()}
        | dict.fromkeys(parts, pa.list_(pa.float64())),
        example=list(rows),
        target=explanation.target,
        method=[explanation.method_of(row) for row in range(len(rows))],
        **values,
        undefined=[json.dumps(reason) if reason else None for reason in reasons],
        change=none if sums is None else flat.double().sum(dim=1) - sums,
        completeness=none if sums is None else sums.detach(),
        map=[
            _listed(values) if row in shown and reason.get(DOUBT) != FLAT else None
            for row, reason, values in zip(rows, reasons, flat, strict=True)
        ],
        moved=moved,
        traces=traces,
        seconds=[seconds / len(rows)] * len(rows),
        **parts,
    )


def _listed(values: Tensor) -> list[float]:
    return values.detach().flatten().float().tolist()


def _traced(key: str, measured: Measured, place: int) -> list[dict[str, object]]:
    """What a measure saw of one row, step by step; nothing where it has no value."""
    if all(value[place].isnan() for value in measured.values.values()):
        return []
    steps = ((step, each[place]) for step, each in measured.trace.items())
    return [
        {"measure": key, "step": step, "value": seen.item(), "map": None}
        if seen.ndim == 0
        else {"measure": key, "step": step, "value": None, "map": _listed(seen)}
        for step, seen in steps
    ]


def _lasting(measured: Measured) -> dict[str, Tensor]:
    """Of a measure that settles, the reasons of rows that have no parts: others may have a value among all examples."""
    if measured.parts is None:
        return dict(measured.undefined)
    lacking = measured.parts.isnan().any(dim=1)
    return {reason: rows & lacking for reason, rows in measured.undefined.items()}


def tables(work: Evaluation, model: str) -> Blocks:
    """Every map's measures, and where measures that move the input have moved it."""
    if not work.plan.maps:
        return {}

    gathering = [task for task in work.plan.measures if settled.settles(task)]

    def blocks(of: Callable[[pa.Table], pa.Table], settle: bool = False) -> Iterator[pa.Table]:
        for task in work.plan.maps:
            made = made_of(work, model, task)
            for block in settled.added(list(made), gathering) if settle and gathering else made:
                yield beside(of(block), model=model, explainer=task.name)

    made: Blocks = {"maps": blocks(lambda block: without(block, *_BESIDE, SECONDS), settle=True)}
    if any(settled.resamples(task.measure) for task in gathering):
        made = {**made, "parts": blocks(partial(settled.kept, gathering))}
    if work.data.evidence is not None and (boxed := [task for task in gathering if places.places(task.measure)]):
        every = ((task, list(made_of(work, model, task))) for task in work.plan.maps)
        rows = (beside(places.rows(made, boxed, work.data), model=model, explainer=task.name) for task, made in every)
        made = {**made, "places": rows}
    facts: dict[Table, str] = {"moved": "moves", "traces": "traces"}
    for name, fact in facts.items():
        if any(getattr(task.measure, fact, False) for task in work.plan.measures):
            made = {**made, name: blocks(partial(_rows_of, name))}
    return made


def _rows_of(name: Table, block: pa.Table) -> pa.Table:
    """The rows of a table that a shard has as lists, those of each example."""
    rows = zip(block.column("example").to_pylist(), block.column(name).to_pylist(), strict=True)
    schema = pa.schema(_BESIDE[name])
    return pa.Table.from_pylist([{"example": row, **each} for row, every in rows for each in every], schema)


# -- what comes of them ------------------------------------------------------------------------------------


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """The mean of each measure by explainer, and how many maps have no value for which reason."""
    maps = {task.name: _figures(work, entry.name, task) for task in work.plan.maps}
    return entry.model_copy(update={"maps": maps})


def _figures(work: Evaluation, model: str, task: MapTask) -> MapFigures:
    rows, seed = work.written.rows("maps", model, task.name), work.plan.settings.seed
    values: dict[str, Figure] = {}
    drawn = settled.estimates(work.written, model, task.name)
    for measure in work.plan.measures:
        for of, value in values_of(measure.measure).items():
            key = measure.keys[of]
            values[key] = value_figure(value, tensor(rows, key), seed, drawn.get(key))
    if rows.column("completeness").null_count < len(rows):
        values |= {name: mean(tensor(rows, name).abs(), better, seed) for name, better in SUMS.items()}
    counts: dict[str, Counter[str]] = {}
    for text in rows.column("undefined").drop_null().to_pylist():
        for key, reason in json.loads(text).items():
            counts.setdefault(key, Counter())[reason] += 1
    undefined = {key: dict(counts[key]) for key in work.written.measures if key in counts}
    methods = rows.column("method").unique().to_pylist()  # several, where it chooses row by row
    seconds = mean_over(made_of(work, model, task), SECONDS)
    return MapFigures(
        method=methods[0] if len(methods) == 1 else describe(task.explainer), target=task.target, figures=values,
        undefined=undefined, control=getattr(task.explainer, "shows", "") == "control", seconds=seconds,
    )  # fmt: skip


_DOUBTS = (
    (FLAT, "flat_map", "Look for operations without a derivative (rounding, detach, saturation), or use explainers "
     "without gradients: feature_ablation, kernel_shap. These maps are not included in any figure and are not drawn."),
    (INCOMPLETE, "incomplete_map", "Use more steps or samples; a part of the network may not be differentiable."),
)  # fmt: skip
# What FLAT was in shards of before.
_RENAMED = {"no gradient reached the input, as far as autograd knows: this is no explanation": FLAT}


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """Measures that many maps have no value of, and those of stability that say little."""
    yield from steadiness.flags(work, entry)
    for name, maps in entry.maps.items():
        rows = work.written.rows("maps", entry.name, name)
        reasons = [json.loads(text).get(DOUBT) for text in rows.column("undefined").drop_null().to_pylist()]
        doubts = Counter(_RENAMED.get(reason, reason) for reason in reasons)
        for words, code, remedy in _DOUBTS:
            if doubts[words]:
                part = doubts[words] / len(rows)
                message = f"{doubts[words]} of {len(rows)} maps by '{name}': {words}."
                yield flag(entry.name, code, severity(part), message, remedy)
        beside = {key for task in work.plan.measures if "" in task.keys for name, key in task.keys.items() if name}
        for key, reasons in maps.undefined.items():
            if key in beside:  # what stands beside a measure's figure is undefined with it
                continue
            doubtful = severity(share := sum(reasons.values()) / len(work.data))
            if doubtful == "warning":
                listed = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
                message = f"'{key}' of the maps by '{name}' is undefined for {percent(share)} of examples: {listed}."
                remedy = "Choose a measure that is defined for these maps."
                if share < 1:
                    message += " The mean is over the others."
                    remedy = f"Compare it only with means over the same examples. {remedy}"
                yield flag(entry.name, "undefined_measure", doubtful, message, remedy)


def differences(results: Results) -> Iterator[Contrast]:
    """Every measure: of two models' maps by one explainer, and of two explainers' maps of one model's same class.

    Intervals of one measure have joint coverage along each of the two axes.
    """
    rows: dict[tuple[str, str], pa.Table] = {}
    values: dict[tuple[str, str, str], Tensor] = {}
    drawn: dict[tuple[str, str], Mapping[str, Tensor]] = {}
    adds: dict[tuple[tuple[str, str], ...], Mapping[str, Tensor]] = {}

    def change(pair: Sequence[tuple[str, str]], key: str, **whose: str) -> Contrast:
        for owner in pair:
            if owner not in rows:
                rows[owner], drawn[owner] = results.rows("maps", *owner), settled.estimates(results, *owner)
            if (*owner, key) not in values:
                values[*owner, key] = tensor(rows[owner], key)
        both, better = (values[*owner, key] for owner in pair), results.measures[key].better
        made = contrast(f"{key} by {whose.get('axis')}", both, better, results.seed, **whose)
        alike = torch.equal(*(values[*owner, key].isnan() for owner in pair))  # resampled were the same examples
        if alike and all(key in drawn[owner] for owner in pair):
            if tuple(pair) not in adds:  # of one pair after the other
                adds.clear()
                adds[tuple(pair)] = settled.paired(results, pair)
            made = dataclasses.replace(
                made,
                estimates=drawn[pair[0]][key] - drawn[pair[1]][key],
                changes=adds[tuple(pair)].get(key, made.changes),
            )
        return made

    for first, second in results.pairs:
        for name, key in itertools.product((name for name in first.maps if name in second.maps), results.measures):
            whose = {"first": first.name, "second": second.name, "measure": f"{name}_{key}"}
            yield change([(first.name, name), (second.name, name)], key, **whose)
    for entry in results.entries:
        for first, second in itertools.combinations(entry.maps, 2):
            if entry.maps[first].target == entry.maps[second].target:
                for key in results.measures:
                    whose = {"axis": "explainer", "model": entry.name, "first": first, "second": second}
                    yield change([(entry.name, first), (entry.name, second)], key, measure=key, **whose)
