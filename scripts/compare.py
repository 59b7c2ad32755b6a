#!/usr/bin/env python
"""Run recipes over seeds and print mean and spread beside the teacher.

    python scripts/compare.py sst2/alone sst2/hinton --seeds 0 1 2 -- --model.teacher runs/sst2-teacher/ID

A recipe made of several files joins them with ``+`` (``sst2/int4+sst2/labels-only``), and its runs bear both names.
Everything after ``--`` goes to every ``distill fit``, with ``{seed}`` replaced. A run's id is its seed
(``runs/sst2-alone/seed-0``); runs that have finished are read, not repeated, so an interrupted comparison resumes
where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from distill.config import files as configuration
from distill.core.retention import kept_of
from distill.core.verdict import Verdict


def run(recipe: str, seed: int, runs: Path, overrides: list[str]) -> dict[str, Any]:
    """The result of one recipe with one seed."""
    files = recipe.split("+")
    name = "-".join([configuration.load(files[:1])["name"], *(Path(file).stem for file in files[1:])])
    folder = runs / name / f"seed-{seed}"
    result = folder / "result.json"
    if not result.exists():
        shutil.rmtree(folder, ignore_errors=True)  # an unfinished run of this script
        command = [sys.executable, "-m", "distill.cli", "fit", *(word for file in files for word in ("-c", file))]
        command += ["--seed", str(seed), "--id", folder.name, "--runs", str(runs), "--name", name]
        command += [word.replace("{seed}", str(seed)) for word in overrides]
        print("$ distill", " ".join(command[3:]), flush=True)
        subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of one recipe."""
    metric = results[0]["monitor"]
    scores = [r["scores"]["student"][metric] for r in results]
    kept = [found for r in results if (found := kept_of(r)) is not None]
    ratios = [found for r in results if (found := r["ratio_percent"].get(metric)) is not None]
    return {
        "metric": metric,
        "teacher": results[0]["scores"]["teacher"].get(metric),
        "guess": results[0]["scores"].get("guess", {}).get(metric),
        "scores": scores,
        "mean": statistics.fmean(scores),
        "spread": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "kept_percent": statistics.fmean(kept) if kept else None,
        "ratio_percent": statistics.fmean(ratios) if ratios else None,
        "verdict": list(dict.fromkeys(line for r in results for line in Verdict.of_file(r).bad)),
        "train_seconds": statistics.median(r["train_seconds"] for r in results),
        "parameters": results[0]["parameters"]["student"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="recipes or YAML files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    own, overrides = sys.argv[1:], []
    if "--" in own:
        own, overrides = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments = parser.parse_args(own)

    rows = {
        recipe: summary([run(recipe, seed, arguments.runs, overrides) for seed in arguments.seeds])
        for recipe in arguments.recipes
    }
    table = Table(title=f"seeds {', '.join(map(str, arguments.seeds))}", title_justify="left")
    figures = ("guess", "teacher", "mean", "spread", "kept", "ratio", "parameters", "seconds", "each seed")
    for column in ("recipe", "metric", *figures):
        table.add_column(column, justify="left" if column in ("recipe", "metric") else "right")
    for recipe, row in rows.items():
        table.add_row(
            recipe,
            row["metric"],
            *("" if row[who] is None else f"{row[who]:.4f}" for who in ("guess", "teacher")),
            f"{row['mean']:.4f}",
            f"{row['spread']:.4f}",
            *("-" if row[part] is None else f"{row[part]:.1f} %" for part in ("kept_percent", "ratio_percent")),
            f"{row['parameters']:,}",
            f"{row['train_seconds']:.0f}",
            " ".join(f"{score:.4f}" for score in row["scores"]),
        )
    Console(width=180).print(table)
    for recipe, row in rows.items():
        for line in row["verdict"]:
            print(f"warning: {recipe}: {line}")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
