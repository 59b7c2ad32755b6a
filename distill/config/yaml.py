"""YAML texts and files: read within bounds, and written so that every reader finds the same.

Light: needs only YAML.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from distill.core.utils.errors import UserError
from distill.core.utils.files import read

__all__ = ["Loader", "dump", "parse_value", "parse_yaml", "read_yaml", "refuse_boundless", "texts"]

# What no configuration comes near to, and what would take for ever to read, compare or copy.
_BYTES = 1 << 20
_DEPTH = 100
_VALUES = 50_000


class OutOfBounds(yaml.constructor.ConstructorError):
    """Of a text that is nested too deep, or stands for too much."""


class Loader(yaml.SafeLoader):
    """Near YAML 1.2: ``1e-3`` is a number, ``12:30`` and ``2024-01-01`` are texts; a key given twice is refused.

    Of YAML 1.1 are left ``yes``, ``no``, ``on`` and ``off`` for truth values, ``1_000`` and the key ``<<``. Of neither
    are octal numbers: ``017`` (15 in 1.1, 17 in 1.2) and ``0o17`` (15 in 1.2) are texts.

    Refused are, too, texts that are nested too deep, and those whose aliases stand for more than anyone would write.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._open: list[str | None] = []
        """The anchors of what is being composed, the outermost first."""
        self._composed = 0
        self._values: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if len(self._open) == _DEPTH:
            raise OutOfBounds(None, None, f"more than {_DEPTH} levels", mark)
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open:
            raise OutOfBounds(None, None, "an alias of what it stands in", mark)
        own = None if isinstance(event, yaml.AliasEvent) else event.anchor
        self._open.append(own)
        self._composed += 1
        node = super().compose_node(parent, index)
        self._open.pop()
        if node is not None and max(self._composed, self._count(node)) > _VALUES:
            problem = f"more than {_VALUES:,} values, what its aliases stand for included"
            raise OutOfBounds(None, None, problem, mark)
        return node

    def _count(self, node: yaml.Node) -> int:
        """How many values ``node`` and all below it stand for."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        if node not in self._values:
            items = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
            self._values[node] = 1 + sum(map(self._count, items))
        return self._values[node]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _refused("a list or a mapping cannot be a key", key_node.start_mark)
            if key in seen:
                raise _refused(f"the key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refused(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


for _tag in ("binary", "timestamp", "omap", "pairs", "set"):  # of which no configuration has any
    Loader.yaml_constructors = {
        tag: make for tag, make in Loader.yaml_constructors.items() if tag != f"tag:yaml.org,2002:{_tag}"
    }


_REPLACED = ("int", "float", "timestamp", "value")
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, key: str) -> Any:
    """The value of a YAML text; ``key`` says where it stands, for the message.

    Raises:
        UserError: if it is no YAML.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"is not valid YAML{place}: {problem}", key=key, hint="correct this line") from None
    except (ValueError, LookupError) as error:  # a number of thousands of digits; `!!int x`, `!!bool x`
        raise UserError(f"is not valid YAML: {error}", key=key, hint="correct this value") from None


def parse_value(text: str, key: str) -> Any:
    """The value of an override: YAML, or the text itself where that is none (``--name *x``)."""
    if text[:1] in ("[", "{"):
        return parse_yaml(text, key)
    try:
        return parse_yaml(text, key)
    except UserError:
        return text


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts within a configuration, each with its key before it."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from texts(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, f"{key}.{index}")
    elif isinstance(value, str):
        yield key, value


def refuse_boundless(config: Any) -> None:
    """Refuse texts within a configuration that are YAML out of bounds: jsonargparse reads texts as YAML once more.

    Raises:
        UserError: naming the key.
    """
    for key, text in texts(config):
        if "&" in text or sum(map(text.count, "[{-:")) > _DEPTH:
            try:
                yaml.compose(text, Loader=Loader)
            except OutOfBounds as error:
                raise UserError(f"stands for {error.problem}", key=key, value=text[:50], hint="write it out") from None
            except yaml.YAMLError:  # a text that is no YAML is what it is
                pass


def read_yaml(path: Path, key: str) -> Any:
    """What a YAML file holds; ``key`` says where it was named, for the message.

    Raises:
        UserError: if it cannot be read, or is no YAML.
    """
    try:
        text = read(path, _BYTES).decode()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise UserError(problem, key=key, value=str(path), hint="check the file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot be read: {error}", key=key, value=str(path), hint="save it as UTF-8") from None
    return parse_yaml(text, str(path))


# ---------------------------------------------------------------------- out


class _Dumper(yaml.SafeDumper):
    """Writes numbers and texts so that :class:`Loader` and every other YAML reader find them again."""


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    text = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    ours = (pattern for _, pattern in Loader.yaml_implicit_resolvers.get(value[:1], ()))
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, "'" if any(p.match(value) for p in ours) else None)


_Dumper.add_representer(float, _float)
_Dumper.add_representer(str, _str)


def dump(config: Mapping[str, Any]) -> str:
    """``config`` as YAML, in its own order."""
    return yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
