"""What is called with an option that it does not have says which one is meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from advex.errors import SpecError, synonyms, which_option

Function = TypeVar("Function", bound=Callable[..., Any])


def _near(name: str, known: list[str], instead: dict[str, str]) -> str:
    """Which option is meant; and what to do in its place, where it is none of the function's own."""
    names = [*known, *instead]
    also = [instead[other] for other in synonyms(name, names) or () if other in instead]
    return "; ".join([which_option(name, names).removesuffix("."), *also]) if also else which_option(name, names)


def by_option(also: Iterable[str] = (), **instead: str) -> Callable[[Function], Function]:
    """Decorator: raises SpecError in the place of Python's TypeError for an option that there is not.

    also: names of options that are taken as `**settings`. instead: what to do in place of options that people expect.
    """

    def around(function: Function) -> Function:
        kinds = inspect.signature(function).parameters.values()
        known = [*(each.name for each in kinds if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)), *also]

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            for name in options:
                if name not in known:
                    what = f"advex.{function.__name__} has no {'setting' if also else 'option'} '{name}'"
                    raise SpecError(f"{what}: {instead.get(name) or _near(name, known, instead)}")
            return function(*args, **options)

        return run  # pyright: ignore[reportReturnType]

    return around
