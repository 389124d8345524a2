"""A study that computes for as long as a test wants. Imported by the test and by the process that it starts.

A request's name is the path of a file: `.began` is written beside it when its turn comes, and it is answered once
`.go` is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advex.errors import ArtifactError, InputError
from advex.explore.requests import Catalogue, ClassCount, ExploreRequest, ExploreResponse, MapChoice, ModelChoice
from advex.progress import Stopped


class SlowStudy:
    """See `advex.explore.requests.Explorer`."""

    catalogue = Catalogue(
        data="d",
        count=2,
        models=(ModelChoice(name="m", classes=("a", "b")),),
        labels=(ClassCount(name="a", count=2),),
        explainers=(MapChoice(spec="gradient", name="Gradient"),),
    )

    @property
    def quick(self) -> dict[str, Callable[..., Any]]:
        """Things that take no time; `die` ends the process."""
        return {
            "double": lambda value: 2 * value,
            "die": lambda: os._exit(3),
            "fail": self.fail,
            "pid": os.getpid,
            "sleep": time.sleep,
        }

    def fail(self) -> None:
        """As user code may."""
        raise ValueError("as foreseen")

    def explain(self, request: ExploreRequest, stop: Callable[[], bool]) -> ExploreResponse:
        """Wait for the test."""
        if request.explainer == "refused":
            raise InputError("This cannot be asked.")
        at = Path(request.name)
        at.with_suffix(".began").touch()
        while not at.with_suffix(".go").exists():
            if stop() and request.explainer != "deaf":
                at.with_suffix(".stopped").touch()
                raise Stopped
            time.sleep(0.01)
        return ExploreResponse(entry={}, summary={"name": at.name}, pictures={})


def load() -> SlowStudy:
    """Opens at once."""
    return SlowStudy()


def fail() -> SlowStudy:
    """Nothing is there."""
    raise ArtifactError("There is no such run.")


def once(marker: Path) -> SlowStudy:
    """Opens the first time alone."""
    if marker.exists():
        raise ArtifactError("The run is gone.")
    marker.touch()
    return SlowStudy()
