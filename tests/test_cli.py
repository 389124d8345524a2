"""The command line as a person or a script uses it: what is said where, exit codes, signals, what is left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from typer.main import get_command

import advex
from advex import progress, recipes, registry
from advex.cli import app, demo, main
from advex.data.dataset import content
from advex.data.images.png import decode_png, encode_png
from advex.drawing.contact_sheet import Cell, Row
from advex.errors import DataError
from advex.explanation.folder import write_sheets
from advex.explanation.inputs import shorter_side
from advex.record import read_record, summary
from advex.registry import numbered

ESCAPE = "\x1b"
# A run of about a second: few pictures, few epochs.
TRAIN = ["train", "digits-ordinary", "epochs=6", "--data", "digits", "--max-samples", "400"]
SEARCH = "minimal:gradients=10"
EVALUATE = ["--data", "digits", "--max-samples", "16", "--batch-size", "8", "--explanations", "1"]
EVALUATE += ["--attack", SEARCH, "--btr", SEARCH]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    """One thread, no colours wished for or away, a machine like any other."""
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS")}
    return {**kept, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "100", **changes}


def shell(*arguments: str | Path, cwd: Path, **changes: str) -> Ended:
    """`python -m advex ...` in a process of its own."""
    command = [sys.executable, "-m", "advex", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=120, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def in_process(*arguments: str | Path, cwd: Path) -> int:
    """The same in this process (seconds quicker). Returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["advex", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.fixture
def advex_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """`advex ...` in this process and in an empty working folder, where the test then is too."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        code = in_process(*arguments, cwd=tmp_path)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two run folders made by `advex train`, of different seeds."""
    folder = tmp_path_factory.mktemp("trained")
    for name, seed in (("first", "0"), ("second", "1")):
        assert in_process(*TRAIN, "--out", name, "--seed", seed, "-q", cwd=folder) == 0
    return folder


# -- the front door ----------------------------------------------------------------------------------------


def test_help_is_quick_and_does_not_import_torch(tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        done = shell("--help", cwd=tmp_path)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1.0, seconds  # 0.2 s on an idle machine; this bound is for a busy one
    for verb in ("demo", "train", "explain", "evaluate", "compare", "generate", "report", "doctor", "list"):
        assert re.search(rf"^\s+{verb} ", done.out, re.MULTILINE), verb
    command = [sys.executable, "-X", "importtime", "-m", "advex", "train", "--help"]
    imported = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    ).stderr
    heavy = {"torch", "numpy", "scipy", "sklearn", "PIL", "matplotlib", "pyarrow"}
    found = {line.rpartition("|")[2].strip().split(".")[0] for line in imported.splitlines()}
    assert not heavy & found


def test_verbs_do_not_wait_for_what_few_of_them_use() -> None:
    """scipy.stats takes a quarter of all that an evaluation imports."""
    code = "import sys, advex.evaluation, advex.report, advex.explanation; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_version(advex_in: Callable[..., Ended]) -> None:
    assert advex_in("--version") == Ended(0, f"advex {advex.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trian"], 2, "There is no command 'trian': did you mean 'train'?"),
        (["train", "digits-robust", "--dat", "digits"], 2, "--data"),
        (["evaluate", "--data", "digits"], 2, "advex evaluate needs --model MODEL,...: Run folders"),
        (["train", "digits-robst", "--data", "digits"], 2, "did you mean 'digits-robust' or"),
        (["train", "digits-robust", "epoch=3", "--data", "digits"], 2, "no setting 'epoch': did you mean 'epochs'?"),
        (["train", "digits-robust", "epochs", "--data", "digits"], 2, "'epochs' is not of the form KEY=VALUE"),
        (["train", "digits-robust"], 2, "--data digits for the built-in data set"),
        (["train", "digits-robust", "--data", "digit"], 2, "did you mean 'digits'?"),
        (["train", "digits-robust", "--data", "digits", "--split", "tran"], 2, "did you mean 'train'?"),
        (["train", "digits-robust", "--data", "digits", "--device", "gpu"], 2, "no device 'gpu'"),
        (["evaluate", "-m", "runs/nothing", "--data", "digits"], 2, "runs/nothing is not a folder"),
        (["evaluate", "-m", "runs/a", "--data", "digits", "--attack", "minimall"], 2, "did you mean 'minimal'?"),
        (["evaluate", "-m", "runs/a", "--data", "digits", "--attack", "pgd:step_s=1"], 2, "no option 'step_s'"),
        (["evaluate", "-m", "builtin:cifar10-robus", "--data", "digits"], 2, "did you mean 'cifar10-robust'?"),
        (["explain", "a.png", "-m", "cifar10-robust"], 2, "the bundled model of that name is builtin:cifar10-robust."),
        (["train", "qqqq"], 2, "advex list recipe lists all"),
        (["train", "nowhere.csv"], 2, "There is no file nowhere.csv."),
        (["train", "digits-robust", "--seed", "x"], 2, "--seed: it must be a whole number."),
        (["explain", "a.png", "--model", ""], 2, "--model '': an empty name"),
        (["explain", "a.png", "--steps", "0"], 2, "--steps: it must be at least 1."),
        (["demo", "more"], 2, "advex demo does not accept: more."),
        (["generate", "cat", "--model", "builtin:cifar10-robust", "--max-samples", "3"], 2, "need --data"),
        (["explain", "--data", "cifar10-sample", "--explainer", "grad_cam:layer=nothing"], 2, "no layer 'nothing'"),
        (["demo", "--epochs", "2"], 2, "--epochs needs --train"),
        (
            ["evaluate", "-m", "runs/a", "--data", "digits", "--box", "0,1"],
            2,
            "are for --model package.module:factory",
        ),
        (["explain", "a.png", "-m", "resnet50"], 2, "advex convert WEIGHTS --network resnet:..."),
        (["explain", "a.png", "-m", "vgg:depth=16"], 2, "advex convert WEIGHTS --network vgg:..."),
        (["explain", "a.png", "-m", "vgg:depth=16"], 2, "has no weights: torchvision:NAME or timm:NAME with"),
        (["explain", "a.png", "-m", "hf:"], 2, "--model 'hf:': a name must follow"),
        (["explain", "a.png", "-m", "mine=timm:"], 2, "--model 'timm:': a name must follow"),
        (["explain", "--model", "runs/a"], 2, "Give either picture files, or --data"),
        (["explain", "a.png"], 2, "a.png cannot be read as a picture"),
        (["explain", "a.png", "--model", "runs/a", "--rho", "2"], 2, "--rho '2': an RMSE must be above 0"),
        (["explain", "a.png", "--model", "runs/a"], 2, "runs/a is not a folder"),
        (["evaluate", "--model", "builtin:cifar10-robust", "--data", "nowhere"], 2, "There is no data set 'nowhere'"),
        (["compare", "records/a", "records/b"], 2, "There is no folder records/a."),
        (["compare", "records/a"], 2, "at least two records"),
        (["compare"], 2, "record folders to compare, or --model A,B"),
        (["report", "records/a"], 2, "There is no folder records/a."),
        (["explain", "a.png", "--rho"], 2, "advex explain: --rho needs a value. See advex explain --help"),
        (["train", "digits-robust", "--epochs", "3"], 2, "no option --epochs: a setting is written epochs=VALUE."),
        (["explain", "a.png", "--explainer", "GradCAM"], 2, "There is no explainer 'GradCAM': did you mean 'grad_cam'"),
        (["explain", "a.png", "--eps", "1"], 2, "advex explain has no option --eps: did you mean --rho?"),
        (["explain", "--data", "cifar10-sample", "--alternatives", "2"], 2, "--alternatives counts the sentences"),
        (["explain", "a.png", "--rho", "abc"], 2, "--rho 'abc': an RMSE must be above 0 and at most 1"),
        (["explain", "a.png", "--index", "3"], 2, "--index and --split choose examples of --data"),
        (["explain", "a.png", "--split", "test"], 2, "--index and --split choose examples of --data"),
        (["explain", "row.csv"], 2, "row.csv is a table, which needs a model"),
        (["explain", "a.png", "-m", "foo.pt"], 2, "There is no file foo.pt"),
        (["explain", "a.png", "-m", "ResNet50"], 2, "torchvision:resnet50 or timm:resnet50 with --weights"),
        (["explain", "a.png", "-m", "vit"], 2, "torchvision:vit or timm:vit with --weights"),
        (
            ["explain", "a.png", "-m", "torchvision:vgg11", "--classes", "no.json"],
            2,
            "--classes no.json: there is no such file",
        ),
        (
            ["explain", "a.png", "-m", "torchvision:vgg11", "--classes", "no.txt"],
            2,
            "--classes no.txt: there is no such file",
        ),
        (["annotate", "import", "P", "nothere.csv"], 2, "nothere.csv cannot be read: No such file"),
        (["list", "atack"], 2, "did you mean 'attack'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_sentence_on_stderr(
    advex_in: Callable[..., Ended], arguments: list[str], code: int, said: str
) -> None:
    ended = advex_in(*arguments)
    assert ended.code == code
    assert said in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert len([line for line in ended.err.splitlines() if line.startswith(("error:", "Error:"))]) == 1
    assert not list(Path.cwd().iterdir())  # and nothing was left behind


