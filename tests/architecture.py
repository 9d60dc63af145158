"""Checks of a source tree against the house rules; each takes a tree and returns what breaks it, one line a finding."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "rayrec"
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS, MAX_DEPTH = 299, 79, 8, 4
BASE = (
    *("schema", "config", "storage", "terms", "text", "profiles", "pii", "privacy"),
    *("item_stats", "metrics", "statistics", "tracking"),
)
LAYERS = (
    BASE,
    ("data", "models"),
    ("catalogue",),
    ("train", "evaluate", "export"),
    ("serve", "tune"),
    ("stages",),
    ("cli",),
    ("jobs",),
)
"""Rooms from the ground up: a room imports from lower layers only; in BASE also from each other."""
MAY_DRIVE_RAY = (
    "rayrec/data/prepare.py",
    "rayrec/catalogue.py",
    "rayrec/train/trainer.py",
    "rayrec/train/entry.py",
    "rayrec/tune/search.py",
    "rayrec/tune/trials.py",
    "rayrec/tune/drawing.py",
    "rayrec/evaluate/evaluator.py",
    "rayrec/serve/app.py",
    "rayrec/stages.py",
)
CONFIG_IMPORTS = ("pydantic", "typing", "datetime")
ENTRY_POINTS = ("rayrec.cli", "rayrec.stages")


@dataclass(frozen=True)
class Module:
    """One file of Python.

    Attributes:
        path: relative to the tree.
        source: its text.
        tree: its syntax tree.
    """

    path: Path
    source: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Dotted, as it is imported."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """The room it belongs to: jobs, or the first part below the package."""
        parts = self.path.with_suffix("").parts
        return parts[0] if parts[0] == "jobs" else parts[1] if len(parts) > 1 else ""

    def imports(self) -> Iterator[str]:
        """Every module named by an import anywhere in the file; `from a import b` gives a and a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module, f"{self.path}: `from . import`"
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(root: Path, *folders: str) -> list[Module]:
    """The Python files below some folders of a tree, in order."""
    paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [Module(path.relative_to(root), text, ast.parse(text)) for path, text in zip(paths, texts, strict=True)]


def layer(room: str) -> int | None:
    """Which layer a room stands on."""
    return next((number for number, rooms in enumerate(LAYERS) if room in rooms), None)


def arrow_findings(root: Path) -> list[str]:
    """Imports that do not point down the layers; rooms that no layer knows."""
    found = []
    for module in modules(root, PACKAGE, "jobs"):
        here = layer(module.room)
        if module.path.name == "__init__.py":
            continue
        if here is None:
            found.append(f"{module.path}: the room {module.room!r} is in no layer")
            continue
        for name in module.imports():
            parts = name.split(".")
            if parts[0] != PACKAGE or len(parts) < 2 or parts[1] == module.room:
                continue
            there = layer(parts[1])
            if there is None or there > here or (there == here and here != 0):
                found.append(f"{module.path}: imports {name}")
    return found


def ray_findings(root: Path) -> list[str]:
    """`import ray` where Ray is not driven."""
    return [
        f"{module.path}: imports {name}"
        for module in modules(root, PACKAGE)
        for name in module.imports()
        if name.split(".")[0] == "ray" and not module.path.as_posix().startswith(MAY_DRIVE_RAY)
    ]


def config_findings(root: Path) -> list[str]:
    """A room's config.py that imports more than pydantic, types, other configs; an __init__.py that is not empty."""
    found = []
    for module in modules(root, PACKAGE):
        if module.path.name == "__init__.py" and module.source.strip():
            found.append(f"{module.path}: not empty")
        if module.path.name == "config.py" and len(module.path.parts) > 2:
            found += [
                f"{module.path}: imports {name}"
                for name in module.imports()
                if name.split(".")[0] not in CONFIG_IMPORTS and ".config" not in name
            ]
    return found


def _graph(root: Path, *folders: str) -> dict[str, set[str]]:
    every = {module.name: module for module in modules(root, *folders)}
    return {name: {other for other in module.imports() if other in every} for name, module in every.items()}


def cycle_findings(root: Path) -> list[str]:
    """Import cycles, function-level imports counted."""
    graph = _graph(root, PACKAGE)
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
    return found


def depth_findings(root: Path) -> list[str]:
    """Modules that no entry point (the command line, the stages, a script) reaches by at most MAX_DEPTH imports."""
    graph = _graph(root, PACKAGE, "jobs")
    entries = {name for name in graph if name in ENTRY_POINTS or name.startswith("jobs.")}
    seen, front = set(entries), entries
    for _ in range(MAX_DEPTH):
        front = {other for name in front for other in graph[name]} - seen
        seen |= front
    packages = {module.name for module in modules(root, PACKAGE) if module.path.name == "__init__.py"}
    return [
        f"{name}: not within {MAX_DEPTH} imports of an entry point" for name in sorted(graph.keys() - seen - packages)
    ]


def size_findings(root: Path, *folders: str) -> list[str]:
    """Files, functions and parameter lists that a reader cannot hold."""
    found = []
    for module in modules(root, *folders):
        lines = module.source.count("\n")
        if lines > MAX_FILE:
            found.append(f"{module.path}: {lines} lines")
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in arguments)
            if length > MAX_FUNCTION:
                found.append(f"{module.path}: {node.name} has {length} lines")
            if count > MAX_PARAMETERS:
                found.append(f"{module.path}: {node.name} has {count} parameters")
    return found


def file_map(readme: str) -> list[str]:
    """The paths of the README's file map: an indented tree in the first code block after its heading."""
    block = re.search(r"^## File map\n.*?^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block is not None, "README.md has no code block under '## File map'"
    paths, folders = [], [""]
    for line in block[1].splitlines():
        if not line.strip():
            continue
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[: depth + 1], folders[depth] + name]
        paths.append(folders[-1])
    return paths


def file_map_findings(root: Path) -> list[str]:
    """Paths of the README's file map that do not exist, and modules it does not list."""
    paths = file_map((root / "README.md").read_text(encoding="utf-8"))
    found = [f"{path}: in the README, not in the tree" for path in paths if not (root / path).exists()]
    return found + [
        f"{module.path}: not in the README's file map"
        for module in modules(root, PACKAGE, "jobs")
        if module.path.as_posix() not in paths and module.path.name != "__init__.py"
    ]


def first_code_block_line(readme: str) -> int:
    """The line number of the README's first code block, 0 where there is none."""
    return next((number for number, line in enumerate(readme.splitlines(), 1) if line.startswith("```")), 0)
