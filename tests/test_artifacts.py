"""Saved classifiers: bit-equal after a round trip; anything else is a named error, and never runs code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from advex import artifacts
from advex.artifacts import CONFIG, WEIGHTS, load, save, weights_hash
from advex.classifier import Classifier
from advex.errors import ArtifactError, InputError, SpecError

SPEC = "small_cnn:channels=2,classes=3,widths=3-4-5"


def trained(spec: str = SPEC, **options: Any) -> Classifier:
    """A classifier whose statistics are no longer those of a fresh one."""
    classifier = Classifier(spec, **options)
    with torch.no_grad():
        for value in classifier.network.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value))
    return classifier


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved classifier."""
    return save(trained(class_names=["a", "b", "c"], mean=[0.3, 0.7], std=0.2), tmp_path / "model")


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a file could start may be started, and nothing new may be imported."""

    def sprung(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"opening a file ran something: {arguments}")

    for owner, name in [
        (os, "system"), (os, "popen"), (subprocess, "Popen"), (socket, "socket"), (pickle, "loads"), (pickle, "load"),
        (torch, "load"),
    ]:  # fmt: skip
        monkeypatch.setattr(owner, name, sprung)
    before = set(sys.modules)
    yield
    assert {name for name in set(sys.modules) - before if not name.startswith(("advex", "torch", "numpy"))} == set()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the config of a folder."""
    config = json.loads((folder / CONFIG).read_text())
    config = change(config) or config
    (folder / CONFIG).write_text(json.dumps(config))


def exchange(folder: Path, weights: bytes) -> None:
    """Other weights, with a config that vouches for them: the hash is no protection against an attacker."""
    (folder / WEIGHTS).write_bytes(weights)
    rewrite(folder, lambda config: {**config, "sha256": hashlib.sha256(weights).hexdigest()})


