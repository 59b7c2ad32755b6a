"""The commands that are killed: how each is given again, what it makes, and when that is compared."""

from __future__ import annotations

import importlib
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml

from stress import kills
from stress.kills import Moments, attempt, draw_kill
from stress.left import Digest, different, of_folder, of_search, of_sweep, of_training
from stress.recipe import SWEEP, in_float

__all__ = ["NAMES", "Outcome", "Victim", "import_for", "prepare", "victims"]

NAMES = ("quantize", "export-hf", "export-onnx-int8", "sweep", "search", "sensitivity", "fit")


class Outcome(NamedTuple):
    """What became of one command that was killed again and again.

    Attributes:
        moments: The names of its kills.
        wrong: What was not as it must be; empty if nothing.
    """

    moments: list[str]
    wrong: list[str]


@dataclass
class Victim:
    """A command that is killed, given again until it ends, and compared.

    Attributes:
        name: What it is called.
        argv: The command.
        place: The folder that it makes.
        moments: At which it is killed, and how often.
        digest: What is compared of ``place``.
        root: Where it is given, and all runs lie.
        weight: How often its turn comes.
        most: Kills until it is left to end; what resumes where it was, ends in any case.
        whole: Whether ``place`` is there only when it is complete.
        resumed: Whether ``distill resume`` follows, as the messages say, where there is a run already.
    """

    name: str
    argv: Sequence[str]
    place: Path
    moments: Moments
    digest: Digest
    root: Path
    weight: int
    most: int = 3
    whole: bool = False
    resumed: bool = False
    seconds: float = 0.0
    reference: dict[str, str] = field(default_factory=dict)

    def undisturbed(self) -> None:
        """Keep how long it takes and what it leaves when it is not killed.

        Raises:
            SystemExit: if it fails.
        """
        self.seconds, self.reference = run(self.argv, self.root), self.digest(self.place)
        self.clear()

    def clear(self) -> None:
        """Remove what the command made, and what its kills have left beside that."""
        for path in [self.place, *self.left_beside()]:
            shutil.rmtree(path, ignore_errors=True)

    def left_beside(self) -> list[Path]:
        return sorted(self.place.parent.glob(f".{self.place.name}.*"))

    def torment(self, draw: random.Random, most: int) -> Outcome:
        """Kill it at most so many times, let it end, and compare."""
        moments: list[str] = []
        wrong: list[str] = []
        count = min(most, draw.randint(1, self.most))
        code = -signal.SIGKILL
        while len(moments) < count and not wrong:
            name, kill = draw_kill(draw, self.moments, self.seconds)
            began = time.monotonic()
            code = attempt(self._next(), self.root, kill)
            if code != -signal.SIGKILL and not self._trial_killed(code):
                if self.whole:  # quicker than the first was, which found no data prepared: where kills may come
                    self.seconds = min(self.seconds, time.monotonic() - began)
                break
            moments.append(name)
            wrong += self._after_a_kill(draw)
        else:
            code = attempt(self._next(), self.root)
        wrong += [f"exit code {code}"] if code else different(self.digest(self.place), self.reference)
        return Outcome(moments, wrong)

    def _next(self) -> list[str]:
        """What resumes it, or begins it, as the message says that the command gives."""
        return ["resume", str(self.place)] if self.resumed and self.place.exists() else list(self.argv)

    def _trial_killed(self, code: int) -> bool:
        """Whether a sweep outlived its trial's kill, and says so."""
        return self.digest is of_sweep and code == 1

    def _trials_wrong(self) -> list[str]:
        file = self.root / kills.WRONG
        said = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return said

    def _after_a_kill(self, draw: random.Random) -> list[str]:
        """What is not as it must be: half a folder in the place of a whole one, a command that is at a loss with it."""
        wrong = self._trials_wrong()
        if self.whole and self.place.exists() and (changed := different(self.digest(self.place), self.reference)):
            wrong.append(f"half a folder: {', '.join(changed[:4])}")
        for argv in self._onlookers(draw):
            code = attempt(argv, self.root)
            if code not in (0, 2):
                wrong.append(f"{' '.join(argv)}: exit code {code}")
        return wrong

    def _onlookers(self, draw: random.Random) -> list[list[str]]:
        """Commands that look at what is left: the list of runs every time, the others now and then."""
        look = [["runs", "runs"]]
        left = [self.place, *self.left_beside(), *(path for path in self.place.glob("*") if path.is_dir())]
        if draw.random() < 0.15:
            look.append(["validate", str(draw.choice(left))])
        if draw.random() < 0.15 and self.left_beside():
            look.append(["resume", str(draw.choice(self.left_beside()))])
        return look


