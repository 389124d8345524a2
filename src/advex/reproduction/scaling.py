"""A recipe at a scale: smaller networks, fewer epochs; and in words how it then differs from the one asked for."""

from __future__ import annotations

from typing import Any

from advex import registry
from advex.errors import SpecError
from advex.recipes import Recipe, recipe_from

# Settings that change what is told of a training, or how fast it is, and not what is learned.
_INDIFFERENT = (
    "validate_every", "robust_every", "robust_attack", "robust_samples", "best_by", "keep", "channels_last", "compiled",
)  # fmt: skip
_WORDS = {
    "epochs": "{new} epochs instead of {old}",
    "batch_size": "batches of {new} instead of {old}",
    "network.depth": "depth {new} instead of {old}",
    "network.widths": "widths {new} instead of {old}",
}


def scaled(original: Recipe, change: dict[str, Any], where: str) -> Recipe:
    """A recipe with a scale's changes, see `advex.papers.Scale`.

    A change of what the recipe does not have (`network.drop` of a network without, a term that is not in its
    objective) is none. Raises SpecError where a change lists asked values and this recipe asks for another.
    """
    values = original.model_dump()
    for key, wanted in change.items():
        outer, *inner = key.split(".")
        if outer == "network" and inner:
            values["network"] = _with_option(original.network, values["network"], inner[0], wanted, where)
        elif outer == "objective" and len(inner) == 2:
            term, option = inner
            if term in values["objective"]:
                given = values["objective"][term]
                default = registry.entries("objective")[term].options()[option].default
                value = _value(wanted, given.get(option, default), f"{where}: {key}")
                values["objective"][term] = {**given, option: value}
        else:
            values[key] = _value(wanted, values.get(key), f"{where}: {key}")
    return recipe_from(values, where=where)


def _with_option(original: str, spec: str, option: str, wanted: Any, where: str) -> str:
    """A network's spec with one option changed, where the network has it."""
    name, given = registry.parse(spec)
    parameters = registry.entries("network")[name].options()
    if option not in parameters:
        return spec
    wish = registry.parse(original)[1].get(option, parameters[option].default)
    given[option] = _value(wanted, wish, f"{where}: network.{option}")
    return f"{name}:" + ",".join(f"{key}={_text(value)}" for key, value in given.items())


def _value(wanted: Any, wish: Any, where: str) -> Any:
    if not isinstance(wanted, dict):
        return wanted
    table = {_text(key): value for key, value in wanted.items()}
    if _text(wish) not in table:
        raise SpecError(f"{where} = {_text(wish)}: the scale lists {', '.join(table)}, but not this one.")
    return table[_text(wish)]


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        whole = all(isinstance(each, int) for each in value)
        return ("-" if whole else "/").join(map(str, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def changes(original: Recipe, run: Recipe) -> list[str]:
    """How a recipe differs from the one asked for, in words, but for what decides nothing.

    >>> changes(Recipe(epochs=200), Recipe(epochs=6, network="preact_resnet:depth=14"))
    ['depth 14 instead of 44', '6 epochs instead of 200']
    """
    before, after = _flat(original), _flat(run)
    sentences = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old != new:
            words = _WORDS.get(key, f"{key.removeprefix('objective.')} {{new}} instead of {{old}}")
            sentences.append(words.format(new=_text(new), old=_text(old)))
    return sentences


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Every setting that decides something under one name, options of networks and terms with their defaults."""
    name, given = registry.parse(recipe.network)
    settings: dict[str, Any] = {"network": name}
    settings |= {f"network.{key}": value for key, value in _options("network", name, given).items()}
    for term, options in recipe.objective.items():
        settings |= {f"objective.{term}.{key}": value for key, value in _options("objective", term, options).items()}
    rest = recipe.model_dump(exclude={"network", "objective", *_INDIFFERENT})
    return settings | rest


def _options(kind: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    defaults = {key: parameter.default for key, parameter in registry.entries(kind)[name].options().items()}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in {**defaults, **given}.items()}
