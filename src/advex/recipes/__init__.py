"""Recipes: everything that decides a training run, but the data. Bundled ones are the YAML files of this folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from advex import attacks, networks, objectives, registry
from advex import data as sets
from advex.data.augmentation.affine import AffineAugmentation
from advex.data.augmentation.plain import Augmentation, Padding
from advex.data.crops import ShorterSide, Streaming, shorter_side
from advex.data.tables.table import SUFFIXES
from advex.documents import read_yaml
from advex.errors import DataError, SpecError, did_you_mean, which_option, why_impossible

__all__ = ["TABLE", "Recipe", "fitted", "for_table", "learning_rate", "named", "read", "recipe_from", "summary"]

TABLE = "table-linear"  # of a table for which no recipe is named
# Settings that are taken as they are typed.
_SPECS = ("network", "start", "objective", "robust_attack", "labels")
_LISTS = ("mean", "std", "milestones", "resize", "scale", "shorter")  # settings that may be written `0.49,0.48,0.45`
# How many names follow inside: objective.TERM.OPTION, affine.OPTION, resize.shorter.
_DEPTH = {"objective": 2, "affine": 1, "resize": 1}


class Recipe(BaseModel):
    """Everything that decides a training run, but the data. See `docs/recipes.md`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    network: str = "preact_resnet:depth=44"
    start: str | None = None
    objective: dict[str, dict[str, Any]] = Field(default_factory=lambda: {"natural": {}})
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.25
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=128, ge=2)
    accumulate: int = Field(default=1, ge=1)
    optimiser: Literal["sgd", "adam", "adamw", "adagrad"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)
    decay: Literal["all", "weights", "biases"] = "all"
    ema: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["one_cycle", "constant", "step"] = "one_cycle"
    warm_up: float = Field(default=0.2, ge=0, lt=1)
    milestones: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.85, 0.975)
    flip: bool = False
    pad: int = Field(default=0, ge=0)
    padding: Padding = "replicate"
    resize: Annotated[tuple[float, float] | ShorterSide | None, BeforeValidator(shorter_side)] = None
    crop: int = Field(default=0, ge=0)
    streamed: bool = False
    affine: AffineAugmentation | None = None
    labels: str = "given"
    balanced: bool = False
    per_class: int = Field(default=0, ge=0, le=10_000_000)
    precision: Literal["float32", "bfloat16"] = "float32"
    compiled: bool = False
    channels_last: bool = True
    validate_every: int = Field(default=1, ge=1)
    robust_every: int = Field(default=5, ge=0)
    robust_attack: str = "pgd:norm=rmse,radius=0.01,steps=10"
    robust_samples: int = Field(default=256, ge=1)
    best_by: Literal["accuracy", "robust_accuracy"] = "accuracy"
    keep: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def augmentations(self) -> tuple[Augmentation | AffineAugmentation, ...]:
        """What happens to pictures before they are trained on, one after the other.

        Raises SpecError for impossible values.
        """
        factors = None if isinstance(self.resize, ShorterSide) else self.resize
        plain = Augmentation(flip=self.flip, pad=self.pad, padding=self.padding, resize=factors, crop=self.crop)
        return (plain,) if self.affine is None else (plain, self.affine)

    @property
    def streaming(self) -> Streaming | None:
        """How pictures are read that are not to be held in memory; None where they are."""
        if isinstance(self.resize, ShorterSide):
            return Streaming(self.resize.shorter, self.crop)
        return Streaming() if self.streamed else None

    @property
    def label_seed(self) -> int | None:
        """The seed that labels are drawn by; None where they are the data's own. Raises SpecError."""
        if self.labels == "given":
            return None
        name, _, seed = self.labels.partition(":")
        if name != "random" or not seed.isdecimal():
            raise SpecError(
                f"labels must be given (the default) or random:SEED, such as random:0, not {self.labels!r}."
            )
        return int(seed)

    @property
    def window(self) -> int:
        """Side of the square that the network sees of a picture; 0: all of it."""
        return self.crop if self.affine is None or not self.affine.window else self.affine.window

    @field_validator("objective", mode="before")
    @classmethod
    def _terms(cls, value: Any) -> Any:
        """One term may be given as a spec string; a term without options as a bare name."""
        if isinstance(value, str):
            name, options = registry.parse(value)
            return {name: options}
        return {name: options or {} for name, options in value.items()} if isinstance(value, dict) else value


