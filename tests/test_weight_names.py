"""Others' weights: their names by hand beside ours, answers beside transformers' own, refusals, and `advex convert`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from advex import networks, unpickling
from advex.artifacts import load
from advex.cli import app  # pyright: ignore[reportAttributeAccessIssue]
from advex.errors import AdvexWarning, ArtifactError, SpecError
from advex.lookup.models import Wrapping, open_models
from advex.networks import weight_names
from advex.unpickling import unpickled

# Forms of a small ResNet, and what ResNetForImageClassification of transformers 5.24 answers to `PICTURE` with weights
# by `by_formula`: of ResNetConfig(embedding_size=4 or 2, hidden_sizes=..., layer_type=..., depths=..., num_labels=3).
RESNETS = {
    "resnet:depth=18,width=4,classes=3": (
        (2, 2, 2, 2),
        2,
        [-269.50787353515625, 320.8636169433594, -314.8358154296875],
    ),
    "resnet:depth=50,width=2,classes=3": (
        (3, 4, 6, 3),
        3,
        [1.4054080247879028, -3.3035736083984375, -5.48411226272583],
    ),
}
PICTURE = torch.linspace(0, 1, 2 * 3 * 40 * 40).reshape(2, 3, 40, 40)[1:]


def transformers_names(network: nn.Module, blocks: tuple[int, ...], convolutions: int) -> dict[str, Tensor]:
    """The tensors of our ResNet as transformers names them, written from its names one by one."""
    ours, theirs = network.state_dict(), {}

    def layer(name: str, convolution: str, norm: str) -> None:
        theirs[f"{name}.convolution.weight"] = ours[f"{convolution}.weight"]
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            theirs[f"{name}.normalization.{part}"] = ours[f"{norm}.{part}"]

    layer("resnet.embedder.embedder", "conv1", "bn1")
    for stage, count in enumerate(blocks):
        for position in range(count):
            name, own = f"resnet.encoder.stages.{stage}.layers.{position}", f"layer{stage + 1}.{position}"
            if f"{own}.downsample.0.weight" in ours:
                layer(f"{name}.shortcut", f"{own}.downsample.0", f"{own}.downsample.1")
            for number in range(convolutions):
                layer(f"{name}.layer.{number}", f"{own}.conv{number + 1}", f"{own}.bn{number + 1}")
    theirs["classifier.1.weight"], theirs["classifier.1.bias"] = ours["fc.weight"], ours["fc.bias"]
    assert len(theirs) == len(ours)
    return theirs


def by_formula(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that depend on the order of names alone, so that two programs can have the same."""
    filled = {}
    for place, (name, values) in enumerate(sorted(state.items())):
        wave = torch.cos(torch.arange(values.numel(), dtype=torch.float64) * 0.7 + place)
        if values.is_floating_point():
            wave = 0.5 + wave.abs() if values.ndim == 1 else wave * (2 / values[0].numel()) ** 0.5
            filled[name] = wave.reshape(values.shape).to(values.dtype)
        else:
            filled[name] = values.clone()
    return filled


