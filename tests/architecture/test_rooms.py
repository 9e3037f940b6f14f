"""The shape of the code: which room may know which, and what no file may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import khala

SOURCE = Path(khala.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}

BASE = frozenset({"errors", "song", "processes", "hub", "machine", "containers"})
MODELS = BASE | {"audio", "nn", "tokens", "checkpoint", "codec", "backbone", "superres", "adapter"}
EVERYTHING = MODELS | {
    "convert",
    "synth",
    "corpus",
    "train",
    "recipes",
    "infer",
    "evals",
    "serve",
    "client",
    "commands",
}
ALLOWED = {
    "errors": frozenset(),
    "song": frozenset({"errors"}),
    "processes": frozenset(),
    "containers": frozenset(),
    "hub": frozenset(),
    "machine": frozenset({"errors"}),
    "client": frozenset({"errors"}),
    "audio": BASE,
    "nn": BASE,
    "tokens": BASE,
    "checkpoint": BASE,
    "codec": BASE | {"audio", "nn", "checkpoint"},
    "backbone": BASE | {"nn", "tokens", "checkpoint"},
    "superres": BASE | {"nn", "tokens", "checkpoint", "backbone"},
    "adapter": BASE | {"nn", "checkpoint"},
    "synth": BASE | {"audio"},
    "convert": MODELS,
    "corpus": BASE | {"audio", "checkpoint", "codec", "tokens"},
    "train": MODELS | {"corpus", "recipes"},
    "recipes": MODELS | {"train"},
    "infer": MODELS | {"convert"},
    "evals": MODELS | {"convert", "corpus", "synth", "train", "recipes", "infer"},
    "serve": BASE | {"audio", "tokens", "infer"},
    "commands": EVERYTHING,
    "cli": EVERYTHING,
    "__main__": frozenset({"cli"}),
    "__init__": MODELS | {"infer"},
}
LAZY = {("song", "codec"), ("song", "checkpoint")}
"""Song.waveform() plays itself: the one import inside a function that points upwards."""

MAX_LINES = 500
MAX_FUNCTION_LINES = 80
NO_SUBJECT = {"utils", "util", "helpers", "helper", "common", "misc", "base", "tools"}
NO_TORCH = {"errors", "song", "cli", "commands", "__init__", "__main__"}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports anywhere, absolute, with the line."""
    package = ["khala", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if base == "khala" else base, node.lineno


def test_the_service_loads_models_in_one_file() -> None:
    """A server that answers while models are loaded elsewhere must not load torch itself."""
    for path in FILES:
        if room_of(path) == "serve" and path.name != "maker.py":
            assert not [one for one, _ in imports(path) if one.startswith("khala.infer")], path


def test_every_room_has_arrows() -> None:
    """A new room that nobody drew into the map would be the first one nobody can find."""
    assert {room_of(path) for path in FILES} <= ALLOWED.keys()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows(path: Path) -> None:
    """A room that reaches where it must not drags training into a player, or torch into a form."""
    room = room_of(path)
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] != "khala" or len(parts) < 2 or parts[1] in (room, "__version__"):
            continue
        known = parts[1] in ALLOWED[room] or (room, parts[1]) in LAZY
        assert known, f"{name_of(path)}:{line}: {room} must not import {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path: Path) -> None:
    """A file that cannot be read in one sitting hides its mistakes."""
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.stem not in NO_SUBJECT, "a file has one subject, and its name says which"
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{name_of(path)}:{node.lineno}: {node.name}"


def is_mutable(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        return name in {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter"}
    literals = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    return isinstance(node, literals)


def touched(tree: ast.Module, name: str) -> bool:
    """Whether anything in the file changes the object called ``name`` in place."""
    methods = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "clear"}
    for node in ast.walk(tree):
        stored = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
        called = isinstance(node, ast.Attribute) and node.attr in methods
        value = getattr(node, "value", None)
        if (stored or called) and isinstance(value, ast.Name) and value.id == name:
            return True
    return False


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_state_and_no_effect_at_import(path: Path) -> None:
    """One song must not depend on which song was made before it, or on who imported what."""
    tree = TREES[path]
    for node in tree.body:
        where = f"{name_of(path)}:{node.lineno}"
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert docstring or not isinstance(node, ast.Expr | ast.For | ast.While | ast.With), where
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_mutable(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                assert isinstance(target, ast.Name), where
                constant = target.id == "__all__" or target.id.isupper()
                assert constant, f"{where}: {target.id} is mutable and not a constant"
                assert not touched(tree, target.id), f"{where}: {target.id} is changed in place"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), f"{name_of(path)}:{node.lineno}: global"


BANNED = {
    "torch.load": "pickle",
    "torch.save": "pickle",
    "np.load": "pickle",
    "numpy.load": "pickle",
    "np.random.seed": "global randomness",
    "random.seed": "global randomness",
    "os.system": "a shell",
    "os.chdir": "global state",
    "os.putenv": "global state",
    "eval": "code from data",
    "exec": "code from data",
    "breakpoint": "left over",
}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_banned_calls(path: Path) -> None:
    """A model file from a stranger can never run code, and no room prints over another's output."""
    may_print = room_of(path) in ("cli", "commands")
    for node in ast.walk(TREES[path]):
        if not isinstance(node, ast.Call):
            continue
        where = f"{name_of(path)}:{node.lineno}"
        name = ast.unparse(node.func)
        assert name not in BANNED, f"{where}: {name}: {BANNED[name]}"
        assert name != "print" or may_print, f"{where}: print"
        for keyword in node.keywords:
            shell = keyword.arg == "shell" and ast.unparse(keyword.value) != "False"
            assert not shell, f"{where}: shell"
    for module, line in imports(path):
        root = module.split(".")[0]
        assert root not in {"torchaudio", "torchvision"}, f"{name_of(path)}:{line}: {module}"


def test_light_imports() -> None:
    """`khala --help` and a form that only checks a request answer at once, without torch."""
    code = (
        "import sys, khala, khala.errors, khala.song, khala.audio, khala.cli\n"
        "khala.SongRequest, khala.Song, khala.KhalaError\n"
        "bad = {'torch', 'scipy', 'matplotlib', 'soundfile', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_module_level_torch_in_light_files() -> None:
    """The same, seen in the text, so the message names the line."""
    for path in FILES:
        if room_of(path) in NO_TORCH:
            for node in TREES[path].body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    assert "torch" not in ast.unparse(node), f"{name_of(path)}:{node.lineno}"


def test_names_in_all_exist() -> None:
    """`from khala.x import y` works for every name a room offers."""
    for path in FILES:
        names = {
            element.value
            for node in TREES[path].body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for element in getattr(node.value, "elts", [])
            if isinstance(element, ast.Constant)
        }
        bound = {name for node in TREES[path].body for name in bound_by(node)}
        if "__getattr__" not in bound:
            assert names <= bound, f"{name_of(path)}: {names - bound}"


def bound_by(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(node, ast.If | ast.Try):
        for inner in node.body:
            yield from bound_by(inner)