def register_files(package: str) -> None:
    """Register the YAML files beside a package's modules as recipes, by their names: `register_files(__name__)`."""
    registry.register_files("recipe", package, _from_file, summary, read)


def _from_file(path: Path, **settings: Any) -> Recipe:
    return recipe_from({**read(path), **settings}, where=path.stem)


def summary(path: Path) -> str:
    """The first comment of a recipe file: what it is and where its settings are from."""
    comments = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.lstrip("# "))
    return " ".join(comments)


def read(name_or_path: str | Path) -> dict[str, Any]:
    """The settings of a registered recipe or of a YAML file, not yet checked (see `recipe_from`).

    Raises SpecError when there is no such recipe, or the file is not a YAML mapping.
    """
    path = registry.file_of("recipe", name_or_path)
    values = read_yaml(path, "a recipe", SpecError)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SpecError(f"{path} is not a recipe: it must contain lines of the form 'setting: value'.")
    return values


def recipe_from(values: dict[str, Any], overrides: dict[str, str] | None = None, where: str = "recipe") -> Recipe:
    """A checked recipe from plain values and `key=value` overrides (`objective.adversarial.share=1` goes inside).

    Raises SpecError, naming the key, for unknown keys (with a suggestion) and impossible values.
    """
    values = dict(values)
    for key, text in (overrides or {}).items():
        outer, *inner = key.split(".")
        if outer not in Recipe.model_fields or len(inner) not in (0, _DEPTH.get(outer, 0)):
            raise SpecError(
                f"There is no setting '{key}': {which_option(key, [*Recipe.model_fields, *_inner(values)])}"
            )
        if outer in ("affine", "resize") and inner:
            before = values.get(outer)
            values[outer] = {**(before if isinstance(before, dict) else {}), inner[0]: _value(inner[0], text)}
        elif inner:
            terms = dict(Recipe._terms(values.get(outer) or {}))
            values[outer] = {**terms, inner[0]: {**(terms.get(inner[0]) or {}), inner[1]: registry.parse_value(text)}}
        else:
            values[outer] = _value(outer, text)
    for key in values:
        if key not in Recipe.model_fields:
            raise SpecError(f"{where}: there is no setting '{key}': {which_option(key, Recipe.model_fields)}")
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(part for part in map(str, first["loc"]) if "[" not in part)  # a kind of value is no name
        if first["type"] == "unexpected_keyword_argument":
            raise SpecError(f"{where}: there is no setting '{name}': {which_option(name, _affine())}") from None
        raise SpecError(
            f"{where}: {name} = {first.get('input')!r} is not valid: {why_impossible(first['msg'])}."
        ) from None
    _check(recipe)
    return recipe


def _value(key: str, text: str) -> Any:
    """The value of a setting as typed."""
    if key in _LISTS and "," in text:
        return [registry.parse_value(part) for part in text.split(",")]
    return text if key in _SPECS else registry.parse_value(text)


def _affine() -> list[str]:
    return [f"affine.{field.name}" for field in dataclasses.fields(AffineAugmentation)]


def _inner(values: dict[str, Any]) -> list[str]:
    """Settings inside others that may have been meant."""
    named = values.get("objective")
    terms = [*(named if isinstance(named, dict) else ()), "lipschitz", "adversarial"]
    known = registry.entries("objective")
    inside = [f"objective.{name}.{option}" for name in terms if name in known for option in known[name].options()]
    return inside + _affine()


def _check(recipe: Recipe) -> None:
    """Raise SpecError for what single settings cannot show: networks, terms, attacks, combinations."""
    networks.check(fitted(recipe, (3, 32, 32), 10).network)  # of any picture: the data say the rest
    objective = objectives.build(recipe.objective)
    attacks.build(recipe.robust_attack)
    _ = recipe.augmentations, recipe.label_seed, recipe.streaming  # made, and so checked
    if recipe.affine is not None and recipe.affine.window and recipe.crop:
        raise SpecError("crop and affine.window both set the input size of the network: omit one of them.")
    if recipe.balanced and recipe.per_class:
        raise SpecError("balanced and per_class both balance the classes: omit one of them.")
    if recipe.best_by == "robust_accuracy" and recipe.robust_every == 0:
        raise SpecError("best_by=robust_accuracy needs it measured: set robust_every to 1 or more.")
    if recipe.batch_size < 2 * recipe.accumulate:
        raise SpecError(
            f"accumulate={recipe.accumulate} leaves parts of a batch of {recipe.batch_size} with one example."
        )
    for name, term in objective.terms.items():
        if getattr(term, "derivative", "exact") == "finite_difference" and recipe.precision != "float32":
            raise SpecError(
                f"objective.{name}.derivative=finite_difference needs precision=float32: {recipe.precision} rounds its "
                f"small steps away. Set one of the two, or objective.{name}.derivative=exact."
            )


