"""Training on several processes: two real ones over gloo agree with each other, and with only in one process.

Run by `torchrun` this file is one of the two processes (`as_one_of_two`); what these find they leave in
files. What does not need the command line is trained in float64, where a wrong weight or a moment of the
wrong rows cannot hide behind rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import advex
from advex import batch_norm, processes, recipes, training
from advex.data import Streaming, open_streamed
from advex.data.dataset import Dataset
from advex.errors import AdvexWarning, SpecError
from advex.recipes import Recipe, recipe_from

# PGD moves every example it is given; L2,min would leave alone those that an untrained network misses.
ATTACK = {"attack": "pgd:norm=rmse,radius=0.2,steps=2", "share": 0.5}
LIPSCHITZ = {"psi": 20.0, "outputs": 2, "zeta": 0.5, "tandem": "difference", "target": 0.5, "rate": 0.01}
BASE = {
    "network": "small_cnn:widths=4-8-8,activation=silu", "epochs": 2, "batch_size": 16, "learning_rate": 0.1,
    "seed": 1, "robust_every": 0,
}  # fmt: skip
EXAMPLES = 56  # batches of 16: the last has 8; of 15: it has 11, of which 6 and 5 are each process's
CASES: dict[str, dict[str, Any]] = {
    "exact": {"objective": {"adversarial": ATTACK, "lipschitz": LIPSCHITZ}, "ema": 0.9, "accumulate": 2, "pad": 1},
    "finite_difference": {
        "objective": {"adversarial": ATTACK, "lipschitz": {**LIPSCHITZ, "derivative": "finite_difference"}},
        "accumulate": 2,
    },
    # Shares of 8 and 7 rows in most batches.
    "uneven_exact": {"objective": {"lipschitz": LIPSCHITZ}, "batch_size": 15, "balanced": True},
    "uneven_finite_difference": {
        "objective": {"lipschitz": {**LIPSCHITZ, "derivative": "finite_difference"}}, "batch_size": 15,
    },
    "uneven_attack": {
        "objective": {"noise": {"std": 0.1, "clip": True}, "adversarial": {**ATTACK, "share": 0.3}}, "batch_size": 15,
    },
    # One row of each batch is attacked: the second process has none.
    "one_attacked": {"objective": {"adversarial": {**ATTACK, "share": 0.1}}, "batch_size": 10},
    # At the default beta of 50 the search is so steep that 8 steps make 1e-8 of a rounding error.
    "attributional": {
        "network": "small_cnn:widths=4-8-8,activation=relu", "batch_size": 15, "balanced": True,
        "objective": {"attributional": {"attack": "pgd:norm=rmse,radius=0.1,steps=2,keep=last", "beta": 5.0}},
    },
    "per_class": {"per_class": 17, "batch_size": 15, "flip": True},
    "stochastic_depth": {"network": "preact_resnet:depth=8,drop=stochastic_depth,survival=0.5"},
}  # fmt: skip
# Sums of a thousand numbers in another order, 8 steps: some 10 units in the last place were seen. A finite
# difference over a step h divides rounding by h, here down to 1e-4.
TOLERANCE = {name: 1e-10 if "difference" in name else 1e-13 for name in CASES}
STOPPED = "exact"  # the case that is also stopped in the middle, and goes on with another number of processes
STOP = 5

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2d": (lambda: nn.BatchNorm2d(3), (8, 3, 4, 5)),
    "1d": (lambda: nn.BatchNorm1d(3, momentum=0.3), (8, 3)),
    "plain": (lambda: nn.BatchNorm2d(3, affine=False, momentum=None), (8, 3, 2, 2)),
}
SHARES = (slice(0, 5), slice(5, 8))  # of the rows of a batch

# What the command line trains: some seconds, so that there is a middle to be killed in.
COMMAND = ["digits-lipschitz", "network=small_cnn:widths=4-8-8", "epochs=24", "batch_size=32"]
SAMPLES = 128


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Inside, networks are made in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def precise(count: int = EXAMPLES) -> Dataset:
    """Digits in float64."""
    data = advex.open_dataset("digits", split="train", max_samples=count)
    return dataclasses.replace(data, x=data.x.double() / 255)


def stopped_after(steps: int) -> dict[str, Any]:
    """Options of `train` for a run that stops."""
    seen: list[int] = []
    return {"report": lambda line: seen.append(line["step"]), "stop": lambda: len(seen) >= steps}


def digest(tensors: dict[str, Tensor]) -> str:
    """Of names and bits."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(name.encode() + value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def commands_recipe() -> Recipe:
    """The recipe of COMMAND."""
    return recipes.named(COMMAND[0], COMMAND[1:])


