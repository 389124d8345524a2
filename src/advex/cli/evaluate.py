"""`advex evaluate`, and the options that it shares with `advex compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advex import progress
from advex.cli import options, terminal
from advex.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advex.data import Dataset
    from advex.evaluation import Settings
    from advex.lookup.models import Opened
    from advex.record import Record

Out = Annotated[
    Path | None, typer.Option(metavar="RECORD", help="Record folder to write. Default: records/ and the models' names.")
]
Size = Annotated[str | None, typer.Option(metavar="CxHxW", help="Input size, for a model from your own code.")]
Attack = Annotated[
    str,
    typer.Option(metavar="SPEC|none", help="Attack that changes the decision; see `advex list attack`."),
]
Btr = Annotated[str, typer.Option(metavar="SPEC|none", help="Attack that lowers the confidence below chance.")]
Search = Annotated[
    list[str] | None,
    typer.Option(metavar="SPEC@GOAL,...", help="More attacks, each with its goal; see `advex list goal`."),
]
Published = Annotated[
    bool, typer.Option("--published", help="Also follow the papers' protocol, to compare with published figures.")
]
Radius = Annotated[
    list[str] | None,
    typer.Option(metavar="NORM:R,...", help="Also measure robust accuracy within these radii, e.g. linf:8/255,l2:0.5."),
]
Suite = Annotated[
    list[str] | None,
    typer.Option(metavar="SPEC,...", help="Attacks within each radius, in this order. Default: standard."),
]
Alone = Annotated[
    bool,
    typer.Option("--alone", help="Run every attack of the suite on every example."),
]
Transfer = Annotated[bool, typer.Option("--transfer", help="Also test each model's changes on every other model.")]
Corruptions = Annotated[
    list[str] | None,
    typer.Option(metavar="all|NAME[:SEVERITY],...", help="Also measure accuracy under corruptions."),
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Attack in bfloat16; results are verified in float32.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the networks for the attacks.")]
Explanations = Annotated[int, typer.Option(min=0, metavar="N", help="How many examples to explain.")]
Pictures = Annotated[
    list[str] | None,
    typer.Option(metavar="SPEC,...|none", help="Explainers to use. Default: toward,away."),
]
Targets = Annotated[str, typer.Option(metavar="all|runner_up", help="Classes to explain.")]
Rho = Annotated[float, typer.Option(metavar="RMSE", help="Size of the change in explanations.")]
Certify = Annotated[
    float | None,
    typer.Option(metavar="SIGMA", help="Also certify by randomised smoothing, with noise of this standard deviation."),
]
CertifySamples = Annotated[
    int | None, typer.Option(min=10, metavar="N", help="Noisy copies per certified example. Default: 10,000.")
]
CertifyExamples = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Number of examples to certify, drawn at random. Default: 500.")
]
Maps = Annotated[
    list[str] | None,
    typer.Option(metavar="SPEC,...", help="Also measure heat maps by these explainers; see `advex list explainer`."),
]
MapTarget = Annotated[
    str | None, typer.Option(metavar="predicted|true", help="The class that maps explain. Default: predicted.")
]
Measures = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC,...", help="Measures of maps; see `advex list measure`. Default: gini,entropy,effective."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Examples per batch and per shard.")]


@dataclass(frozen=True, kw_only=True)
class Request(options.RunOptions):
    """What is evaluated, and how: the options as they were typed."""

    model: options.Model
    data: options.Data
    out: Out = None
    split: options.Split = None
    size: Size = None
    attack: Attack = "minimal"
    btr: Btr = "minimal"
    search: Search = None
    published: Published = False
    radius: Radius = None
    suite: Suite = None
    alone: Alone = False
    transfer: Transfer = False
    corruptions: Corruptions = None
    bf16: Bf16 = False
    compile_: Compile = False
    explanations: Explanations = 8
    pictures: Pictures = None
    targets: Targets = "all"
    rho: Rho = 0.1
    certify: Certify = None
    certify_samples: CertifySamples = None
    certify_examples: CertifyExamples = None
    maps: Maps = None
    map_target: MapTarget = None
    measures: Measures = None
    batch_size: BatchSize = 128
    max_samples: options.MaxSamples = None
    skip: options.Skip = 0

    def settings(self) -> Settings:
        """What decides the evaluation. Raises SpecError, also for options that mean nothing without another one."""
        from advex import evaluation
        from advex.evaluation.settings import CERTIFICATION, MAPPING, RADII
        from advex.registry import specs_from

        for (needed, *others), what in ((CERTIFICATION, "SIGMA: without it nothing is certified"),
                                        (MAPPING, "SPEC: without it nothing is mapped"),
                                        (RADII, "NORM:R: without it there is no distance")):  # fmt: skip
            for name in others:
                if getattr(self, name) not in (None, False) and not getattr(self, needed):
                    raise SpecError(f"--{name.replace('_', '-')} needs --{needed} {what}.")
        given = {name: getattr(self, name) for name in ("certify_samples", "certify_examples", "map_target")}
        specs = {"maps": self.maps, "measures": self.measures, "pictures": self.pictures, "searches": self.search,
                 "radius": self.radius, "suite": self.suite, "corruptions": self.corruptions}  # fmt: skip
        given |= {name: None if texts is None else specs_from(texts) for name, texts in specs.items()}
        if given["pictures"] == ("none",):
            given["pictures"] = ()
        return evaluation.settings_from({
            "attack": None if self.attack == "none" else self.attack, "btr": None if self.btr == "none" else self.btr,
            "published": self.published, "explanations": self.explanations, "targets": self.targets, "rho": self.rho,
            "batch_size": self.batch_size, "seed": self.seed, "bfloat16": self.bf16, "compiled": self.compile_,
            "certify": self.certify, "alone": self.alone, "transfer": self.transfer,
            **{name: value for name, value in given.items() if value is not None},
        })  # fmt: skip

    def run(self, *, least: int = 1) -> tuple[Record, Path]:
        """Evaluate; returns the record and its folder. least: of this many models. Raises AdvexError."""
        from advex.evaluation import folder

        self.check()
        say = progress.Terminal(quiet=self.quiet)
        models = self.opened()
        if len(models) < least:
            raise SpecError(f"A comparison needs at least {least} models: --model A,B.")
        out = self.out or Path("records") / "-".join(model.name for model in models)
        with folder.opened(out, self.overwrite):
            data = self.examples(models, say)
            settings = self.fitted(models, data, say).settings()
            return folder.evaluate(models, data, out, settings, say, resume=self.resume), out

    def check(self) -> None:
        """Raise SpecError for options that cannot be, before anything is opened."""
        self.settings()

    def fitted(self, models: Sequence[Opened], data: Dataset, say: progress.Terminal) -> Request:
        """The same with what only models and data decide: nothing."""
        return self

    def examples(self, models: Sequence[Opened], say: progress.Terminal) -> Dataset:
        """Those to evaluate on; of undivided data that a model has been trained on, those that training holds out."""
        from advex.evaluation import folder
        from advex.lookup import datasets

        return folder.examples(
            models, self.data, self.split, say, max_samples=self.max_samples, seed=self.seed,
            skip=self.skip, shape=None if self.size is None else datasets.shape_from(self.size),
        )  # fmt: skip


@terminal.shared_verb
@options.gathered(Request)
def evaluate(request: Request) -> None:
    """Attack and explain one or more models on a data set, and keep the figures in a record folder.

    Example: advex evaluate --model runs/robust --data digits --out records/robust
    """
    record, folder = request.run()
    if request.json_:
        from advex.record import summary

        terminal.emit(summary(record, folder))
        return
    from advex.cli import tables

    tables.show(record)
    if record.differences:
        tables.show_differences(record)
    terminal.emit(f"{folder}")
