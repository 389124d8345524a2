"""The architecture, read from the source: imports point one way, files stay short, nothing forbidden is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import advex

SOURCE = Path(advex.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
EVERY = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))

# From the ground up. A room may import from its own line and from those above it.
LAYERS = [
    # `record` is the form of the files that evaluations write and reports read: it knows no model.
    (
        "_version", "types", "errors", "geometry", "distances", "features", "randomness", "registry", "files",
        "progress", "record", "processes", "precision", "environment", "drawing",
    ),
    # These read folders alone: see `READERS`.
    ("report",),
    ("annotation",),
    ("classifier", "networks", "bundled", "artifacts", "data", "batch_norm"),
    ("lookup",),
    ("goals",),
    ("attacks",),
    ("explainers",),
    ("objectives",),
    ("measures",),
    ("training", "recipes", "papers"),
    ("tabular",),
    ("evaluation",),
    ("explanation",),
    ("feedback",),
    ("reproduction",),
    ("explore",),
    ("doctor",),
    ("cli", "__main__"),
]  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

LONGEST_FILE = 320
LONGEST_FUNCTION = 80


def room_of(module: str) -> str:
    """`advex.attacks.pgd` -> `attacks`; `advex` itself -> ``."""
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(["advex", *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {module_of(path): path for path in FILES}


def for_types_only(tree: ast.AST) -> set[ast.AST]:
    """Nodes under `if TYPE_CHECKING:`."""
    return {
        inside
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inside in ast.walk(node)
    }


def imports(path: Path, *, at_import_time: bool = False) -> Iterator[tuple[str, int]]:
    """(module, line) of everything a file imports. at_import_time: leave out what functions import when called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = for_types_only(tree)
    if at_import_time:
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        skipped |= {inside for function in functions for inside in ast.walk(function)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in MODULES else node.module or "", node.lineno)


def test_every_room_has_its_place() -> None:
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms <= LEVEL.keys(), f"not in LAYERS: {rooms - LEVEL.keys()}"


@EVERY
def test_imports_point_up(path: Path) -> None:
    here = room_of(module_of(path))
    if not here:
        return  # advex/__init__.py re-exports everything
    for module, line in imports(path):
        if module.split(".")[0] != "advex":
            continue
        there = room_of(module)
        assert there, f"{path.name}:{line} imports the package itself: name the module"
        assert LEVEL[there] <= LEVEL[here], f"{path.name}:{line}: '{here}' must not import '{there}'"


def test_no_module_needs_itself_to_be_imported() -> None:
    """No cycle among what is imported at import time."""
    needs = {
        module: {name for name, _ in imports(path, at_import_time=True) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        # A package's __init__ gathers its own files; these may look at their neighbours.
        for needed in needs[module]:
            if not needed.startswith(f"{module}."):
                visit(needed, (*way, module))

    for module in needs:
        visit(module, ())


@EVERY
def test_attacks_know_nothing_of_explainers(path: Path) -> None:
    if room_of(module_of(path)) == "attacks":
        assert not [name for name, _ in imports(path) if room_of(name) in ("explainers", "objectives", "measures")]


READERS = ("report", "annotation")


def test_reports_are_made_from_files_alone() -> None:
    """The last third reads record folders: no torch and no model code, not even through another module."""
    waiting = [module for module in MODULES if room_of(module) in READERS]
    seen: dict[str, str] = {module: module for module in waiting}
    while waiting:
        module = waiting.pop()
        for name, line in imports(MODULES[module]):
            way = f"{seen[module]} -> {name} (line {line})"
            assert name.split(".")[0] not in ("torch", "captum", "safetensors"), way
            if name in MODULES and name != "advex" and name not in seen:
                assert room_of(name) in (*READERS, "record", "errors", "_version", "files", "drawing"), way
                seen[name] = way
                waiting.append(name)


@EVERY
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path.name}:{node.lineno} {node.name} has {length} lines"


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torchvision"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "os.system", "torch.hub.load",
}  # fmt: skip


@EVERY
def test_nothing_dangerous_is_used(path: Path) -> None:
    for name, line in imports(path):
        assert name.split(".")[0] not in FORBIDDEN_MODULES, f"{path.name}:{line} imports {name}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in FORBIDDEN_CALLS, f"{path.name}:{node.lineno} calls {called}"
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("allow_pickle") != "True", f"{path.name}:{node.lineno} allows pickle"
            assert keywords.get("shell") != "True", f"{path.name}:{node.lineno} starts a shell"


@EVERY
def test_who_seeds_the_global_generator_puts_it_back(path: Path) -> None:
    """Initial weights and dropout know no other generator; a file that seeds it must fork it too."""
    text = path.read_text(encoding="utf-8")
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
    assert not called & {"np.random.seed", "numpy.random.seed", "random.seed", "torch.seed"}
    assert "torch.manual_seed" not in called or "torch.random.fork_rng" in called


# Methods whose meaning is told once, where the interface is declared.
TOLD_ELSEWHERE = {"forward", "extra_repr", "start", "step", "better", "finished", "alter"}


def public_things(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """(name, node) of public functions and classes, and of the public methods of public classes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, kinds) and not method.name.startswith("_"):
                        yield f"{node.name}.{method.name}", method


@EVERY
def test_everything_public_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or path.name == "_version.py", "the file"
    for name, node in public_things(tree):
        if name.partition(".")[2] in TOLD_ELSEWHERE:
            continue
        text = ast.get_docstring(node)  # pyright: ignore[reportArgumentType]
        assert text, f"{name} has no docstring"
        assert len(text.split("\n")[0]) <= 120, name
        assert text[0].isupper() or text[0] in "`([\"'0123456789" or text.split()[0].islower(), name


LEFT_OVER = re.compile(r"\b(TODO|FIXME|XXX|HACK|WIP|PLACEHOLDER)\b|\bbreakpoint\(|\bset_trace\(")


@EVERY
def test_nothing_is_left_over(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not LEFT_OVER.search(line), f"{path.name}:{number}: {line.strip()}"


@EVERY
def test_names_say_something(path: Path) -> None:
    assert not re.search(r"util|helper|manager|misc|common", path.stem)