def verbs(command: Any, words: tuple[str, ...] = ()) -> list[list[str]]:
    """Every verb that has an option --seed."""
    inner = [verb for name, each in getattr(command, "commands", {}).items() for verb in verbs(each, (*words, name))]
    return inner + [[*words] for each in command.params if "--seed" in each.opts]


@pytest.mark.parametrize("verb", verbs(get_command(app)), ids=" ".join)
def test_seeds_that_do_not_fit_are_refused_by_every_verb(verb: list[str], advex_in: Callable[..., Ended]) -> None:
    for seed, said in (("99999999999999999999", "at most 9223372036854775807"), ("-1", "at least 0")):
        ended = advex_in(*verb, "--seed", seed)
        assert (ended.code, ended.out) == (2, "")
        assert f"--seed: it must be {said}" in ended.err


def test_verbose_adds_the_traceback(advex_in: Callable[..., Ended]) -> None:
    ended = advex_in("report", "nowhere", "-v")
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1] == "error: There is no folder nowhere."


# -- train -------------------------------------------------------------------------------------------------


def test_a_run_folder_has_all_that_is_needed_to_repeat_it(trained: Path, advex_in: Callable[..., Ended]) -> None:
    run = trained / "first"
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["epochs"] == 6
    assert recipe["network"] == "small_cnn:classes=10,channels=1"
    about = json.loads((run / "env.json").read_text())
    assert about["torch"] == torch.__version__
    assert about["command"].startswith("advex train digits-ordinary epochs=6")
    assert str(trained) not in (run / "env.json").read_text()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    # The saved recipe is a recipe, and gives the same weights again.
    ended = advex_in(
        "train", run / "recipe.yaml", "--data", "digits", "--max-samples", "400", "--out", "again", "--json"
    )
    assert ended.code == 0, ended.err
    best = max(metrics, key=lambda line: (line["accuracy"], -line["epoch"]))  # the first of the best
    assert json.loads(ended.out) == {
        "run": "again",
        "accuracy": metrics[-1]["accuracy"],
        "robust_accuracy": metrics[-1]["robust_accuracy"],
        "train_accuracy": metrics[-1]["train_accuracy"],
        "best_epoch": best["epoch"],
        "epochs": 6,
        "steps": 42,
    }
    assert json.loads(Path("again/best/config.json").read_text())["training"]["epoch"] == best["epoch"]
    assert Path("again/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert advex.load("again").class_names == tuple("0123456789")


def test_dry_run_prints_the_resolved_recipe(advex_in: Callable[..., Ended]) -> None:
    ended = advex_in("train", "digits-robust", "epochs=3", "objective.adversarial.share=1", "--seed", "4", "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    recipe = recipes.recipe_from(yaml.safe_load(ended.out))
    assert (recipe.epochs, recipe.seed, recipe.objective["adversarial"]["share"]) == (3, 4, 1)
    assert not list(Path.cwd().iterdir())


def test_dry_run_with_data_tries_a_step(advex_in: Callable[..., Ended]) -> None:
    """The recipe on stdout is that of the run folder it would have made; the rest is on stderr."""
    command = ["train", "digits-robust", "objective.lipschitz.psi=2", "--data", "digits", "--max-samples", "100"]
    ended = advex_in(*command, "--dry-run")
    assert ended.code == 0, ended.err
    recipe = recipes.recipe_from(yaml.safe_load(ended.out))
    assert recipe.network == "small_cnn:classes=10,channels=1"
    step, whole = ended.err.splitlines()[-2:]
    assert re.fullmatch(r"one step: loss \d\.\d+ \(lipschitz 0\.\d+, .*cross_entropy \d\.\d+, .*\), [\d.]+ s", step), (
        step
    )
    assert re.fullmatch(r"80 steps and validation between epochs: about 0:\d\d", whole), whole
    refused = advex_in(*command, "objective.lipschitz.outputs=11", "--dry-run")
    assert (refused.code, refused.out) == (1, "")
    assert "cannot draw outputs=11 of 10 classes" in refused.err
    assert not list(Path.cwd().iterdir())


def test_what_cannot_be_trained_leaves_no_folder(
    advex_in: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for change, code, said in (
        ("objective.lipschitz.outputs=11", 1, "cannot draw outputs=11 of 10 classes"),
        ("network=small_cnn:classes=7", 1, "7 outputs for 10 class names"),
        ("--tensorboard", 2, "run pip install -e '.[tensorboard]'"),
    ):
        ended = advex_in(*TRAIN, change, "--out", "run")
        assert ended.code == code, ended.err
        assert said in ended.err
        assert not Path("run").exists()


def test_a_damaged_run_is_begun_anew_when_that_is_said(trained: Path, advex_in: Callable[..., Ended]) -> None:
    """Without a whole checkpoint; and what somebody else has put among its files stays."""
    shutil.copytree(trained / "first", "run")
    Path("run/config.json").unlink()
    for weights in Path("run/checkpoints").rglob("model.safetensors"):
        weights.write_bytes(b"damaged")
    for mine in ("run/notes.txt", "run/checkpoints/mine.bin", "run/best/picture.png", "run/tensorboard/mine"):
        Path(mine).parent.mkdir(exist_ok=True)
        Path(mine).write_text("mine")
    Path("run/tensorboard/events.out.tfevents.1.host").write_text("ours")
    refused = advex_in(*TRAIN, "--out", "run", "--seed", "0")
    assert refused.code == 1
    assert "No checkpoint in run/checkpoints is intact" in refused.err
    done = advex_in(*TRAIN, "--out", "run", "--seed", "0", "--overwrite")
    assert done.code == 0, done.err
    assert Path("run/model.safetensors").read_bytes() == (trained / "first" / "model.safetensors").read_bytes()
    for mine in ("run/notes.txt", "run/checkpoints/mine.bin", "run/best/picture.png", "run/tensorboard/mine"):
        assert Path(mine).read_text() == "mine"
    assert not Path("run/tensorboard/events.out.tfevents.1.host").exists()


def test_nothing_is_trained_twice_or_written_over(trained: Path, advex_in: Callable[..., Ended]) -> None:
    run = trained / "first"
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    again = advex_in(*TRAIN, "--out", run, "-q")
    assert (again.code, again.err) == (0, "")
    other = advex_in(*TRAIN, "momentum=0.5", "--out", run)
    assert other.code == 1
    assert "momentum is 0.9 there and 0.5 here" in other.err
    refused = advex_in(*TRAIN, "--out", run, "--no-resume")
    assert refused.code == 2
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_foreign_folder_needs_overwrite_and_keeps_its_files(advex_in: Callable[..., Ended]) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("mine")
    command = ["train", "digits-ordinary", "epochs=1", "--data", "digits", "--max-samples", "64", "--out", "thesis"]
    refused = advex_in(*command)
    assert refused.code == 2
    assert "not ours (it contains chapter.txt)" in refused.err
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.txt"]
    done = advex_in(*command, "--overwrite")
    assert done.code == 0, done.err
    assert Path("thesis/chapter.txt").read_text() == "mine"
    assert Path("thesis/model.safetensors").exists()


@pytest.mark.parametrize(
    ("foreign", "code"),
    [
        ("checkpoints/weights.bin", 0),
        ("checkpoints/step-00000007/config.json", 1),
        ("best/config.json", 1),
        ("config.json", 1),
        ("pictures/cat.png", 1),
        ("shards/0", 1),
        ("record.json", 1),
    ],
)
def test_overwrite_takes_nothing_away_that_is_not_ours(
    foreign: str, code: int, trained: Path, advex_in: Callable[..., Ended]
) -> None:
    """Names that advex uses too, in somebody else's folder: refused, or left alone."""
    path = Path("thesis", foreign)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    if foreign.startswith(("checkpoints", "best", "config")):
        ended = advex_in(*TRAIN, "--out", "thesis", "--overwrite")
    else:
        ended = advex_in("evaluate", "-m", trained / "first", *EVALUATE, "--out", "thesis", "--overwrite")
    assert ended.code == code, ended.err
    assert path.read_text() == "{}"


def _folder_of_classes(root: Path) -> Path:
    for split, count in (("train", 6), ("test", 3)):
        for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 14), tuple(c + 7 * number for c in colour)).save(
                    root / split / name / f"{number}.png"
                )
    return root


def test_a_bundled_recipe_trains_on_a_folder_of_ones_own(advex_in: Callable[..., Ended]) -> None:
    """Channels and classes are the data's, colour as well as grey; and the model knows its input's size."""
    data = _folder_of_classes(Path("pictures"))
    trained = advex_in(
        "train", "digits-robust", "epochs=8", "batch_size=4", "--data", data, "--out", "run", "--size", "10x12"
    )
    assert trained.code == 0, trained.err
    assert "accuracy 100.0 %" in trained.out
    config = json.loads(Path("run/config.json").read_text())
    assert (config["network"], config["input_shape"]) == ("small_cnn:classes=2,channels=3", [3, 10, 12])
    explained = advex_in("explain", "pictures/test/red/1.png", "-m", "run", "--target", "blue")
    assert explained.code == 0, explained.err
    assert "20x14 pixels scaled to cover 12x10" in explained.err
    evaluated = advex_in("evaluate", "-m", "run", "--data", data, "--out", "record", "--explanations", "1", "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["models"]["run"]["accuracy"]["value"] == 1.0


# -- annotated pictures ------------------------------------------------------------------------------------


def _annotated(root: Path, run: Path, split: str, **changes: str) -> list[advex.data.Annotation]:
    """Confident adversarial pictures (Woods et al. 2019, Sec. III-H) of 24 digits, and answers to them in turn."""
    data = advex.open_dataset("digits", split=split, max_samples=24, seed=5)
    batch = data.batch(slice(None))
    search = advex.attacks.Minimal(gradients=30)
    found = search(advex.load(run), batch.x, advex.goals.Confident(batch.y, margin=0.5))
    rows = torch.nonzero(found.reached)[:, 0].tolist()
    given = [
        advex.data.Annotation(
            picture=f"pictures/{row:02d}.png",
            label=data.class_names[int(batch.y[row])],
            answer=("unchanged", "unchanged", "changed", "unsure")[number % 4],
            annotator="p",
            source=data.name,
            source_id=data.ids[row],
            model="first",
            search=registry.describe(search),
            rmse=float(found.rmse[row]),
        )
        for number, row in enumerate(rows)
    ]
    given = [dataclasses.replace(each, **changes) for each in given]
    advex.data.write_annotated(root, {f"pictures/{row:02d}.png": found.adversarial[row] for row in rows}, given)
    return given


def test_answers_of_people_become_training_data(trained: Path, advex_in: Callable[..., Ended]) -> None:
    given = _annotated(Path("hitl"), trained / "first", "train")
    unchanged = [each for each in given if each.answer == "unchanged"]
    assert len(given) > len(unchanged) > 5
    command = [*TRAIN, "--add", "hitl", "--out", "run"]
    ended = advex_in(*command)
    assert ended.code == 0, ended.err
    total = 400 + len(unchanged)
    told = f"{len(unchanged)} unchanged pictures of hitl, by {len(given)} answers; {total} examples to train on"
    assert f"added to digits/train: {told}\n" in ended.err
    assert "warning" not in ended.err
    about = json.loads(Path("run/config.json").read_text())["training"]
    assert (about["data"], about["examples"]) == ("digits/train + hitl", total)
    first = advex.open_dataset("digits", split="train", max_samples=400)
    added = advex.open_dataset("hitl")
    assert [each.source_id for each in added.origins] == [each.source_id for each in unchanged]
    # What was trained on is what was read, and the run says where it is from.
    joined = advex.data.concatenate(first, added)
    assert about["content"] == content(joined)
    assert about["parts"] == joined.provenance()
    assert about["parts"][0] == {"name": "digits/train", "examples": 400, "content": content(first)}
    assert about["parts"][1] == {
        "name": "hitl",
        "examples": len(unchanged),
        "content": content(added),
        "answers": {
            answer: sum(each.answer == answer for each in given) for answer in ("unchanged", "changed", "unsure")
        },
        "made_by": {f"first, {unchanged[0].search}": len(unchanged)},
    }
    # The same command finds its own run; without the pictures it would be another one.
    assert "already contains this run" in advex_in(*command).err
    assert "it was trained on other data" in advex_in(*TRAIN, "--out", "run").err


@pytest.mark.filterwarnings("always::advex.errors.AdvexWarning")
def test_nothing_of_the_test_split_is_learned_from_by_way_of_annotations(
    trained: Path, advex_in: Callable[..., Ended]
) -> None:
    given = _annotated(Path("hitl"), trained / "first", "test")
    kept = sum(each.answer == "unchanged" for each in given)
    # --max-samples leaves most of the test split out of sight: that makes no difference.
    for command in (TRAIN, [*TRAIN, "--max-samples", "20"], [*TRAIN, "--split", "train", "--validation", "train"]):
        ended = advex_in(*command, "--add", "hitl", "--out", "run")
        assert (ended.code, ended.out) == (1, "")
        assert f"hitl: {kept} examples of {kept} made from held-out data (pictures/" in ended.err
        assert "of test" in ended.err
        assert not Path("run").exists()
    allowed = advex_in(*TRAIN, "epochs=1", "--split", "test", "--add", "hitl", "--out", "run")
    assert allowed.code == 0, allowed.err
    _annotated(Path("unknown"), trained / "first", "test", source="", source_id="")
    warned = advex_in(*TRAIN, "epochs=1", "--add", "unknown", "--out", "other", "-q")
    assert warned.code == 0
    assert warned.err.startswith(f"warning: unknown: it is not known whether {kept} of {kept} pictures (e.g. pictures/")
    assert "were made from the test split" in warned.err


def test_several_annotated_folders_and_what_cannot_be_added(trained: Path, advex_in: Callable[..., Ended]) -> None:
    for name in ("one/hitl", "two/hitl"):
        _annotated(Path(name), trained / "first", "train")
    ended = advex_in(*TRAIN, "epochs=1", "--add", "one/hitl", "--add", "two/hitl", "--out", "run")
    assert ended.code == 0, ended.err
    parts = json.loads(Path("run/config.json").read_text())["training"]["parts"]
    assert [part["name"] for part in parts] == ["digits/train", "hitl", "hitl-2"]
    assert parts[1]["content"] == parts[2]["content"]
    Path("plain/cat").mkdir(parents=True)
    Image.new("L", (8, 8)).save("plain/cat/1.png")
    for name, label, size in (("names", "seven", 8), ("sizes", "7", 9)):
        advex.data.write_annotated(
            name,
            {"a.png": torch.zeros(1, size, size)},
            [advex.data.Annotation(picture="a.png", label=label, answer="unchanged")],
        )
    for name, code, said in (
        ("nowhere", 2, "There is no data set 'nowhere'"),
        ("plain", 2, "--add plain contains no annotations.csv"),
        ("digits", 2, "contains no annotations.csv"),
        (
            "names",
            1,
            "1 class unknown to digits/train: 'seven'. For 'seven' (examples: a.png): choose from 0, 1, 2",
        ),
        ("sizes", 1, "sizes: its inputs are 1x9x9 (channels x height x width), but those of digits/train are 1x8x8"),
    ):
        failed = advex_in(*TRAIN, "--add", name, "--out", "failed")
        assert (failed.code, failed.out) == (code, "")
        assert said in failed.err
    assert not Path("failed").exists()


def test_the_page_on_annotated_pictures_does_what_it_says(trained: Path, advex_in: Callable[..., Ended]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "annotated.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    shutil.copytree(trained / "first", "demo/runs/ordinary")
    names: dict[str, Any] = {}
    exec(compile(block, "annotated.md", "exec"), names)  # noqa: S102
    with pytest.raises(DataError, match=rf"0 answers .*{len(names['answers'])} pictures"):
        advex.open_dataset("hitl")
    assert len(names["answers"]) > 5
    table = Path("hitl/annotations.csv")
    table.write_text(re.sub(r"^(\d{4}\.png,\d,)", r"\1unchanged", table.read_text(), flags=re.MULTILINE))
    data = advex.open_dataset("hitl")
    decided = advex.load("demo/runs/ordinary").predict(data.batch(slice(None)).x).argmax(dim=1)
    assert len(data) == len(names["answers"])
    assert [data.class_names[label] for label in data.y.tolist()] == [each.label for each in names["answers"]]
    assert all(str(one) != each.label for one, each in zip(decided.tolist(), names["answers"], strict=True))
    ended = advex_in(*TRAIN, "epochs=1", "--add", "hitl", "--out", "run")
    assert (ended.code, "warning" in ended.err) == (0, False)


def test_any_picture_can_be_explained(advex_in: Callable[..., Ended]) -> None:
    """A photograph of another size and shape: scaled and cut as the network expects, and shown and said so."""
    ramp = torch.linspace(0, 255, 160).to(torch.uint8).expand(3, 90, 160)
    Image.fromarray(ramp.permute(1, 2, 0).numpy()).save("my.jpg", quality=95)
    ended = advex_in("explain", "my.jpg", "--model", "builtin:cifar10-robust", "--target", "cat")
    assert ended.code == 0, ended.err
    assert "my.jpg: 160x90 pixels scaled to cover 32x32, the centre cut out" in ended.err
    (answer,) = json.loads(Path("explanations/explanations.json").read_text())["inputs"]
    assert answer["note"].startswith("160x90 pixels")
    assert answer["explanations"][0]["target_name"] == "cat"
    shown = decode_png((Path("explanations") / answer["picture"]).read_bytes())
    assert shown.shape == (3, 32, 32)
    middle = ramp[0, 0, 35:125].float()  # the square in the middle: 90 of 160 columns
    assert abs(float(shown[0, 16, 0]) - float(middle[0])) < 6
    assert abs(float(shown[0, 16, -1]) - float(middle[-1])) < 6


# -- being stopped -----------------------------------------------------------------------------------------


def _stopped(arguments: list[str], cwd: Path, begun: Callable[[], bool], number: int) -> Ended:
    """Start a command, and send it a signal once it has begun."""
    command = [sys.executable, "-m", "advex", *arguments]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not begun() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err)


STOPPED = ["train", "digits-robust", "epochs=6", "--data", "digits", "--max-samples", "512", "--seed", "3", "--out"]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that the run of `STOPPED` ends with."""
    folder = tmp_path_factory.mktemp("never")
    assert in_process(*STOPPED, "run", "-q", cwd=folder) == 0
    return (folder / "run" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_training_that_is_stopped_goes_on_to_the_same_end(
    number: int, code: int, never_stopped: bytes, tmp_path: Path, advex_in: Callable[..., Ended]
) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    begun = lambda: any(checkpoints.glob("step-*"))  # noqa: E731
    ended = _stopped([*STOPPED, "run", "--no-resume"], tmp_path, begun, number)
    assert ended.code == code, ended.err
    assert not (tmp_path / "run" / "model.safetensors").exists()
    if number != signal.SIGKILL:
        assert ended.err.splitlines()[-1] == f"resume with: advex {' '.join(STOPPED)} run"
        assert "Traceback" not in ended.err
    assert ESCAPE not in ended.out + ended.err
    done = advex_in(*STOPPED, "run", "-q")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == never_stopped


def test_an_evaluation_that_is_stopped_goes_on_to_the_same_figures(
    trained: Path, tmp_path: Path, advex_in: Callable[..., Ended]
) -> None:
    command = ["evaluate", "-m", str(trained / "first"), "--data", "digits", "--max-samples", "40", "--batch-size", "5"]
    command += ["--explanations", "0", "--attack", "minimal:gradients=40", "--btr", SEARCH, "--out"]
    shards = tmp_path / "broken" / "shards"
    ended = _stopped([*command, "broken"], tmp_path, lambda: any(shards.glob("*.attack.*")), signal.SIGINT)
    assert ended.code == 130, ended.err
    assert f"resume with: advex {' '.join(command)} broken" in ended.err
    done = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    assert done
    assert not (tmp_path / "broken" / "record.json").exists()
    figures = {}
    for out in ("broken", "whole"):
        resumed = advex_in(*command, out, "--json", "-q")
        assert resumed.code == 0, resumed.err
        figures[out] = json.loads(resumed.out)["models"]
    assert figures["broken"] == figures["whole"]
    assert {name: (shards / name).stat().st_mtime_ns for name in done} == done  # nothing was done twice


# -- what is said, and where -------------------------------------------------------------------------------


def _at_terminal(arguments: list[str], cwd: Path, **changes: str) -> str:
    """All that a person at a terminal would be sent."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "advex", *arguments], cwd=cwd, env=environment(**changes), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side has closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, seen.decode()
    return seen.decode()


def test_colours_and_bars_are_for_terminals_alone(tmp_path: Path) -> None:
    command = ["train", "digits-ordinary", "epochs=2", "--data", "digits", "--max-samples", "64", "--out"]
    assert ESCAPE in _at_terminal([*command, "seen"], tmp_path)
    plain = _at_terminal([*command, "plain"], tmp_path, NO_COLOR="1")
    assert ESCAPE not in plain
    assert "train plain: 2/2 (100 %), loss " in plain
    assert ESCAPE not in _at_terminal(["list", "--help"], tmp_path, NO_COLOR="1")


@pytest.mark.parametrize("changes", [{}, {"NO_COLOR": "1"}], ids=["terminal", "plain"])
def test_a_training_tells_all_its_numbers_within_100_columns(changes: dict[str, str], tmp_path: Path) -> None:
    command = ["train", "digits-robust", "epochs=2", "objective.lipschitz.psi=2", "robust_every=1"]
    seen = _at_terminal([*command, "--data", "digits", "--max-samples", "160", "--out", "robust"], tmp_path, **changes)
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen).replace("\r", "\n").splitlines()]
    assert max(map(len, lines)) <= 100
    (start, *_), end = [[number for number, line in enumerate(lines) if line.startswith(begin)][-1:] for begin in (
        "train robust", "robust  accuracy")]  # fmt: skip
    told = " ".join(" ".join(lines[start : end[0]]).split())
    number = r"[\d.]+"
    assert re.search(rf" [46]/[46] .*loss {number}, [\d,]+ examples/s", told), told
    assert re.search(rf"lipschitz {number}, cross_entropy {number}, clean {number}, altered {number}, psi 2\.000", told)
    assert re.search(rf"accuracy {number} %, validation {number} %, robust {number} %", told), told