@pytest.mark.parametrize("spec", RESNETS)
def test_weights_of_transformers_give_its_answers(spec: str) -> None:
    blocks, convolutions, expected = RESNETS[spec]
    network = networks.build(spec).eval()
    changes = weight_names.put(network, by_formula(transformers_names(network, blocks, convolutions)), "theirs")
    assert network(PICTURE)[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert len(changes) == 1
    assert re.search(r"^\d+ tensors were renamed, e\.g\. 'classifier\.1\.bias' to 'fc\.bias'\.$", changes[0])


@pytest.mark.parametrize(
    "spec", ["vgg:depth=11,width=2,hidden=6,classes=3", "vgg:depth=13,width=2,hidden=6,classes=3,batch_norm=true"]
)
@pytest.mark.parametrize("convolutional", ["", ",convolutional=true"])
def test_weights_of_timms_vgg(spec: str, convolutional: str) -> None:
    """timm 1.0: `pre_logits.fc1` [4096, 512, 7, 7], `pre_logits.fc2` [4096, 4096, 1, 1], `head.fc` [1000, 4096]."""
    source, network = networks.build(spec).eval(), networks.build(spec + convolutional).eval()
    state = source.state_dict()
    theirs = {name: values for name, values in state.items() if name.startswith("features.")}
    for name, other, side in (("pre_logits.fc1", "classifier.0", 7), ("pre_logits.fc2", "classifier.3", 1)):
        theirs[f"{name}.weight"] = state[f"{other}.weight"].reshape(6, -1, side, side)
        theirs[f"{name}.bias"] = state[f"{other}.bias"]
    theirs |= {f"head.fc.{part}": state[f"classifier.6.{part}"] for part in ("weight", "bias")}
    weight_names.put(network, theirs, "theirs")
    x = torch.rand(2, 3, 224, 224)
    assert torch.allclose(network(x), source(x), rtol=1e-5, atol=1e-6)


def test_names_of_torchvision_are_ours() -> None:
    """A few of each kind, as torchvision's files have them."""
    with torch.device("meta"):
        state = {
            spec: networks.build(spec).state_dict() for spec in ("vgg:depth=19,batch_norm=true", "resnet:depth=50")
        }
    vgg, resnet = state.values()
    for tensors, listed in (
        (vgg, "features.0.weight 64x3x3x3, features.1.running_mean 64, features.49.weight 512x512x3x3"),
        (vgg, "features.50.num_batches_tracked , classifier.0.weight 4096x25088, classifier.6.bias 1000"),
        (resnet, "conv1.weight 64x3x7x7, bn1.weight 64, layer1.0.downsample.0.weight 256x64x1x1, fc.weight 1000x2048"),
        (resnet, "layer1.0.downsample.1.bias 256, layer3.5.bn2.running_var 256, layer4.2.conv3.weight 2048x512x1x1"),
    ):
        for name, shape in (each.split(" ") for each in listed.split(", ")):
            assert "x".join(map(str, tensors[name].shape)) == shape
    assert len(vgg) == 16 * 7 + 3 * 2
    assert len(resnet) == 53 * 6 + 2


# -- prefixes, and what may be missing -----------------------------------------------------------------------

SMALL, DEEPER = "resnet:depth=18,width=2,classes=3", "resnet:depth=34,width=2,classes=3"
PLAIN = "vgg:depth=11,width=2,hidden=4"


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.model."])
def test_prefixes_of_wrappers_are_taken_off_and_said(prefix: str) -> None:
    source, network = networks.build(SMALL), networks.build(SMALL)
    wrapped = {prefix + name: values for name, values in source.state_dict().items()}
    changes = weight_names.put(network, wrapped, "theirs")
    assert all(map(torch.equal, source.state_dict().values(), network.state_dict().values()))
    taken = [change.split("'")[1] for change in changes]
    assert "".join(taken) == prefix


def test_a_network_whose_own_names_begin_so_keeps_them() -> None:
    source, network = (nn.ModuleDict({"model": nn.Linear(3, 2)}) for _ in range(2))
    assert weight_names.put(network, source.state_dict(), "theirs") == []
    weight_names.put(network, {f"module.{name}": values for name, values in source.state_dict().items()}, "theirs")
    assert all(map(torch.equal, source.state_dict().values(), network.state_dict().values()))


def test_names_that_a_network_has_itself_are_left_alone() -> None:
    source, network = (nn.ModuleDict({"classifier": nn.Sequential(nn.ReLU(), nn.Linear(3, 2))}) for _ in range(2))
    assert weight_names.put(network, source.state_dict(), "theirs") == []


def test_counters_of_batch_norm_may_be_missing() -> None:
    source, network = networks.build(SMALL), networks.build(SMALL)
    state = {name: values for name, values in source.state_dict().items() if not name.endswith("tracked")}
    assert weight_names.put(network, state, "theirs") == []
    assert torch.equal(network.state_dict()["fc.weight"], source.state_dict()["fc.weight"])


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (DEEPER, SMALL, r"96 unknown \('layer1.2.conv1.weight' of 2x2x3x3, 'layer1.2.bn1.weight' of 2, \.\.\.\)\.$"),
        (SMALL, DEEPER, r"80 missing \('layer1.2.conv1.weight' of 2x2x3x3, "),
        (PLAIN, f"{PLAIN},batch_norm=true", r"missing \('features.1.weight' of 2, "),
        (f"{PLAIN},batch_norm=true", PLAIN, r"unknown \('features.1.weight' of 2, "),
        ("resnet:depth=18,width=2,classes=1001", "resnet:depth=18,width=2",
         r"2 of another shape \('fc.weight' is 1001x16, the network's 1000x16, 'fc.bias' is 1001, "),
        (f"{SMALL},channels=1", SMALL, r"1 of another shape \('conv1.weight' is 2x1x7x7, the network's 2x3x7x7\)"),
    ],
)  # fmt: skip
def test_other_networks_weights_are_refused_by_their_first_names_and_shapes(theirs: str, ours: str, words: str) -> None:
    network = networks.build(ours)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    with pytest.raises(SpecError, match=f"^the file does not fit the network: .*{words}"):
        weight_names.put(network, networks.build(theirs).state_dict(), "the file")
    assert all(map(torch.equal, before.values(), network.state_dict().values()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_none_are_refused(value: float) -> None:
    state = networks.build(SMALL).state_dict()
    state["fc.bias"][1] = value
    with pytest.raises(SpecError, match=r"NaN or infinite, in 'fc\.bias'"):
        weight_names.put(networks.build(SMALL), state, "the file")


def test_two_names_that_would_become_one_are_refused() -> None:
    state = networks.build(SMALL).state_dict()
    with pytest.raises(SpecError, match=r"1 unknown \('classifier\.1\.bias'"):
        weight_names.put(networks.build(SMALL), {**state, "classifier.1.bias": torch.zeros(3)}, "the file")


def test_a_factorys_weights_may_have_a_prefix_which_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = networks.build(SMALL).eval()
    path = tmp_path / "ddp.safetensors"
    save_file({f"module.{name}": values for name, values in source.state_dict().items()}, path)
    module = ModuleType("own_resnet")
    module.network = lambda: networks.build(SMALL)  # pyright: ignore
    monkeypatch.setitem(sys.modules, "own_resnet", module)
    with pytest.warns(AdvexWarning, match="'module.' was taken off the names of 122 tensors"):
        opened = open_models(["own_resnet:network"], "cpu", Wrapping(weights=(path,)))[0]
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(opened.classifier(x), source(x))


# -- advex convert -------------------------------------------------------------------------------------------


@pytest.fixture
def advex(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the program in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> SimpleNamespace:
        try:
            code = app(list(words), standalone_mode=False) or 0
        except SystemExit as ended:
            code = ended.code
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


CONVERT = ["--network", SMALL, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
HELD: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a state_dict": lambda state: state,
    "parameters": lambda state: {name: nn.Parameter(v) if v.is_floating_point() else v for name, v in state.items()},
    "lightning": lambda state: {"epoch": 3, "state_dict": {f"model.{name}": v for name, v in state.items()}},
    "a training script": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
}


@pytest.mark.parametrize("held", HELD)
def test_pickled_weights_become_a_model(held: str, advex: Callable[..., Any]) -> None:
    source = networks.build(SMALL).eval()
    torch.save(HELD[held](source.state_dict()), "weights.pth")
    Path("names.txt").write_text("cat\ndog\n\nfox\n")
    ended = advex("convert", "weights.pth", *CONVERT, "--size", "40", "--classes", "names.txt", "--out", "run")
    assert ended.code == 0, ended.err
    assert "weights.pth is a pickle: it is opened in a process of its own, for tensors alone." in ended.err
    assert ("'model.' was taken off" in ended.err) == (held == "lightning")
    assert ended.out == f"run: {SMALL}, {sum(p.numel() for p in source.parameters()):,} parameters\n"
    classifier = load("run")
    assert (classifier.class_names, classifier.input_shape) == (("cat", "dog", "fox"), (3, 40, 40))
    assert open_models(["run"], "cpu")[0].input_shape == (3, 40, 40)
    x = torch.rand(2, 3, 40, 40)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(classifier(x), source((x - mean) / std), atol=1e-6)


def test_safetensors_become_a_model_without_any_pickle(
    advex: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    network = networks.build(SMALL)
    save_file(transformers_names(network, (2, 2, 2, 2), 2), "model.safetensors")
    Path("names.json").write_text(json.dumps({"2": "fox", "0": "cat", "1": "dog"}))
    ended = advex("convert", "model.safetensors", *CONVERT, "--classes", "names.json", "--out", "run", "--json")
    assert json.loads(ended.out) == {
        "model": "run",
        "network": SMALL,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    assert load("run").class_names == ("cat", "dog", "fox")
    assert load("run").input_shape is None
    again = advex("convert", "model.safetensors", *CONVERT, "--out", "run")
    assert again.code == 2
    assert "--overwrite" in again.err


class Bomb:
    """Unpickling this would leave a file."""

    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_what_cannot_be_converted_says_why(advex: Callable[..., Any]) -> None:
    state = networks.build(SMALL).state_dict()
    torch.save({**state, "bomb": Bomb()}, "bomb.pth")
    torch.save(networks.build(SMALL), "whole.pth")
    torch.save({"weights_of_mine": state}, "elsewhere.pth")
    torch.save([1, 2], "list.pt")
    torch.save({"a": torch.zeros(2).to_sparse()}, "sparse.pth")
    Path("text.pth").write_text("no tensors")
    Path("broken.pth").write_bytes(Path("bomb.pth").read_bytes()[:2000])
    Path("names.json").write_text("[1, 2, 3]")
    save_file(networks.build("resnet:depth=18,width=2,classes=4").state_dict(), "four.safetensors")
    for words, code, sentence in (
        (["bomb.pth"], 1, "it holds more than tensors and plain values"),
        (["whole.pth"], 1, "torch.save(model.state_dict(), FILE) writes the tensors alone"),
        (["elsewhere.pth"], 1, "it holds 'weights_of_mine', and weights are looked for under state_dict,"),
        (["list.pt"], 1, "it holds list, not tensors by name"),
        (["sparse.pth"], 1, "'a' is sparse or quantised"),
        (["text.pth"], 1, "text.pth cannot be converted"),
        (["broken.pth"], 1, "it is not a file of weights"),
        (["none.pth"], 1, "There is no file none.pth"),
        (["none.safetensors"], 2, "there is no such file"),
        (["names.json"], 2, "names.json is not a file of weights by its name: .safetensors, .pth"),
        (["four.safetensors"], 2, "2 of another shape ('fc.weight' is 4x16, the network's 3x16"),
        (["four.safetensors", "--network", "resnet:depth=19"], 2, "depth must be 18, 34"),
        (["four.safetensors", "--network", "resnet:depth=18,width=2,classes=4", "--classes", "names.json"], 2,
         "names.json holds neither a list of class names"),
        (["four.safetensors", "--network", "resnet:depth=18,width=2,classes=4", "--size", "big"], 2,
         "'big' is not a size"),
    ):  # fmt: skip
        ended = advex("convert", *CONVERT, *words, "--out", "run")
        assert ended.code == code, (words, ended.err)
        assert sentence in ended.err, words
        assert not Path("run").exists()
    assert not Path("exploded").exists()
    for file, sentence in (("four.safetensors", "convert four.safetensors --network"), ("none", "is not a folder")):
        assert sentence in advex("explain", "a.png", "--model", file).err


def test_the_size_of_pickles_and_their_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(4)}, path)
    assert unpickled(path)["a"].tolist() == [0, 0, 0, 0]
    monkeypatch.setattr(unpickling, "LARGEST", 100)
    with pytest.raises(ArtifactError, match="files of weights have at most 100"):
        unpickled(path)
    monkeypatch.setattr(unpickling, "LARGEST", 10**6)
    torch.save({"a": torch.zeros(1).expand(2**33)}, path)  # 32 GB in a file of a kilobyte
    with pytest.raises(ArtifactError, match="cannot be converted"):
        unpickled(path)
