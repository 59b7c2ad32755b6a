"""What a page is made of: sections of blocks that hold plain texts and numbers. Light: the template makes the markup.

All text is escaped where it is written; of these records only a :class:`Picture` holds markup, of our own drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

__all__ = ["Block", "Cell", "Column", "Matrix", "Picture", "Pictures", "Section", "Table", "Text", "Words"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Picture:
    """A plot.

    Attributes:
        svg: As :func:`~distill.core.utils.svg.inline_svg` gives it.
        caption: Below it.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Plots side by side, as many as there is room for."""

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Column:
    """Of a table.

    Attributes:
        name: Its head.
        numeric: Whether it is aligned on the right.
    """

    name: str
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """Of a table.

    Attributes:
        text: What it says.
        part: From 0 to 1: a bar behind it.
    """

    text: str
    part: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows whose first cell names them; on a narrow screen each is a card.

    Attributes:
        caption: What it shows.
        columns: Of all cells, the first among them.
        rows: As many cells each.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Matrix:
    """Counts of what is (rows) and what is said (columns).

    Attributes:
        caption: Of whom.
        names: Of the classes.
        counts: Row by row.
    """

    kind: ClassVar[str] = "matrix"
    caption: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]

    @property
    def shares(self) -> list[list[float]]:
        """The counts as parts of their row."""
        return [[count / max(1, sum(row)) for count in row] for row in self.counts]


@dataclass(frozen=True)
class Words:
    """A sample, word by word, with what each word counts for.

    Attributes:
        title: What is explained.
        lines: Who -> words and their values; the largest magnitude of a line is its full colour.
        notes: Who -> what must be said of it.
    """

    kind: ClassVar[str] = "words"
    title: str
    lines: Mapping[str, Sequence[tuple[str, float]]]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def shades(self) -> dict[str, list[tuple[str, float, float]]]:
        """Who -> (word, value, value over the largest magnitude)."""
        largest = {
            who: max((abs(value) for _, value in words), default=0.0) or 1.0 for who, words in self.lines.items()
        }
        return {who: [(word, v, v / largest[who]) for word, v in words] for who, words in self.lines.items()}


Block = Text | Pictures | Table | Matrix | Words


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: Where links lead to.
        title: Its heading.
        blocks: From top to bottom.
    """

    id: str
    title: str
    blocks: Sequence[Block]
