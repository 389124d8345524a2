"""What people pass to the Python functions by mistake, or in another form: taken as it is meant, or a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import nn

import advex
from advex.errors import AdvexError, InputError, SpecError

MODEL = "builtin:cifar10-robust"
NET = nn.Linear(3, 2)
make, load, open_dataset = cast("Any", advex.Classifier), cast("Any", advex.load), cast("Any", advex.open_dataset)


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: load(make(NET)), InputError, "needs the folder of a saved classifier, .*, not Classifier"),
        (lambda: load(None), InputError, "not NoneType"),
        (lambda: make(nn.Linear), InputError, r"not the class Linear: Linear\(\.\.\.\) is one"),
        (lambda: make(len), InputError, r"a spec string, not <built-in function len>: Classifier\.from_function"),
        (lambda: make(NET, box=255), InputError, r"must be \(lower, upper\), such as .*, not 255"),
        (lambda: make(NET, box=(0, 1, 2)), InputError, r"must be \(lower, upper\), such as .*, not \(0, 1, 2\)"),
        (lambda: make(NET, box=(0, "white")), InputError, "upper must be a number, or a list of numbers, not 'white'"),
        (lambda: make(NET, mean="imagenet"), InputError, "mean must be a number, or a list of numbers"),
        (lambda: make.from_function(len, classes=2, box=1), InputError, r"must be \(lower, upper\)"),
        (lambda: make(NET, classes=["a"]), SpecError, "Classifier has no option 'classes': it is called 'class_names'"),
        (lambda: make(NET, bounds=(0, 1)), SpecError, "Classifier has no option 'bounds': it is called 'box' here"),
        (lambda: make(NET, preprocessing=(0, 1)), SpecError, r"'preprocessing': give mean=\.\.\. and std=\.\.\."),
        (lambda: make.from_function(len, bounds=(0, 1)), SpecError, "from_function has no option 'bounds'"),
        (lambda: open_dataset("digits", n=3), SpecError, "open_dataset has no option 'n': it is called 'max_samples'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(call: Callable[[], Any], kind: type[AdvexError], said: str) -> None:
    with pytest.raises(kind, match=said):
        call()


def test_an_empty_box_is_told_as_it_was_given() -> None:
    with pytest.raises(InputError, match=r"The box is empty: lower 1, upper 0\."):
        make(NET, box=(1, 0))
    assert torch.equal(make(NET, box=(torch.zeros(3), [1, 2, 3])).upper, torch.tensor([1.0, 2.0, 3.0]))
