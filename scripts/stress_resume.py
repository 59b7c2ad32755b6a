#!/usr/bin/env python
"""Kill a run again and again, resume it each time, and see whether it ends as an undisturbed one does, to the bit.

    python scripts/stress_resume.py --kills 100 [--seed S] [--recipe FILE]

Trains distillation, pruning and quantisation with overlapping schedules, and averaged weights, on a tiny model that is
made on the spot: nothing is downloaded. The kills are SIGKILLs: at any time at all, half-way through the writing of a
checkpoint or just before it takes its name, within a validation, and while the student and the result are saved. What
is compared is all that the last checkpoint holds, the history, the student's folder and the result's scores. A kill
costs about two seconds on one core. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os

# Every attempt is a fork of this process, which has imported everything, and must for that have one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

import distill.checkpoint
import distill.resume
import distill.sealed
from distill import artifact
from distill.callbacks.last import saved
from distill.cli import main as command
from distill.module import Distillation
from distill.run import Run

WORDS = ["a", "good", "bad", "film", "story", "with", "and", "without", "any", "heart", "is", "dull", "never", "very"]

# ---------------------------------------------------------------------- what is trained


def recipe(folder: Path) -> dict[str, Any]:
    """Models and data are written to ``folder``; the configuration of 24 steps over them."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {token: i for i, token in enumerate([*special.values(), *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, **special)  # type: ignore[no-untyped-call]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **sizes, vocab_size=len(vocabulary), max_position_embeddings=32)
    config.id2label, config.label2id = {0: "negative", 1: "positive"}, {"negative": 0, "positive": 1}
    teacher = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    draw = random.Random(0)
    (folder / "data").mkdir()
    for split, rows in (("train", 96), ("validation", 32)):
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(rows)]
        lines = [json.dumps({"text": t, "label": "positive" if "good" in t else "negative"}) + "\n" for t in texts]
        (folder / "data" / f"{split}.jsonl").write_text("".join(lines))
    pruning = {"final_sparsity": 0.8, "begin": 0.0, "end": 0.7, "every_n_steps": 1}
    quantization = {"observe": 0.2, "begin": 0.4, "freeze_observers": 0.8}
    return {
        "model": {
            "task": "text-classification",
            "teacher": str(folder / "teacher"),
            "student": {"layers": "uniform", "num_layers": 1},
            "losses": ["HintonKL", "CrossEntropy", {"class_path": "FitNetHint", "init_args": {"regressor": "always"}}],
            "optimizer": {"lr": 1e-3},
        },
        "data": {"path": str(folder / "data"), "batch_size": 8, "max_length": 32},
        "trainer": {
            "max_epochs": 2,
            "val_check_interval": 5,
            "log_every_n_steps": 1,
            "gradient_clip_val": 1.0,
            "accelerator": "cpu",
            "enable_progress_bar": False,
        },
        "callbacks": [
            {"class_path": "GradualMagnitudePruning", "init_args": pruning},
            {"class_path": "QuantizationAwareTraining", "init_args": quantization},
            {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}},
            {"class_path": "Last", "init_args": {"every_n_steps": 2}},
        ],
    }


# ---------------------------------------------------------------------- kills


def die_at(owner: Any, name: str, seconds: float, calls: int, doing: Callable[..., object]) -> None:
    """Die in ``owner.name``, so many seconds from now and then so many calls later.

    Args:
        owner: A module or class.
        name: A function of it.
        seconds: From now.
        calls: To let pass after that.
        doing: What is done before the end, given the function and its arguments.
    """
    original, begin, left = getattr(owner, name), time.monotonic() + seconds, iter(range(calls))

    def doomed(*given: Any, **named: Any) -> Any:
        if time.monotonic() > begin and next(left, None) is None:
            doing(original, *given, **named)
            signal.raise_signal(signal.SIGKILL)
        return original(*given, **named)

    setattr(owner, name, doomed)


def nothing(*given: Any, **named: Any) -> None:
    """Done before the end: death comes before the call."""


def all_of_it(original: Callable[..., object], *given: Any, **named: Any) -> None:
    """Done before the end: death comes after the call."""
    original(*given, **named)


