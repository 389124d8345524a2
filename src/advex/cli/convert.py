"""`advex convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from advex import progress
from advex.cli import options, terminal


@terminal.verb
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .safetensors, or .pth, .pt, .bin, .ckpt.")],
    network: Annotated[str, typer.Option(metavar="SPEC", help="The network they belong to, such as resnet:depth=50.")],
    mean: Annotated[str, typer.Option(metavar="M,...", help="Normalisation that the network expects; 0 if none.")],
    std: Annotated[str, typer.Option(metavar="S,...", help="Normalisation that the network expects; 1 if none.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder for the model.")],
    size: Annotated[str | None, typer.Option(metavar="CxHxW", help="Size of its input pictures, such as 224.")] = None,
    classes: options.Classes = None,
    overwrite: options.Overwrite = False,
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Turn weights from torchvision or timm into a model: a folder that every --model takes.

    Files written by torch.save are pickles, which can run code when opened. Only this command opens them: in a
    separate process that accepts nothing but tensors.

    Example: advex convert vgg19_bn.pth --network vgg:depth=19,batch_norm=true --mean 0.485,0.456,0.406
    --std 0.229,0.224,0.225 --size 224 --classes imagenet.txt --out runs/vgg19
    """
    from advex import artifacts
    from advex.lookup import datasets, folders, models, published
    from advex.networks import build, classes_of, weight_names
    from advex.unpickling import weights_of

    say = progress.Terminal(quiet=json_)
    tensors = weights_of(file, say)
    classifier = models.Wrapping(mean=mean, std=std, classes=classes).around(build(network))
    published.check_names(classifier.class_names, classes_of(network))
    for change in weight_names.put(classifier.network, tensors, str(file)):
        say.note(change)
    classifier.spec = network
    if size is not None:
        shape = datasets.shape_from(size)
        channels = next((each.shape[1] for each in classifier.network.parameters() if each.ndim == 4), 3)
        classifier.input_shape = shape if len(shape) == 3 else (channels, *shape)
    with folders.opened_folder(out, (), overwrite):
        artifacts.save(classifier, out)
    count = sum(parameter.numel() for parameter in classifier.network.parameters())
    values = {"model": str(out), "network": network, "parameters": count}
    terminal.emit(json.dumps(values) if json_ else f"{out}: {network}, {count:,} parameters")
