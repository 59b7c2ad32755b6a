#!/usr/bin/env python
"""Draw what ``when_it_helps.py`` measured, and print its table.

python scripts/when_it_helps_plot.py docs/when-it-helps.jsonl --out docs/when-it-helps.png
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.core.utils.plots import new_figure, save

Line = tuple[str, str]
"""Teacher and method of a line in the plot."""

LINES: dict[Line, tuple[str, str, str, str]] = {
    ("more", "kl"): ("KL", "#0072B2", "o", "-"),
    ("more", "relations"): ("KL and relations", "#009E73", "s", "-"),
    ("more", "labels"): ("labels alone, cut from the teacher", "#D55E00", "^", "-"),
    ("none", "labels"): ("labels alone, no teacher at all", "#000000", "v", ":"),
}
"""Name, colour (of Okabe and Ito, which colour-blind eyes tell apart), marker and dash of each line."""

ROWS = {
    ("none", "labels"): "no teacher: labels alone",
    ("more", "labels"): "cut from a teacher of 3,000 labels: labels alone",
    ("more", "kl"): "... KL",
    ("more", "relations"): "... KL and relations",
    ("same", "labels"): "cut from a teacher of the same labels: labels alone",
    ("same", "kl"): "... KL",
    ("same", "relations"): "... KL and relations",
}
"""Rows of the table, for each set."""

Found = Mapping[tuple[str, str, str, float], Sequence[float]]
"""Accuracies of the seeds, in percent, by set, teacher, method and share."""


def by_case(results: Sequence[Mapping[str, Any]]) -> Found:
    found: dict[tuple[str, str, str, float], list[float]] = defaultdict(list)
    for one in results:
        found[one["data"], one["teacher"], one["method"], one["share"]].append(100 * one["accuracy"])
    return found


def mean_and_deviation(accuracies: Sequence[float]) -> str:
    """Mean and standard deviation over three seeds; of fewer their number too."""
    if not accuracies:
        return ""
    spread = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{statistics.fmean(accuracies):.1f}{spread}" + (f" ({len(accuracies)})" if len(accuracies) < 3 else "")


def table(found: Found) -> str:
    """The Markdown table: a row for each set, teacher and method, a column for each share of labels."""
    shares = sorted({share for *_, share in found})
    lines = ["| set | student | " + " | ".join(f"{share:.0%}" for share in shares) + " |"]
    lines.append("|---|---|" + "---|" * len(shares))
    for data in dict.fromkeys(data for data, *_ in found):
        for line, name in ROWS.items():
            cells = [mean_and_deviation(found.get((data, *line, share), ())) for share in shares]
            if any(cells):
                lines.append("| " + " | ".join([data, name, *cells]) + " |")
    return "\n".join(lines)


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One panel a set: accuracy against the share of labels; bars reach from the lowest seed to the highest."""
    found = by_case(results)
    sets = list(dict.fromkeys(one["data"] for one in results))
    shares = sorted({one["share"] for one in results})
    drawn = new_figure(5.2 * len(sets), 4.6)
    panels = drawn.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for panel, data in zip(panels, sets, strict=True):
        for place, ((teacher, method), (name, color, marker, dash)) in enumerate(LINES.items()):
            here = [share for share in shares if found.get((data, teacher, method, share))]
            values = [found[data, teacher, method, share] for share in here]
            middle = [statistics.fmean(one) for one in values]
            bars = [[m - min(v), max(v) - m] for m, v in zip(middle, values, strict=True)]
            moved = [share * 1.04 ** (place - 1.5) for share in here]  # so that no bar hides another
            style = {"color": color, "marker": marker, "linestyle": dash, "markersize": 6, "linewidth": 1.8}
            panel.errorbar(moved, middle, list(zip(*bars, strict=True)), label=name, capsize=3, **style)
        scores = [100 * one["teacher/accuracy"] for one in results if _taught(one, data)]
        if scores:
            panel.axhline(scores[0], color="0.45", linestyle="--", linewidth=1.2)
            panel.annotate("the teacher", (shares[0], scores[0]), (0, 4), textcoords="offset points", color="0.35")
        panel.set_xscale("log")
        panel.set_xticks(shares, [f"{share:.0%}" for share in shares], minor=False)
        panel.minorticks_off()
        panel.set_title(data, loc="left")
        panel.set_xlabel("share of the 1,000 training rows that are labelled")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %")
    panels[0].set_ylim(top=5 + max(100 * one.get("teacher/accuracy", one["accuracy"]) for one in results))
    panels[-1].legend(loc="lower right", frameon=False)
    save(drawn, path)


def _taught(result: Mapping[str, Any], data: str) -> bool:
    return result["data"] == data and result["teacher"] == "more" and "teacher/accuracy" in result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results = [json.loads(line) for line in arguments.results.read_text(encoding="utf-8").splitlines()]
    print(table(by_case(results)))
    draw(results, arguments.out)


if __name__ == "__main__":
    main()
