"""Options: their types with the values they may have, checked when a thing is made; and which one a call means."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, PlainValidator, ValidationError, WrapValidator
from pydantic.dataclasses import dataclass as checked
from pydantic_core import ErrorDetails

from advex.errors import AdvexError, SpecError, synonyms, which_option, why_impossible
from advex.geometry import Norm, as_norm, as_radius

Made = TypeVar("Made", bound=type)
Function = TypeVar("Function", bound=Callable[..., Any])

# A number is checked as a float and kept as it was given, so that a spec string reads as it was written.
_kept = WrapValidator(lambda value, check: value if check(value) is not None else value)

Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, _kept]
AtLeast0 = Annotated[float, Field(ge=0), _kept]
AtLeast1 = Annotated[float, Field(ge=1), _kept]
Above0 = Annotated[float, Field(gt=0), _kept]
Share = Annotated[float, Field(ge=0, le=1), _kept]  # in [0, 1]
Blur = Annotated[float, Field(ge=0, le=1000), _kept]  # sigma of a Gaussian in pixels
BlurShare = Annotated[float, Field(gt=0, le=10), _kept]  # the same, as a share of the picture's longer side
ShareBelow1 = Annotated[float, Field(ge=0, lt=1), _kept]  # in [0, 1)
# Converted: a norm may be named, and a radius written as a fraction.
NormOption = Annotated[Norm | str, PlainValidator(as_norm)]
RadiusOption = Annotated[float | str, PlainValidator(as_radius)]

_CONFIG = ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True, validate_default=True
)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def with_options(made: Made) -> Made:
    """Class decorator: a frozen keyword-only dataclass that raises SpecError for values its fields' types refuse.

    What depends on several fields is for `__post_init__`, which may raise SpecError itself.
    """
    made = checked(frozen=True, kw_only=True, config=_CONFIG)(made)  # pyright: ignore
    unchecked: Callable[..., None] = made.__init__

    @functools.wraps(unchecked)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        try:
            unchecked(self, *args, **options)
        except ValidationError as error:
            raise SpecError(_sentence(made, error.errors()[0])) from None

    made.__init__ = __init__
    return made


def _sentence(made: type, error: ErrorDetails) -> str:
    """What was wrong with which option, and what would be right."""
    own = error.get("ctx", {}).get("error")
    names = [field.name for field in dataclasses.fields(made)]  # pyright: ignore[reportArgumentType]
    option, value = str(error["loc"][0]) if error["loc"] else "", error["input"]
    if isinstance(own, AdvexError):
        return f"{made.__name__}'s {option}: {own}" if option else str(own)
    if error["type"] == "unexpected_keyword_argument":
        return f"{made.__name__} has no option '{option}': {which_option(option, names)}"
    if option not in names:
        return f"{made.__name__}: {why_impossible(error['msg'])}. Its options are given by name: {', '.join(names)}."
    right = why_impossible(error["msg"]).removeprefix("it ")
    known = re.findall(r"'([^']*)'", right) if error["type"] == "literal_error" else ()
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.5) if isinstance(value, str) else ()
    return f"{made.__name__}'s {option} {right}, not {value!r}." + (f" Did you mean '{near[0]}'?" if near else "")


def _near(name: str, known: list[str], instead: dict[str, str]) -> str:
    """Which option is meant; and what to do in its place, where it is none of the function's own."""
    names = [*known, *instead]
    also = [instead[other] for other in synonyms(name, names) or () if other in instead]
    return "; ".join([which_option(name, names).removesuffix("."), *also]) if also else which_option(name, names)


def by_option(also: Iterable[str] = (), **instead: str) -> Callable[[Function], Function]:
    """Decorator: raises SpecError in the place of Python's TypeError for a call that does not fit the function.

    also: names of options that are taken as `**settings`. instead: what to do in place of options that people expect.
    """

    def around(function: Function) -> Function:
        signature = inspect.signature(function)
        kinds = signature.parameters.values()
        called = function.__qualname__.removesuffix(".__init__")
        named = [each.name for each in kinds if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        known = [*(name for name in named if name not in ("self", "cls")), *also]

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            for name in options:
                if name not in known:
                    what = f"advex.{called} has no {'setting' if also else 'option'} '{name}'"
                    raise SpecError(f"{what}: {instead.get(name) or _near(name, known, instead)}")
            try:
                signature.bind(*args, **options)
            except TypeError as error:
                first = [each.name for each in kinds if each.kind == each.POSITIONAL_OR_KEYWORD and each.name in known]
                words, _, which = str(error).rpartition(" ")
                said = {
                    "missing a required argument:": f"{which} is missing",
                    "too many positional": "all else is given by name",
                }
                raise SpecError(
                    f"advex.{called}({', '.join(first)}, ...): {said.get(words, f'{which} is given twice')}."
                ) from None
            return function(*args, **options)

        return run  # pyright: ignore[reportReturnType]

    return around
