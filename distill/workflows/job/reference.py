"""What a command can name: losses, callbacks, tasks, targets, recipes, ..., read off the source. Light: no torch.

The classes' files are parsed, not imported: importing what they import takes ten seconds where the list takes a tenth.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from distill.config.files import recipes
from distill.core.utils.console import wide

__all__ = ["Entry", "catalogue", "show"]

_HERE = Path(__file__).parents[2]
_TARGETS = "export/onnx/write.py", "export/onnx/half.py", "export/gguf/target.py"
_BASES = ("compression/base.py", "core/step_callback.py", "core/internals/lightning.py")  # of callbacks


class Entry(NamedTuple):
    """One thing that can be named: its name, what it is, and the defaults of its arguments."""

    name: str
    summary: str
    defaults: str


def catalogue(kinds: Iterable[str] | None = None) -> dict[str, list[Entry]]:
    """Everything of these kinds, or of all that there are."""
    made: dict[str, Callable[[], list[Entry]]] = {
        "losses": lambda: _classes(_Room("losses"), "DistillationLoss"),
        "schedules": lambda: _classes(_Room("core/schedules.py"), "Schedule"),
        "callbacks": lambda: _classes(_Room("callbacks", *_BASES), "Callback", "ModelCheckpoint"),
        "tasks": lambda: _tasks(_Room("tasks", "core/task.py")),
        "targets": lambda: _targets(
            _Room("export", "export/onnx/write.py", "export/onnx/half.py", "export/gguf/target.py")
        ),
        "recipes": lambda: [Entry(name, _comment(path), f"distill fit -c {name}") for name, path in recipes().items()],
    }
    return {kind: made[kind]() for kind in kinds or made}


class _Room:
    """The classes of a package, or of a module, as they are written.

    Args:
        place: A folder or file of the package.
        bases: Files of other rooms, which hold classes that these are made of.
    """

    def __init__(self, place: str, *bases: str) -> None:
        path = _HERE / place
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        files += [_HERE / base for base in bases]
        trees = {file.stem: ast.parse(file.read_text(encoding="utf-8")) for file in files}
        self.main = trees.get("__init__") or next(iter(trees.values()))
        self.classes = {n.name: n for tree in trees.values() for n in tree.body if isinstance(n, ast.ClassDef)}
        self._values = {name: value for tree in trees.values() for name, value in _assigned(tree.body)}

    def value(self, name: str) -> ast.expr:
        """What is assigned to ``name`` at the top of a file."""
        return self._values[name]

    def named(self, name: str) -> Iterator[str]:
        """The classes in what is assigned to ``name``, in other such names too."""
        nodes = self._values[name].elts if isinstance(self._values[name], ast.Tuple) else []  # type: ignore[attr-defined]
        for node in (n.value if isinstance(n, ast.Starred) else n for n in nodes):
            if isinstance(node, ast.Name):
                yield from [node.id] if node.id in self.classes else self.named(node.id)

    @property
    def public(self) -> list[str]:
        """The names that the package, or the module, offers."""
        names = next(value for name, value in _assigned(self.main.body) if name == "__all__")
        return [str(name) for name in ast.literal_eval(names)]

    def lineage(self, name: str) -> list[ast.ClassDef]:
        """A class and its bases, as far as they are written here."""
        found = [self.classes[name]] if name in self.classes else []
        return found + [one for cls in found for base in cls.bases for one in self.lineage(_last(base))]

    def bases(self, name: str) -> set[str]:
        """The names of all bases, those that are written elsewhere included."""
        return {_last(base) for cls in self.lineage(name) for base in cls.bases}

    def abstract(self, name: str) -> bool:
        """Whether a method is left to be written."""
        missing: set[str] = set()
        for cls in reversed(self.lineage(name)):
            for method in (n for n in cls.body if isinstance(n, ast.FunctionDef)):
                (missing.add if _decorated(method, "abstractmethod") else missing.discard)(method.name)
        return bool(missing)

    def attribute(self, name: str, key: str) -> Any:
        """What a class or a base sets ``key`` to, a literal; ``None`` where it is worked out, or not there."""
        for cls in self.lineage(name):
            for there, value in _assigned(cls.body):
                if there == key:
                    return ast.literal_eval(value)
            if any(isinstance(n, ast.FunctionDef) and n.name == key for n in cls.body):
                return None
        return None

    def defaults(self, name: str) -> str:
        """The arguments of a class with their defaults, as in Python; names of constants stand for their values."""
        for cls in self.lineage(name):
            init = next((n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
            if init is not None:
                return ", ".join(self._argument(*pair) for pair in _arguments(init.args))
            if _decorated(cls, "dataclass"):
                return ", ".join(self._argument(*pair) for pair in self._fields(name))
        elsewhere = [base for base in self.bases(name) if base not in self.classes and base != "ABC"]
        return f"as {', '.join(elsewhere)}" if elsewhere else ""

    def _fields(self, name: str) -> Iterator[tuple[str, ast.expr | None]]:
        fields: dict[str, ast.expr | None] = {}
        for cls in reversed(self.lineage(name)):
            for n in cls.body:
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and "ClassVar" not in ast.dump(n):
                    fields[n.target.id] = n.value
        return iter(fields.items())

    def _argument(self, name: str, default: ast.expr | None) -> str:
        if default is None:
            return name
        if isinstance(default, ast.Name):
            default = self._values.get(default.id, default)
        return f"{name}={ast.unparse(default)}"


def _assigned(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """The names that are assigned to, with their values."""
    for n in body:
        targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name) and n.value is not None:  # type: ignore[attr-defined]
                yield target.id, n.value  # type: ignore[attr-defined]


def _arguments(given: ast.arguments) -> Iterator[tuple[str, ast.expr | None]]:
    plain = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    yield from ((argument.arg, default) for argument, default in zip(plain[1:], defaults[1:], strict=True))
    yield from ((f"*{more.arg}", None) for more in (given.vararg,) if more)
    yield from ((argument.arg, default) for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True))
    yield from ((f"**{more.arg}", None) for more in (given.kwarg,) if more)


def _last(name: ast.expr) -> str:
    """``c`` of ``a.b.c`` and of ``c[T]``."""
    return ast.unparse(name).split("[")[0].rsplit(".", 1)[-1]


def _decorated(node: ast.FunctionDef | ast.ClassDef, name: str) -> bool:
    return any(_last(d.func if isinstance(d, ast.Call) else d) == name for d in node.decorator_list)


def _classes(room: _Room, *bases: str) -> list[Entry]:
    kept = (name for name in sorted(room.public) if room.bases(name) & {*bases} and not room.abstract(name))
    return [Entry(name, _summary(room.classes[name]), room.defaults(name)) for name in kept]


def _tasks(room: _Room) -> list[Entry]:
    """The tasks in the order of ``TASKS``."""
    named = [n.id for n in ast.walk(room.value("TASKS")) if isinstance(n, ast.Name) and n.id in room.classes]
    entries = []
    for cls in named:
        columns: Mapping[str, Any] | None = room.attribute(cls, "columns")
        monitor = room.attribute(cls, "monitor")
        parts = [f"columns {', '.join(columns)}"] if columns else []
        parts += [f"best by {monitor}"] if monitor else []
        entries.append(Entry(room.attribute(cls, "name"), _summary(room.classes[cls]), "; ".join(parts)))
    return entries


def _targets(room: _Room) -> list[Entry]:
    """The export targets in the order of ``TARGETS``, which is made of ``_KINDS``."""
    names = {cls: room.attribute(cls, "name") for cls in dict.fromkeys(room.named("_KINDS"))}
    return [
        Entry(name, _summary(room.classes[cls]), f"distill export RUN --to {name}")
        for cls, name in names.items()
        if name
    ]


def _summary(cls: ast.ClassDef) -> str:
    """The first paragraph of the docstring."""
    lines = (ast.get_docstring(cls) or "").split("\n\n")[0].split("\n")
    return " ".join(line.strip() for line in lines)


def _comment(path: Path) -> str:
    """The first sentence of the comment that opens a recipe."""
    text: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text.append(line.lstrip("# ").strip())
        if text[-1].endswith("."):
            break
    return " ".join(text)


def show(kinds: Iterable[str] | None = None, console: Console | None = None) -> None:
    """Print the catalogue."""
    console = console or wide()
    for kind, entries in catalogue(kinds).items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None, pad_edge=False)
        for ratio in (2, 5, 4):
            table.add_column(ratio=ratio, overflow="fold")
        for entry in entries:
            table.add_row(*entry)
        console.print(table)
        console.print()
