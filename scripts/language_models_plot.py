#!/usr/bin/env python
"""Draw what ``language_models.py`` found: bits per byte of each way to teach, a dot for each seed.

python scripts/language_models_plot.py docs/results-language-models.jsonl --out docs/results-language-models.png
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.core.utils.plots import new_figure, save

DOT, MEAN = "#0072B2", "#000000"


def draw(rows: Sequence[Mapping[str, Any]], pair: str, path: Path) -> None:
    """The best way on top; a dashed line where the student alone comes to."""
    bits: dict[str, list[float]] = {}
    for row in rows:
        if row["pair"] == pair and not row["way"].startswith("then "):  # which had more steps
            bits.setdefault(row["way"], []).append(row["bits_per_byte"])
    ways = sorted(bits, key=lambda way: -statistics.fmean(bits[way]))
    drawn = new_figure(8.0, 0.34 * len(ways) + 1.2)
    panel = drawn.subplots()
    for place, way in enumerate(ways):
        panel.plot(bits[way], [place] * len(bits[way]), "o", color=DOT, alpha=0.7, markersize=6)
        panel.plot(statistics.fmean(bits[way]), place, "|", color=MEAN, markersize=14, markeredgewidth=2)
    if "alone" in bits:
        panel.axvline(statistics.fmean(bits["alone"]), color="#999999", linestyle="--", linewidth=1)
    panel.set_yticks(range(len(ways)), ways)
    panel.set_xlabel("bits per byte of the held-out text: less is better")
    panel.set_title("A dot a seed, a bar their mean; dashed: the student without a teacher", fontsize=10, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    save(drawn, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path)
    parser.add_argument("--pair", default="code")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    draw([json.loads(line) for line in given.found.read_text().splitlines()], given.pair, given.out)


if __name__ == "__main__":
    main()
