#!/usr/bin/env python
"""When does distillation help? A student of three layers, by how many labels it has and what its teacher has seen.

    python scripts/when_it_helps.py ENCODER sets/debian sets/wordnet --out docs/when-it-helps.jsonl --work /tmp/helps
    python scripts/when_it_helps.py --draw docs/when-it-helps.jsonl

ENCODER is a folder of transformers with an encoder of six layers (all-MiniLM-L6-v2); the sets are made by
``label_sets.py``. A student is always trained on the same 1,000 rows, of which a share has labels; which ones goes by
the seed. Every run takes the same number of steps: without a teacher the labelled rows are repeated, with one the
others are there without their labels. Each run is one line of ``--out``; what is there is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROWS, MORE = 1000, 3000
"""Training rows of a student, and those that a teacher which saw more had, the student's among them."""

SHARES, SEEDS, EPOCHS = (0.01, 0.05, 0.2, 1.0), (0, 1, 2), 2

LAYERS = [2, 4, 6]
"""Of the teacher, those of the student."""

METHODS = ("labels", "kl", "relations")
"""Labels alone; 0.3 of cross entropy and 0.7 of KL at temperature 2; that and the relations of MiniLMv2."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        data: Name of the set.
        teacher: ``more``: it was trained on 3,000 labels; ``same``: on those of the student; ``none``: there is none,
            and the student is cut from the encoder.
        method: One of :data:`METHODS`.
        share: Of the rows, those that have labels.
        seed: Of the labelled rows, of the order of the batches and of dropout.
    """

    data: str
    teacher: str
    method: str
    share: float
    seed: int

    @property
    def taught_by(self) -> str:
        """The name of the teacher's folder; of all rows there is one, and one of 100 %."""
        if self.teacher == "more":
            return f"{self.data}-more"
        return f"{self.data}-{self.share:g}" + (f"-{self.seed}" if self.share < 1 else "")


def cases(sets: Sequence[str]) -> Iterator[Case]:
    """All runs, those that the page cannot do without first."""
    first, later = [(data, SEEDS[0]) for data in sets], list(itertools.product(sets, SEEDS[1:]))
    for pairs, methods in ((first, METHODS), (later, METHODS[:2])):
        for data, seed in pairs:
            yield from _of(data, "more", methods, SHARES, seed)
            yield from _of(data, "same", methods, SHARES[-1:], seed)
    for data, seed in [*first, *later]:
        yield from _of(data, "none", METHODS[:1], SHARES, seed)
    for data, seed in later:
        yield from _of(data, "more", METHODS[2:], SHARES, seed)
        yield from _of(data, "same", METHODS[2:], SHARES[-1:], seed)
    for data, seed in [*first, *later]:
        yield from _of(data, "same", METHODS, SHARES[:-1], seed)


def _of(data: str, teacher: str, methods: Iterable[str], shares: Sequence[float], seed: int) -> Iterator[Case]:
    for share, method in itertools.product(shares, methods):
        yield Case(data, teacher, method, share, seed)


