"""What a language model and its teacher wrote after held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path

from distill.core.utils.files import read
from distill.core.utils.visible import visible
from distill.workflows.report.views.blocks import Cell, Column, Table

__all__ = ["completion_table", "read_completions"]

_MOST = 8
_LONGEST = 600


def read_completions(file: Path) -> list[dict[str, str]]:
    """The lines of a run's ``completions.jsonl``; none where it is not there, or holds something else."""
    try:
        lines = read(file).decode(errors="replace").splitlines()
        found = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError):
        return []
    return [line for line in found if isinstance(line, dict) and all(isinstance(text, str) for text in line.values())]


def completion_table(caption: str, lines: list[dict[str, str]]) -> Table:
    """A row a prompt, with what stands there and what each wrote."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    rows = [[Cell(visible(line.get(name, ""))[:_LONGEST]) for name in names] for line in lines[:_MOST]]
    return Table(caption, [Column(name, numeric=False) for name in names], rows)
