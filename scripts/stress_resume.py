#!/usr/bin/env python
"""Kill commands again and again, give each again until it ends, and see whether it leaves what an undisturbed one does.

    python scripts/stress_resume.py --kills 100 [--seed S] [--commands NAME ...] [--recipe FILE]

Trains distillation, pruning and quantization with overlapping schedules, and averaged weights, on a tiny model that is
made on the spot, and quantizes, exports, sweeps, searches and scans: nothing is downloaded. The kills are SIGKILLs: at
any time at all, half-way through the writing of a checkpoint or just before a file or folder takes its name, within a
validation, and while the student and the result are saved; of a sweep with its trial, the trial alone, or without it.
What is compared is, of a run, all that the last checkpoint holds, the history, the student's folder and the result's
scores; of the others every file, but for times. Whatever a kill leaves, `distill runs`, and now and then `validate` and
`resume`, must read it or say in one message what it is. A kill costs two or three seconds on one core. The exit code is
1 if anything differs.
"""

from __future__ import annotations

import argparse
import os

# Every attempt is a fork of this process, which has imported everything, and must for that have one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml
from stress.recipe import recipe
from stress.victims import NAMES, import_for, prepare, victims


def stress(kills: int, seed: int, folder: Path, names: Sequence[str], given: Path | None = None) -> int:
    """Print the progress; the number of commands that did not leave what they do undisturbed.

    Args:
        kills: How many, over as many commands as it takes.
        seed: Of their moments.
        folder: Empty, to work in.
        names: Of the commands.
        given: A recipe in place of ours.
    """
    if given is None:
        given = folder / "recipe.yaml"
        given.write_text(yaml.safe_dump(recipe(folder), sort_keys=False))
    import_for(names)
    prepare(folder, given, names)
    chosen, draw = victims(folder, given, names), random.Random(seed)
    for victim in chosen:
        victim.undisturbed()
        print(
            f"undisturbed {victim.name}: {victim.seconds:.1f} s, {len(victim.reference)} things to compare", flush=True
        )
    killed: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    differences = 0
    while killed.total() < kills:
        first = chosen[runs.total() : runs.total() + 1]  # each has its turn before chance takes over
        [victim] = first or draw.choices(chosen, [victim.weight for victim in chosen])
        outcome = victim.torment(draw, kills - killed.total())
        killed[victim.name] += len(outcome.moments)
        runs[victim.name] += 1
        said = f"differs in {', '.join(outcome.wrong[:8])}" if outcome.wrong else "no difference"
        here = ", ".join(outcome.moments) or "none"
        print(f"{victim.name} {runs[victim.name]}: {said}; {killed.total()} kills so far, here: {here}", flush=True)
        if outcome.wrong:
            differences += 1
            shutil.copytree(victim.place.parent, folder / f"different-{differences}", symlinks=True)
        victim.clear()
    for name, count in killed.items():
        print(f"{name}: {count} kills of {runs[name]}")
    print(f"{killed.total()} kills, {runs.total()} runs, {differences} differences", flush=True)
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over as many commands as it takes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--commands", nargs="+", choices=NAMES, help="to kill; all of them if not given")
    parser.add_argument("--recipe", type=Path, help="YAML file of a short run, in place of the tiny one: fit alone")
    given = parser.parse_args()
    names = given.commands or (NAMES if given.recipe is None else ("fit",))
    folder = Path(tempfile.mkdtemp(prefix="stress-resume-"))
    differences = stress(given.kills, given.seed, folder, names, given.recipe and given.recipe.resolve())
    if differences:
        print(f"what differs is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
