"""What can go wrong at a user's hands. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any
from unicodedata import category

__all__ = [
    "AdvexError",
    "AdvexWarning",
    "ArtifactError",
    "DataError",
    "InputError",
    "SpecError",
    "did_you_mean",
    "install_extra",
    "quoted",
    "synonyms",
    "visible",
    "which_option",
    "why_impossible",
    "why_unusable",
]

_FEW, _SOME = 16, 6  # names: so many are all listed, and of more the first
# Words of the field for the same option, in the order in which they are taken for each other. See `which_option`.
_SAME = (
    ("radius", "rho", "eps", "epsilon"),
    ("steps", "gradients", "iter", "iters", "iterations"),
    ("step", "learning_rate", "lr", "alpha", "step_size", "stepsize", "eps_step", "eps_iter"),
    ("samples", "max_samples", "examples", "limit", "n"),
    ("restarts", "random_restarts"),
    ("norm", "p", "ord", "lp"),
    ("batch_size", "max_batch", "bs", "batch", "batchsize"),
    ("optimiser", "optimizer", "opt", "optim"),
    ("weight_decay", "wd", "decay"),
    ("schedule", "scheduler", "lr_schedule", "lr_scheduler"),
    ("warm_up", "warmup"),
    ("network", "arch", "architecture", "backbone"),
    ("model", "models"),
    ("seed", "random_state", "random_seed"),
    ("target", "targets", "class", "c"),
    ("y", "labels", "label"),
    ("explainer", "explainers", "maps", "method"),
    ("attack", "attacks", "adversary"),
    ("measures", "measure", "metrics", "metric"),
    ("out", "output", "output_dir", "out_dir", "save_dir"),
    ("data", "dataset", "images", "pictures"),
    ("precision", "amp", "dtype"),
    ("device", "map_location"),
    ("box", "bounds", "clip_values", "input_range"),
    ("class_names", "classes", "labels", "names"),
)
_COUNTED = re.compile(r"^(?:n|nb|num|nt|max)_")  # n_steps, num_samples: the same word
# Pydantic's words -> ours, in this order.
_WORDS = {
    r"^Value error, ": "",
    r"^Input should be\b": "it must be",
    r"^Field required": "it is missing",
    r"^\w+ should have (at \w+ \d+ \w+).*": r"it must have \1",
    r"^String should match pattern (.*)": r"it must be of the form \1",
    r"^Extra inputs are not permitted": "there is no such setting",
    r"greater than or equal to": "at least",
    r"less than or equal to": "at most",
    r"greater than": "above",
    r"less than": "below",
    r"a valid integer.*": "a whole number",
    r"a valid number.*": "a number",
    r"a valid boolean.*": "true or false",
    r"a valid string": "a text",
    r"a valid (?:list|tuple|array)": "a list",
    r"a valid dictionary.*": "a mapping of names to values",
}
_HARMLESS = frozenset("\n\t\u200c\u200d").union(map(chr, range(0xE0020, 0xE0080)))


class AdvexError(ValueError):
    """Base of every error that a user can cause and a user can mend. absent: what was named does not exist."""

    def __init__(self, sentence: str = "", *, absent: bool = False) -> None:
        super().__init__(sentence)
        self.absent = absent


class InputError(AdvexError):
    """Tensors that do not fit the classifier: wrong shape, outside the box, not finite."""


class SpecError(AdvexError):
    """A spec string, recipe or option that names nothing known or holds an impossible value."""


class DataError(AdvexError):
    """A data set that cannot be read as one."""


class ArtifactError(AdvexError):
    """A saved model, checkpoint or record folder that is damaged, foreign or hostile."""


class AdvexWarning(UserWarning):
    """Something that makes a result less trustworthy than it looks."""


def did_you_mean(wrong: str, known: Iterable[str], every: str = "") -> str:
    """End of a sentence that helps after a misspelt name: the nearest known ones, and all where they are few.

    every: a command that lists all.

    >>> did_you_mean("pdg", ["pgd", "minimal"])
    "did you mean 'pgd'? Known: minimal, pgd."
    >>> did_you_mean("x", ["pgd", "minimal"])
    'choose from minimal, pgd.'
    """
    names = sorted(known)
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(wrong.casefold(), folded, n=1 if len(names) <= _FEW else 3, cutoff=0.5)
    near = [folded[each] for each in near]
    return _and_all("did you mean " + " or ".join(f"'{each}'" for each in near) + "?" if near else "", names, every)


def _and_all(hint: str, names: Sequence[str], every: str) -> str:
    """A hint at the right name, if any, and after it all names where they are few."""
    listed = ", ".join(names if len(names) <= _FEW else names[:_SOME])
    if len(names) <= _FEW:
        return f"{hint} Known: {listed}." if hint else f"choose from {listed}." if names else "none are known."
    rest = f"{every} lists all {len(names)}." if every else ""
    if hint:
        return f"{hint} {rest}".rstrip()
    return f"choose from {listed} and {len(names) - _SOME} others." + (f" {rest}" if every else "")


def which_option(wrong: str, known: Iterable[str], every: str = "") -> str:
    """`did_you_mean` of an option, which the field may call otherwise: `eps`, `n_steps`, `lr`.

    Names with dots are known by their last part. No name is near where the option is another thing, which is not among
    the known: what has steps but no radius is not told that `eps` means `step`.

    >>> which_option("n_steps", ["radius", "steps"])
    "it is called 'steps' here. Known: radius, steps."
    >>> which_option("objective.psi", ["seed", "objective.lipschitz.psi"])
    "did you mean 'objective.lipschitz.psi'? Known: objective.lipschitz.psi, seed."
    >>> which_option("eps", ["step", "momentum"])
    'choose from momentum, step.'
    """
    names = sorted(known)
    meant = synonyms(wrong, names)
    if meant is None:
        return did_you_mean(wrong, names, every)
    quotes = " or ".join(f"'{name}'" for name in meant)
    dotted = "." in "".join(meant)
    hint = f"did you mean {quotes}?" if dotted else f"it is called {quotes} here." if meant else ""
    return _and_all(hint, names, every)


def synonyms(wrong: str, known: Sequence[str]) -> list[str] | None:
    """The known options that the field calls `wrong` as well: none for another thing, None for a word it has not.

    >>> synonyms("eps", ["radius", "step"]), synonyms("eps", ["step"]), synonyms("stp", ["step"])
    (['radius'], [], None)
    """
    first, _, last = wrong.casefold().replace("-", "_").rpartition(".")
    word = _COUNTED.sub("", last)
    same = next((group for group in _SAME if last in group or word in group), ())
    for meant in dict.fromkeys((last, word, *same)):
        hits = [name for name in known if name.rpartition(".")[2] == meant and name.startswith(first.partition(".")[0])]
        if hits:
            return [name for name in hits if "." not in name] or hits[:3]
    slip = difflib.get_close_matches(last, known, n=1, cutoff=0.85)  # step for steps
    return [] if same and not slip else None


def why_impossible(reason: str) -> str:
    """What pydantic says of a value, in our words: the end of a sentence, without its full stop.

    >>> why_impossible("Input should be greater than or equal to 1")
    'it must be at least 1'
    >>> why_impossible("Input should be a valid integer, unable to parse string as an integer")
    'it must be a whole number'
    >>> why_impossible("Tuple should have at least 1 item after validation, not 0")
    'it must have at least 1 item'
    >>> why_impossible("Value error, give a sentence.")
    'give a sentence'
    """
    return functools.reduce(lambda text, words: re.sub(*words, text), _WORDS.items(), reason).removesuffix(".")


def why_unusable(error: Any, typed: str) -> str:
    """What Typer says of a command that cannot be as it was typed, in our words: a sentence. typed: the command."""
    context, parameter, said = error.ctx, getattr(error, "param", None), error.message.rstrip(".")
    command, name = context.command_path if context else typed, getattr(error, "option_name", "")
    if name and hasattr(error, "possibilities"):
        parameters = context.command.params if context else ()
        long = {each[2:].replace("-", "_"): each for at in parameters for each in at.opts}
        same = synonyms(name.lstrip("-"), list(long))
        near = " or ".join(error.possibilities or () if same is None else [long[each] for each in same])
        setting = any(each.metavar and "KEY=VALUE" in each.metavar for each in parameters)  # of a recipe
        near = f"did you mean {near}?" if near else f"a setting is written {name.strip('-')}=VALUE." if setting else ""
        return f"{command} has no option {name}" + (f": {near}" if near else ".")
    if name:
        return f"{command}: {name} {'needs a value' if said.endswith('requires an argument') else 'takes no value'}."
    if parameter is not None:
        is_option = parameter.param_type_name == "option"
        if not said:
            what = f"{parameter.opts[0] if is_option else ''} {parameter.metavar or parameter.name.upper()}".strip()
            said = f"{command} needs {what}: {getattr(parameter, 'help', None) or 'it has no default.'}"
        else:
            said = f"{parameter.opts[0] if is_option else parameter.metavar or parameter.name}: {why_impossible(said)}."
    else:
        said = re.sub(r"^No such command (.*?)\. Did", r"There is no command \1: did", said)
        said = re.sub(r"^No such command (.*)", r"There is no command \1", said)
        said = re.sub(r"^Got unexpected extra argument\S* \((.*)\)", rf"{command} does not accept: \1", said)
    return said if said.endswith((".", "?")) else f"{said}."


def install_extra(name: str) -> str:
    """End of a sentence about something that an extra of advex brings: how to install it.

    >>> install_extra("hub")
    "in a clone of advex, run pip install -e '.[hub]'."
    """
    return f"in a clone of advex, run pip install -e '.[{name}]'."


def quoted(text: str, most: int = 80) -> str:
    """A text from a file in quotes, for a sentence: at most so many characters, and no control characters.

    >>> quoted("a" * 100, 10), quoted("bell" + chr(7))
    ("'aaaaaaa...'", "'bell?'")
    """
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return f"'{visible(cut, one_line=True)}'"


def visible(text: object, *, one_line: bool = False) -> str:
    """A text for a terminal: no name in it can move the cursor, colour what follows, or turn it round.

    Lines and tabs stay unless it shall be `one_line`; so do the joiners and tags of which letters and emoji are made.

    >>> visible("a" + chr(27) + "[31mb"), visible("c" + chr(10) + "d", one_line=True)
    ('a?[31mb', 'c d')
    """
    whole = re.sub(r"\s*[\t-\r]\s*", " ", str(text)) if one_line else str(text)
    return "".join(c if c.isprintable() or c in _HARMLESS or category(c) == "Zs" else "?" for c in whole)
