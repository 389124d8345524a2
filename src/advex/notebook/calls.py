"""What is called with an option that it does not have says which one is meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from advex.errors import SpecError, which_option

P, R = ParamSpec("P"), TypeVar("R")


def by_option(also: Iterable[str] = (), **instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: raises SpecError in the place of Python's TypeError for an option that there is not.

    also: names of options that are taken as `**settings`. instead: what to do in place of options that people expect.
    """

    def around(function: Callable[P, R]) -> Callable[P, R]:
        kinds = inspect.signature(function).parameters.values()
        known = [*(each.name for each in kinds if each.kind is not each.VAR_KEYWORD), *also]

        @functools.wraps(function)
        def run(*args: P.args, **options: P.kwargs) -> R:
            for name in options:
                if name not in known:
                    what = f"advex.{function.__name__} has no {'setting' if also else 'option'} '{name}'"
                    raise SpecError(f"{what}: {instead.get(name) or which_option(name, [*known, *instead])}")
            return function(*args, **options)

        return run

    return around
