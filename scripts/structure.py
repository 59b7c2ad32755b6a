#!/usr/bin/env python
"""How the rooms of ``distill`` stand on one another, read off the imports.

    python scripts/structure.py [--imports ROOM]

A room is a name at the top of ``distill/``. Every import counts: at the top of a file, in a function, for types alone.
A name that is taken from a package is followed through ``__init__`` files to the file that defines it. Prints each
room with its floor (one above the highest room that it imports), its files and lines; then circles of rooms, and
imports that run up or along a floor. ``--imports ROOM`` prints where a room's imports lead, one by one.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Import(NamedTuple):
    """One import: the module it stands in, the module that defines what it names, and its line."""

    source: str
    target: str
    line: int


class Structure:
    """The modules of a package, and what they import of it.

    Args:
        package: The package's folder. Links in it are followed.
    """

    def __init__(self, package: Path) -> None:
        self.name = package.name
        files = {_module(path, package): path for path in _sources(package)}
        self.trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in sorted(files.items())}
        self.lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files.items()}
        self.packages = {name for name, path in files.items() if path.name == "__init__.py"}

    def room(self, module: str) -> str:
        """The room that ``module`` stands in: the second part of its name, or the package itself.

        ``python -m distill`` is the command, as everything in ``cli`` is.
        """
        parts = module.split(".")
        return parts[0] if len(parts) == 1 else {"__main__": "cli"}.get(parts[1], parts[1])

    @cached_property
    def imports(self) -> list[Import]:
        """Every import of one module of the package by another."""
        found = []
        for source, tree in self.trees.items():
            for node in ast.walk(tree):
                for target in dict.fromkeys(self._targets(source, node)):
                    if target != source:
                        found.append(Import(source, target, node.lineno))  # type: ignore[attr-defined]
        return found

    def _targets(self, source: str, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in self.trees)
        elif isinstance(node, ast.ImportFrom):
            base = self._base(source, node)
            if base in self.trees:
                yield from (self.home(base, alias.name) for alias in node.names)

    def _base(self, source: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        above = source.split(".")[: -node.level + (source in self.packages) or None]
        return ".".join([*above, *([node.module] if node.module else [])])

    def home(self, module: str, name: str) -> str:
        """The module that defines ``name`` as ``module`` offers it, followed through ``__init__`` files."""
        if f"{module}.{name}" in self.trees:
            return f"{module}.{name}"
        if module in self.packages:
            for node in ast.walk(self.trees[module]):
                if isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        base = self._base(module, node)
                        if (alias.asname or alias.name) == name and base in self.trees and base != module:
                            return self.home(base, alias.name)
        return module

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """Room -> the other rooms that it imports."""
        arrows: dict[str, set[str]] = {self.room(module): set() for module in self.trees}
        for each in self.imports:
            if (low := self.room(each.target)) != (high := self.room(each.source)):
                arrows[high].add(low)
        return arrows

    @cached_property
    def circles(self) -> list[list[str]]:
        """Rooms that import one another, directly or through others."""
        return [sorted(group) for group in components(self.arrows) if len(group) > 1]

    @cached_property
    def floors(self) -> dict[str, int]:
        """Room -> floor; rooms that import none stand on floor 1, those of a circle on one floor."""
        floors: dict[str, int] = {}
        for group in components(self.arrows):
            below = {low for room in group for low in self.arrows[room]} - group
            floors.update(dict.fromkeys(group, 1 + max((floors[low] for low in below), default=0)))
        return floors

    def upward(self, floors: Mapping[str, int]) -> list[Import]:
        """The imports that lead to another room which is not on a lower one of ``floors``."""
        pairs = ((each, self.room(each.source), self.room(each.target)) for each in self.imports)
        return [each for each, high, low in pairs if high != low and floors[low] >= floors[high]]


def components(arrows: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """The strongly connected components of a graph, those that are led to first (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for following in sorted(arrows[node]):
            if following not in index:
                visit(following)
            if following in stack:
                low[node] = min(low[node], low[following])
        if low[node] == index[node]:
            cut = stack.index(node)
            found.append(set(stack[cut:]))
            del stack[cut:]

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


def _sources(package: Path) -> Iterator[Path]:
    for path in sorted(package.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _module(path: Path, package: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imports", metavar="ROOM", help="where this room's imports lead")
    options = parser.parse_args(argv)
    structure = Structure(ROOT / "distill")
    if options.imports:
        for each in structure.imports:
            if structure.room(each.source) == options.imports != structure.room(each.target):
                print(f"{each.source}:{each.line} -> {each.target}")
        return
    files: dict[str, int] = defaultdict(int)
    lines: dict[str, int] = defaultdict(int)
    for module, count in structure.lines.items():
        files[structure.room(module)] += 1
        lines[structure.room(module)] += count
    for room, floor in sorted(structure.floors.items(), key=lambda item: (-item[1], item[0])):
        below = ", ".join(sorted(structure.arrows[room]))
        print(f"{floor:2}  {room:16} {files[room]:3} files {lines[room]:6} lines  -> {below}")
    top = max(structure.floors.values())
    print(f"{len(structure.floors)} rooms on {top} floors; circles: {structure.circles or 'none'}")


if __name__ == "__main__":
    main()