# -- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (SPEC, {"mean": [0.4914, 0.4822], "std": [0.247, 0.243], "class_names": ["cat", "dog", "größer"]}),
        (SPEC, {"box": (torch.tensor([[[0.0]], [[-1.5]]]), torch.tensor([[[0.1]], [[1.7]]]))}),
        ("mlp:features=18,classes=3,widths=4,activation=half_huber,d=0.3", {"box": (-0.1, 1.1)}),
        ("preact_resnet:depth=8,widths=2-3-4,channels=2,classes=3", {"mean": 0.1, "std": 0.7}),
    ],
)
def test_a_round_trip_changes_no_bit(tmp_path: Path, spec: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    before = trained(spec, **options).to(dtype).eval()
    after = load(save(before, tmp_path / "deep" / "model", extra={"training": {"epochs": 3}}))
    assert after.dtype == before.dtype
    assert after.spec == spec
    assert after.class_names == before.class_names
    assert not after.training
    for name in ("lower", "upper", "mean", "std"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    for (name, a), (other, b) in zip(
        before.network.state_dict().items(), after.network.state_dict().items(), strict=True
    ):
        assert name == other
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    x = torch.rand(4, 2, 3, 3).mul(0.1).to(dtype)
    assert torch.equal(before(x), after(x))
    assert artifacts.read_config(tmp_path / "deep" / "model")["training"] == {"epochs": 3}


def test_a_second_round_trip_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = save(load(folder), tmp_path / "again")
    for name in (CONFIG, WEIGHTS):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model"]  # no temporary left behind


def test_saving_over_an_old_one_keeps_what_else_is_in_the_folder(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("{}\n")
    other = trained()
    save(other, folder)
    assert torch.equal(load(folder).network.state_dict()["head.weight"], other.network.state_dict()["head.weight"])
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, "metrics.jsonl", WEIGHTS]


def test_only_a_network_with_a_spec_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"made from a spec string.*factory='package.module:name'.*--weights FOLDER"
    ):
        save(Classifier(torch.nn.Linear(2, 2)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("my notes")
    with pytest.raises(ArtifactError, match="is a file"):
        save(trained(), tmp_path / "model")
    assert (tmp_path / "model").read_text() == "my notes"


# -- interruptions -----------------------------------------------------------------------------------------


def test_a_save_that_is_interrupted_anywhere_leaves_a_whole_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop at each step that touches the disk in turn, twice in a row: old or new, never a mix, never nothing."""
    old, new = trained(), trained()
    kept = {id(each): each.network.state_dict()["head.weight"].clone() for each in (old, new)}
    stops = 0
    for stop in range(1, 100):
        folder = save(old, tmp_path / f"model{stop}")
        finished = False
        for _ in range(2):
            with monkeypatch.context() as patch:
                count = 0

                def counted(real: Callable[..., Any]) -> Callable[..., Any]:
                    def step(*arguments: Any, **options: Any) -> Any:
                        nonlocal count
                        count += 1
                        if count == stop:  # noqa: B023
                            raise KeyboardInterrupt
                        return real(*arguments, **options)

                    return step

                steps = [(os, "replace"), (os, "rename"), (os, "fsync"), (Path, "unlink"), (Path, "write_text")]
                for owner, name in [*steps, (shutil, "copyfile")]:
                    patch.setattr(owner, name, counted(getattr(owner, name)))
                patch.setattr(artifacts, "save_file", counted(save_file))
                try:
                    save(new, folder)
                    finished = True
                except KeyboardInterrupt:
                    stops += 1
            found = load(folder).network.state_dict()["head.weight"]
            assert torch.equal(found, kept[id(old)]) or torch.equal(found, kept[id(new)]), stop
        if finished:
            assert torch.equal(found, kept[id(new)])
            break
    assert stops >= 10


def test_a_first_save_that_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(artifacts, "save_file", full)
    with pytest.raises(ArtifactError, match="no space left"):
        save(trained(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# -- damage ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_truncated_file_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in (0, 1, 7, 8, len(whole) // 2, len(whole) - 2):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=name):
            load(folder)


@pytest.mark.usefixtures("trap")
def test_a_flipped_bit_anywhere_in_the_weights_is_noticed(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    for position in range(0, len(whole), 500):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(ArtifactError, match="damaged or was replaced"):
            load(folder)


@pytest.mark.usefixtures("trap")
def test_a_flipped_bit_in_weights_that_are_vouched_for_never_gives_a_half_loaded_network(folder: Path) -> None:
    """Either the file is still a valid one with another value in it, or it is refused."""
    whole = (folder / WEIGHTS).read_bytes()
    shapes = {name: value.shape for name, value in load_file(folder / WEIGHTS).items()}
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for position in [*range(0, header, 25), *range(header, len(whole), 500)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        exchange(folder, bytes(damaged))
        with contextlib.suppress(ArtifactError):
            assert {name: v.shape for name, v in load(folder).network.state_dict().items()} == shapes


@pytest.mark.usefixtures("trap")
def test_flipped_bytes_in_the_config_never_escape_as_another_error(folder: Path) -> None:
    whole = (folder / CONFIG).read_bytes()
    for position in range(0, len(whole), 3):
        for value in (0x00, 0x22, 0xFF):
            (folder / CONFIG).write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                network: Any = load(folder).network
            except ArtifactError:
                continue
            assert network.head.weight.shape == (3, 5)  # a class name was changed, or a digit


# -- strangers and enemies ---------------------------------------------------------------------------------


class Bomb:
    """Unpickling this would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("echo ran",)


def safetensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def good_header() -> tuple[dict[str, Any], bytes]:
    tensors = Classifier(SPEC).network.state_dict()
    header, data = {}, b""
    for name, value in tensors.items():
        raw = value.numpy().tobytes()
        kind = "F32" if value.is_floating_point() else "I64"
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return header, data


def hostile_weights() -> dict[str, bytes]:
    header, data = good_header()
    overlapping = json.loads(json.dumps(header))
    for entry in overlapping.values():
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        entry["data_offsets"] = [0, size]
    huge = {**header, "head.bias": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**62]}}
    missing = {name: entry for name, entry in header.items() if name != "head.bias"}
    beyond = {**header, "head.bias": {**header["head.bias"], "data_offsets": [10**15, 10**15 + 12]}}
    negative = {**header, "head.bias": {**header["head.bias"], "shape": [-3]}}
    wrong_kind = {**header, "head.bias": {**header["head.bias"], "dtype": "I32"}}
    complex_kind = {"head.bias": {"dtype": "C64", "shape": [3], "data_offsets": [0, 24]}}
    return {
        "pickle": pickle.dumps(Bomb()),
        "torch pickle": pickle.dumps({"model": Bomb()}, protocol=2),
        "zip": b"PK\x03\x04" + bytes(200),
        "text": b"!!python/object/apply:os.system ['echo ran']\n",
        "nothing": b"",
        "header longer than the file": safetensors_file(header, data, length=2**40),
        "header longer than any memory": safetensors_file(header, data, length=2**63),
        "header of length 0": safetensors_file(b"", data),
        "header that is no JSON": safetensors_file(b"{]" * 50, data),
        "header that is a list": safetensors_file([1, 2], data),
        "header nested too deeply": safetensors_file(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, data),
        "overlapping tensors": safetensors_file(overlapping, data),
        "a huge tensor": safetensors_file(huge, data),
        "a tensor beyond the end": safetensors_file(beyond, data),
        "a negative shape": safetensors_file(negative, data),
        "integers for floats": safetensors_file(wrong_kind, data),
        "complex numbers": safetensors_file(complex_kind, bytes(24)),
        "a missing tensor": safetensors_file(missing, data),
        "no tensors": safetensors_file({}),
        "data after the end": safetensors_file(header, data + b"extra"),
    }


HOSTILE_WEIGHTS = hostile_weights()


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize("what", HOSTILE_WEIGHTS)
@pytest.mark.parametrize("vouched", [True, False], ids=["vouched for", "not vouched for"])
def test_hostile_weights_are_refused(folder: Path, what: str, vouched: bool) -> None:
    if vouched:
        exchange(folder, HOSTILE_WEIGHTS[what])
    else:
        (folder / WEIGHTS).write_bytes(HOSTILE_WEIGHTS[what])
    with pytest.raises(ArtifactError, match=str(folder)):
        load(folder)


@pytest.mark.usefixtures("trap")
def test_the_hostile_corpus_differs_from_a_good_file_only_in_its_malice(folder: Path) -> None:
    header, data = good_header()
    exchange(folder, safetensors_file(header, data))
    assert load(folder).network.head.weight.shape == (3, 5)  # pyright: ignore


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["head.weight", "body.1.running_var"])
def test_weights_that_are_not_finite_are_refused(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[name].view(-1)[1] = value
    save_file(tensors, folder / "other")
    exchange(folder, (folder / "other").read_bytes())
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        load(folder)


FOREIGN_CONFIGS: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"network: mlp\n",
    "a list": b"[1, 2]",
    "a number": b"7",
    "a word": b'"mlp"',
    "another program's": b'{"architectures": ["ResNetForImageClassification"], "hidden_sizes": [256]}',
    "not UTF-8": b"\xff\xfe\x00{",
    "nested too deeply": b'{"schema_version": 1, "network": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a number of too many digits": b'{"schema_version": ' + b"9" * 10_000 + b"}",
    "too large": b'{"schema_version": 1, "x": "' + b"a" * (5 * 2**20) + b'"}',
    "YAML": b"!!python/object/apply:os.system ['echo ran']\n",
    "pickle": pickle.dumps(Bomb()),
}


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize("what", FOREIGN_CONFIGS)
def test_a_foreign_config_is_refused(folder: Path, what: str) -> None:
    (folder / CONFIG).write_bytes(FOREIGN_CONFIGS[what])
    with pytest.raises(ArtifactError, match=str(folder)):
        load(folder)


HOSTILE_VALUES: dict[str, tuple[str, Any]] = {
    "a function": ("network", "os.system:command=ls"),
    "a module": ("network", "subprocess"),
    "a path": ("network", "../../../etc/passwd"),
    "a private name": ("network", "__import__:name=os"),
    "a YAML tag": ("network", "mlp:features=!!python/object/apply:os.system [ls]"),
    "a YAML tag for a word": ("network", "mlp:activation=!!python/name:os.system"),
    "brackets without end": ("network", "mlp:widths=" + "[" * 3000),
    "an endless name": ("network", "a" * 1_000_000),
    "an absurd depth": ("network", "preact_resnet:depth=1000000000"),
    "an absurd product": ("network", "linear:features=10000000,classes=100000"),
    "another network": ("network", "mlp:features=18,classes=3"),
    "other widths": ("network", SPEC.replace("3-4-5", "3-4-6")),
    "an empty network": ("network", ""),
    "no string": ("network", ["mlp"]),
    "a version to come": ("schema_version", 99),
    "a version in words": ("schema_version", "one"),
    "no version": ("schema_version", None),
    "another hash": ("sha256", "0" * 64),
    "no hash": ("sha256", None),
    "an inverted box": ("lower", 5.0),
    "a box of words": ("upper", ["a", "b"]),
    "a ragged box": ("upper", [[1.0], [1.0, 2.0]]),
    "an endless box": ("upper", 10**400),
    "a box of endless numbers": ("upper", [10**400]),
    "a box of dictionaries": ("upper", [{"a": 1}]),
    "a deep box": ("upper", json.loads("[" * 900 + "1" + "]" * 900)),
    "std 0": ("std", 0.0),
    "mean NaN": ("mean", float("nan")),
    "names that are numbers": ("class_names", [1, 2, 3]),
}


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize("what", HOSTILE_VALUES)
def test_a_hostile_value_in_the_config_is_refused(folder: Path, what: str) -> None:
    key, value = HOSTILE_VALUES[what]
    rewrite(folder, lambda config: {**config, key: value})
    with pytest.raises(ArtifactError, match=str(folder)) as caught:
        load(folder)
    assert len(str(caught.value)) < 2000


@pytest.mark.usefixtures("trap")
def test_every_key_is_needed_except_the_class_names(folder: Path) -> None:
    whole = json.loads((folder / CONFIG).read_text())
    for key in ("schema_version", "network", "lower", "upper", "mean", "std", "sha256"):
        rewrite(folder, lambda _, key=key: {name: value for name, value in whole.items() if name != key})
        with pytest.raises(ArtifactError, match=key):
            load(folder)
    rewrite(folder, lambda _: {name: value for name, value in whole.items() if name != "class_names"})
    assert load(folder).class_names is None


@pytest.mark.usefixtures("trap")
def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    for path, sentence in (
        (tmp_path / "nowhere", "is not a folder"),
        (folder / CONFIG, "is a file, but a model is a folder"),
        (tmp_path, f"contains no {CONFIG}"),
    ):
        with pytest.raises(ArtifactError, match=sentence):
            load(path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match=f"contains no {WEIGHTS}"):
        load(folder)
    (folder / WEIGHTS).mkdir()
    with pytest.raises(ArtifactError, match=f"contains no {WEIGHTS}"):
        load(folder)


def test_a_loaded_classifier_still_checks_its_inputs(folder: Path) -> None:
    with pytest.raises(InputError, match="already normalised"):
        load(folder)(torch.full((1, 2, 4, 4), -1.0))


def test_weights_are_as_readable_as_any_file(tmp_path: Path) -> None:
    folder = artifacts.save(Classifier("linear:features=4,classes=2"), tmp_path / "model")
    plain = tmp_path / "plain"
    plain.touch()
    assert (folder / artifacts.WEIGHTS).stat().st_mode == plain.stat().st_mode


def test_classifiers_that_take_another_output_are_others(tmp_path: Path) -> None:
    """Two that answer differently have different identities; what a function does counts, not where it is written."""

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            flat = x.flatten(1)
            return flat[:, :2], -flat[:, :2]

    def take(number: int) -> Any:
        return lambda output: output[number]

    functions = [lambda output: output[0], lambda output: output[1], take(0), take(1), lambda output: 2 * output[0]]
    hashes = [weights_hash(Classifier(Two(), logits=function)) for function in functions]
    assert len(set(hashes)) == len(hashes)
    assert weights_hash(Classifier(Two(), logits=take(0))) == hashes[2]
    with pytest.raises(ArtifactError, match="logits=FUNCTION cannot be saved"):
        save(Classifier("linear:features=4,classes=2", logits=take(0)), tmp_path / "m")
    one = Classifier("linear:features=4,classes=2", binary=True)  # of a plugin's network it may be one output
    again = load(save(one, tmp_path / "binary"))
    x = torch.rand(5, 4)
    assert again.binary
    assert torch.equal(again.logits(x), one.logits(x))
    assert weights_hash(again) == weights_hash(one)


def test_a_hash_does_not_hang_on_how_a_value_lies_in_memory() -> None:
    """One value may have any stride, and is contiguous all the same."""
    strided, plain = torch.arange(4.0).reshape(2, 2)[:1, 0], torch.zeros(1)
    assert strided.stride() == (2,)
    network = torch.nn.Linear(1, 2)
    hashes = {weights_hash(Classifier(network, mean=cast("Any", each))) for each in (strided, plain)}
    assert len(hashes) == 1


# -- networks of one's own -------------------------------------------------------------------------------------


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with a network, which writes down that it was imported."""
    (tmp_path / "own_network.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nPath('imported').touch()\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    yield tmp_path
    sys.modules.pop("own_network", None)


def test_a_network_of_ones_own_is_opened_by_the_code_that_is_named_and_by_no_folder(own_code: Path) -> None:
    from advex.lookup.models import Wrapping, open_models

    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    classifier = Classifier(network, mean=0.3, std=2.0, class_names=("a", "b", "c")).eval()
    classifier.input_shape = (3, 2, 2)
    save(classifier, own_code / "run", factory="own_network:make")
    with pytest.raises(ArtifactError, match=r"--model own_network:make --weights .*run"):
        load(own_code / "run")
    with pytest.raises(ArtifactError, match=r"--model own_network:make --weights .*run"):
        open_models([str(own_code / "run")])
    assert not Path("imported").exists()
    (opened,) = open_models(["own_network:make"], "cpu", Wrapping(weights=(own_code / "run",)))
    again = load(own_code / "run", network=nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    x = torch.rand(5, 3, 2, 2)
    for each in (opened.classifier, again):
        torch.testing.assert_close(each(x), classifier(x), rtol=0, atol=0)
        assert (each.class_names, each.input_shape, each.spec) == (("a", "b", "c"), (3, 2, 2), None)
    with pytest.raises(ArtifactError, match="does not fit the network 'own_network:make'"):
        load(own_code / "run", network=nn.Linear(12, 3))
    with pytest.raises(SpecError, match="a saved classifier, which already contains box"):
        open_models(["own_network:make"], "cpu", Wrapping(weights=(own_code / "run",), mean="0.5"))
    with pytest.raises(ArtifactError, match="have the form package.module:name"):
        save(classifier, own_code / "other", factory="own network")
    save(Classifier("linear:features=12,classes=3"), own_code / "spec")
    with pytest.raises(ArtifactError, match="omit network"):
        load(own_code / "spec", network=network)


def test_a_bundled_name_alone_is_told_its_prefix() -> None:
    with pytest.raises(ArtifactError, match="is builtin:cifar10-robust"):
        load("cifar10-robust")
