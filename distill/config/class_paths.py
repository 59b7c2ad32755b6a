"""Which classes a configuration may name: a list of packages, checked before anything of them is imported.

A configuration is often somebody else's. Importing a module runs it, so a ``class_path`` is looked at twice:
:func:`check` walks the configuration and gives the message, and :func:`only_allowed_imports` has jsonargparse itself
refuse whatever else would be imported while values are parsed and objects are made, wherever it was hidden.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.config.files import SPEC
from distill.config.yaml import Loader
from distill.core.utils.errors import UserError

__all__ = ["PACKAGES", "check", "check_classes", "check_path", "classes_in", "only_allowed_imports"]

PACKAGES = ("distill", "pytorch_lightning", "lightning", "lightning_fabric", "torch", "torchmetrics")
"""Packages whose classes may always be named."""

REFUSED = (
    "torch.classes",
    "torch.distributed.elastic",
    "torch.distributed.run",
    "torch.export",
    "torch.hub",
    "torch.jit",
    "torch.load",
    "torch.ops",
    "torch.package",
    "torch.save",
    "torch.serialization",
    "torch.utils.collect_env",
    "torch.utils.cpp_extension",
    "torch.utils.model_zoo",
    "torch.utils.show_pickle",
)
"""Parts of these packages that load code or run programs; no configuration needs them."""

# Where a bare text names a class.
_NAMES = frozenset({"data", "callbacks", "model.losses"})


def check(value: Any, allowed: Sequence[str]) -> None:
    """Refuse a configuration that names a class outside ``allowed`` and :data:`PACKAGES`.

    Raises:
        UserError: naming the key.
    """
    for key, path in _named(value):
        check_path(path, allowed, key)


def _beside(value: Any, key: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every argument that stands beside the class that it is of: its key, its value, and the class."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            named = value["class_path"]
            yield from ((f"{key}.{name}", item, named) for name, item in value.items() if name not in SPEC)
        for name, item in value.items():
            yield from _beside(item, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _beside(item, f"{key}.{index}")


def check_classes(value: Any) -> None:
    """Refuse a configuration that names what is no class (a function that returns one), or arguments beside one.

    Imports what is named, so :func:`check` comes first, and this inside :func:`only_allowed_imports`.

    Raises:
        UserError: naming the key.
    """
    from distill.core.internals.jsonargparse import import_object

    for key, path in _named(value):
        try:
            found = import_object(path) if "." in path else object
        except Exception:  # importing runs the user's module; what it raises is reported where the class is needed
            continue
        if not inspect.isclass(found):
            raise UserError("is no class", key=key, value=path, hint="name a class")
    for key, argument, path in _beside(value):
        hint = "write it below init_args, two blanks further in"
        raise UserError(f"stands beside class_path: {path}", key=key, value=argument, hint=hint)


def _named(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every place where a class is named, and what stands there."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield f"{key}.class_path", value["class_path"]
        for name, item in value.items():
            yield from _named(item, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str) and key in _NAMES:
                yield f"{key}.{index}", item
            yield from _named(item, f"{key}.{index}")
    elif isinstance(value, str) and key in _NAMES:
        yield key, value


def classes_in(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every place of ``value``, which stands at ``key``, that names a class, and the class's own name."""
    for place, path in _named(value, key):
        yield place.removesuffix(".class_path"), str(path).rsplit(".", 1)[-1]


def check_path(path: Any, allowed: Sequence[str], key: str) -> None:
    """Refuse ``path`` if it does not look like the path of a class in an allowed package.

    Raises:
        UserError: naming the key.
    """
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise UserError(
            "must be the name of a class, or its dotted path", key=key, value=path, hint="`distill list` shows names"
        )
    if "." not in path:
        return  # a short name can only mean what is imported already; jsonargparse looks it up
    package = path.split(".", 1)[0]
    if not any(path == prefix or path.startswith(f"{prefix}.") for prefix in (*PACKAGES, *allowed)):
        raise UserError(
            f"classes of the package {package!r} may not be named here; nothing of it was imported",
            key=key,
            value=path,
            hint=f"if you trust it, add --allow {package}",
        )
    if any(path == refused or path.startswith(f"{refused}.") for refused in REFUSED):
        raise UserError("loads code or runs programs, and is never called", key=key, value=path, hint="name a class")


@contextmanager
def only_allowed_imports(allowed: Iterable[str]) -> Iterator[None]:
    """Within the block jsonargparse imports nothing outside the allowed packages, and reads texts as our YAML.

    Packages in ``allowed`` are found in the current folder too, for as long as the process lives: their
    classes import further parts of them when they are used.

    Raises:
        UserError: if ``allowed`` holds what is no name of a package.
    """
    from distill.core.internals.jsonargparse import may_import

    allowed = list(allowed)
    for package in allowed:
        if not all(part.isidentifier() for part in package.split(".")) or package.split(".")[0] == "jsonargparse":
            raise UserError("must be the name of a package", key="--allow", value=package, hint="such as my_package")
    if allowed and str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that it hides nothing
    for package in allowed:
        if package.split(".")[0] not in sys.modules and find_spec(package.split(".")[0]) is None:
            problem, hint = "there is no such package, here or installed", "leave it out, or go to the folder it is in"
            raise UserError(problem, key="--allow", value=package, hint=hint)
    with may_import([*PACKAGES, *allowed], REFUSED, Loader):
        yield
