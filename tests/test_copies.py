"""Copies of one command share a folder: they divide the work, outlive each other, and end with the same tables."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import advex
from advex import bars, claims, processes, progress
from advex.annotation.store import Store
from advex.claims import claimed, forget_claims, in_turn
from advex.cli import main
from advex.errors import ArtifactError
from advex.evaluation import shards
from advex.files import HOST, LOCK, is_temporary, write_new
from advex.lookup import devices
from advex.ownership import owned

HOLD = """
import sys
from pathlib import Path
from advex.ownership import owned
with owned(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("mine", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path, how: str) -> subprocess.Popen[str]:
    """Another process that has a folder until it is told to go on."""
    command = [sys.executable, "-c", HOLD, str(folder), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_folder_is_shared_by_those_that_all_say_so(tmp_path: Path) -> None:
    unfinished = tmp_path / f".a.{2**22 + 1:x}-01234567.new"  # of a process that cannot be
    with holder(tmp_path, "shared") as other:
        unfinished.write_text("x")
        with owned(tmp_path, shared=True), owned(tmp_path):  # of the thread that has it already
            pass
        assert unfinished.exists()  # whose it is is not known while others are in
        with pytest.raises(ArtifactError, match="in use by copies of one command"), owned(tmp_path):
            pass
        other.communicate("\n")
    assert not (tmp_path / LOCK).exists()
    assert not unfinished.exists()  # the last cleans up


def test_a_folder_that_one_has_alone_is_not_shared(tmp_path: Path) -> None:
    with holder(tmp_path, "alone") as other:
        with pytest.raises(ArtifactError, match=f"in use by process {other.pid}"), owned(tmp_path, shared=True):
            pass
        timer = threading.Timer(0.3, lambda: other.communicate("\n"))
        timer.start()
        with owned(tmp_path, shared=True):  # waits for one that is just leaving
            assert (tmp_path / LOCK).exists()
        timer.join()


def test_a_claim_is_of_one_and_ends_with_it(tmp_path: Path) -> None:
    script = "import sys, pathlib; from advex.claims import claimed\n"
    script += "with claimed(pathlib.Path(sys.argv[1]), 'a') as ours: print(ours, flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with claimed(tmp_path, "a") as first, claimed(tmp_path, "b") as second:
            assert (first, second) == (False, True)
        forget_claims(tmp_path)  # a copy with other rows has ended: this one is still at work
        assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]
        with claimed(tmp_path, "a") as ours:
            assert not ours
        other.kill()
    with claimed(tmp_path, "a") as ours:
        assert ours
    forget_claims(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_done_once_is_its_process_s_also_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine as long as it lives, of another as long as its claim is renewed; and no longer."""
    script = "import sys, pathlib, fcntl; from advex.claims import claimed\n"
    script += "def fail(*_): raise OSError('no locks')\nfcntl.flock = fail\n"
    script += "with claimed(pathlib.Path(sys.argv[1]), 'a', once=True) as ours:\n"
    script += "    print(ours, flush=True); sys.stdin.readline()"
    path = tmp_path / ".a.lock"
    monkeypatch.setattr("fcntl.flock", none)
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with claimed(tmp_path, "a", once=True) as ours:
            assert not ours
        with claimed(tmp_path, "b", once=True) as ours:
            assert ours
        forget_claims(tmp_path)
        assert path.exists()
        other.kill()
    assert path.exists()
    with claimed(tmp_path, "a", once=True) as ours:
        assert ours
    assert not path.exists()
    path.write_text("00000000 1")  # of another machine
    with claimed(tmp_path, "a", once=True) as ours:
        assert not ours
    monkeypatch.undo()  # also where each machine sees its own locks alone
    with claimed(tmp_path, "a", once=True) as ours:
        assert not ours
    forget_claims(tmp_path)
    os.utime(path, (time.time() - 200, time.time() - 200))
    with claimed(tmp_path, "a", once=True) as ours:
        assert ours


def test_a_claim_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_RENEWAL", 0.05)
    path = tmp_path / ".a.lock"
    with claimed(tmp_path, "a", once=True):
        os.utime(path, (0, 0))
        until = time.monotonic() + 10
        while path.stat().st_mtime < time.time() - 100:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_what_another_machine_has_not_finished_is_left_alone_for_a_day(tmp_path: Path) -> None:
    theirs = tmp_path / f".record.json.1-{'0' * 16}.new"
    ours = [tmp_path / f".record.json.{2**22:x}-{host}{'0' * 8}.new" for host in ("", HOST)]  # no process has it
    for path in (theirs, *ours):
        path.write_text("half")
        assert is_temporary(path.name)
    with owned(tmp_path):
        assert theirs.exists()
        assert not any(path.exists() for path in ours)
    os.utime(theirs, (time.time() - 100_000, time.time() - 100_000))
    with owned(tmp_path):
        assert not theirs.exists()


def none(*_: Any) -> None:
    """In the place of a call of the system."""
    raise OSError(errno.ENOSYS, "not here")


def test_of_two_that_write_a_new_file_the_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_new(tmp_path / "a", "first")
    write_new(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    monkeypatch.setattr(os, "link", none)
    write_new(tmp_path / "b", "first")
    assert (tmp_path / "b").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(("how", "said"), [("bar", 3), ("note", 1), ("quiet", 0)])
def test_who_waits_says_for_what(
    how: str, said: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.1)
    monkeypatch.setattr(bars, "PERIOD", 0.1)
    monkeypatch.setattr(progress, "_BEAT", 0.0)
    say = progress.Terminal(quiet=how == "quiet")
    with contextlib.ExitStack() as other:
        assert other.enter_context(claimed(tmp_path, "a"))
        threading.Timer(1.5, other.close).start()
        with say.progress("read") if how == "bar" else say.hearing(), in_turn(tmp_path, "a", what="another process"):
            pass
    lines = [line for line in capsys.readouterr().err.splitlines() if "waiting for another process" in line]
    assert min(len(lines), 3) == said
    if how == "bar":
        assert all(line.startswith("read: waiting for another process, 0:0") for line in lines)


def test_ctrl_c_ends_a_wait_at_once(tmp_path: Path) -> None:
    kept = shards.Shards(tmp_path, "digest")
    piece = shards.Piece(model="net", kind="a", index=0, examples=1, make=lambda: pytest.fail("it is another's"))
    with claimed(tmp_path / "shards", "net.a.00000"), progress.stopping() as stop:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(progress.Interrupted, match="the same call resumes"):
            shards.complete(kept, [piece], lambda event: None, stop)
        assert time.monotonic() - began < 2


# -- evaluations -------------------------------------------------------------------------------------------------------


def copies(folder: Path, processes: int, how: str = "") -> tuple[int, list[list[str]]]:
    """How many processes did not end well, and the pieces that each of the others made."""
    told = folder.with_name(f"{folder.name}-told")
    told.mkdir()
    script = str(Path(__file__).with_name("copies.py"))
    command = [sys.executable, script, str(folder), str(told), str(processes), *([how] if how else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    made = [json.loads(path.read_text()) for path in sorted(told.iterdir())]
    assert done.returncode + len(made) == processes, done.stderr
    return done.returncode, made


def tables(folder: Path) -> dict[str, bytes]:
    """The tables and pictures of a record."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".parquet", ".png") and path.parent.name != "shards"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process evaluates."""
    folder = tmp_path_factory.mktemp("alone") / "record"
    assert copies(folder, 1)[0] == 0
    return folder


@pytest.mark.parametrize(("processes", "how"), [(2, ""), (3, ""), (2, "killed"), (2, "without"), (2, "killed-without")])
def test_copies_end_with_the_tables_of_one_process(alone: Path, tmp_path: Path, processes: int, how: str) -> None:
    folder = tmp_path / "record"
    ended, made = copies(folder, processes, how)
    assert ended == ("killed" in how)
    assert tables(folder) == tables(alone)
    assert len(tables(folder)) > 4
    assert sorted(path.name for path in folder.glob("shards/*")) == sorted(p.name for p in alone.glob("shards/*"))
    assert not list(folder.glob("shards/.*"))
    assert all(made)  # each had its part
    every = [piece for pieces in made for piece in pieces]
    twice = len(every) - len(set(every))
    assert twice <= (len(every) // 4 if "without" in how else 0), every


def test_without_locks_a_copy_leaves_alone_what_another_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing numbers them, as in two terminals; in the end it does not wait for the other, which may have died."""
    monkeypatch.setattr("fcntl.flock", none)
    made: list[str] = []

    def pieces(who: str, within: Callable[[], None] = lambda: None) -> list[shards.Piece]:
        def make(index: int) -> pa.Table:
            made.append(f"{who}{index}")
            within()
            return pa.table({"index": [index]})

        return [shards.Piece(model="m", kind="k", index=at, examples=1, make=partial(make, at)) for at in range(4)]

    kept = shards.Shards(tmp_path, "digest")
    first, second = (shards.Maker(kept, lambda event: None, lambda: False) for _ in range(2))

    def other() -> None:
        if made == ["a0"]:
            assert [piece.index for piece in second.tried(pieces("b"))] == [0]
            second.finish(pieces("b"))

    assert not first.tried(pieces("a", other))
    assert made == ["a0", "b1", "b2", "b3", "b0"]
    assert not list(tmp_path.glob("shards/.*"))


SMALL = ["--data", "digits", "--split", "test", "--max-samples", "24", "--batch-size", "4", "--device", "cpu"]
SMALL += ["--attack", "none", "--btr", "minimal:gradients=5", "--explanations", "0", "--maps", "gradient"]


@contextlib.contextmanager
def evaluation(network: Path, folder: Path, *launcher: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`advex evaluate`, started as a user or a cluster does; it ends with the block."""
    unnumbered = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") and name != "RANK"}
    command = [sys.executable, "-m", *launcher, "advex", "evaluate", "--model", f"net={network}", *SMALL, "--out"]
    environment = {**unnumbered, "OMP_NUM_THREADS": "1", **variables}
    with log_of(folder, **variables).open("w") as log:
        process = subprocess.Popen([*command, str(folder)], env=environment, stdout=log, stderr=log, text=True)
        with process:
            try:
                yield process
            finally:
                process.kill()


def log_of(folder: Path, **variables: str) -> Path:
    """What it says."""
    return folder.with_name("-".join([folder.name, "says", *variables.values()]))


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network, and beside it what one process says of it."""
    network = tmp_path_factory.mktemp("network") / "net"
    classes = advex.open_dataset("digits", split="test", max_samples=2).class_names
    advex.save(advex.Classifier("small_cnn:widths=4-4-4", class_names=classes), network)
    with evaluation(network, network.with_name("record")) as task:
        assert task.wait(timeout=200) == 0, log_of(network.with_name("record")).read_text()
    return network


def test_the_tasks_of_a_slurm_array_wait_for_each_other(of_one: Path, tmp_path: Path) -> None:
    """One piece is held back until both have come, and said that they wait for it."""
    folder, alone = tmp_path / "record", of_one.with_name("record")
    folder.mkdir()
    (folder / shards.IDENTITY).write_bytes((alone / shards.IDENTITY).read_bytes())
    variables = [{"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "2"} for number in ("0", "1")]
    logs = [log_of(folder, **each) for each in variables]
    with contextlib.ExitStack() as stack:
        with claimed(folder / "shards", "net.predictions.00000"):
            tasks = [stack.enter_context(evaluation(of_one, folder, **each)) for each in variables]
            until = time.monotonic() + 200
            sentence = "waiting for another process to finish net: predictions (1 of 6)"
            while not all(sentence in log.read_text() for log in logs):
                assert time.monotonic() < until, [log.read_text() for log in logs]
                time.sleep(0.1)
        assert [task.wait(timeout=200) for task in tasks] == [0, 0], [log.read_text() for log in logs]
    assert tables(folder) == tables(alone)
    assert len(tables(folder)) > 2
    assert not list(folder.glob("shards/.*"))


def test_torchrun_starts_copies(of_one: Path, tmp_path: Path) -> None:
    folder = tmp_path / "record"
    with evaluation(of_one, folder, "torch.distributed.run", "--nproc-per-node=2", "-m") as task:
        assert task.wait(timeout=200) == 0, log_of(folder).read_text()
    assert tables(folder) == tables(of_one.with_name("record"))


def test_copies_make_the_project_of_one(tmp_path: Path) -> None:
    """The same pictures, in the same order, with the same numbers; none was made twice."""
    projects = []
    for number in (1, 2):
        folder = tmp_path / f"by-{number}"
        ended, made = copies(folder, number, "project")
        every = [piece for pieces in made for piece in pieces]
        assert ended == 0
        assert len(every) == len(set(every)) == 8
        assert not list(folder.rglob(".*.lock"))
        with contextlib.closing(Store(folder)) as store:
            images = [{**vars(image), "key": "", "_sa_instance_state": None} for image in store.images()]
        names = {name for image in images for name in (image["changed"], image["original"])}
        files = {path.stem: path.read_bytes() for path in (folder / "pictures").iterdir()}
        assert files.keys() == names
        projects.append((images, files, {path.name: pq.read_table(path) for path in folder.glob("made/*/shards/*")}))
    assert projects[0] == projects[1]
    assert len({image["model"] for image in projects[0][0]}) == 2


def test_copies_of_different_commands_are_refused(alone: Path) -> None:
    identity = json.loads((alone / shards.IDENTITY).read_text())
    assert shards.open_shards(alone, identity, resume=True).folder == alone
    with pytest.raises(ArtifactError, match="belongs to another evaluation: seed is"):
        shards.open_shards(alone, {**identity, "seed": 1}, resume=True)


@pytest.mark.parametrize(("variable", "heard"), [("RANK", ""), ("SLURM_PROCID", ""), ("SLURM_ARRAY_TASK_ID", "both")])
def test_copies_in_one_terminal_speak_through_the_first(
    variable: str, heard: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "SLURM_PROCID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for number, expected in (("0", "both"), ("1", heard)):
        monkeypatch.setenv(variable, number)
        with progress.one_voice():
            print("bo", end="")
            print("th", end="", file=sys.stderr)
        assert "".join(capsys.readouterr()) == expected


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_a_task_of_a_farm_is_no_copy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what copies share is said once; and what one of srun's tasks writes into a file of its own is there."""
    for each in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "argv", ["advex", "list", "builtin"])
    with contextlib.suppress(SystemExit):
        main()
    assert "cifar10-robust" in capsys.readouterr().out
    with (tmp_path / "own").open("w+") as file, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", file)
        with progress.one_voice():
            print("mine")
        assert (tmp_path / "own").read_text() == "" if name == "RANK" else "mine\n"


def test_copies_are_stopped_with_one_voice(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    for number, said in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", number)
        with progress.one_voice(), progress.stopping() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop()
        assert ("stopping at the next safe point" in capfd.readouterr().err) == said


def test_what_is_no_number_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("none", ""):
        for name in ("LOCAL_RANK", "SLURM_LOCALID", "WORLD_SIZE", "GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, value)
        assert (processes.on_this_machine(), processes.started()) == (0, 1)
        assert progress.command_line().startswith("advex")  # and not torchrun


def test_a_piece_that_is_taken_away_is_told_and_not_waited_for(tmp_path: Path) -> None:
    kept = shards.Shards(tmp_path, "digest")
    maker = shards.Maker(kept, lambda event: None, lambda: False)
    gone = shards.Piece(model="net", kind="b", index=0, examples=1, make=lambda: kept.read("net", "a", 0))
    assert maker.tried([gone]) == [gone]
    with pytest.raises(ArtifactError, match="was removed or changed during the evaluation"):
        maker.finish([gone])


def test_each_copy_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    assert devices.device_named("auto") == "cuda"
    monkeypatch.setenv("SLURM_LOCALID", "2")
    assert devices.device_named("auto") == "cuda:2"
    monkeypatch.setenv("LOCAL_RANK", "5")  # fewer GPUs than copies share them
    assert devices.device_named("cuda") == "cuda:1"
    assert devices.device_named("cuda:3") == "cuda:3"