# -- what each of the two processes does -------------------------------------------------------------------


def counted_exchanges() -> Counter[str]:
    """How often numbers are exchanged from now on, by the function that does it."""
    counts: Counter[str] = Counter()

    def call(name: str, exchange: Any, *given: Any) -> Any:
        counts[name] += 1
        return exchange(*given)

    for room, name in ((processes, "sums"), (processes, "largest"), (torch.distributed, "all_gather_object")):
        setattr(room, name, functools.partial(call, name, getattr(room, name)))
    return counts


def as_one_of_two(out: Path) -> None:
    """Everything the tests below look at, in one go: a process takes seconds to start."""
    torch.set_num_threads(1)
    told: dict[str, Any] = {"digests": {}, "numbers": {}, "errors": {}, "exchanges": {}}
    counts = counted_exchanges()
    with processes.joined("cpu") as device:
        told["device"], told["count"], rank = device, processes.count(), processes.rank()
        with double():
            data = precise()
            for name, case in CASES.items():
                lines: list[dict[str, Any]] = []
                counts.clear()
                found = training.train(recipe_from({**BASE, **case}), data, out / "two" / name, report=lines.append)
                told["exchanges"][name] = dict(counts)
                told["digests"][name] = digest(found.state_dict())
                told["numbers"][name] = [{**line, "rate": 0} for line in lines if "epoch" not in line]
            for name in ("one-then-two", "two-then-one"):
                options: dict[str, Any] = stopped_after(STOP) if name == "two-then-one" else {"resume": True}
                with contextlib.suppress(training.Interrupted):
                    training.train(recipe_from({**BASE, **CASES[STOPPED]}), data, out / name, **options)
            for name, (recipe, mine) in mistakes(data, rank).items():
                try:
                    training.train(recipe_from(recipe), mine, out / "mistakes" / name)
                except Exception as error:
                    told["errors"][name] = [type(error).__name__, str(error)]
        tensors = {}
        for name in LAYERS:
            tensors |= {f"{name}.{key}": value for key, value in normalised(name, rank).items()}
        tensors |= {f"bfloat16.{key}": value for key, value in coarse(rank).items()}
        told["totals"] = [
            processes.totals({"both": 1.0 + rank, **({"first": 7.0} if rank == 0 else {})}),
            processes.totals({f"number {k}": k + rank for k in range(9)}),
            processes.totals({f"number {k}": 1.0 for k in range(99)}),
        ]
        told["same"] = [processes.same("a"), processes.same(f"a{rank}")]
        told["streamed"] = streamed(out / f"photos-{rank}")
        commands = advex.open_dataset("digits", split="train", max_samples=SAMPLES)
        training.train(commands_recipe(), commands, out / "command")
    save_file(tensors, out / f"tensors-{rank}.safetensors")
    (out / f"told-{rank}.json").write_text(json.dumps(told))


