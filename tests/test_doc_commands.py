"""The commands of every page run, from top to bottom: with few examples and steps, else as printed."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.test_docs import PAGES, blocks, loans, pretrained

import advex
from advex import networks
from advex.annotation import people
from advex.annotation.store import Store
from advex.cli import main

# What does not end by itself, or needs what is not here, and where it is tried instead.
ELSEWHERE = {
    r"^advex (explore|annotate serve)": "servers: tests/explore, tests/annotation",
    r"^advex reproduce .*--scale smoke": "continuous integration runs them whole",
    r"^advex convert vgg19_bn.pth|^advex explain .* runs/vgg19": "a file of 550 MB: tests/test_weight_names.py",
    r"^advex \w+ .*(imagenet:root|coco:root|cifar10c:)": "published elsewhere: the tests of their formats",
    r"^advex report reproductions/": "of networks that take half an hour: tests/test_reproduce_elliott.py",
    r"^advex doctor": "of this machine: tests/test_doctor.py",
}
# What takes the place of what is the reader's own, and of numbers that take long.
MEANT = {
    r"/shared/(cifar10|photos)\b|path/to/(cifar10|pictures)\b": "pictures",
    r"(?<=--data )(cifar10|tiny-imagenet-20|path/to/folder)(?!\S)": "pictures",
    r"--data [\w-]+=(PATH|path/to/\w+)": "",
    r"/shared/": "",
    r"^(torchrun|srun) .*?advex ": "advex ",
    r"\b(steps|gradients|masks|points|samples|restarts|epochs)=\d+": r"\1=2",
    r"--suite apgd\b": "--suite apgd:steps=2",
    r"--certify 0.25": "--certify 0.25 --certify-samples 100",
}
QUICK = {"--attack": "minimal:gradients=2", "--btr": "none", "--pictures": "none"}
UNLESS_GIVEN = {"evaluate": QUICK, "compare": QUICK, "judge": {"--explainers": "gradient,random"}}
FEW = {
    "train": ["--max-samples", "40"],
    "evaluate": ["--max-samples", "2", "--explanations", "1"],
    "compare": ["--max-samples", "2", "--explanations", "1"],
    "judge": ["--max-samples", "4", "--all"],
    "study": ["--first", "4"],
    "generate": ["--count", "1", "--steps", "2"],
    "annotate prepare": ["--max-samples", "4"],
    "reproduce": ["--list"],
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def commands(path: Path) -> list[str]:
    """Every `advex ...` of a page's blocks of shell commands, whoever starts it."""
    text = "\n".join(blocks(path, "(?:sh|bash)")).replace("\\\n", " ")
    lines = re.sub(r"^for (\w+) in (.*?); do\n(.*?)^done", repeated, text, flags=re.DOTALL | re.MULTILINE).splitlines()
    lines = [" ".join(shlex.split(line, comments=True, posix=False)) for line in lines]
    return [line for line in lines if re.match(r"(torchrun .*-m |srun .*)?advex ", line)]


def repeated(loop: re.Match[str]) -> str:
    """The lines of a loop, for every value."""
    name, values, body = loop.groups()
    return "".join(body.replace(f"${name}", value) for value in values.split())


def shortened(command: str) -> list[str]:
    """The words of a command as they are run here."""
    for written, meant in MEANT.items():
        command = re.sub(written, meant, command)
    words = shlex.split(command)[1:]
    verb = " ".join(words[:2]) if words[0] == "annotate" else words[0]
    if verb in ("evaluate", "compare"):  # of networks that are small, in the place of bundled ones
        words = [re.sub(r"builtin:cifar10-(\w+)", r"runs/\1", word) for word in words]
    for option, value in UNLESS_GIVEN.get(verb, {}).items():
        words += [] if option in words else [option, value]
    if verb == "train":
        words += ["epochs=2", *(["network=small_cnn:widths=4-4-4"] if "pictures" in words else [])]
    return words if "--dry-run" in words else [*words, *FEW.get(verb, [])]


