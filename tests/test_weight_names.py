"""Others' weights: their names by hand beside ours, answers beside transformers' own, refusals, and `advex convert`."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advex import networks, pretrained, unpickling
from advex.artifacts import load, save
from advex.cli import app  # pyright: ignore[reportAttributeAccessIssue]
from advex.errors import AdvexWarning, ArtifactError, InputError, SpecError
from advex.lookup.models import Wrapping, open_models
from advex.networks import weight_names
from advex.pretrained import from_pretrained
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
    save_file({f"module.model.{name}": values for name, values in source.state_dict().items()}, path)
    module = ModuleType("own_resnet")
    module.network = lambda: networks.build(SMALL)  # pyright: ignore
    monkeypatch.setitem(sys.modules, "own_resnet", module)
    with pytest.warns(AdvexWarning, match="'module.model.' was removed from the names of 122 tensors"):
        opened = open_models(["own_resnet:network"], "cpu", Wrapping(weights=(path,)))[0]
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(opened.classifier(x), source(x))


def test_a_network_or_a_class_stands_for_a_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own_networks")
    module.network = networks.build(SMALL)  # pyright: ignore
    module.Kind = networks.SmallCNN  # pyright: ignore
    monkeypatch.setitem(sys.modules, "own_networks", module)
    network, kind = open_models(["own_networks:network,own_networks:Kind"], "cpu")
    assert network.classifier.network is module.network
    assert isinstance(kind.classifier.network, networks.SmallCNN)


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
    assert "weights.pth is a pickle: it is opened in a separate process that loads only tensors." in ended.err
    assert ("'model.' was removed from" in ended.err) == (held == "lightning")
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
    for same in ({"fox": 2, "cat": 0, "dog": 1}, {"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "fox"]}):
        Path("same.json").write_text(json.dumps(same))
        assert Wrapping(classes="same.json").said()["class_names"] == ["cat", "dog", "fox"]
    Path("names").write_text("cat\ndog\nfox\n")
    assert Wrapping(classes="names").said()["class_names"] == ["cat", "dog", "fox"]
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
    Path("empty.pth").touch()
    Path("no_names").touch()
    Path("table.csv").write_text("0,cat\n")
    Path("empty.safetensors").touch()
    Path("text.safetensors").write_text("no tensors")
    Path("zip.pth").write_bytes(b"PK\x03\x04" + b"x" * 100)
    Path("folder.pth").mkdir()
    save_file(networks.build("resnet:depth=18,width=2,classes=4").state_dict(), "four.safetensors")
    for words, code, sentence in (
        (["bomb.pth"], 1, "it contains more than tensors and plain values"),
        (["whole.pth"], 1, "torch.save(model.state_dict(), FILE) saves just the tensors"),
        (["elsewhere.pth"], 1, "it contains 'weights_of_mine'; weights are expected under state_dict,"),
        (["list.pt"], 1, "it contains list, not named tensors"),
        (["sparse.pth"], 1, "'a' is sparse or quantised"),
        (["text.pth"], 1, "text.pth cannot be converted: it was not written by torch.save"),
        (["empty.pth"], 1, "empty.pth is empty"),
        (["zip.pth"], 1, "it is not a weights file written by torch.save"),
        (["folder.pth"], 2, "folder.pth is a folder: give the weights file"),
        (["text.safetensors"], 2, "is not a safetensors file: it has another format"),
        (["empty.safetensors"], 2, "is not a safetensors file: it is empty"),
        (["broken.pth"], 1, "it is not a weights file"),
        (["none.pth"], 2, "There is no file none.pth"),
        (["none.safetensors"], 2, "there is no such file"),
        (["names.json"], 2, "names.json does not have the extension of a weights file: .safetensors, .pth"),
        (["four.safetensors"], 2, "2 of another shape ('fc.weight' is 4x16, the network's 3x16"),
        (["four.safetensors", "--network", "resnet:depth=19"], 2, "depth must be 18, 34"),
        (["four.safetensors", "--network", "resnet:depth=18,width=2,classes=4", "--classes", "names.json"], 2,
         "names.json must contain a list of class names"),
        (["four.safetensors", "--classes", "a,,c"], 2, "--classes 'a,,c': class 1 (from 0) has no name"),
        (["four.safetensors", "--classes", "cat"], 2, "--classes 'cat': there is no such file. Names are separated"),
        (["four.safetensors", "--classes", "no_names"], 2, "--classes no_names contains no names; write one per line"),
        (["four.safetensors", "--classes", "table.csv"], 2, "--classes table.csv is a table; give a .txt file"),
        (["four.safetensors", "--classes", "a,b"], 2, "--classes: 2 names for a network of 3 classes"),
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
    with pytest.raises(ArtifactError, match="the limit for weights files is 100"):
        unpickled(path)
    monkeypatch.setattr(unpickling, "LARGEST", 10**6)
    torch.save({"a": torch.zeros(1).expand(2**33)}, path)  # 32 GB in a file of a kilobyte
    with pytest.raises(ArtifactError, match="cannot be converted"):
        unpickled(path)


# -- hf:FOLDER -----------------------------------------------------------------------------------------------

PREPROCESSOR = {
    "do_center_crop": True, "crop_size": {"height": 40, "width": 40}, "size": {"shortest_edge": 48}, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip
CONFIG = {
    "architectures": ["ResNetForImageClassification"], "model_type": "resnet", "num_channels": 3, "embedding_size": 2,
    "hidden_sizes": [2, 4, 8, 16], "depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_act": "relu",
    "downsample_in_bottleneck": False, "id2label": {"2": "fox", "0": "cat", "1": "dog"},
}  # fmt: skip


def saved(folder: Path, config: Any, pictures: Any, tensors: dict[str, Tensor] | None) -> Path:
    """A folder of three files, as save_pretrained writes it. None: without that file."""
    folder.mkdir(parents=True)
    for name, values in (("config.json", config), ("preprocessor_config.json", pictures)):
        if values is not None:
            (folder / name).write_text(json.dumps(values))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def resnet() -> nn.Module:
    """The network of `CONFIG`."""
    return networks.build(SMALL).eval()


def test_a_folder_of_transformers_gives_network_names_size_and_normalisation(
    resnet: nn.Module, tmp_path: Path, advex: Callable[..., Any]
) -> None:
    theirs = transformers_names(resnet, (2, 2, 2, 2), 2)
    folder = saved(tmp_path / "cats", CONFIG, PREPROCESSOR, theirs)
    classifier = from_pretrained(folder)
    assert (classifier.class_names, classifier.input_shape) == (("cat", "dog", "fox"), (3, 40, 40))
    assert classifier.spec == "resnet:depth=18,width=2,channels=3,classes=3,activation=relu"
    x = torch.rand(2, 3, 40, 40)
    mean, std = (torch.tensor(PREPROCESSOR[key]).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    assert torch.allclose(classifier(x), resnet((x - mean) / std), atol=1e-5)
    opened = open_models([f"hf:{folder}", f"mine=hf:{folder}"], "cpu")
    assert [each.name for each in opened] == ["cats", "mine"]
    assert torch.equal(opened[0].classifier(x), classifier(x))
    again = load(save(classifier, tmp_path / "run"))
    assert torch.equal(again(x), classifier(x))
    assert again.input_shape == (3, 40, 40)
    other = open_models([f"hf:{folder}"], "cpu", Wrapping(mean="0.5", std="0.5"))[0].classifier
    assert torch.allclose(other(x), resnet((x - 0.5) / 0.5), atol=1e-5)
    Image.new("RGB", (50, 60), (200, 10, 30)).save("a.png")
    ended = advex("explain", "a.png", "--model", f"hf:{folder}", "--target", "dog", "--steps", "2", "--out", "out")
    assert ended.code == 0, ended.err
    assert "dog" in ended.out


@pytest.mark.parametrize(
    ("changes", "formula"),
    [
        ({"do_rescale": False}, lambda x, m, s: (255 * x - m) / s),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, lambda x, m, s: (2 * x - 1 - m) / s),
        ({"do_normalize": False}, lambda x, m, s: x),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, lambda x, m, s: 2 * x),
    ],
)
def test_pictures_are_rescaled_and_normalised_as_the_folder_says(
    changes: dict[str, Any], formula: Callable[..., Tensor], resnet: nn.Module, tmp_path: Path
) -> None:
    theirs = transformers_names(resnet, (2, 2, 2, 2), 2)
    classifier = from_pretrained(saved(tmp_path / "m", CONFIG, {**PREPROCESSOR, **changes}, theirs))
    mean, std = (torch.tensor(PREPROCESSOR[key]).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    x = torch.rand(2, 3, 40, 40)
    assert torch.allclose(classifier.normalised(x), formula(x, mean, std), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("pictures", "shape"),
    [
        ({"size": {"height": 32, "width": 48}}, (3, 32, 48)),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875}, (3, 64, 64)),
        ({"size": 24}, (3, 24, 24)),
        ({"size": 24, "do_center_crop": True, "crop_size": 20}, (3, 20, 20)),
        ({"size": 24, "do_center_crop": False, "crop_size": 20}, (3, 24, 24)),
    ],
)
def test_the_size_is_what_reaches_the_network(
    pictures: dict[str, Any], shape: tuple[int, ...], resnet: nn.Module, tmp_path: Path
) -> None:
    usual = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    theirs = transformers_names(resnet, (2, 2, 2, 2), 2)
    assert from_pretrained(saved(tmp_path / "m", CONFIG, {**usual, **pictures}, theirs)).input_shape == shape


@pytest.mark.parametrize(
    ("architecture", "spec"),
    [
        ("resnet18", "resnet:depth=18,classes=4,channels=3,se=false"),
        ("seresnet18.a1_in1k", "resnet:depth=18,classes=4,channels=3,se=true"),
    ],
)
def test_a_folder_of_timm(architecture: str, spec: str, tmp_path: Path) -> None:
    cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "input_size": [3, 64, 64]}
    config = {"architecture": architecture, "num_classes": 4, "pretrained_cfg": cfg, "label_names": list("abcd")}
    network = networks.build(spec).eval()
    classifier = from_pretrained(saved(tmp_path / "timm", config, None, network.state_dict()))
    assert (classifier.class_names, classifier.input_shape) == (tuple("abcd"), (3, 64, 64))
    x = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(classifier(x), network((x - mean) / std), rtol=1e-4, atol=1e-5)
    other = saved(tmp_path / "other", {**config, "architecture": "vit_tiny_patch16_224"}, None, {})
    with pytest.raises(ArtifactError, match="'vit_tiny_patch16_224' of timm; only VGG, ResNet"):
        from_pretrained(other)


def test_folders_that_cannot_be_opened_say_why(resnet: nn.Module, tmp_path: Path) -> None:
    theirs = transformers_names(resnet, (2, 2, 2, 2), 2)
    four = {**CONFIG, "id2label": dict(enumerate("abcd"))}
    cases: list[tuple[Any, Any, dict[str, Tensor] | None, str]] = [
        (None, PREPROCESSOR, theirs, "contains no config.json"),
        ([1], PREPROCESSOR, theirs, "contains list, not an object"),
        (CONFIG, None, theirs, r"contains no preprocessor_config.json.*Set it: --mean M,... --std S,..."),
        (CONFIG, PREPROCESSOR, None, r"contains no model.safetensors\.$"),
        (four, PREPROCESSOR, theirs, "'fc.weight' is 3x16, the network's 4x16"),
        (CONFIG, PREPROCESSOR, {**theirs, "classifier.1.bias": torch.full((3,), torch.nan)}, "NaN or infinite"),
        (CONFIG, {**PREPROCESSOR, "image_std": [0, 1, 1]}, theirs, "std must be above 0"),
        (CONFIG, {**PREPROCESSOR, "image_mean": "red"}, theirs, "cannot be opened as a classifier"),
        (CONFIG, {"size": 32}, theirs, r"that gives the normalisation of pictures. Set it: --mean"),
        (CONFIG, {**PREPROCESSOR, "size": "32", "crop_size": "32"}, theirs, r"must be a number, or height .* not '32'"),
        ({**CONFIG, "id2label": {"0": "a", "2": "b"}}, PREPROCESSOR, theirs, "names 2 classes, but none is number 1"),
        ({**CONFIG, "id2label": list("abc")}, PREPROCESSOR, theirs, "must give class names by number, not a list"),
        ({**CONFIG, "id2label": {"a": "cat"}}, PREPROCESSOR, theirs, "cannot be opened as a classifier|fit"),
        ({**CONFIG, "embedding_size": "many"}, PREPROCESSOR, theirs, "cannot be opened as a classifier"),
        ({**CONFIG, "num_channels": 10**9}, PREPROCESSOR, theirs, "channels must be a whole number"),
    ]
    for number, (config, pictures, tensors, words) in enumerate(cases):
        folder = saved(tmp_path / str(number), config, pictures, tensors)
        with pytest.raises(ArtifactError, match=words):
            from_pretrained(folder)
    (tmp_path / "3" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ArtifactError, match="weights are in several files: write it again with save_pretrained"):
        from_pretrained(tmp_path / "3")
    (tmp_path / "3" / "model.safetensors.index.json").unlink()
    torch.save(theirs, tmp_path / "3" / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model.bin is a pickle, which can run code"):
        from_pretrained(tmp_path / "3")
    with pytest.raises(ArtifactError, match="hf download me/cats --local-dir FOLDER"):
        from_pretrained("me/cats")
    with pytest.raises(ArtifactError, match=rf"advex.from_pretrained\('{tmp_path / '4'}'\), or --model hf:"):
        load(tmp_path / "4")
    with pytest.raises(SpecError, match=r"--mean and --std also for hf:FOLDER"):
        open_models([f"hf:{tmp_path / '4'}"], "cpu", Wrapping(classes="a,b"))


def test_a_model_of_the_hub_is_fetched_by_its_id(
    resnet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = transformers_names(resnet, (2, 2, 2, 2), 2)
    folder = saved(tmp_path / "m", CONFIG, PREPROCESSOR, theirs)
    asked: list[Any] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name != "me/cats":
            raise OSError("404 Client Error:\n no such repository")
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    x = torch.rand(2, 3, 40, 40)
    with pytest.warns(AdvexWarning, match="me/cats was fetched from the hub, revision m"):
        fetched = from_pretrained("me/cats")
    opened = from_pretrained(folder)
    assert torch.equal(fetched.predict(x), opened.predict(x))
    assert asked == [
        ("me/cats", ["config.json", "model.safetensors", "preprocessor_config.json"])
    ]  # no code, no pickle
    with pytest.warns(AdvexWarning, match="revision m"):
        (named,) = open_models(["hf:me/cats"], "cpu")
    assert named.name == "cats"
    with pytest.raises(ArtifactError, match="the hub has no public model of that name") as no:
        from_pretrained("me/dogs")
    assert no.value.absent
    named = OSError("500 Server Error (Request ID: Root=1-68403abc-404)")  # numbers in an id mean nothing
    assert pretrained._why_not(named).startswith("the hub returned no model of that name: '500 Server Error")
    with pytest.raises(ArtifactError, match="an id on the hub has the form OWNER/NAME"):
        from_pretrained(tmp_path / "nowhere")
    assert len(asked) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ArtifactError, match="There is no folder runs/robst, although runs exists"):
        from_pretrained("runs/robst")  # a slip: nobody is asked for a model of that name
    assert len(asked) == 3
    for name in ("google/bert-base", "hf:google/bert-base"):
        with pytest.raises(ArtifactError, match=r"advex.from_pretrained\('google/bert-base'\)"):
            load(name)


def test_what_is_no_folder_is_answered_with_what_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pt").touch()
    for name, words in {
        "w.pt": "Make one: advex convert w.pt --network",
        "foo.pth": "There is no file foo.pth",
        "ResNet50": "has no weights: .*advex convert WEIGHTS --network resnet:",
        "vit": r"has no weights: advex.Classifier\(network",
        "timm:vit_tiny": "is for --model",
        "mine:net": "is for --model",
        "nothing": "nothing is not a folder",
        "vitals": "vitals is not a folder",
        "runs/nope": "runs/nope is not a folder",
        "C:\\runs\\a": "is not a folder",
        "swinv2_t": "has no weights",
    }.items():
        with pytest.raises(ArtifactError, match=words) as raised:
            load(name)
        assert "hf:" not in str(raised.value)


def test_a_device_that_is_not_there_is_said() -> None:
    for device in ("cuda:77", "nonsense"):
        with pytest.raises(InputError, match=f"Device '{device}'"):
            load("builtin:cifar10-robust", device=device)


def test_without_transformers_its_architectures_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
    with pytest.raises(ArtifactError, match=r"'vit', which needs transformers .*run pip install -e '\.\[hub\]'"):
        from_pretrained(saved(tmp_path / "m", config, PREPROCESSOR, {}))


FAMILIES = {
    "ViT": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 8,
    },
    "ConvNext": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "Swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
    "ResNet": {"embedding_size": 4, "hidden_sizes": [4, 8, 16, 32], "depths": [2, 2, 2, 2], "layer_type": "basic"},
}


def made_by_transformers(family: str, folder: Path) -> Any:
    """A small network of random weights in evaluation mode, saved with its preprocessor."""
    transformers = pytest.importorskip("transformers")
    options = {"image_size": 32} if family != "ResNet" else {}
    names = {"id2label": {0: "cat", 1: "dog", 2: "fox"}}
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family], **options, **names)
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_of_transformers_answer_as_there(family: str, tmp_path: Path) -> None:
    model = made_by_transformers(family, tmp_path / "m")
    pixels = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    seen = pytest.importorskip("transformers").ViTImageProcessorPil(size={"height": 32, "width": 32})(
        [Image.fromarray(each.numpy()) for each in pixels], return_tensors="pt"
    )["pixel_values"]
    classifier = from_pretrained(tmp_path / "m")
    x = pixels.permute(0, 3, 1, 2) / 255
    assert torch.allclose(classifier(x), model(seen).logits, atol=1e-5)
    assert (classifier.class_names, classifier.input_shape) == (("cat", "dog", "fox"), (3, 32, 32))
    assert (classifier.spec is not None) == (family == "ResNet")
    (first,) = torch.autograd.grad(classifier(x.requires_grad_())[:, 0].sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, allow_unused=True, materialize_grads=True)
    assert first.any()
    assert second.any().item() == (family != "ResNet")  # which is linear between its kinks


def test_a_folder_with_code_or_without_fitting_weights_is_refused(tmp_path: Path) -> None:
    made_by_transformers("ViT", tmp_path / "m")
    good = json.loads((tmp_path / "m" / "config.json").read_text())
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "modeling.py").write_text("open('exploded', 'w')")
    auto = {"AutoConfig": "modeling.Config", "AutoModelForImageClassification": "modeling.Model"}
    for config, weights, words in (
        (
            {**good, "auto_map": auto, "model_type": "mine", "architectures": ["Mine"]},
            tensors,
            "'Mine', which is not an image",
        ),
        ({**good, "architectures": ["ViTModel"]}, tensors, "'ViTModel', which is not an image classifier"),
        ({**good, "architectures": ["PreTrainedModel"]}, tensors, "'PreTrainedModel', which is no"),
        ({**good, "quantization_config": {"quant_method": "bitsandbytes"}}, tensors, "quantised"),
        ({**good, "hidden_size": 10**6}, tensors, "parameters, but model.safetensors has"),
        ({**good, "hidden_size": "many"}, tensors, "cannot be built by transformers"),
        ({**good, "hidden_size": 17}, tensors, "mismatched tensors"),
        ({**good, "num_hidden_layers": 3}, tensors, "16 missing tensors"),
        ({**good, "num_hidden_layers": 1}, tensors, "16 unexpected tensors"),
        ({**good, "id2label": {"0": "cat"}}, tensors, "2 mismatched tensors.* describes a network of 1 class"),
        (good, {**tensors, "classifier.bias": torch.full((3,), torch.inf)}, "NaN or infinite, in 'classifier.bias'"),
    ):
        (tmp_path / "m" / "config.json").write_text(json.dumps(config))
        save_file(weights, tmp_path / "m" / "model.safetensors")
        with pytest.raises(ArtifactError, match=words):
            from_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(
        json.dumps({**good, "auto_map": auto, "_attn_implementation": "me/mine"})
    )
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    assert from_pretrained(tmp_path / "m").class_names == ("cat", "dog", "fox")
    assert not list(tmp_path.rglob("exploded"))


# -- networks of others by name --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spec"), [("resnet18", "resnet:depth=18"), ("vgg11_bn", "vgg:depth=11,batch_norm=true")]
)
def test_torchvisions_names_need_no_torchvision(name: str, spec: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = networks.build(f"{spec},classes=7").eval()
    save_file({f"module.{key}": value for key, value in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (opened,) = open_models([f"torchvision:{name}"], "cpu", Wrapping(weights=(tmp_path / "w.safetensors",)))
    assert any("using --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in str(each.message) for each in said)
    x = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(opened.classifier(x), theirs((x - mean) / std), rtol=1e-4, atol=1e-5)
    assert opened.input_shape == (3, 224, 224)
    assert opened.name == name


def test_networks_of_libraries_that_are_not_there_say_what_to_do(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(3, 4)}, tmp_path / "w.safetensors")
    with pytest.raises(SpecError, match="add --weights FILE.safetensors"):
        open_models(["torchvision:resnet50"])
    for name in ("torchvision:no_such_network", "timm:no_such_network"):
        with pytest.raises(SpecError, match="is not installed|cannot be imported|cannot make this network"):
            open_models([name], "cpu", Wrapping(weights=(tmp_path / "w.safetensors",)))


def test_names_are_as_many_as_the_weights_tell_classes_apart(tmp_path: Path) -> None:
    save_file(networks.build("resnet:depth=18,classes=3").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(SpecError, match="--classes: 2 names for a network of 3 classes"):
        open_models(["torchvision:resnet18"], "cpu", Wrapping(weights=(tmp_path / "w.safetensors",), classes="a,b"))
