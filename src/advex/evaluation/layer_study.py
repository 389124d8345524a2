"""Which layers a perceptual search should hold: every range of them, judged (Elliott et al. 2021, Fig. 5).

A range costs one search, of which each sigma blurs the change that was found. What is finished is kept in pieces.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from advex._version import __version__
from advex.claims import forget_claims
from advex.data import Dataset
from advex.environment import without_places
from advex.errors import SpecError, did_you_mean
from advex.evaluation import check, settled
from advex.evaluation.columns import table, tensor
from advex.evaluation.folder import OURS as EVALUATION
from advex.evaluation.judging import rightly_decided
from advex.evaluation.mapping import cases
from advex.evaluation.plan import Plan, plan_of
from advex.evaluation.scores import share, value_figure
from advex.evaluation.settings import checked
from advex.evaluation.shards import Piece, complete, identity_of, open_shards
from advex.evaluation.tasks import MapTask
from advex.explainers.perceptual import Perceptual
from advex.layers import heard
from advex.lookup.models import Opened
from advex.measures.case import Case, apply, values_of
from advex.ownership import owned
from advex.progress import Terminal, command_line, stopping
from advex.record import Figure, layer_study
from advex.registry import describe, parse

OURS = (layer_study.NAME, *EVALUATION)
JUDGES = ("localisation", "removal", "pointing")
REMOVAL = ("deletion", "insertion")  # what `removal` stands for among the judges
WEIGHTS = (1e4, 1e3, 100.0, 10.0, 1.0)  # at which it is asked how many examples lose their class
Range = tuple[int, int] | None  # None: without a perceptual term


@dataclass(frozen=True, kw_only=True)
class LayerStudy:
    """What is studied. explainer: `perceptual`, whose layers and sigma are varied. judges: measures of maps; `removal`
    stands for deletion and insertion. sigmas: of the blur, in pixels. above: by a measure's key, the value from which
    on a blur counts as good, whose share is said of each range. first: so many examples of the data, in their order, of
    which those are studied that the model decides rightly.

    Raises SpecError for what is no such explainer, for sigmas below 0, and for measures that are not known.
    """

    explainer: str = "perceptual"
    judges: tuple[str, ...] = JUDGES
    sigmas: tuple[float, ...] = (0.0, 2.5, 5.0)
    above: Mapping[str, float] = field(default_factory=dict)
    first: int = 32
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sigmas or not all(0 <= sigma <= 1000 for sigma in self.sigmas):
            raise SpecError(f"Sigmas of the blur must be numbers of pixels from 0 to 1,000, not {self.sigmas}.")
        fixed = sorted({"layers", "sigma"} & parse(self.explainer)[1].keys())
        if fixed:
            raise SpecError(f"{' and '.join(fixed)} of '{self.explainer}' are varied by the study. Omit them.")
        if unknown := self.above.keys() - self.plan.entries.keys():
            raise SpecError(f"There is no figure '{min(unknown)}': {did_you_mean(min(unknown), self.plan.entries)}")
        if not isinstance(self.plan.maps[0].explainer, Perceptual):
            raise SpecError(
                f"'{self.explainer}' does not hold any layers: use perceptual, e.g. perceptual:gradients=20."
            )

    @cached_property
    def plan(self) -> Plan:
        """The same as an evaluation of maps."""
        judges = [each for name in self.judges for each in (REMOVAL if name == "removal" else (name,))]
        return plan_of(checked({
            "attack": None, "btr": None, "pictures": (), "maps": (self.explainer,), "measures": tuple(judges),
            "batch_size": self.batch_size, "seed": self.seed,
        }))  # fmt: skip

    @property
    def varied(self) -> Perceptual:
        """The explainer whose layers and sigma are varied."""
        explainer: Any = self.plan.maps[0].explainer
        return explainer

    def __call__(self, model: Opened, data: Dataset, out: Path, say: Terminal, *, resume: bool = True) -> Any:
        """Study a model into a folder. Returns what study.json holds.

        Raises Interrupted when stopped; SpecError, InputError and DataError where measures, model and data do not fit
        each other; ArtifactError for the folder.
        """
        with owned(out), stopping() as stop, say.progress("study") as bar:
            work = _Work(self, model, _first(self, model, data, say))
            identity = {"study": "layers", "sigmas": self.sigmas, **self.plan.identity()}
            shards = open_shards(out, identity_of(identity, work.data, {model.name: model.classifier}), resume)
            seconds = 0.0
            for kind, pieces in work.pieces().items():
                done = partial(_show, bar, kind, len(work.layers))
                seconds += complete(shards, pieces, done, stop)
            blocks = {
                kind: pa.concat_tables(shards.read(model.name, kind, piece.index) for piece in pieces)
                for kind, pieces in work.pieces().items()
            }
            study = work.summary(blocks, seconds)
            layer_study.write_study(out, study)
            forget_claims(out / "shards")
            return study


def _first(study: LayerStudy, model: Opened, data: Dataset, say: Terminal) -> Dataset:
    taken = data.take(slice(0, study.first))
    check([(model.name, model.source, model.classifier)], taken, study.plan)
    return rightly_decided([model], taken, study.batch_size, say)


def _show(bar: Any, kind: str, layers: int, event: dict[str, Any]) -> None:
    bar(event["done"], event["total"], f"of {layers} layers", what=kind)


@dataclass(frozen=True)
class _Work:
    """A study at work, of the examples `data`."""

    study: LayerStudy
    model: Opened
    data: Dataset

    @cached_property
    def layers(self) -> list[str]:
        """Names of the layers that may be held, in the order of their calls."""
        batch = self.data.batch(slice(0, 1), self.model.classifier.device)
        return [name for name, _ in heard(self.model.classifier, batch.x, "relu:all")]

    @property
    def ranges(self) -> list[Range]:
        """None, and every range of layers that follow each other."""
        count = len(self.layers)
        return [None, *((i, j) for i in range(count) for j in range(i, count))]

    def pieces(self) -> dict[str, list[Piece]]:
        """By kind: how many examples lose their class at each lambda', and each range of layers."""
        kinds = {"flips": self._flips} | {kind_of(each): partial(self._judged, each) for each in self.ranges}
        size, n = self.study.batch_size, len(self.data)
        spans = [range(start, min(start + size, n)) for start in range(0, n, size)]
        return {
            kind: [
                Piece(model=self.model.name, kind=kind, index=index, examples=len(rows), make=partial(make, rows))
                for index, rows in enumerate(spans)
            ]
            for kind, make in kinds.items()
        }

    @contextlib.contextmanager
    def _cases(self, explainers: Sequence[Perceptual], rows: range) -> Iterator[Iterator[Case]]:
        """The maps of explainers that share their search; see `cases`."""
        tasks = [MapTask(name="perceptual", explainer=each) for each in explainers]
        with cases(tasks, self.model.classifier, self.data, self.study.plan, rows) as made:
            yield (case for _, case, _ in made)

    def _flips(self, rows: range) -> pa.Table:
        """[n] truths for each lambda', all layers held."""
        flips = {}
        for weight in WEIGHTS:
            held = replace(self.study.varied.part, layers="relu:all", perceptual=weight)
            with self._cases([held], rows) as made:
                flips[f"{weight:g}"] = lost_class(next(made)).cpu()
        return table(dict.fromkeys(flips, pa.bool_()), **flips)

    def _judged(self, held: Range, rows: range) -> pa.Table:
        """What every measure says of a range's maps at every sigma. Of a measure that settles, its parts."""
        fields = {"perceptual": 0.0, "layers": "relu:0"} if held is None else {"layers": layers_of(held)}
        explainers = [replace(self.study.varied, sigma=sigma, **fields) for sigma in self.study.sigmas]
        columns: dict[str, Any] = {}
        kinds: dict[str, pa.DataType] = {}
        with self._cases(explainers, rows) as made:
            for sigma, case in zip(self.study.sigmas, made, strict=True):
                columns["flips"], kinds["flips"] = lost_class(case).cpu().double(), pa.float64()
                if case.explanation.weight is not None:
                    columns["weight"], kinds["weight"] = case.explanation.weight, pa.float64()
                for task in self.study.plan.measures:
                    measured = apply(task.measure, case)
                    if settled.settles(task):
                        name = f"{sigma:g}:{settled.column(task)}"
                        columns[name], kinds[name] = settled.parts(measured, len(rows)), pa.list_(pa.float64())
                    else:
                        own = {f"{sigma:g}:{key}": measured.values[name] for name, key in task.keys.items()}
                        columns, kinds = columns | own, kinds | dict.fromkeys(own, pa.float64())
        return table(kinds, **columns)

    # -- what comes of it --------------------------------------------------------------------------------

    def summary(self, blocks: dict[str, pa.Table], seconds: float) -> layer_study.LayerStudy:
        """The figures of all ranges. blocks: by kind."""
        entries = []
        for held in self.ranges:
            rows = blocks[kind_of(held)]
            weights = tensor(rows, "weight").tolist() if "weight" in rows.column_names else []
            figures = {f"{sigma:g}": self._figures(rows, f"{sigma:g}") for sigma in self.study.sigmas}
            first, last = held or (None, None)
            counted = Counter(f"{weight:g}" for weight in sorted(weights, reverse=True))
            entries.append(layer_study.RangeEntry(
                first=first, last=last, flips=share(tensor(rows, "flips")), weights=counted, figures=figures
            ))  # fmt: skip
        flips = {name: share(tensor(blocks["flips"], name)) for name in blocks["flips"].column_names}
        return layer_study.LayerStudy(
            advex=__version__, created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=without_places(command_line()), seconds=round(seconds, 3), seed=self.study.seed,
            model=self.model.name, source=without_places(self.model.source), data=without_places(self.data.name),
            first=self.study.first, examples=len(self.data), explainer=describe(self.study.plan.maps[0].explainer),
            layers=self.layers, sigmas=[f"{sigma:g}" for sigma in self.study.sigmas],
            measures=self.study.plan.entries, flips=flips, ranges=entries, above=dict(self.study.above),
        )  # fmt: skip

    def _figures(self, rows: pa.Table, sigma: str) -> dict[str, Figure]:
        made: dict[str, Figure] = {}
        for task in self.study.plan.measures:
            drawn: dict[str, Tensor] = {}
            if settled.settles(task):
                parts = rows.column(f"{sigma}:{settled.column(task)}")
                values, drawn = settled.of_parts(task, parts), settled.resampled(task.measure, parts, self.study.seed)
            else:
                values = {key: tensor(rows, f"{sigma}:{key}") for key in task.keys.values()}
            for name, value in values_of(task.measure).items():
                key = task.keys[name]
                made[key] = value_figure(value, values[key], self.study.seed, drawn.get(name))
        return made


def sigmas_from(text: str) -> tuple[float, ...]:
    """Numbers with commas between them. Raises SpecError."""
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        raise SpecError(
            f"Sigmas must be numbers of pixels separated by commas, such as 0,2.5,5, not {text!r}."
        ) from None


def lost_class(case: Case) -> Tensor:
    """[n] bool: the changed picture is decided otherwise than for the class explained."""
    assert case.explanation.after is not None
    return case.explanation.after.argmax(dim=1) != case.explanation.target


def kind_of(held: Range) -> str:
    """Of a range's pieces."""
    return "layers-none" if held is None else f"layers-{held[0]}-{held[1]}"


def layers_of(held: tuple[int, int]) -> str:
    """A range as the explainer writes it, both ends included."""
    return f"relu:{held[0]}-{held[1]}"


def one_of(models: Sequence[Opened]) -> Opened:
    """The only model. Raises SpecError for several."""
    if len(models) > 1:
        raise SpecError("Only one model can be studied at a time: give one --model.")
    return models[0]