def named(name: str, changes: Sequence[str] = (), seed: int | None = None, where: str = "") -> Recipe:
    """A bundled recipe or a YAML file, with `KEY=VALUE` changes applied.

    seed: instead of its own. where: what an error begins with; the name by default. Raises SpecError.
    """
    overrides: dict[str, str] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise SpecError(f"'{change}' is not of the form KEY=VALUE, e.g. epochs=20.")
        overrides[key.strip()] = value.strip()
    if seed is not None:
        overrides["seed"] = str(seed)
    return recipe_from(read(name), overrides, where=where or name)


def for_table(named: str) -> str | None:
    """The recipe where a table stands in its place (`advex train loans.csv`); None for everything else.

    Raises DataError for a table that is not there, or cannot be opened as one, and SpecError for other data.
    """
    path = Path(named)
    is_file = path.suffix.lower() in SUFFIXES
    if named in registry.entries("recipe") or not (is_file or path.is_dir()):
        return None
    if is_file and not path.exists():
        raise DataError(f"There is no file {named}.", absent=True)
    if not sets.is_table(named):
        raise SpecError(f"{named} is data, not a recipe: advex train RECIPE --data {named} (advex list recipe).")
    return TABLE


def fitted(recipe: Recipe, shape: tuple[int, ...], classes: int) -> Recipe:
    """The recipe with its network's channels, features and classes filled in where the spec leaves them open.

    shape: of one input of the data. Rows of a table are scaled when they are encoded: their `mean` is 0 and their
    `std` 1 where the recipe says nothing. Raises SpecError for an unknown network, and one that was made for rows of
    another length or for other classes; DataError for data of one class.
    """
    if classes < 2:
        raise DataError("The data have only one class, and a classifier tells two or more apart: a folder is a class.")
    shape = seen_shape(recipe, shape)
    name, given = registry.parse(recipe.network)
    known = registry.entries("network")
    if name not in known:
        raise SpecError(f"There is no network '{name}': {did_you_mean(name, known)}")
    facts = {"features": math.prod(shape), "classes": classes} | ({"channels": shape[0]} if len(shape) == 3 else {})
    options = known[name].options()
    if len(shape) == 1:
        _fits(recipe.network, given, facts)
        scaled = {"mean": 0.0, "std": 1.0}
        recipe = recipe.model_copy(update={k: v for k, v in scaled.items() if k not in recipe.model_fields_set})
    missing = [f"{key}={value}" for key, value in facts.items() if key in options and key not in given]
    if not missing:
        return recipe
    spec = recipe.network.strip().rstrip(":,")
    return recipe.model_copy(update={"network": spec + ("," if ":" in spec else ":") + ",".join(missing)})


def seen_shape(recipe: Recipe, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of what the network sees of an input of a shape."""
    return (shape[0], recipe.window, recipe.window) if len(shape) == 3 and recipe.window else shape


def _fits(network: str, given: dict[str, Any], facts: dict[str, int]) -> None:
    """Raise SpecError where a network's own numbers are not those of the table."""
    for key, what in {"features": "elements in an encoded row", "classes": "classes"}.items():
        if given.get(key, facts[key]) != facts[key]:
            raise SpecError(f"network {network}: the table has {facts[key]:,} {what}; omit {key} in the network.")


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate after a share `progress` in [0, 1] of all steps.

    one_cycle: linear up from a tenth during `warm_up`, then a cosine to zero. step: the same warm-up,
    then a tenth of it after each milestone. constant: after the warm-up, constant.
    """
    peak = recipe.learning_rate
    if progress < recipe.warm_up:
        return peak * (0.1 + 0.9 * progress / recipe.warm_up)
    if recipe.schedule == "constant":
        return peak
    if recipe.schedule == "step":
        return peak * 0.1 ** sum(progress >= milestone for milestone in recipe.milestones)
    return peak * (1 + math.cos(math.pi * (progress - recipe.warm_up) / (1 - recipe.warm_up))) / 2


register_files(__name__)
