"""The MNIST network counted by hand, and how its weights begin."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advex import networks
from advex.errors import SpecError


def test_it_has_the_layers_and_the_size_of_the_paper() -> None:
    network = networks.build("mnist_cnn")
    kinds = [type(layer) for layer in network]  # pyright: ignore
    part = [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert kinds == [*part, *part, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    # 25 x 32 + 32; 25 x 32 x 64 + 64; 7 x 7 x 64 x 1024 + 1024; 10250
    assert sum(p.numel() for p in network.parameters()) == 832 + 51_264 + 3_212_288 + 10_250
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_weights_begin_normal_and_cut_and_biases_at_a_tenth() -> None:
    for name, parameter in networks.build("mnist_cnn").named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0.1).all()
        else:
            # A normal cut at twice its deviation of 0.1 has one of 0.088; 800 weights tell it to 2.5 %.
            assert parameter.abs().max() <= 0.2
            assert parameter.std().item() == pytest.approx(0.088, abs=0.006)


def test_other_pictures() -> None:
    assert networks.build("mnist_cnn:channels=3,classes=4,size=10")(torch.rand(2, 3, 10, 10)).shape == (2, 4)
    for wrong in ("size=3", "size=512", "channels=0", "classes=1"):
        with pytest.raises(SpecError):
            networks.build(f"mnist_cnn:{wrong}")
