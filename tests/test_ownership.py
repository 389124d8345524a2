"""A folder that is written into has one owner, and what breaks off there goes on, whatever it was broken off by."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from advex import progress
from advex.claims import claimed
from advex.errors import AdvexWarning, ArtifactError, SpecError
from advex.files import LOCK, atomic, atomic_folder, is_temporary, write_text
from advex.lookup.folders import opened_folder
from advex.ownership import owned

HOLD = """
import sys
from pathlib import Path
from advex.ownership import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that owns a folder until it is told to go on."""
    command = [sys.executable, "-c", HOLD, str(folder), "--database", "postgresql://me:hidden@host/name"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_the_second_is_told_who_has_a_folder_and_has_it_when_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with holder(folder) as first:
        with pytest.raises(ArtifactError) as told, owned(folder):
            pass
        for words in (str(first.pid), socket.gethostname(), "since 2", str(folder), "me:***@host"):
            assert words in str(told.value)
        assert "hidden" not in str(told.value)
        first.communicate("\n")
    with owned(folder):
        assert [path.name for path in folder.iterdir()] == [LOCK]
    assert not (tmp_path / "deep").exists()  # nothing came of it


def test_what_a_killed_owner_held_and_had_not_finished_is_taken_over(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        unfinished = [tmp_path / f".a.{first.pid:x}-01234567.new", tmp_path / "in" / f".b.{first.pid:x}-01234567.new"]
        others = [tmp_path / f".c.{os.getppid():x}-01234567.new", tmp_path / ".notes.new", tmp_path / "in" / ".d.new"]
        unfinished[1].mkdir(parents=True)
        for path in (unfinished[0], unfinished[1] / "file", *others):
            path.write_text("x")
        first.send_signal(signal.SIGKILL)
    with owned(tmp_path):
        assert [path.exists() for path in unfinished] == [False, False]
        assert [path.exists() for path in others] == [True] * 3  # of a process that lives, and not ours
    assert not (tmp_path / LOCK).exists()


def test_threads_and_forked_processes_of_the_owner(tmp_path: Path) -> None:
    told: list[str] = []

    def other() -> None:
        try:
            with owned(tmp_path):
                pass
        except ArtifactError as error:
            told.append(str(error))

    with owned(tmp_path), owned(tmp_path / "." / "in" / ".."):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        child = os.fork()
        if child == 0:
            try:
                with owned(tmp_path):  # the same work
                    os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert (tmp_path / LOCK).exists()  # the child has not ended the lock
    assert len(told) == 1
    assert "another thread" in told[0]


def test_no_file_in_the_place_of_the_lock_is_written_to_or_waited_for(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for make in (lambda path: path.symlink_to(tmp_path / "mine"), os.mkfifo, os.mkdir):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        make(folder / LOCK)
        with pytest.raises(ArtifactError), owned(folder):
            pass
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EIO", "EACCES", "ESTALE"])
def test_locks_that_fail_are_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number := getattr(errno, name), os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.warns(AdvexWarning, match="has no locks"), owned(tmp_path), claimed(tmp_path, "a") as ours:
        assert ours
    with pytest.warns(AdvexWarning, match="has no locks"), owned(tmp_path, shared=True):
        pass


def test_a_lock_that_another_process_has_is_refused_however_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network drives of Windows say EACCES of a lock that is held."""
    flock = fcntl.flock

    def denied(lock: Any, how: int) -> None:
        try:
            flock(lock, how)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    monkeypatch.setattr(fcntl, "flock", denied)
    with holder(tmp_path) as first:
        with pytest.raises(ArtifactError, match=f"in use by process {first.pid}"), owned(tmp_path):
            pass
        first.communicate("\n")
    with claimed(tmp_path, "a") as ours, claimed(tmp_path, "a") as again:
        assert (ours, again) == (True, False)


def test_a_folder_that_cannot_be_written_is_told_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="cannot be written: Not a directory"), owned(tmp_path / "file" / "out"):
        pass
    (tmp_path / "closed").mkdir(mode=0o500)
    if not os.access(tmp_path / "closed", os.W_OK):  # root may write anywhere
        with pytest.raises(ArtifactError, match="Permission denied"), owned(tmp_path / "closed" / "out"):
            pass


def test_a_folder_is_known_as_ours_until_something_in_it_says_so(tmp_path: Path) -> None:
    def fail(folder: Path, *, leave: tuple[str, ...]) -> None:
        with opened_folder(folder, ("record.json",), overwrite=False):
            for name in leave:
                write_text(folder / name, "x")
            raise RuntimeError

    for leave, left in (
        ((), None),
        (("0.png",), [LOCK, "0.png"]),
        (("0.png", "record.json"), ["0.png", "record.json"]),
    ):
        folder = tmp_path / str(len(leave))
        for _ in range(2):  # the second time it is not refused
            with pytest.raises(RuntimeError):
                fail(folder, leave=leave)
            assert (sorted(path.name for path in folder.iterdir()) if folder.exists() else None) == left
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / ".notes.new").write_text("mine")
    with pytest.raises(SpecError, match="not ours"):
        fail(tmp_path / "theirs", leave=())


def test_temporary_names_are_known(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.b") as file, atomic_folder(tmp_path / "folder") as folder:
        assert is_temporary(file.name)
        assert is_temporary(folder.name)
        assert file.parent == folder.parent == tmp_path
        file.write_text("x")
    assert [is_temporary(name) for name in ("a.new", ".a.new", ".a.txt", ".a.xyz-01234567.new")] == [False] * 4


# -- the verbs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `broken_verbs.py` tells."""
    command = [sys.executable, str(Path(__file__).with_name("broken_verbs.py")), str(tmp_path_factory.mktemp("broken"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("verb", ["evaluate", "compare", "explain", "maps", "generate", "prepare", "train"])
def test_a_verb_that_breaks_off_anywhere_goes_on(verb: str, broken: list[dict[str, Any]]) -> None:
    """Killed before, or refused, any of the system calls that change its folder: told, cleaned up, not locked out."""
    whole, *cases = [told for told in broken if told["verb"] == verb]
    assert whole["code"] == 0, whole["errors"]
    for told in cases:
        where = f"{told['end']} at {told['call']}: {told['errors']} {told['then']}"
        assert told["code"] == (-signal.SIGKILL if told["end"] == "killed" else 1), where
        assert told["end"] == "killed" or (told["errors"].count("error: ") == 1 and not told["unfinished"]), where
        assert told["again"] == 0, where
        assert told["left"] == whole["left"], where
    assert {told["end"] for told in cases} == {"killed", "full", "broken"}
    assert len(cases) >= 6


def test_passwords_are_in_no_command_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["annotate", "prepare", "--database", "postgresql+psycopg://me:p'a:s@s/w@host:5/name?sslpassword=secret"]
    monkeypatch.setattr(sys, "argv", ["advex", *words, "--out", "a:b@c"])
    kept = progress.command_line()
    assert "postgresql+psycopg://me:***@host:5/name?sslpassword=***" in kept
    assert kept.endswith("--out a:b@c")


def test_what_was_not_there_is_not_said_to_be_kept(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / "file" / "below"):
        (tmp_path / "file").write_text("a file")
        with pytest.raises(ArtifactError, match=r"cannot be written: [^.]*\.$"):
            write_text(path, "new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=r"The previous contents are kept\.$"):
        write_text(tmp_path / "folder", "new")