def streamed(folder: Path) -> dict[str, Any]:
    """A network trained on photos that are held, and on the same read when needed: weights, and who read what."""
    for number in range(24):
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (17 + number, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    recipe = recipe_from({**BASE, "epochs": 2, "batch_size": 8, "accumulate": 2, "flip": True})
    held = training.train(recipe, advex.open_dataset(folder, size=16), None).state_dict()
    told: dict[str, Any] = {"held": digest(held)}
    for threads in (0, 1, 4):
        data = open_streamed(folder, Streaming(), size=16)
        assert data is not None
        read, example = list[int](), data.example
        watched = dataclasses.replace(data, example=lambda row, crop: read.append(row) or example(row, crop))  # noqa: B023
        told[str(threads)] = digest(training.train(recipe, watched, None, threads=threads).state_dict())
        told["read"] = sorted(read)
    path = folder / "b" / "03.png"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    damaged = open_streamed(folder, Streaming(), size=16)
    assert damaged is not None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        told["damaged"] = digest(training.train(recipe, damaged, None, threads=1).state_dict())
    told["warned"] = [str(each.message) for each in warned if issubclass(each.category, AdvexWarning)]
    path.write_bytes((folder / "b" / "05.png").read_bytes())
    told["copied"] = digest(training.train(recipe, advex.open_dataset(folder, size=16), None).state_dict())
    return told


def mistakes(data: Dataset, rank: int) -> dict[str, tuple[dict[str, Any], Dataset]]:
    """Runs that fail, with what each process was given."""
    return {
        "diverges": ({**BASE, "network": "mlp", "learning_rate": 1e30}, data),
        "other data": (BASE, data.take(slice(rank, 40 + rank))),
        "other network": ({**BASE, "network": f"mlp:widths={8 + rank}"}, data),
        "last batch": ({**BASE, "batch_size": 18}, data),
        "compiled": ({**BASE, "compiled": True}, data),
    }


def batch(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A batch norm layer of LAYERS in float64, a whole batch for it, and weights for its outputs."""
    make, shape = LAYERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layer = make().double()
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        x, weights = torch.randn(2, *shape, dtype=torch.float64)
    return layer, x + 2, weights


def derivatives(forward: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, first derivatives of a sum over it, and second derivatives through a sum over those."""
    x = x.clone().requires_grad_(True)
    wanted = [x, *layer.parameters()]
    output = forward(x)
    first = torch.autograd.grad((output.tanh() * weights).sum(), wanted, create_graph=True)
    second = torch.autograd.grad((first[0].square() * weights).sum(), wanted, materialize_grads=True)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    found = {f"first.{name}": value for name, value in zip(names, first, strict=True)}
    found |= {f"second.{name}": value for name, value in zip(names, second, strict=True)}
    return {key: value.detach().contiguous() for key, value in {"output": output, **found}.items()}


def normalised(name: str, rank: int) -> dict[str, Tensor]:
    """What `synchronised` makes of this process's share of a batch."""
    layer, x, weights = batch(name)
    rows = SHARES[rank]
    found = derivatives(lambda x: batch_norm.synchronised(layer, x), layer, x[rows], weights[rows])  # pyright: ignore
    evaluated = batch_norm.synchronised(layer.eval(), x[rows])  # pyright: ignore
    return {**found, **dict(layer.named_buffers()), "evaluated": evaluated.detach().contiguous()}


def coarse(rank: int) -> dict[str, Tensor]:
    """The same in bfloat16, with a mean far from zero."""
    layer = nn.BatchNorm2d(3)
    output = batch_norm.synchronised(layer, coarse_batch()[SHARES[rank]])
    return {"output": output.detach().contiguous(), **dict(layer.named_buffers())}


def coarse_batch() -> Tensor:
    """[8, 3, 9, 9] bfloat16: 81 elements in each picture, so sums need more digits than bfloat16 has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return (torch.randn(8, 3, 9, 9) + 20).bfloat16()


# -- starting them -----------------------------------------------------------------------------------------


def torchrun(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Two processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}", *map(str, arguments)]
    kept = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "RANK", "FORCE_COLOR")}
    return subprocess.Popen(
        command, cwd=cwd, env={**kept, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def advex_train(folder: Path) -> subprocess.Popen[str]:
    """`torchrun ... -m advex train` of COMMAND into `folder`/run."""
    data = ["--data", "digits", "--max-samples", str(SAMPLES), "--out", "run"]
    return torchrun("-m", "advex", "train", *COMMAND, *data, cwd=folder)


def workers(started: subprocess.Popen[str]) -> list[int]:
    """The numbers of the processes that torchrun has started."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return sorted(int(pid) for pid, parent in rows if int(parent) == started.pid)


def after_next_checkpoint(started: subprocess.Popen[str], run: Path) -> None:
    """Wait until a run that has been started has written a checkpoint."""
    before, began = newest(run), time.monotonic()
    while newest(run) == before:
        assert started.poll() is None, started.communicate()
        assert time.monotonic() - began < 120
        time.sleep(0.01)


def newest(run: Path) -> str:
    """The name of the newest checkpoint."""
    return max((path.name for path in run.glob("checkpoints/step-*")), default="")


def step_of(checkpoint: str) -> int:
    return int(checkpoint.removeprefix("step-") or 0)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have left what they found."""
    out = tmp_path_factory.mktemp("found")
    with double(), contextlib.suppress(training.Interrupted):
        training.train(recipe_from({**BASE, **CASES[STOPPED]}), precise(), out / "one-then-two", **stopped_after(STOP))
    started = torchrun(__file__, out, cwd=out)
    output, errors = started.communicate(timeout=300)
    assert started.returncode == 0, output + errors
    assert "Warning" not in errors, errors
    return out


@pytest.fixture(scope="module")
def told(found: Path) -> list[dict[str, Any]]:
    """What each of them said."""
    return [json.loads((found / f"told-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Tensor], list[dict[str, Any]]]]:
    """A case trained by this process alone: its weights, and the numbers of its steps."""
    folder = tmp_path_factory.mktemp("alone")

    def trained(name: str) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        lines: list[dict[str, Any]] = []
        if not (folder / name).exists():
            with double():
                recipe = recipe_from({**BASE, **CASES[name]})
                training.train(recipe, precise(), folder / name, report=lines.append)
        return load_file(folder / name / "model.safetensors"), [line for line in lines if "epoch" not in line]

    return trained


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference in a tensor, relative to the largest number in it; of all tensors the worst."""
    assert first.keys() == second.keys()
    return max(
        ((value - second[name]).abs().max() / value.abs().max().clamp_min(1e-3)).item() for name, value in first.items()
    )


# -- two processes and one ---------------------------------------------------------------------------------


def test_the_processes_know_of_each_other(told: list[dict[str, Any]]) -> None:
    assert [each["count"] for each in told] == [2, 2]
    assert [each["device"] for each in told] == ["cpu", "cpu"]
    # What only in one process has counts too; 99 numbers are more than there is room for in one exchange.
    numbers = {f"number {k}": 2.0 * k + 1 for k in range(9)}, {f"number {k}": 2.0 for k in range(99)}
    assert [each["totals"] for each in told] == [[{"both": 3.0, "first": 7.0}, *numbers]] * 2
    assert [each["same"] for each in told] == [[True, False]] * 2


def test_streamed_pictures_give_the_same_bits_and_each_reads_its_own(told: list[dict[str, Any]]) -> None:
    for each in told:
        assert {each["streamed"][name] for name in ("held", "0", "1", "4")} == {told[0]["streamed"]["held"]}
    # 24 examples, two epochs; what is read besides is the beginning (2 examples) and a share of one batch of 8.
    reads = [each["streamed"]["read"] for each in told]
    assert [len(rows) for rows in reads] == [2 + 4 + 24] * 2
    assert sorted(set(reads[0]) | set(reads[1])) == list(range(24))


def test_each_knows_of_a_damaged_picture_that_one_of_them_reads(told: list[dict[str, Any]]) -> None:
    for each in told:
        assert each["streamed"]["damaged"] == each["streamed"]["copied"] == told[0]["streamed"]["copied"]
        assert len(each["streamed"]["warned"]) == 1
        assert "b/03.png by b/05.png" in each["streamed"]["warned"][0]
    assert told[0]["streamed"]["copied"] != told[0]["streamed"]["held"]


def test_alone_nothing_is_exchanged() -> None:
    values = torch.rand(3)
    assert processes.count() == 1
    assert processes.rank() == 0
    assert torch.equal(processes.gathered(values), values[None])
    assert processes.sums([1.0, 2.0]) == [1.0, 2.0]
    assert processes.totals({"a": 3.0}) == {"a": 3.0}
    assert processes.largest(-1.0) == -1.0
    assert processes.same("anything")
    assert list(range(7))[processes.share()] == list(range(7))
    with processes.joined("cuda:3") as device:
        assert device == "cuda:3"


@pytest.mark.parametrize("name", CASES)
def test_all_processes_have_the_same_weights_bit_for_bit(name: str, found: Path, told: list[dict[str, Any]]) -> None:
    assert told[0]["digests"][name] == told[1]["digests"][name]
    assert told[0]["numbers"][name] == told[1]["numbers"][name]  # so all stop, and diverge, at the same step
    saved = load_file(found / "two" / name / "model.safetensors")
    assert digest({f"network.{key}": value for key, value in saved.items()}) == told[0]["digests"][name]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(
    name: str, found: Path, told: list[dict[str, Any]], alone: Callable[[str], Any]
) -> None:
    weights, lines = alone(name)
    assert distance(weights, load_file(found / "two" / name / "model.safetensors")) < TOLERANCE[name]
    here = [[line[key] for key in ("step", "loss", "accuracy")] for line in lines]
    there = [[line[key] for key in ("step", "loss", "accuracy")] for line in told[0]["numbers"][name]]
    # The accuracy is a mean of float32 numbers of each part of a batch.
    torch.testing.assert_close(torch.tensor(here), torch.tensor(there), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["uneven_attack", "uneven_exact", "stochastic_depth"])
def test_a_step_exchanges_its_numbers_once(name: str, told: list[dict[str, Any]]) -> None:
    """Beside what is in the network: gradients, and moments of batch norm. One more is the rehearsal's."""
    exchanges = told[0]["exchanges"][name]
    assert exchanges["sums"] == len(told[0]["numbers"][name]) + 1
    assert exchanges["largest"] <= 2 * 2 + 2 * 2 + 1  # twice two for agreement, two in each epoch, and the end
    assert "all_gather_object" not in exchanges


@pytest.mark.parametrize("way", ["one-then-two", "two-then-one"])
def test_a_run_goes_on_with_another_number_of_processes(way: str, found: Path, alone: Callable[[str], Any]) -> None:
    if way == "two-then-one":
        # A wish goes with the numbers of the next step.
        assert newest(found / way) == f"step-{STOP + 1:08d}"
        with double():
            training.train(recipe_from({**BASE, **CASES[STOPPED]}), precise(), found / way, resume=True)
    assert distance(alone(STOPPED)[0], load_file(found / way / "model.safetensors")) < TOLERANCE[STOPPED]


def test_float32_differs_by_its_own_rounding(found: Path, tmp_path: Path) -> None:
    """96 steps. In float64 they agree to some 1e-15; float32 has 2^29 = 5e8 times its rounding."""
    data = advex.open_dataset("digits", split="train", max_samples=SAMPLES)
    training.train(commands_recipe(), data, tmp_path)
    whole, spread = (load_file(folder / "model.safetensors") for folder in (tmp_path, found / "command"))
    assert distance(whole, spread) < 1e-4  # 3e-6 was seen; a chaos of 96 steps may take it further


# -- batch norm --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_synchronised_batch_norm_is_that_of_the_whole_batch(name: str, found: Path) -> None:
    """Output, running statistics, first and second derivatives, with 5 rows here and 3 there."""
    parts = [load_file(found / f"tensors-{rank}.safetensors") for rank in (0, 1)]
    layer, x, weights = batch(name)
    expected = derivatives(layer, layer, x, weights)
    expected |= {**dict(layer.named_buffers()), "evaluated": layer.eval()(x).detach()}
    for key, value in expected.items():
        there = [part[f"{name}.{key}"] for part in parts]
        kind, _, of = key.partition(".")
        if key in ("output", "evaluated") or of == "x":
            together = torch.cat(there)
        elif kind in ("first", "second"):
            together = there[0] + there[1]  # each process has its rows' part
        else:
            assert torch.equal(*there), key
            together = there[0]
        torch.testing.assert_close(together, value, rtol=1e-11, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}")


def test_synchronised_batch_norm_sums_in_more_digits_than_bfloat16_has(found: Path) -> None:
    parts = [load_file(found / f"tensors-{rank}.safetensors") for rank in (0, 1)]
    layer, x = nn.BatchNorm2d(3), coarse_batch()
    exact = layer(x.float())
    output = torch.cat([part["bfloat16.output"] for part in parts])
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact.detach(), rtol=2**-8, atol=0)  # rounded once, at the end
    for key in ("running_mean", "running_var"):
        torch.testing.assert_close(parts[0][f"bfloat16.{key}"], dict(layer.named_buffers())[key], rtol=1e-5, atol=0)


# -- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "kind", "sentence"),
    [
        ("diverges", "Diverged", r"cross-entropy grew to \S+ at step 2 "),
        ("other data", "SpecError", "do not agree on its recipe, its data"),
        ("other network", "SpecError", "do not agree on its recipe, its data"),
        ("last batch", "SpecError", r"The last batch of each epoch, of 2 examples, is too small"),
        ("compiled", "SpecError", "only in one process"),
    ],
)
def test_all_processes_end_alike(mistake: str, kind: str, sentence: str, told: list[dict[str, Any]]) -> None:
    first, second = (each["errors"][mistake] for each in told)
    assert first == second
    assert first[0] == kind
    assert re.search(sentence, first[1])


