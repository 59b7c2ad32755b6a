"""Why a value does not fit its type, as one sentence about the smallest part that is wrong.

jsonargparse decides what fits; it is asked again about ever smaller parts until the culprit is found, and its
long report of everything that was tried is replaced by key, value and expected type.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser

from distill.config.class_paths import check_path
from distill.config.known_keys import known_as, precision
from distill.core.argument_types import describe, is_list, is_mapping, kind_of, options_of
from distill.core.internals.jsonargparse import (
    ImportDenied,
    get_all_subclass_paths,
    get_signature_parameters,
    import_object,
    resolve_class_path_by_name,
)
from distill.core.utils.errors import UserError, nearest

__all__ = [
    "class_arguments",
    "explain_arguments",
    "explain_value",
    "fits",
    "named_class",
    "prefer_ours",
    "refuse_null",
    "subclass_names",
]

_log = logging.getLogger(__name__)


def class_arguments(cls: type) -> dict[str, tuple[Any, bool]]:
    """The arguments of a class by name: their type, and whether they must be given."""
    found = {}
    for parameter in get_signature_parameters(cls):
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        annotation = Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation
        found[parameter.name] = (annotation, parameter.default is inspect.Parameter.empty)
    return found


def subclass_names(cls: type) -> list[str]:
    """The short names of the classes that may stand for ``cls``."""
    return sorted({path.rsplit(".", 1)[-1] for path in get_all_subclass_paths(cls)})


def prefer_ours(value: Any, bases: Sequence[type]) -> Any:
    """``value``, a bare name of ours in it being ours where an imported class of the user has that name too.

    A recipe's names mean the same whatever else is imported; the other class has a dotted path.
    """
    paths = {path for base in bases for path in get_all_subclass_paths(base)}
    named = Counter(path.rsplit(".", 1)[-1] for path in paths)
    ours = {path.rsplit(".", 1)[-1]: path for path in paths if path.startswith("distill.")}
    several = {name: path for name, path in ours.items() if named[name] > 1}

    def renamed(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {name: renamed(item) for name, item in part.items()}
        if isinstance(part, list):
            return [renamed(item) for item in part]
        if not isinstance(part, str) or part not in several:
            return part
        others = ", ".join(sorted(path for path in paths if path.endswith(f".{part}") and path != several[part]))
        _log.warning("%s is %s here; another one is named by its path: %s", part, several[part], others)
        return several[part]

    return renamed(value) if several else value


def fits(kind: Any, value: Any) -> bool:
    """Whether jsonargparse takes ``value`` for the type ``kind``."""
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=kind, enable_path=False)
        parser.parse_object({"value": copy.deepcopy(value)})  # which rewrites what it is given
    except Exception:
        return False
    return True


def explain_arguments(
    cls: type, given: Any, key: str, allowed: Sequence[str], *, skip: Collection[str] = (), hint: str = ""
) -> None:
    """Say which of the arguments ``given`` to ``cls`` is wrong; nothing if none is.

    Args:
        cls: The class.
        given: What was written for its arguments.
        key: Where it stands.
        allowed: Packages allowed besides our own.
        skip: Arguments that cannot be given.
        hint: What to do about a name that is not known, if not the nearest one.

    Raises:
        UserError: about the argument.
    """
    if not isinstance(given, Mapping):
        raise UserError("must be a mapping of arguments to values", key=key, value=given, hint=f"see {cls.__name__}")
    arguments = {name: what for name, what in class_arguments(cls).items() if name not in skip}
    for name in given:
        if name not in arguments:
            raise UserError(
                f"{cls.__name__} has no {name!r}",
                key=f"{key}.{name}".lstrip("."),
                value=given[name],
                hint=hint or known_as(str(name), given[name], key, arguments),
            )
    for name, value in given.items():
        kind = arguments[name][0]
        if not fits(kind, value):
            explain_value(kind, value, f"{key}.{name}".lstrip("."), allowed)
    for name, (kind, required) in arguments.items():
        if required and given.get(name) is None and type(None) not in options_of(kind):
            raise UserError("must be given", key=f"{key}.{name}".lstrip("."), hint=f"it is {describe(kind)}")


def refuse_null(kind: Any, value: Any, key: str) -> None:
    """Refuse null where a class takes none: jsonargparse lets it through, and a class may meet it late.

    Args:
        kind: The type of what stands at ``key``.
        value: What was written there.
        key: Where.

    Raises:
        UserError: naming the argument.
    """
    options = options_of(kind)
    if isinstance(value, list):
        for index, item in enumerate(value):
            for element in (get_args(option)[0] for option in options if is_list(option)):
                refuse_null(element, item, f"{key}.{index}")
    classes = [option for option in options if inspect.isclass(option) and _is_ours(option)]
    if not isinstance(value, Mapping) or not classes:
        return
    cls: Any = next((c for c in classes if is_dataclass(c)), classes[0])
    if "class_path" in value:
        cls = import_object(_resolved(classes, value["class_path"]))
    given = (value.get("init_args") or {}) if "class_path" in value or "init_args" in value else value
    for parameter in get_signature_parameters(cls):
        if parameter.name not in given:
            continue
        annotation, item = parameter.annotation, given[parameter.name]
        nullable = annotation in (inspect.Parameter.empty, Any) or {type(None), Any} & set(options_of(annotation))
        place = f"{key}.{parameter.name}"
        if item is None and not nullable and parameter.default is not None:
            raise UserError(
                f"must be {describe(annotation)}", key=place, hint="this is null: leave it out, or give one"
            )
        refuse_null(annotation, item, place)


def explain_value(kind: Any, value: Any, key: str, allowed: Sequence[str]) -> None:
    """Say what is wrong with ``value``, which does not fit the type ``kind``.

    Raises:
        UserError: always.
    """
    options = options_of(kind)
    classes = [option for option in options if inspect.isclass(option) and _is_ours(option)]
    if isinstance(value, list):
        for element in (get_args(option)[0] for option in options if is_list(option)):
            for index, item in enumerate(value):
                if item is None or not fits(element, item):
                    explain_value(element, item, f"{key}.{index}", allowed)
    if isinstance(value, Mapping):
        for inner in (get_args(option)[1] for option in options if is_mapping(option)):
            for name, item in value.items():
                if not fits(inner, item):
                    explain_value(inner, item, f"{key}.{name}", allowed)
    if isinstance(value, Mapping) and "class_path" in value and classes:
        _explain_class(classes, value["class_path"], value.get("init_args", {}), key, allowed)
    elif isinstance(value, Mapping) and classes:
        best = next((c for c in classes if is_dataclass(c)), classes[0])
        if inspect.isabstract(best):
            raise UserError(
                f"needs a class_path: the name of a {best.__name__}", key=key, value=value, hint=_known(best)
            )
        explain_arguments(best, value.get("init_args", value), key, allowed)
    elif isinstance(value, str) and classes and _names_class(value, options):
        _explain_class(classes, value, {}, key, allowed)
    if value is True and any(is_dataclass(cls) for cls in classes):
        raise UserError(
            f"must be {describe(kind)}", key=key, value=value, hint=f"write --{key} '{{}}' for its defaults"
        )
    raise UserError(f"must be {describe(kind)}", key=key, value=value, hint=_choose(options, value, key))


def _choose(options: Sequence[Any], value: Any, key: str) -> str:
    """What to do about ``value``: take one of the choices that are like it, or it is of no type that is taken."""
    if key == "trainer.precision" and (ours := precision(value)):
        return f"did you mean {ours!r}?"
    choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if not any(type(choice) is type(value) for choice in choices):
        return f"this is {kind_of(value)}"
    close = nearest(value, (c for c in choices if isinstance(c, str))) if isinstance(value, str) else ""
    return close if close.startswith("did you mean") else "choose one of these"


def _names_class(value: str, options: Sequence[Any]) -> bool:
    """Whether the text ``value`` was meant for a class, where the type allows these ``options``."""
    scalars = [option for option in options if option in (bool, int, float, str) or is_dataclass(option)]
    return not scalars or "." in value or value[:1].isupper()


def named_class(base: type, path: str, key: str, allowed: Sequence[str]) -> type[Any]:
    """The subclass of ``base`` that ``path`` names; inside :func:`~distill.config.class_paths.only_allowed_imports`.

    Raises:
        UserError: if there is none that may be named here, or it is abstract.
    """
    return _class_at([base], path, key, key, allowed)


def _explain_class(classes: list[type], path: Any, given: Any, key: str, allowed: Sequence[str]) -> None:
    """Say what is wrong with the class called ``path``, one of ``classes`` expected, or with its arguments.

    Raises:
        UserError: if anything is.
    """
    explain_arguments(_class_at(classes, path, key, f"{key}.class_path", allowed), given, key, allowed)


def _class_at(classes: list[type], path: Any, key: str, place: str, allowed: Sequence[str]) -> type[Any]:
    check_path(path, allowed, place)
    names = " or ".join(cls.__name__ for cls in classes)
    known = sorted({name for cls in classes for name in subclass_names(cls)})
    try:
        resolved = _resolved(classes, path)
    except ValueError as error:  # several classes of one name
        raise UserError(str(error), key=place, value=path, hint="give the dotted path") from None
    if "." not in resolved:
        raise UserError(f"there is no {names} of that name", key=key, value=path, hint=nearest(path, known))
    try:
        cls = import_object(resolved)
    except ImportDenied:
        problem = "leads out of the packages that may be named"
        raise UserError(problem, key=key, value=path, hint=_known(classes[0])) from None
    except Exception as error:  # importing runs the user's module, which may raise anything
        reason = f"{type(error).__name__}: {error}"
        hint = nearest(path.rsplit(".", 1)[-1], known)
        raise UserError(f"cannot be imported ({reason})", key=key, value=path, hint=hint) from None
    if not (inspect.isclass(cls) and issubclass(cls, tuple(classes))):
        raise UserError(f"is no {names}", key=key, value=path, hint=f"{_known(classes[0])}")
    if inspect.isabstract(cls):
        raise UserError("is abstract, only its subclasses can be used", key=key, value=path, hint=_known(cls))
    return cls


def _resolved(classes: list[type], path: str) -> str:
    """The dotted path that ``path`` is short for, or ``path`` itself where it is for none."""
    found = (resolve_class_path_by_name(cls, path) for cls in classes)
    return next((dotted for dotted in found if "." in dotted), path)


def _known(cls: type) -> str:
    names = subclass_names(cls)
    return "known are " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "name its class"


def _is_ours(kind: type) -> bool:
    """Whether ``kind`` is a class to be built, not a scalar or a container."""
    return kind.__module__ not in ("builtins", "types", "typing", "collections.abc", "datetime", "pathlib", "enum")
