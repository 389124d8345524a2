"""`--attack-map`: what is said of an attacked picture holds of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from advex.classifier import Classifier
from advex.cli import app
from advex.data.images.png import decode_png
from advex.distances import TopK
from advex.errors import SpecError
from advex.explanation import MapRequest, named_explainers
from advex.explanation.attacked import check
from advex.explanation.folder import explain_into
from advex.explanation.subjects import Subject
from advex.lookup.models import Opened

SPECS = ("gradient", "input_x_gradient")


def model() -> Opened:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 3))
    return Opened(name="a", source="a", classifier=Classifier(network).eval())


def test_what_is_said_holds_of_the_files(tmp_path: Path) -> None:
    opened = model()
    x = (torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    request = MapRequest(explainers=named_explainers(SPECS), targets=("predicted", "runner-up"), attack=True)
    result = explain_into(tmp_path, opened, [Subject(name="x", x=x)], request)
    (answer,) = result["inputs"]
    assert len(answer["maps"]) == 4
    moved = 0
    for each in answer["maps"]:
        after = each["attacked"]
        pixels = decode_png((tmp_path / after["picture"]).read_bytes())
        seen = pixels.reshape(1, 1, 8, 8) / 255
        assert (seen - x).abs().max() <= 8 / 255 + 1e-6
        assert (tmp_path / after["map"]["picture"]).is_file()
        explain = named_explainers([each["explainer"]])[each["explainer"]]
        target = torch.tensor([each["target"]])
        first, second = (explain(opened.classifier, at, target).map for at in (x[None], seen))
        assert after["largest"] == 6  # 100 of 1,024 are 6 of 64
        assert after["stays"] == pytest.approx(1 - TopK(6)(first, second).item(), abs=1e-6)
        assert after["says"] == answer["says"]
        assert 0 <= after["stays"] <= after["at_random"] <= 1
        assert after["why"] == ""
        moved += after["stays"] < 1
    assert moved >= 2
    assert result["sheets"] == ["sheet.png"]


def test_what_has_no_value_says_why(tmp_path: Path) -> None:
    """The maps of a linear network are the same everywhere: no search can see anything."""
    opened, x = model(), torch.full((1, 8, 8), 0.5)
    opened.classifier.network.register_module("1", nn.Identity())
    request = MapRequest(explainers=named_explainers(["gradient"]), targets=("predicted",), attack=True)
    (each,) = explain_into(tmp_path, opened, [Subject(name="x", x=x)], request)["inputs"][0]["maps"]
    assert each["attacked"]["stays"] is None
    assert each["attacked"]["at_random"] == 1
    assert each["attacked"]["why"] == "the search was blind: the derivative of the map vanished"
    assert (tmp_path / "sheet.png").is_file()


def test_maps_without_derivatives_and_no_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs maps with derivatives, which 'occlusion' does not have"):
        check(named_explainers(["gradient", "occlusion"]))
    (tmp_path / "x.png").write_bytes(b"")
    command = ["explain", str(tmp_path / "x.png"), "--model", "builtin:cifar10-ordinary", "--attack-map"]
    said = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert said.exit_code != 0
    assert "--attack-map needs a heat map" in said.output + str(said.stderr)