def run(words: list[str]) -> None:
    """A command in this process."""
    with pytest.MonkeyPatch.context() as here:
        here.setattr(sys, "argv", ["advex", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code


# -- what the pages suppose ------------------------------------------------------------------------------------


def folder_of_a_reader() -> None:
    """Pictures in class folders, photos, tables, a recipe, code with weights, a folder of timm's."""
    sample = advex.open_dataset("cifar10-sample")
    for row, (label, picture) in enumerate(zip(sample.y.tolist(), sample.x.numpy(), strict=True)):
        for split, copy in itertools.product(("train", "test"), range(2)):
            folder = Path("pictures", split, CLASSES[label])
            folder.mkdir(parents=True, exist_ok=True)
            moved = np.roll(picture, copy + 2 * (split == "test"), axis=2)
            Image.fromarray(moved.transpose(1, 2, 0)).save(folder / f"{row}-{copy}.png")
    for name in ("my.jpg", "photo.png"):
        Image.fromarray(sample.x[0].permute(1, 2, 0).numpy()).save(name)
    loans()
    table = re.sub(",yes$", ",accepted", Path("loans.csv").read_text(), flags=re.MULTILINE)
    for name, lines in {"loans.csv": None, "new-loans.csv": None, "row.csv": 2}.items():
        Path(name).write_text("\n".join(table.splitlines()[:lines]) + "\n")
    Path("my-recipe.yaml").write_text("network: small_cnn:widths=4-4-4\n")
    Path("mymodels.py").write_text(
        "import advex\n\nresnet = advex.networks.build('small_cnn:channels=3,widths=4-4-4')\n"
    )
    save_file(networks.build("small_cnn:channels=3,widths=4-4-4").state_dict(), "resnet.safetensors")
    pretrained()


def supposed(words: list[str], made: dict[str, str]) -> None:
    """The models and the answered project that a command names and that no command before it has made.

    made: of what each model is that was made here.
    """
    named = [after for word, after in itertools.pairwise(words) if word == "--model"]
    for model in ",".join(named).split(","):
        of = "table" if model == "runs/loans" else "digits" if "digits" in words else "pictures"
        if model.startswith("runs/") and (model in made or not Path(model).exists()) and made.get(model) != of:
            model_of(of, model)
            made[model] = of
    if "--add" in words:
        answered("project")
        run(["annotate", "export", "project", "hitl"])
    elif words[:2] != ["annotate", "prepare"] and {"hitl", "annotations=hitl"} & set(words):
        answered("hitl")


def model_of(of: str, folder: str) -> None:
    """A model of rows, of digits or of pictures in colour."""
    shutil.rmtree(folder, ignore_errors=True)
    if of == "table":
        advex.train("table-linear", "loans.csv", out=folder, quiet=True)
    elif of == "digits":
        advex.train("digits-ordinary", "digits", "epochs=2", out=folder, quiet=True)
    else:
        torch.manual_seed(len(folder))
        network = advex.Classifier("small_cnn:channels=3,widths=4-4-4", class_names=CLASSES)
        advex.save(network, folder, extra={"input_shape": (3, 32, 32)})


def answered(project: str) -> None:
    """What `advex annotate serve` would leave behind once somebody has called every picture unchanged."""
    if not Path(project).exists():
        run(shortened(f"advex annotate prepare --model builtin:cifar10-robust --data pictures --out {project}"))
    with contextlib.closing(Store(Path(project))) as store:
        people.invite(store.database, "anna")
        (who,) = [guest.id for guest in people.people(store.database) if guest.name == "anna"]
        for image in store.next(who, 100):
            store.answer(who, client=f"anna-{image.key}", image=image.key, answer="unchanged")


# -- the pages -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::advex.errors.AdvexWarning")  # of few examples and steps
@pytest.mark.parametrize("path", [path for path in PAGES if commands(path)], ids=lambda path: path.name)
def test_the_commands_of_a_page_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADVEX_DATA", raising=False)
    folder_of_a_reader()
    made: dict[str, str] = {}
    for command in commands(path):
        if not any(re.search(pattern, command) for pattern in ELSEWHERE):
            supposed(words := shortened(command), made)
            run(words)


def test_a_command_is_run_as_printed_but_for_its_length() -> None:
    assert shortened(
        "torchrun --nproc-per-node=2 -m advex train r --data path/to/cifar10 --out runs/two"
    ) == shlex.split("train r --data pictures --out runs/two epochs=2 network=small_cnn:widths=4-4-4 --max-samples 40")
    with pytest.raises(AssertionError):
        run(["explain", "no-such.png"])
