"""Pictures as SVG inside a page: its text is the page's, and its colours follow the page's light or dark.

They are drawn in stand-ins for colours, which become ``currentColor`` and the page's variables ``--grid``, ``--accent``
and ``--c0`` to ``--c5``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

__all__ = ["ACCENT", "GRID", "INK", "SERIES", "inline_svg", "themed"]

INK, GRID, ACCENT = "#010203", "#010204", "#010205"
"""Stand-ins: of text and axes, of grids, and of what is to be seen first."""

SERIES = tuple(f"#01030{number}" for number in range(6))
"""Likewise of lines that are told apart."""

_BECOME = {INK: "currentColor", GRID: "var(--grid)", ACCENT: "var(--accent)"} | {
    colour: f"var(--c{number})" for number, colour in enumerate(SERIES)
}
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
_EMPTY = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
_SETTINGS: Any = {
    **dict.fromkeys(_INKED, INK),
    **dict.fromkeys(_EMPTY, "none"),
    "grid.color": GRID,
    "axes.prop_cycle": cycler(color=SERIES),
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "distill",  # the same picture has the same names
    "text.parse_math": False,  # names are others', and may hold dollars
}
_NUMBER = re.compile(r"-?\d+\.\d\d+")
_FONT = re.compile(r"font(?:-size)?: ([\d.]+px)[^;]*")


@contextmanager
def themed() -> Iterator[None]:
    """Figures that are made, drawn and given to :func:`inline_svg` within follow the page."""
    with rc_context(_SETTINGS):
        yield


def inline_svg(drawn: Figure, title: str, name: str) -> str:
    """A figure as an ``<svg>`` element of HTML.

    Args:
        drawn: Made within :func:`themed`.
        title: What it shows, for those who do not see it.
        name: Its own within the page, a word: all its ids begin with it.
    """
    content = io.BytesIO()
    drawn.savefig(content, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(content.getvalue())
    _strip(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": title}
    described = ElementTree.Element("title")
    described.text = title
    root.insert(0, described)
    return ElementTree.tostring(root, encoding="unicode")


def _strip(element: ElementTree.Element, name: str) -> None:
    """Bring an element, and those within it, from matplotlib's SVG to the page's."""
    element.tag = element.tag.rpartition("}")[2]
    for child in list(element):
        if child.tag.endswith(("}metadata", "}style")):
            element.remove(child)
        else:
            _strip(child, name)
    if element.tag != "text":
        element.text = None
    element.tail = None
    given = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    if element.tag == "g" and given.keys() == {"id"}:
        given = {}
    element.attrib = {key: _attribute(key, value, name) for key, value in given.items()}


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("\n", "") if value.startswith("data:") else f"#{name}-{value[1:]}"
    if key == "style":
        for colour, variable in _BECOME.items():
            value = value.replace(colour, variable)
        value = re.sub(r"font-(family|stretch|variant)[^;]*;? ?", "", _FONT.sub(r"font-size: \1", value))
    else:
        value = value.replace("url(#", f"url(#{name}-")
    return _NUMBER.sub(lambda found: f"{float(found[0]):.1f}", " ".join(value.split()))
