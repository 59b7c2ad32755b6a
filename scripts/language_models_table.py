#!/usr/bin/env python
"""Print what ``language_models.py`` found: means over the seeds, and what compression costs.

python scripts/language_models_table.py docs/results-language-models.jsonl
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from language_models import WAYS


def table(lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Markdown: means over the seeds, and the standard deviation."""
    rows = list(lines)
    for pair in dict.fromkeys(row["pair"] for row in rows):
        yield f"\n{pair}\n"
        yield "| taught by | bits per byte | less than alone | acceptance | s | MB | seeds |"
        yield "|---|---|---|---|---|---|---|"
        of_pair = [row for row in rows if row["pair"] == pair and not WAYS[row["way"]].after]
        alone = {row["seed"]: row["bits_per_byte"] for row in of_pair if row["way"] == "alone"}
        for way in dict.fromkeys(row["way"] for row in of_pair):
            found = [row for row in of_pair if row["way"] == way]
            less = [alone[row["seed"]] - row["bits_per_byte"] for row in found if row["seed"] in alone]
            bits, accepted = ([row[m] for row in found if m in row] for m in ("bits_per_byte", "acceptance"))
            cells = [spread(bits), spread(less), spread(accepted)]
            used = [f"{statistics.median(row[key] for row in found):,.0f}" for key in ("cpu_seconds", "peak_mb")]
            yield "| " + " | ".join([way, *cells, *used, str(len(found))]) + " |"


def compressed(lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Markdown: students that went on from another's, beside the one that did so uncompressed, on the same seed."""
    rows = [row for row in lines if WAYS[row["way"]].after]
    for pair in dict.fromkeys(row["pair"] for row in rows):
        yield f"\n{pair}\n"
        yield "| | bits per byte | above a constant guess | acceptance | ONNX, MB | bits off in ONNX | seeds |"
        yield "|---|---|---|---|---|---|---|"
        dense = {row["seed"]: row for row in rows if row["pair"] == pair and not WAYS[row["way"]].callbacks}
        for way in sorted({row["way"] for row in rows if row["pair"] == pair}, key=list(WAYS).index):
            found = [row for row in rows if row["way"] == way and row["pair"] == pair and row["seed"] in dense]
            kept = [100 * gained(row) / gained(dense[row["seed"]]) for row in found]
            bits, accepted = ([row[metric] for row in found] for metric in ("bits_per_byte", "acceptance"))
            checked = [row["verified"] for row in found if "verified" in row]
            off = max((abs(one["exported"] - one["trained"]) for one in checked), default=None)
            size = statistics.median(row["onnx_mb"] for row in found) if checked else None
            cells = [spread(bits), f"{statistics.fmean(kept):.1f} %", spread(accepted)]
            cells += ["" if size is None else f"{size:.2f}", "" if off is None else f"{off:.4f}", str(len(found))]
            yield "| " + " | ".join([way, *cells]) + " |"


def gained(row: Mapping[str, Any]) -> float:
    """Bits per byte that a student is better than a constant guess."""
    return float(row["guess"] - row["bits_per_byte"])


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "-"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path, help="what language_models.py wrote")
    rows = [json.loads(line) for line in parser.parse_args().found.read_text().splitlines()]
    print("\n".join([*table(rows), *compressed(rows)]))


if __name__ == "__main__":
    main()