def victims(folder: Path, given: Path, names: Sequence[str]) -> list[Victim]:
    """Those of ``names``; the one that is killed without limit is the last.

    Args:
        folder: To work in.
        given: The recipe.
        names: Of the commands, each with its format if it is an export.
    """
    place, quantized = folder / "runs/stress", folder / "runs/stress-quantized"
    fit = ["fit", "-c", str(given), "--runs", "runs", "--name", "stress", "--id", "killed"]
    sweep = ["sweep", str(folder / "sweep.yaml"), "-c", str(folder / "float.yaml"), "--runs", "runs"]
    search = ["search", "-c", str(folder / "float.yaml"), "--target", "accuracy >= 0.1", "--trials", "3", "--to", "hf"]
    search += ["--rungs", "0.5,1", "--name", "killed-search", "--runs", "runs"]
    in_float, whole = str(place / "float"), str(place / "whole")
    quantize = ["quantize", in_float, "--calibrate", "16", "--id", "killed"]
    scan = ["sensitivity", in_float, "--samples", "8"]
    exports = {name: Path(run) / "exports" / name for name, run in (("hf", in_float), ("onnx-int8", whole))}
    hf, onnx = (["export", str(path.parents[1]), "--to", name] for name, path in exports.items())
    files, killed = of_folder, place / "killed"
    found = [
        Victim("quantize", quantize, quantized / "killed", kills.QUANTIZE, files, folder, 4, whole=True, resumed=True),
        Victim("export-hf", hf, exports["hf"], kills.EXPORT, files, folder, 4, whole=True),
        Victim("export-onnx-int8", onnx, exports["onnx-int8"], kills.EXPORT, files, folder, 1, whole=True),
        Victim("sweep", sweep, folder / "runs/killed", kills.SWEEP, of_sweep, folder, 2, most=6),
        Victim("search", search, folder / "runs/killed-search", kills.SEARCH, of_search, folder, 1, most=4),
        Victim("sensitivity", scan, place / "float/sensitivity", kills.SCAN, files, folder, 2, most=5),
        Victim("fit", fit, killed, kills.FIT, of_training, folder, 6, most=sys.maxsize, resumed=True),
    ]
    return [victim for victim in found if victim.name in names]


def import_for(names: Sequence[str]) -> None:
    """Import what the commands import late, so that their forks need not; but onnxruntime, which starts a thread."""
    late = {
        "export-onnx-int8": (
            "onnxscript.function_libs",
            "torch._dynamo",
            "torch.export",
            "torch.onnx._internal.exporter._torchlib.ops",
        ),
        "sensitivity": ("matplotlib.pyplot", "PIL.PngImagePlugin"),
        "search": ("optuna.importance", "matplotlib.pyplot"),
    }
    for name in names:
        for module in late.get(name, ()):
            importlib.import_module(module)


def prepare(folder: Path, given: Path, names: Sequence[str]) -> None:
    """Train the runs that the commands take, and write what they read.

    Raises:
        SystemExit: if that fails.
    """
    fit = ["fit", "--runs", "runs", "--name", "stress", "--id"]
    if {"quantize", "export-hf", "sensitivity", "sweep", "search"} & set(names):
        text = yaml.safe_dump(in_float(yaml.safe_load(given.read_text())), sort_keys=False)
        (folder / "float.yaml").write_text(text)
        (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
        run([*fit, "float", "-c", "float.yaml"], folder)
    if "export-onnx-int8" in names:
        run([*fit, "whole", "-c", str(given)], folder)


def run(argv: Sequence[str], folder: Path) -> float:
    """How many seconds the command takes that is not killed.

    Raises:
        SystemExit: if it fails.
    """
    started = time.monotonic()
    if code := attempt(argv, folder):
        raise SystemExit(f"{argv[0]} ended with exit code {code} undisturbed: see {folder / 'log.txt'}")
    return time.monotonic() - started
