"""The architecture, read from the source: imports point one way, files stay short, nothing forbidden is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import advex

SOURCE = Path(advex.__file__).parent

# From the ground up. A room may import from its own line and from those above it.
LAYERS = [
    # `record` is the form of the files that evaluations write and reports read: it knows no model.
    (
        "_version", "types", "errors", "geometry", "distances", "features", "randomness", "registry", "options",
        "files", "bars", "progress", "ownership", "claims", "documents", "record", "processes", "precision", "waits",
        "environment", "drawing",
    ),
    # These read folders alone: see `READERS`.
    ("report",),
    ("annotation",),
    ("classifier", "contexts", "inputs", "layers", "logits", "reach", "networks", "bundled", "artifacts", "data",
     "batch_norm", "pretrained", "misnamed", "unpickling"),
    ("corruptions",),
    ("lookup",),
    ("goals",),
    ("attacks",),
    ("explainers",),
    ("objectives",),
    ("measures",),
    ("training", "recipes", "papers"),
    ("tabular",),
    ("explanation",),
    ("evaluation",),
    ("feedback",),
    ("reproduction",),
    ("explore",),
    ("notebook",),
    ("doctor",),
    ("cli", "__main__"),
]  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

LONGEST_FILE = 320
LONGEST_FUNCTION = 80


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(["advex", *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def room_of(module: str) -> str:
    """`advex.attacks.pgd` -> `attacks`; `advex` itself -> ``."""
    return module.split(".")[1] if "." in module else ""


@cache
def text_of(module: str) -> str:
    """The source of a module."""
    return MODULES[module].read_text(encoding="utf-8")


@cache
def nodes_of(module: str) -> tuple[ast.AST, ...]:
    """Every node of a module's syntax tree, the tree itself first. Each file is parsed once for all laws."""
    return tuple(ast.walk(ast.parse(text_of(module))))


@cache
def imports(module: str, *, at_import_time: bool = False) -> tuple[tuple[str, int], ...]:
    """(module, line) of everything a file imports. at_import_time: leave out what functions import when called."""
    left_out = (ast.FunctionDef, ast.AsyncFunctionDef) if at_import_time else ()
    skipped: set[ast.AST] = set()
    for node in nodes_of(module):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if for_types or isinstance(node, left_out):
            skipped.update(ast.walk(node))
    names: list[tuple[str, int]] = []
    for node in nodes_of(module):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [(name if name in MODULES else node.module or "", node.lineno) for name in full]
    return tuple(names)


def none(faults: Iterator[str]) -> None:
    """Fail with all faults at once."""
    listed = list(faults)
    assert not listed, "\n".join(["", *listed])


def test_every_room_has_its_place() -> None:
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms <= LEVEL.keys(), f"not in LAYERS: {rooms - LEVEL.keys()}"


def test_imports_point_up() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            here = room_of(module)
            if not here:
                continue  # advex/__init__.py re-exports everything
            for name, line in imports(module):
                if name.split(".")[0] != "advex":
                    continue
                there = room_of(name)
                if not there:
                    yield f"{module}:{line} imports the package itself: name the module"
                elif LEVEL[there] > LEVEL[here]:
                    yield f"{module}:{line}: '{here}' must not import '{there}'"

    none(faults())


def test_no_module_needs_itself_to_be_imported() -> None:
    """No cycle among what is imported at import time."""
    # A package's __init__ gathers its own files; these may look at their neighbours.
    needs = {
        module: sorted(
            name
            for name in {name for name, _ in imports(module, at_import_time=True)}
            if name in MODULES and name != module and not name.startswith(f"{module}.")
        )
        for module in MODULES
    }
    whole: set[str] = set()  # from here no way leads back

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        if module not in whole:
            for needed in needs[module]:
                visit(needed, (*way, module))
            whole.add(module)

    for module in needs:
        visit(module, ())


def test_attacks_know_nothing_of_explainers() -> None:
    above = ("explainers", "objectives", "measures")
    attacks = [module for module in MODULES if room_of(module) == "attacks"]
    none(f"{module}: {name}" for module in attacks for name, _ in imports(module) if room_of(name) in above)


READERS = ("report", "annotation")


def test_reports_are_made_from_files_alone() -> None:
    """The last third reads record folders: no torch and no model code, not even through another module."""
    waiting = [module for module in MODULES if room_of(module) in READERS]
    seen: dict[str, str] = {module: module for module in waiting}
    while waiting:
        module = waiting.pop()
        for name, line in imports(module):
            way = f"{seen[module]} -> {name} (line {line})"
            assert name.split(".")[0] not in ("torch", "captum", "safetensors"), way
            if name in MODULES and name != "advex" and name not in seen:
                allowed = (*READERS, "record", "registry", "errors", "_version", "files", "documents", "drawing")
                assert room_of(name) in allowed, way
                seen[name] = way
                waiting.append(name)


