"""What a network answers and raises: read as logits, judged, and told in its own words."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advex.errors import InputError

# Errors of a network's own code that are told in a sentence; all others pass as they are.
ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def answered(logits: Tensor) -> Tensor:
    """[n] bool: the row is an answer. NaN is none, nor is an infinite logit that decides.

    >>> answered(torch.tensor([[1.0, 2.0], [1.0, torch.nan], [1.0, torch.inf], [1.0, -torch.inf]]))
    tensor([ True, False, False,  True])
    """
    return logits.detach().amax(dim=1).abs() < math.inf


def returns_probabilities(logits: Tensor) -> bool:
    """Whether rows [n, classes] look like probabilities: none below 0, each row summing to one."""
    return bool(len(logits)) and bool(_like_probabilities(logits.detach()))


def _like_probabilities(values: Tensor) -> Tensor:
    return (values >= 0).all() & ((values.sum(dim=1) - 1).abs() < 1e-3).all()


def doubt_of(logits: Tensor) -> str:
    """Why answers [n, classes] cannot be trusted, in a sentence; empty where nothing speaks against them."""
    silent, probabilities = torch.stack([(~answered(logits)).sum(), _like_probabilities(logits.detach())]).tolist()
    if probabilities and len(logits):
        return (
            "The network seems to return probabilities (rows are positive and sum to one). Attacks on "
            "them fail, and the model looks more robust than it is: remove the final softmax and return logits."
        )
    return f"The network returns NaN or infinity for {silent} of {len(logits)} inputs." if silent else ""


def varies(once: Tensor, again: Tensor) -> bool:
    """Whether two answers [n, classes] to the same inputs differ by more than the rounding of a parallel sum."""
    return bool((once - again).abs().max() > 1e-5 * (1 + once.abs().max()))


def mean_of(answer: Callable[[], Tensor], draws: int) -> Tensor:
    """The logarithm of the mean confidences of several answers [n, classes]; of one answer its logits."""
    if draws == 1:
        return answer()
    return torch.stack([answer().log_softmax(dim=1) for _ in range(draws)]).logsumexp(dim=0) - math.log(draws)


def as_logits(output: Any, n: int, chosen: Callable[[Any], Any] | None, binary: bool) -> Tensor:
    """The logits [n, classes] in what a network returned for n inputs. See `Classifier` for `chosen` and `binary`."""
    if chosen is not None:
        try:
            output = chosen(output)
        except ERRORS as error:
            kind, returned = type(error).__name__, type(output).__name__
            raise InputError(
                f"logits=... cannot be asked of the {returned} that the network returned ({kind}: {error})."
            ) from error
    elif isinstance(output, Mapping):
        output = output.get("logits", output)
    else:
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        parts = f" of {', '.join(map(repr, output))}"[:80] if isinstance(output, Mapping) else ""
        raise InputError(
            f"The network returned {type(output).__name__}{parts}; a classifier needs logits [n, classes], "
            "or an object or dictionary with .logits or ['logits']. Extract them: Classifier(network, "
            "logits=lambda output: output[0])."
        )
    if binary and output.shape in ((n,), (n, 1), ()):
        score = output.reshape(n, 1)
        output = torch.cat([torch.zeros_like(score), score], dim=1)
    if output.ndim == 1 and n == 1 and len(output) > 1:  # a network that squeezes a batch of one
        output = output[None]
    return output


def check_logits(logits: Tensor, n: int, names: int | None) -> None:
    """Raise InputError unless these are logits [n, classes >= 2], of as many classes as there are names."""
    if logits.ndim != 2 or len(logits) != n or logits.shape[1] < 2:
        hint = ""
        if logits.shape in ((n,), (n, 1)):
            hint = (
                " For a single output z, without a sigmoid, use Classifier(network, binary=True): two classes with "
                "logits [0, z]."
            )
        raise InputError(
            f"The network must return logits [n, classes >= 2] for n = {n}, got {tuple(logits.shape)}.{hint}"
        )
    if names is not None and logits.shape[1] != names:
        raise InputError(f"The network has {logits.shape[1]} outputs for {names} class name{'s' * (names != 1)}.")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    words = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


_SHAPES = r"(?i)shape|size|mat1|dimension|channels|broadcast|\d+d\b"
# Words of an error -> what to do. The first line that fits counts; the last is a guess about shapes.
_HINTS = {
    "does not require grad": "The network computes gradients itself, but is called without gradients here: put "
    "`with torch.enable_grad():` around that part of its forward.",
    "positional argument": "It is called with one tensor [n, *shape]: wrap a network with several inputs in a "
    "module that supplies the others.",
    "scalar types? Long|indices|Embedding": "Wrap a network on token ids in a module that takes the embeddings.",
    _SHAPES: "Grey and colour mixed up, channels last, or the wrong input size?",
}


def failure(error: Exception, x: Tensor) -> InputError:
    """What a network raised for x [n, *shape], in its own words, with the call that raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if "/torch/" not in f.filename]
    where = f", {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    words = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
    hint = next((hint for pattern, hint in _HINTS.items() if re.search(pattern, words)), "")
    failed = "does not take" if hint == _HINTS[_SHAPES] else "raised an error for"
    shape, kind = tuple(x.shape[1:]), type(error).__name__
    return InputError(f"The network {failed} inputs of shape {shape} ({kind}{where}): {words}. {hint}".rstrip())