def test_an_error_of_one_process_ends_all_with_one_sentence(tmp_path: Path) -> None:
    """Only the first process looks at the folder; the other waits for it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    began = time.monotonic()
    output, errors = advex_train(tmp_path).communicate(timeout=120)
    assert time.monotonic() - began < 60  # and not gloo's patience
    assert output == ""
    assert errors.count("error: ") == 1
    assert "error: run is not empty and not ours (it contains thesis.txt)" in errors
    assert "Traceback" not in errors.partition("torch/distributed/run.py")[0].rpartition("Traceback")[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_killed_stopped_and_resumed_it_is_the_same_run(found: Path, tmp_path: Path) -> None:
    """One process is killed; the run goes on and one is asked to stop; it goes on and torchrun is; it goes on."""
    run = tmp_path / "run"

    started = advex_train(tmp_path)
    after_next_checkpoint(started, run)
    os.kill(workers(started)[-1], signal.SIGKILL)
    began = time.monotonic()
    output, errors = started.communicate(timeout=120)
    assert time.monotonic() - began < 30
    assert started.returncode != 0
    assert output == ""
    assert errors.count("error: Another process of this run has ended") == 1
    assert errors.count("error: ") == 1

    for asked in ("one process", "torchrun"):
        started = advex_train(tmp_path)
        after_next_checkpoint(started, run)
        os.kill(workers(started)[-1] if asked == "one process" else started.pid, signal.SIGTERM)
        output, errors = started.communicate(timeout=120)
        assert started.returncode != 0
        assert output == ""
        assert "error: " not in errors
        stopped = re.findall(r"Stopped after step (\d+) of 96; run/checkpoints/step-(\d+) is kept\.", errors)
        assert len(stopped) == 1, errors
        assert int(stopped[0][0]) == int(stopped[0][1]) == step_of(newest(run)) < 96
        again = re.findall(r"resume with: (.*)", errors)
        assert again == [f"torchrun --nproc-per-node=2 -m advex train {' '.join(COMMAND)} --data digits "
                         f"--max-samples {SAMPLES} --out run"]  # fmt: skip

    started = advex_train(tmp_path)
    output, errors = started.communicate(timeout=120)
    assert started.returncode == 0, errors
    assert re.fullmatch(r"run  accuracy \d+\.\d %\n", output)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 25))
    # The whole run was made without the command line: that is the same run, too.
    whole, broken = (load_file(folder / "model.safetensors") for folder in (found / "command", run))
    assert digest(whole) == digest(broken)


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_a_device_that_several_processes_cannot_share(device: str) -> None:
    with pytest.raises(SpecError, match="each uses the GPU with its own number"):
        processes._cpu(device)


def test_half_of_torchruns_settings_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SpecError, match="WORLD_SIZE=4 .*RANK"), processes.joined("cpu"):
        pass


if __name__ == "__main__":
    as_one_of_two(Path(sys.argv[1]))
