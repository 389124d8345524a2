"""What is probably meant by a name that is no folder of a saved classifier, and what to do: a sentence."""

from __future__ import annotations

import os
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from advex import bundled, registry

_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# Families of networks, by which people name a model: ResNet50, vit_b_16.
_FAMILY = re.compile(
    r"(?:(?:wide_?|se_?)?(?:resnet|resnext)|(?:dense|efficient|mobile|shuffle|squeeze|google|alex|mnas|reg|le)_?net"
    r"|convnext|inception|xception|vgg|vit|deit|beit|swin|maxvit|mobilevit|mixer)(?:v\d)?(?![a-z])"
)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def sentence(name: str, *, typed: bool) -> str:
    """Why a name opens nothing, and what does. typed: after `--model`, not in Python."""
    path, of_hub = Path(name), f"--model hf:{name}" if typed else f"advex.from_pretrained({name!r})"
    if path.suffix.lower() in _WEIGHTS or os.path.isfile(path):
        convert = f"advex convert {name} --network NAME:... --mean ... --std ... --out RUN (advex list network)"
        if os.path.isfile(path):
            make = f" Make one: {convert}." if path.suffix.lower() in _WEIGHTS else ""
            return f"{name} is a file, but a model is a folder.{make}"
        return f"There is no file {name}, and a model is a folder, which advex convert makes of a file of weights."
    prefix, _, rest = name.partition(":")
    if rest and not typed and prefix == "hf":
        return f"A folder of transformers or timm, or a model on the hub, is opened by advex.from_pretrained({rest!r})."
    if rest and len(prefix) > 1 and not typed and prefix not in registry.entries("network"):
        return (
            f"advex.load opens folders and builtin:NAME; {name} is for --model. In Python make the network and wrap "
            "it: advex.Classifier(network, mean=[...], std=[...])."
        )
    family = re.match(r"[a-z]*", name.casefold())[0]  # pyright: ignore[reportOptionalSubscript]
    ours = family if family in registry.entries("network") else None
    if ours or (_FAMILY.match(name.casefold()) and "/" not in name):
        theirs = "NAME" if rest else name.lower()  # a spec of ours is no name of theirs
        named = f"torchvision:{theirs} or timm:{theirs} with --weights FILE.safetensors, hf:OWNER/NAME"
        wrapped = (
            "advex.Classifier(network, mean=[...], std=[...]) wraps a network that has them, "
            "advex.from_pretrained('OWNER/NAME') is one of the hub"
        )
        return (
            f"There is no folder '{name}', and a network name alone has no weights: {named if typed else wrapped}, or "
            f"make a folder: advex convert WEIGHTS --network {ours or 'NAME'}:... --mean ... --std ... --out RUN."
        )
    if name in bundled.names():
        return f"There is no folder '{name}'; the bundled model of that name is {bundled.PREFIX}{name}."
    of_a_hub = _HUB.fullmatch(name) and path.parts[0] != "runs" and not os.path.isdir(path.parent)
    hint = f" For a model on the hub use {of_hub}." if of_a_hub else ""
    if typed and name.isidentifier() and PathFinder.find_spec(name, [os.getcwd(), *sys.path]):
        hint = f" For a network of the module {name} write --model {name}:NAME."
    return (
        f"{name} is not a folder. A saved classifier is a folder that advex train or advex convert made; a bundled "
        f"one is called {bundled.PREFIX}NAME (advex list builtin).{hint}"
    )