class Bench:
    """Trains what a case needs.

    Args:
        encoder: Folder of the pretrained encoder.
        sets: Folders of the data.
        work: Where rows and teachers are written.
    """

    def __init__(self, encoder: Path, sets: Sequence[Path], work: Path) -> None:
        self.encoder, self.work, self.sets = encoder, work, {folder.name: folder for folder in sets}
        self._sources: dict[str, Any] = {}

    def run(self, case: Case) -> dict[str, Any]:
        """Train and score the student of a case."""
        from distill.losses import CrossEntropy, HintonKL, RelationTransfer
        from distill.models.students import StudentConfig

        losses: list[Any] = [CrossEntropy(weight=0.3), HintonKL(weight=0.7, temperature=2.0)]
        if case.method == "relations":
            losses.append(RelationTransfer(version=2, weight=1.0))
        origin = self.encoder if case.teacher == "none" else self._taught(case)
        student = StudentConfig(path=str(origin), layers=LAYERS, freeze=["word_embeddings"])
        started = time.process_time()
        if case.method == "labels":
            module = self._trained(case, student, None, None, fill="repeat")
        else:
            module = self._trained(case, student, self._source(case), losses, fill="unlabelled")
        scores = {name.removeprefix("val/"): float(value) for name, value in module.trainer.callback_metrics.items()}
        kept = ("accuracy", "f1", "agreement", "teacher/accuracy")
        found = {name: round(scores[name], 4) for name in kept if name in scores}
        return {**asdict(case), **found, "cpu_seconds": round(time.process_time() - started, 1)}

    def _taught(self, case: Case) -> Path:
        """The folder of a case's teacher, which is trained if it is not there."""
        from transformers import AutoTokenizer

        from distill.models.students import StudentConfig

        folder = self.work / case.taught_by
        if not (folder / "tokenizer.json").exists():
            started = time.process_time()
            student = StudentConfig(path=str(self.encoder), freeze=["word_embeddings"])
            module = self._trained(case, student, None, None, fill="more" if case.teacher == "more" else "repeat")
            module.student.save_pretrained(folder)
            AutoTokenizer.from_pretrained(self.encoder).save_pretrained(folder)
            accuracy = float(module.trainer.callback_metrics["val/accuracy"])
            print(f"teacher {folder.name}: {accuracy:.4f}, {time.process_time() - started:.0f} s", flush=True)
        return folder

    def _source(self, case: Case) -> Any:
        """The teacher of a case; it remembers what it said to students before."""
        from distill.models.teachers import build_teacher
        from distill.tasks import make_task

        name, labels = case.taught_by, self.labels(case.data)
        if name not in self._sources:
            task = make_task("text-classification", labels)
            self._sources[name] = build_teacher(str(self.work / name), task, labels)
        return self._sources[name]

    def _trained(self, case: Case, student: Any, teacher: Any, losses: Any, fill: str) -> Any:
        from pytorch_lightning import Trainer, seed_everything

        from distill import Distillation, TextData
        from distill.training.optimizer import OptimizerConfig

        seed_everything(case.seed, verbose=False)
        data = TextData(
            files={"train": str(self._rows(case, fill)), "validation": str(self.sets[case.data] / "validation.jsonl")},
            tokenizer=str(self.encoder),
            labels=list(self.labels(case.data)),
            max_length=32,
            batch_size=16,
            seed=case.seed,
        )
        optimizer = OptimizerConfig(lr=2e-4, weight_decay=0.01, warmup=0.1)
        module = Distillation(student, teacher=teacher, losses=losses, optimizer=optimizer, labels=data.labels)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=EPOCHS,
            check_val_every_n_epoch=EPOCHS,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            **quiet,  # type: ignore[arg-type]
        )
        trainer.fit(module, datamodule=data)
        return module

    def labels(self, data: str) -> list[str]:
        """The classes of a set."""
        return sorted({row["label"] for row in self._read(data, "validation")})

    def _read(self, data: str, use: str) -> list[dict[str, Any]]:
        lines = (self.sets[data] / f"{use}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _rows(self, case: Case, fill: str) -> Path:
        """The file of training rows.

        Args:
            case: Says which have labels.
            fill: ``repeat`` the labelled ones as often as fits, have the others ``unlabelled``, or take ``more``.
        """
        rows = self._read(case.data, "train")[: MORE if fill == "more" else ROWS]
        if fill != "more":
            order = random.Random(case.seed).sample(range(ROWS), ROWS)
            known = set(order[: round(case.share * ROWS)])
            if fill == "unlabelled":
                rows = [row if i in known else {**row, "label": None} for i, row in enumerate(rows)]
            else:
                rows = [row for i, row in enumerate(rows) if i in known] * round(1 / case.share)
        path = self.work / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path


def measure(arguments: argparse.Namespace) -> None:
    """Train what the file of results lacks."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    bench = Bench(arguments.encoder, arguments.sets, arguments.work)
    arguments.work.mkdir(parents=True, exist_ok=True)
    done = read(arguments.out) if arguments.out.exists() else []
    known = {tuple(result[key] for key in ("data", "teacher", "method", "share", "seed")) for result in done}
    for case in cases([folder.name for folder in arguments.sets]):
        if tuple(asdict(case).values()) not in known:
            line = json.dumps(bench.run(case))
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            print(line, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
