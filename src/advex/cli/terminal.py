"""What a verb says and how it ends: data on stdout, progress and errors on stderr, exit codes, signals.

Exit codes: 0 done, 1 failed, 2 asked for something that does not exist, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, ParamSpec

from advex.errors import AdvexError, AdvexWarning, SpecError, visible, why_unusable
from advex.progress import Interrupted, Terminal, command_line, one_voice, plain

P = ParamSpec("P")
Voice = Callable[[], contextlib.AbstractContextManager[None]]

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def verb(function: Callable[P, None], voice: Voice = contextlib.nullcontext) -> Callable[P, None]:
    """A command whose failures are one line on stderr and an exit code; with `verbose` also the traceback.

    A fault of ours is a traceback in any case; one that arises in a plugin's code is a line that names it. voice: what
    else it says is said inside this.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with _warnings_in_one_line():
            try:
                with voice(), Terminal(quiet=bool(kwargs.get("quiet"))).hearing():
                    try:
                        function(*args, **kwargs)
                    except Interrupted as interrupted:
                        resume_later(interrupted)
            except BrokenPipeError:
                raise  # the reader of our output has left: no failure of ours
            except KeyboardInterrupt:
                fail("interrupted.", INTERRUPTED)
            except MemoryError:
                fail("out of memory. Use fewer examples (--max-samples), smaller pictures or smaller batches.", FAILED)
            except (AdvexError, OSError) as error:
                if kwargs.get("verbose"):
                    import traceback

                    traceback.print_exc()
                fail(str(error), code_of(error))
            except Exception as error:
                if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
                    fail("the GPU is out of memory. Use smaller batches or pictures, or --device cpu.")
                from advex.registry.plugins import owner_of

                owner = owner_of(error)
                if owner is None or kwargs.get("verbose"):
                    raise
                distribution, module = owner
                what = f"{type(error).__name__}: {error}"
                fail(f"{distribution}: its plugin '{module}' failed ({what}). --verbose shows where.")

    return run


shared_verb = functools.partial(verb, voice=one_voice)  # of processes that carry it out together the first speaks


def code_of(error: BaseException | None) -> int:
    """2 for what names something that does not exist or cannot be meant, else 1."""
    return USAGE if isinstance(error, SpecError | FileNotFoundError) or getattr(error, "absent", False) else FAILED


def fail(sentence: str, code: int = FAILED) -> NoReturn:
    """End with one line on stderr."""
    print(f"error: {visible(sentence, one_line=True)}", file=sys.stderr)
    sys.exit(code)


def refuse(error: Any, typed: str) -> NoReturn:
    """End with what is wrong with a command: an exception of Typer's. typed: the command, `advex VERB`."""
    if type(error).__name__ == "NoArgsIsHelpError":  # nothing was typed: the help is the answer
        error.show()
        sys.exit(USAGE)
    fail(f"{why_unusable(error, typed)} See {error.ctx.command_path if error.ctx else typed} --help", USAGE)


def resume_later(interrupted: Interrupted) -> NoReturn:
    """End, all processes of a run alike, saying what was kept and how to go on."""
    from advex import processes  # heavy: only when stopped

    number = int(processes.largest(interrupted.signal))  # the signal may have come to another process alone
    again = command_line("--no-resume", "--overwrite")
    print(visible(f"{interrupted}\nresume with: {again}"), file=sys.stderr, flush=True)
    processes.wait()  # where one process ends, torchrun ends the others
    sys.exit(128 + number)


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    before, said = warnings.showwarning, set[str]()

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if issubclass(category, AdvexWarning):
            if str(message) not in said:  # a doubt about a model arises wherever the model is asked
                warn(message)
            said.add(str(message))
        else:
            before(message, category, filename, lineno, *rest)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


# -- saying ------------------------------------------------------------------------------------------------


def emit(text: str) -> None:
    """Data, on stdout; without the control characters that names in files may hold."""
    print(visible(text), flush=True)


def warn(sentence: object) -> None:
    """One line on stderr about what makes a result less trustworthy."""
    print(f"warning: {visible(sentence, one_line=True)}", file=sys.stderr)


def emit_json(value: Any) -> None:
    """Strict JSON on stdout: no NaN, no infinity."""
    emit(json.dumps(value, allow_nan=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """A table on stdout; without a terminal as plain columns of any width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_plain = plain(sys.stdout)
    console = Console(file=sys.stdout, force_terminal=False if is_plain else None, width=1000 if is_plain else None)
    above = None if title is None else Text(visible(title, one_line=True))
    drawn = Table(box=box.SIMPLE_HEAD, title=above, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        drawn.add_column(Text(visible(column, one_line=True)), overflow="fold")
    for row in rows:  # Text: brackets in a user's names are not markup
        drawn.add_row(*[Text(visible(cell)) for cell in row])
    with console.capture() as captured:
        console.print(drawn)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)