def test_files_and_functions_stay_short() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            if (lines := len(text_of(module).splitlines())) > LONGEST_FILE:
                yield f"{module} has {lines} lines"
            for node in nodes_of(module):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > LONGEST_FUNCTION:
                        yield f"{module}:{node.lineno} {node.name} has {length} lines"

    none(faults())


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torchvision"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "os.system", "torch.hub.load",
}  # fmt: skip


def test_the_command_line_holds_verbs_alone() -> None:
    lines = sum(len(text_of(module).splitlines()) for module in MODULES if room_of(module) == "cli")
    assert lines <= 2600, f"cli/ has {lines} lines: what is not about typing and showing belongs into the library"


# Of the whole program only `advex convert` opens pickles.
PICKLES = ("advex.unpickling", "torch.load")


def test_pickles_are_opened_in_one_place_for_tensors_alone() -> None:
    assert [module for module in MODULES if any(name == PICKLES[0] for name, _ in imports(module))] == [
        "advex.cli.convert"
    ]
    calls = [ast.unparse(node) for node in nodes_of(PICKLES[0]) if isinstance(node, ast.Call)]
    loads = [call for call in calls if call.startswith("torch.load(")]
    assert loads
    assert all("weights_only=True" in call for call in loads)


def test_nothing_dangerous_is_used() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            for name, line in imports(module):
                if name.split(".")[0] in FORBIDDEN_MODULES:
                    yield f"{module}:{line} imports {name}"
            for node in nodes_of(module):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    if called in FORBIDDEN_CALLS and (module, called) != PICKLES:
                        yield f"{module}:{node.lineno} calls {called}"
                    if keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True":
                        yield f"{module}:{node.lineno} allows pickle or starts a shell"

    none(faults())


def test_who_seeds_the_global_generator_puts_it_back() -> None:
    """Initial weights and dropout know no other generator; a file that seeds it must fork it too."""

    def faults() -> Iterator[str]:
        for module in MODULES:
            called = {ast.unparse(node.func) for node in nodes_of(module) if isinstance(node, ast.Call)}
            if called & {"np.random.seed", "numpy.random.seed", "random.seed", "torch.seed"}:
                yield f"{module} seeds a generator of everybody's"
            if "torch.manual_seed" in called and "torch.random.fork_rng" not in called:
                yield f"{module} seeds torch and does not fork"

    none(faults())


# Methods whose meaning is told once, where the interface is declared.
TOLD_ELSEWHERE = {
    "forward",
    "extra_repr",
    "start",
    "step",
    "better",
    "finished",
    "at",
    "alter",
    "find",
    "attribute",
    "draw",
    "apply",
}


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


def test_everything_public_says_what_it_is() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES:
            tree = nodes_of(module)[0]
            assert isinstance(tree, ast.Module)
            if not ast.get_docstring(tree) and module != "advex._version":
                yield f"{module} has no docstring"
            for name, node in public_things(tree):
                if name.partition(".")[2] in TOLD_ELSEWHERE:
                    continue
                text = ast.get_docstring(node) or ""  # pyright: ignore[reportArgumentType]
                first = text.split("\n")[0]
                sentence = first[:1].isupper() or first[:1] in "`([\"'0123456789" or first.split(" ")[0].islower()
                if not first or len(first) > 120 or not sentence:
                    yield f"{module}: {name}: {first or 'has no docstring'}"

    none(faults())


LEFT_OVER = re.compile(r"\b(TODO|FIXME|XXX|HACK|WIP|PLACEHOLDER)\b|\bbreakpoint\(|\bset_trace\(")


def test_nothing_is_left_over() -> None:
    none(
        f"{module}:{number}: {line.strip()}"
        for module in MODULES
        for number, line in enumerate(text_of(module).splitlines(), 1)
        if LEFT_OVER.search(line)
    )


def test_files_have_names_that_say_something() -> None:
    none(module for module in MODULES if re.search(r"util|helper|manager|misc(?!l)|common", module))


SAY_NOTHING = {"found", "told", "asked", "one", "there"}


def test_values_have_names_that_say_what_they_are() -> None:
    """Of variables and arguments; a field of a file's form keeps the name that it has in files."""

    def faults() -> Iterator[str]:
        for module in MODULES:
            fields = {
                node.target
                for owner in nodes_of(module)
                if isinstance(owner, ast.ClassDef)
                for node in owner.body
                if isinstance(node, ast.AnnAssign)
            }
            for node in nodes_of(module):
                name = node.arg if isinstance(node, ast.arg) else ""
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in fields:
                    name = node.id
                if name in SAY_NOTHING:
                    yield f"{module}:{getattr(node, 'lineno', 0)}: {name}"

    none(faults())