def test_plain_progress_is_a_line_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress.Terminal().progress("count") as bar:
        for step in range(1, 31):
            now += 1.0
            bar(step, 30, f"step {step}")
    lines = capsys.readouterr().err.splitlines()
    # Every 5 seconds, and the last one.
    assert [line.split(",")[0] for line in lines] == [
        f"count: {n}/30 ({100 * n // 30} %)" for n in (5, 10, 15, 20, 25, 30)
    ]
    assert lines[1] == "count: 10/30 (33 %), 0:22 left, step 10"  # 10 s for 9 steps: 20 more take 22 s
    assert lines[-1] == "count: 30/30 (100 %), step 30"


def test_progress_says_nothing_when_quiet_or_brief(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Terminal(quiet=True).progress("count") as bar:
        bar(1, 1)
    with progress.Terminal().progress("count", brief=True) as bar:
        bar(1, 1)
    assert capsys.readouterr().err == ""


# -- evaluate, compare, report -----------------------------------------------------------------------------


def test_evaluate_prints_the_summary_as_json(trained: Path, advex_in: Callable[..., Ended]) -> None:
    ended = advex_in(
        "evaluate", "-m", f"{trained / 'first'},b={trained / 'second'}", *EVALUATE, "--out", "record", "--json"
    )
    assert ended.code == 0, ended.err
    assert ended.out == summary(read_record(Path("record")), Path("record")) + "\n"
    printed = json.loads(ended.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert printed["record"] == "record"
    assert list(printed["models"]) == ["first", "b"]
    for scores in printed["models"].values():
        assert {"accuracy", "attack_ara", "btr_ara"} <= scores.keys()
        assert scores["accuracy"]["low"] <= scores["accuracy"]["value"] <= scores["accuracy"]["high"]
        assert scores["accuracy"]["n"] == 16
    assert read_record(Path("record")).command.startswith("advex evaluate -m ")
    for change, said in (("--batch-size=4", "batch_size is 8 there and 4 here"), ("--no-resume", "already contains")):
        again = advex_in(
            "evaluate", "-m", f"{trained / 'first'},b={trained / 'second'}", *EVALUATE, change, "--out", "record"
        )
        assert again.code == 1
        assert said in again.err


def test_records_compared_later_are_the_same_as_models_compared_at_once(
    trained: Path, advex_in: Callable[..., Ended]
) -> None:
    for name in ("first", "second"):
        done = advex_in("evaluate", "-m", f"net={trained / name}", *EVALUATE, "--out", name)
        assert done.code == 0, done.err
    later = advex_in("compare", "first", "second", "--out", "later", "--json")
    assert later.code == 0, later.err
    once = advex_in(
        "compare", "-m", f"net={trained / 'first'},net={trained / 'second'}", *EVALUATE, "--out", "once", "--json"
    )
    assert once.code == 0, once.err
    first, second = json.loads(later.out), json.loads(once.out)
    assert list(first["models"]) == ["net", "net-2"]
    assert first["models"] == second["models"]
    assert first["differences"] == second["differences"] != []
    for found in (first, second):
        page = Path(found["report"]).read_text()
        assert "net-2" in page
        assert page.count("data:image/png") > 20  # the pictures of both came along
    refused = advex_in("compare", "first", "second", "--out", "later")
    assert refused.code == 2
    assert "later is not empty (it contains " in refused.err
    assert "choose another folder, or pass --overwrite" in refused.err
    other = advex_in("evaluate", "-m", trained / "first", *EVALUATE, "--seed", "9", "--out", "other")
    assert other.code == 0, other.err
    unlike = advex_in("compare", "first", "other", "--out", "unlike")
    assert unlike.code == 1
    assert "seed is 0 there and 9 here" in unlike.err
    assert not Path("unlike").exists()


def test_report_writes_where_it_is_told(trained: Path, advex_in: Callable[..., Ended]) -> None:
    advex_in("evaluate", "-m", trained / "first", *EVALUATE, "--out", "record", "-q")
    assert advex_in("report", "record") == Ended(0, "record/report.html\n", "")
    assert advex_in("report", "record", "--out", "page.html") == Ended(0, "page.html\n", "")
    assert Path("page.html").read_bytes() == Path("record/report.html").read_bytes()


# -- models ------------------------------------------------------------------------------------------------

FACTORY = """
from pathlib import Path

import torch
from advex import Classifier

Path("imported").write_text("")

def network():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def wrapped():
    return Classifier(network(), mean=0.5)

def broken():
    raise RuntimeError("no such luck")

def nothing():
    return 3

FEW = [3]
"""


def test_a_network_of_ones_own(advex_in: Callable[..., Ended], trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_network.py").write_text(FACTORY)
    monkeypatch.setitem(sys.modules, "own_network", None)  # so that what is imported here is gone after it
    del sys.modules["own_network"]
    monkeypatch.setattr(sys, "path", [*sys.path])
    advex_in("evaluate", "-m", trained / "first", *EVALUATE, "--out", "plain", "-q")
    assert not Path("imported").exists()  # code runs only when it is named

    torch.manual_seed(1)
    state = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).state_dict()
    save_file(state, "own.safetensors")
    options = ["--weights", "own.safetensors", "--mean", "0.5", "--std", "0.5", "--classes", "0,1,2,3,4,5,6,7,8,9"]
    done = advex_in("evaluate", "-m", "own_network:network", *options, *EVALUATE, "--out", "own", "--json")
    assert done.code == 0, done.err
    images = advex.open_dataset("digits", split="test", max_samples=16).batch(slice(None))
    logits = ((images.x - 0.5) / 0.5).flatten(1) @ state["1.weight"].T + state["1.bias"]
    accuracy = (logits.argmax(dim=1) == images.y).double().mean().item()
    assert json.loads(done.out)["models"]["network"]["accuracy"]["value"] == pytest.approx(accuracy)

    save_file({"1.weight": torch.zeros(9, 64), "other": torch.zeros(1)}, "wrong.safetensors")
    Path("text.safetensors").write_text("not named tensors")
    for model, given, said in (
        ("own_network:network", ["--weights", "wrong.safetensors"], "('1.bias' of 10), 1 unknown ('other' of 1)"),
        ("own_network:network", ["--weights", "wrong.safetensors"], "'1.weight' is 9x64, the network's 10x64"),
        ("own_network:network", ["--weights", "text.safetensors"], "is not a safetensors file"),
        ("own_network:network", ["--weights", "none.safetensors"], "there is no such file"),
        ("own_network:network", ["--mean", "a"], "must be numbers"),
        ("own_network:network", ["--box", "0"], "--box needs 2 numbers"),
        ("own_network:network", ["--size", "9"], "does not take inputs of shape (1, 9, 9)"),
        ("own_network:wrapped", ["--mean", "0.1"], "which already contains"),
        ("own_network:broken", [], "RuntimeError: no such luck"),
        ("own_network:nothing", [], "returned int"),
        ("own_network:absent", [], "AttributeError"),
        ("own_network:FEW", [], "own_network:FEW is of type list; name an nn.Module, or a function or class"),
        ("own_network", [], "For a network of the module own_network write --model own_network:NAME."),
        ("own_network.py:network", [], "name the module, not its file: --model own_network:network in the file's"),
        ("./own_network.py", ["--mean", "0"], "name the module, not its file: --model own_network:NAME in the file's"),
        ("absent_module:network", [], "No module named 'absent_module'"),
    ):  # fmt: skip
        failed = advex_in("evaluate", "-m", model, *given, *EVALUATE, "--out", "failed")
        assert failed.code == (1 if "--size" in given else 2), failed.err
        assert said in failed.err
    assert not Path("failed").exists()


def test_names_are_made_unique() -> None:
    assert numbered(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]
    assert numbered(["a", "a-2", "a"]) == ["a", "a-2", "a-3"]
    assert numbered(["a", "A", "b"]) == ["a", "A-2", "b"]


# -- explain -----------------------------------------------------------------------------------------------


def test_explanations_of_examples_hold_what_they_claim(trained: Path, advex_in: Callable[..., Ended]) -> None:
    ended = advex_in(
        "explain", "--data", "digits", "--index", "0,7", "-m", trained / "first", "--target", "runner-up,3",
        "--rho", "0.05,0.15", "--out", "why", "--json", "-q",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    result = json.loads(ended.out)
    assert result == json.loads(Path("why/explanations.json").read_text())
    classifier = advex.load(trained / "first")
    data = advex.open_dataset("digits", split="test")
    for index, asked in zip((0, 7), result["inputs"], strict=True):
        x = data.batch(slice(index, index + 1)).x
        confidences = classifier.predict(x)[0]
        assert asked["confidences"] == pytest.approx(confidences.tolist())
        assert asked["label"] == data.class_names[int(data.y[index])]
        assert torch.equal(decode_png(Path("why", asked["picture"]).read_bytes()), data.x[index])
        wanted = {int(confidences.argsort(descending=True)[1]), 3}
        assert {one["target"] for one in asked["explanations"]} == wanted
        for one in asked["explanations"]:
            assert one["rmse"] == pytest.approx(one["rho"], abs=1e-4)
            assert one["after"][one["target"]] > one["before"][one["target"]]
            shown = decode_png(Path("why", one["picture"]).read_bytes()).float()[None] / 255
            assert one["png"]["after"] == pytest.approx(classifier.predict(shown)[0].tolist())
            assert one["png"]["rmse"] == pytest.approx((shown - x).square().mean().sqrt().item())
    with Image.open("why/sheet.png") as page:
        # Four rows (two inputs at two rho) of up to 1 + 2 * 2 cells, digits enlarged 16 times.
        assert page.size == (10 + 5 * (128 + 10), 10 + 2 * 17 + 4 + 4 * (128 + 3 * 17 + 10))  # below name and legend


def test_away_lowers_the_class(trained: Path, advex_in: Callable[..., Ended]) -> None:
    command = ["explain", "--data", "digits", "--index", "3", "-m", trained / "first", "--json", "-q"]
    ended = advex_in(*command, "--target", "predicted", "--away")
    (one,) = json.loads(ended.out)["inputs"][0]["explanations"]
    assert one["after"][one["target"]] < 0.5 < one["before"][one["target"]]


def test_pictures_from_files(trained: Path, advex_in: Callable[..., Ended]) -> None:
    Image.new("RGB", (64, 48), (10, 200, 30)).save("some photo.png")
    Path("broken.png").write_bytes(b"\x89PNG\r\n")
    both = advex_in("explain", "some photo.png", "-m", f"{trained / 'first'},{trained / 'second'}", "--target", "all")
    assert both.code == 0, both.err
    assert "64x48 pixels scaled to cover 8x8, the centre cut out" in both.err
    assert "toward 9" in both.out
    for name in ("first", "second"):
        names = {path.name for path in Path("explanations", name).iterdir()}
        assert {"explanations.json", "sheet.png", "some_photo.input.png", "some_photo.toward-9.rho0.1.png"} <= names
        assert len(names) == 3 + 2 * 10
    Path("empty").mkdir()
    for name in ("halves/a", "halves/b"):
        Path(name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(f"{name}/1.png")
    for arguments, code, said in (
        (["broken.png"], 1, "broken.png cannot be read as a picture"),
        (["missing.png"], 2, "missing.png cannot be read as a picture: the file does not exist."),
        (["--data", "halves", "--split", "nosplit"], 2, "halves has no splits, so 'nosplit' does not exist"),
        (["empty"], 1, "empty contains no picture files (.avif,"),
        ([], 2, "Give either picture files, or --data with --index"),
        (["some photo.png", "--size", "3x99999x99999"], 2, "'3x99999x99999' is too large"),
        (["some photo.png", "--size", "3²"], 2, "'3²' is not a size"),
        (["some photo.png", "--max-batch", "²"], 2, "--max-batch '²' must be"),
        (["some photo.png", "--target", "²"], 2, "no class '²'"),
        (["some photo.png", "--target", "cat"], 2, "no class 'cat'"),
        (["some photo.png", "--target", "10"], 2, "no class '10'"),
        (["some photo.png", "--rho", "0.1,2"], 2, "an RMSE must be above 0"),
        (["--data", "digits", "--index", "500"], 2, "--index 500: there are 500 examples, 0 to 499."),
        (["--data", "digits", "--index", "1,-501"], 2, "--index -501: there are 500 examples"),
        (["--data", "digits", "--index", "9-3"], 2, "'9-3' is not a range"),
        (["--data", "digits", "--index", "-3-4"], 2, "'-3-4' is not a range"),
        (["--data", "digits", "--index", "x"], 2, "must be whole numbers"),
        (["--data", "digits", "--index", ""], 2, "--index '' must be whole numbers"),
        (["--data", "digits", "--index", "3,²"], 2, "must be whole numbers"),
    ):
        failed = advex_in("explain", *arguments, "-m", trained / "first", "--out", "failed")
        assert (failed.code, failed.out) == (code, "")
        assert said in failed.err
        assert "100 %" not in failed.err or "--target" in arguments  # nothing was begun


def test_a_folder_of_pictures_is_explained_by_the_bundled_network_where_none_is_named(
    advex_in: Callable[..., Ended],
) -> None:
    Path("photos").mkdir()
    for name in ("b.png", "a.JPG"):
        Image.new("RGB", (40, 32), "red").save(Path("photos") / name, "PNG")
    (Path("photos") / "notes.txt").touch()
    for hidden in (".hidden.png", "._a.JPG"):  # a file system that does not know macOS's attributes has the second
        (Path("photos") / hidden).write_bytes(b"broken")
    ended = advex_in("explain", "photos", "--steps", "1", "--json")
    assert ended.code == 0
    result = json.loads(ended.out)
    assert [each["name"] for each in result["inputs"]] == ["a.JPG", "b.png"]
    assert result["model"] == "cifar10-robust"
    assert "No --model given: using builtin:cifar10-robust" in ended.err
    (Path("photos") / "0.png").write_bytes(b"broken")
    assert shorter_side([Path("photos")]) == 32, "the first that can be read"
    Image.new("RGB", (60, 48), "red").save("photo.png")
    asked = advex_in("explain", "photo.png", "--target", "lion", "--steps", "1", "--out", "larger", "--json")
    assert json.loads(asked.out)["model"] == "photos-robust"
    shown = advex_in("explain", "--data", "cifar10-sample", "--steps", "1", "--out", "of_data", "--json")
    assert json.loads(shown.out)["model"] == "cifar10-robust"


@pytest.mark.parametrize(
    ("name", "made", "said"),
    [("pipe.png", None, "not a file"), ("notes.png", b"not a picture", ""), ("text.png", "large", "")],
)
def test_what_is_no_picture_is_said_before_a_network_is_chosen(
    name: str, made: Any, said: str, advex_in: Callable[..., Ended]
) -> None:
    """A pipe that nobody writes to, no picture, and a picture with a text that is refused when it is unpacked."""
    if made is None:
        os.mkfifo(name)
    elif made == "large":
        text = PngImagePlugin.PngInfo()
        text.add_text("note", "a" * 3_000_000, zip=True)
        Image.new("RGB", (60, 60)).save(name, pnginfo=text)
    else:
        Path(name).write_bytes(made)
    ended = advex_in("explain", name, "--steps", "1")
    assert ended.code == 1
    assert f"{name} cannot be read as a picture: " in ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_examples_are_named_by_ranges_and_from_the_end(trained: Path, advex_in: Callable[..., Ended]) -> None:
    ended = advex_in("explain", "--data", "digits", "--index", "0-2,-1,2", "-m", trained / "first", "--json", "-q")
    ids = advex.open_dataset("digits", split="test").ids
    assert [each["name"] for each in json.loads(ended.out)["inputs"]] == [*ids[:3], ids[-1]]


def test_reproduce_names_no_option_that_it_lacks(advex_in: Callable[..., Ended]) -> None:
    Path("taken").mkdir()
    Path("taken/thesis.txt").touch()
    ended = advex_in("reproduce", "woods2019/I", "--rows", "psi-220", "--out", "taken")
    assert (ended.code, ended.out) == (2, "")
    assert "taken is not empty and not ours (it contains thesis.txt): choose another folder." in ended.err
    assert "--overwrite" not in ended.err


def test_sheets_continue_on_further_lines_and_files(tmp_path: Path) -> None:
    lines = ("a name that is far too long for the picture above it", "second")
    cell = Cell((encode_png(torch.zeros(1, 8, 8)),), lines)
    paths = write_sheets([Row((cell,) * 11)] * 13, tmp_path)
    assert [path.name for path in paths] == ["sheet.png", "sheet-2.png"]
    with Image.open(paths[1]) as page:
        assert page.size == (10 + 9 * 138, 10 + 2 * (128 + 2 * 17 + 10))  # the 13th row on two lines


# -- list and doctor ---------------------------------------------------------------------------------------


def test_list_shows_everything_that_is_registered(advex_in: Callable[..., Ended]) -> None:
    ended = advex_in("list", "--json")
    assert (ended.code, ended.err) == (0, "")
    listed = {(entry["kind"], entry["name"]): entry for entry in json.loads(ended.out)}
    assert listed.keys() == {(kind, name) for kind in registry.ROOMS for name in registry.entries(kind)}
    assert {("recipe", "digits-robust"), ("paper", "woods2019"), ("builtin", "cifar10-robust")} < listed.keys()
    pgd = listed["attack", "pgd"]
    assert pgd["options"]["radius"] == "8/255"
    assert pgd["file"] == "advex/attacks/pgd.py"
    assert all(entry["summary"] and entry["file"] for entry in listed.values())
    text = advex_in("list", "network").out
    assert "network mlp: Fully connected layers" in text
    assert "widths=64-64" in text
    assert advex_in("list", "networks").out == text
    overview = advex_in("list").out.splitlines()
    starts = [overview.index(f"{kind}s") for kind in registry.ROOMS]
    assert starts == sorted(starts)
    columns = {
        line.index("  ", 4) and len(line) - len(line[4:].partition("  ")[2].lstrip())
        for line in overview
        if line[:4] == "    "
    }
    assert len(columns) == 1  # all summaries begin in one column
    assert "builtin cifar10-robust: pre-activation ResNet-14 for CIFAR-10" in advex_in("list", "builtin").out


def test_doctor_finds_nothing_wrong_here(advex_in: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVEX_DATA", raising=False)
    began = time.perf_counter()
    ended = advex_in("doctor", "--json")
    found = {check["name"]: check for check in json.loads(ended.out)["checks"]}
    assert {check["state"] for check in found.values()} <= {"ok", "note"}, ended.out
    assert ended.code == 0
    assert torch.__version__ in found["torch"]["found"]
    assert "ratio" in found["known answer"]["found"]
    assert time.perf_counter() - began < 20
    monkeypatch.setenv("ADVEX_DATA", "nowhere")
    assert advex_in("doctor").code == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "operator torchvision::nms does not exist"),
        ("import os; os.abort()", "the process ended with code -6"),
    ],
)
def test_doctor_survives_a_broken_torchvision(
    code: str, said: str, advex_in: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib" / "torchvision").mkdir(parents=True)
    (tmp_path / "lib" / "torchvision" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    ended = advex_in("doctor")
    assert ended.code == 1
    assert f"cannot be imported: {said}" in ended.out.replace("RuntimeError: ", "")
    assert "does not match this torch" in ended.out
    assert re.search(r"^ok +known answer", ended.out, re.MULTILINE)


# -- demo --------------------------------------------------------------------------------------------------


def test_demo_shows_bundled_networks(advex_in: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    """With smaller ones than it has, to be quick; `test_bundled.py` opens those."""
    assert {name.partition("=builtin:")[2] for name in demo.NETWORKS} == {"photos-ordinary", "photos-robust"}
    assert demo.DATA == "photos-sample"
    monkeypatch.setattr(demo, "NETWORKS", [name.replace("photos", "cifar10") for name in demo.NETWORKS])
    monkeypatch.setattr(demo, "DATA", "cifar10-sample")
    ended = advex_in("demo", "--max-samples", "10", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["models"]
    assert list(found) == ["ordinary", "robust"]
    assert found["robust"]["attack_ara"]["value"] > 2 * found["ordinary"]["attack_ara"]["value"]
    page = Path("demo/report.html").read_text()
    assert "cifar10-sample" in page
    drawn = decode_png(Path("demo/explanations.png").read_bytes())
    assert min(drawn.shape[1:]) > 6 * 100  # six lines of eleven pictures
    assert not Path("demo/runs").exists()


def test_demo_trains_when_asked(advex_in: Callable[..., Ended]) -> None:
    """The whole way, made short; the same command again does nothing twice."""
    command = ["demo", "--train", "--epochs", "2", "--max-samples", "16"]
    ended = advex_in(*command)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "demo/report.html"
    assert "attack ARA" in ended.out
    assert "ordinary - robust" in ended.out
    page = Path("demo/report.html").read_text()
    assert "advex demo --train --epochs 2 --max-samples 16" in page
    again = {path: path.stat().st_mtime_ns for path in Path("demo").rglob("*.safetensors")}
    assert advex_in(*command).code == 0
    assert {path: path.stat().st_mtime_ns for path in again} == again