def half_of_it(original: Callable[..., object], file: Any, data: bytes) -> None:
    """Done before the end: half of the bytes are handed to the system."""
    original(file, data[: len(data) // 2])
    file.file.flush()


def any_time(draw: random.Random, seconds: float) -> None:
    threading.Timer(draw.uniform(0, seconds), signal.raise_signal, [signal.SIGKILL]).start()


def checkpoint(draw: random.Random, seconds: float) -> None:
    """With a part of it written, or with all of it under its temporary name, or just after it took its own."""
    when = draw.uniform(0, seconds)
    if draw.random() < 0.6:
        die_at(distill.sealed._Sealed, "write", when, draw.randint(0, 100), half_of_it)
    else:
        die_at(os, "replace", when, 0, draw.choice([nothing, all_of_it]))


def validation(draw: random.Random, seconds: float) -> None:
    die_at(Distillation, "validation_step", draw.uniform(0, seconds), 0, draw.choice([nothing, all_of_it]))


def end(draw: random.Random, seconds: float) -> None:
    """Before or after the student is written, takes its place, or the result is written."""
    place = draw.choice([(artifact, "_write"), (artifact, "save"), (Run, "write_result")])
    die_at(*place, 0.0, 0, draw.choice([nothing, all_of_it]))


MOMENTS = {any_time: 6, checkpoint: 5, validation: 2, end: 3}
"""What may happen to a run, and how often."""


def attempt(argv: list[str], folder: Path, doom: Callable[[], None] = lambda: None) -> int:
    """Run the command in a fork of this process; its exit code, or -9 if it was killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        doom()
        code = command(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# ---------------------------------------------------------------------- what came of it


def digest(run: Path) -> dict[str, str]:
    """Hashes of all that a run leaves, by name."""
    newest = next(iter(saved(run / "checkpoints").values()))
    found = dict(_hashes(distill.checkpoint.read(newest), newest.name))
    files = [run / "metrics.csv", *sorted(path for path in (run / "student").rglob("*") if path.is_file())]
    found |= {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    result = json.loads((run / "result.json").read_text())
    return found | {f"result.{name}": json.dumps(result[name]) for name in ("scores", "steps", "saved_step")}


def _hashes(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Tensor):
        data = value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        yield place, f"{value.dtype} {list(value.shape)} {hashlib.sha256(data).hexdigest()}"
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name != "seconds":  # how long it took is no part of what was trained
                yield from _hashes(item, f"{place}/{name}")
    elif isinstance(value, (list, tuple)):
        yield place, f"{type(value).__name__} of {len(value)}"
        for index, item in enumerate(value):
            yield from _hashes(item, f"{place}/{index}")
    else:
        yield place, repr(value)


def different(run: Path, reference: Mapping[str, str]) -> list[str]:
    """What of a run's :func:`digest` is not as in the reference."""
    found = digest(run)
    return [name for name in {**reference, **found} if found.get(name) != reference.get(name)]


# ---------------------------------------------------------------------- the stress


def stress(kills: int, seed: int, folder: Path, given: Path | None = None) -> int:
    """Print the progress; the number of runs that did not end as the undisturbed one.

    Args:
        kills: How many, over as many runs as it takes.
        seed: Of their moments.
        folder: Empty, to work in.
        given: A recipe in place of ours.
    """
    if given is None:
        given = folder / "recipe.yaml"
        given.write_text(yaml.safe_dump(recipe(folder), sort_keys=False))
    fit = ["fit", "-c", str(given), "--runs", "runs", "--name", "stress", "--id"]
    place, draw, started = folder / "runs/stress", random.Random(seed), time.monotonic()
    if code := attempt([*fit, "undisturbed"], folder):
        raise SystemExit(f"the undisturbed run ended with exit code {code}: see {folder / 'log.txt'}")
    seconds = time.monotonic() - started
    reference = digest(place / "undisturbed")
    print(f"undisturbed: {seconds:.1f} s, {len(reference)} things to compare", flush=True)
    killed = runs = differences = 0
    while killed < kills:
        runs += 1
        run = place / f"run-{runs}"
        moments: list[str] = []
        while killed + len(moments) < kills:
            [moment] = draw.choices(list(MOMENTS), list(MOMENTS.values()))
            code = attempt(_argv(run, fit), folder, partial(moment, draw, seconds))
            if code != -signal.SIGKILL:
                break
            moments.append(moment.__name__)
        else:
            code = attempt(_argv(run, fit), folder)
        killed += len(moments)
        changed = [f"exit code {code}"] if code else different(run, reference)
        said = f"differs in {', '.join(changed[:8])}" if changed else "no difference"
        print(f"run {runs}: {said}; {killed} kills so far, here: {', '.join(moments) or 'none'}", flush=True)
        differences += bool(changed)
        if not changed:
            shutil.rmtree(run)
    print(f"{killed} kills, {runs} runs, {differences} differences", flush=True)
    return differences


def _argv(run: Path, fit: list[str]) -> list[str]:
    """What goes on with the run, or begins it."""
    if (run / "config.yaml").is_file():
        return ["resume", str(run)]
    shutil.rmtree(run, ignore_errors=True)  # killed as its folder was made
    return [*fit, run.name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over as many runs as it takes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--recipe", type=Path, help="YAML file of a short run, in place of the tiny one")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stress-resume-"))
    differences = stress(given.kills, given.seed, folder, given.recipe and given.recipe.resolve())
    if differences:
        print(f"what differs is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
