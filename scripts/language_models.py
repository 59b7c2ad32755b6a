#!/usr/bin/env python
"""The ways to teach a language model, each on the same text, with the same steps: what comes of it, and what it takes.

    python scripts/language_models.py code --work /tmp/code --out docs/results-language-models.jsonl
    python scripts/language_models.py wikitext --teacher SMOLLM2 --data WIKITEXT2 --work /tmp/wiki --out ...
    python scripts/language_models.py chats --teacher SMOLLM2 --data CHATS --work /tmp/chats --out ...
    python scripts/language_models.py tokenizers --teacher SMOLLM2 --data WIKITEXT2 --work /tmp/tokens --out ...

``code`` is the quickstart's pair (5.3 M teach 0.5 M parameters) on the standard library's source. In ``tokenizers``
SmolLM2 teaches the quickstart's student, whose tokens are others. The other two cut ten of thirty layers from SmolLM2:
on WikiText-2 (a folder of ``validation``, which trains, and ``test``, which judges), and on a folder of chats
(``train.jsonl`` and ``validation.jsonl``, with ``messages``). Each run is one line of ``--out``;
what is there is not trained again. Every run is a process of its own with one thread, so seconds are those of the
processor and other jobs on the machine do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)

LIVE = "live"
"""The teacher runs beside the student."""

RECORDINGS: dict[str, Sequence[str]] = {
    "hidden-float32": ("--as", "hidden", "--dtype", "float32"),
    "hidden-int8": ("--as", "hidden", "--dtype", "int8"),
    "topk-50": ("--as", "topk", "--k", "50"),
    "sampled-12": ("--as", "sampled", "--draws", "12"),
}

WRITTEN = {"prompt_length": 64, "max_new_tokens": 192, "temperature": 1.0}
"""What the student writes of a batch that it writes itself."""


@dataclass(frozen=True)
class Way:
    """One way to teach.

    Attributes:
        losses: As a configuration has them.
        teacher: :data:`LIVE`, or one of :data:`RECORDINGS`.
        model: What else ``model`` has.
        answers: The data are texts that the teacher wrote.
        after: Another way, with whose student of the same seed it begins.
        callbacks: What compresses it.
    """

    losses: Sequence[Mapping[str, Any]]
    teacher: str = LIVE
    model: Mapping[str, Any] = field(default_factory=dict)
    answers: bool = False
    after: str | None = None
    callbacks: Sequence[Mapping[str, Any]] = ()


def loss(name: str, **arguments: Any) -> dict[str, Any]:
    """One entry of ``model.losses``."""
    return {"class_path": name, "init_args": arguments} if arguments else {"class_path": name}


KL = loss("HintonKL", temperature=1.0)
_PRUNED = {
    "class_path": "GradualMagnitudePruning",
    "init_args": {"final_sparsity": 0.5, "begin": 0.0, "end": 0.4, "max_layer_sparsity": 0.8},
}
_WHEN = {"begin": 0.5, "observe": 0.4, "freeze_observers": 0.9}
_INT4 = {"bits": 4, "granularity": "group", "group_size": 32}
_INT8_QAT = {"class_path": "QuantizationAwareTraining", "init_args": _WHEN}
_INT4_QAT = {
    "class_path": "QuantizationAwareTraining",
    "init_args": {"begin": 0.5, "weights": _INT4, "embeddings": _INT4, "activations": None},
}
_LATE = {"class_path": "Linear", "init_args": {"start": 0.0, "end": 1.0, "begin": 0.6666, "until": 0.6667}}

WAYS: dict[str, Way] = {
    "alone": Way([loss("CrossEntropy")]),
    "KL": Way([KL]),
    "KL, hidden float32": Way([KL], "hidden-float32"),
    "KL, hidden int8": Way([KL], "hidden-int8"),
    "KL, top 50": Way([KL], "topk-50"),
    "KL, 12 sampled": Way([KL], "sampled-12"),
    "KL + cross entropy": Way([{**KL, "init_args": {"temperature": 1.0, "weight": 0.5}},
                               loss("CrossEntropy", weight=0.5)], "hidden-float32"),
    "reverse KL": Way([loss("ReverseKL")], "hidden-float32"),
    "Jensen-Shannon": Way([loss("JensenShannon", beta=0.5)], "hidden-float32"),
    "skew KL": Way([loss("SkewKL", alpha=0.1)], "hidden-float32"),
    "alpha-beta": Way([loss("AlphaBeta", alpha=0.5, beta=0.5)], "hidden-float32"),
    "total variation": Way([loss("TotalVariation")], "hidden-float32"),
    "KL + hints": Way([KL, loss("FitNetHint", layers="uniform", normalize=True, weight=1.0)]),
    "teacher's texts": Way([loss("CrossEntropy")], answers=True),
    "KL, on-policy in the last third": Way([KL], model={"on_policy": {"share": _LATE, **WRITTEN}}),
    "KL across tokenizers": Way([loss("CrossEntropy", weight=0.5), loss("SharedVocabularyKL", weight=0.5)]),
    "then half as long again": Way([KL], "hidden-int8", after="KL, hidden int8"),
    "then 50 % pruned, int8": Way([KL], "hidden-int8", after="KL, hidden int8", callbacks=[_PRUNED, _INT8_QAT]),
    "then 50 % pruned, int4": Way([KL], "hidden-int8", after="KL, hidden int8", callbacks=[_PRUNED, _INT4_QAT]),
}  # fmt: skip


class Pair:
    """A teacher, a student and their text.

    Args:
        name: Of the pair.
        base: The configuration all runs share.
        teacher: Path of the teacher.
        work: Where runs, recordings and texts are written.
    """

    def __init__(self, name: str, base: Mapping[str, Any], teacher: str, work: Path) -> None:
        self.name, self.base, self.teacher, self.work = name, base, teacher, work

    @property
    def ways(self) -> list[str]:
        """Those that it can be taught by."""
        across = "KL across tokenizers"
        return ["alone", across] if self.name == "tokenizers" else [way for way in WAYS if way != across]

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """Train by one way, and say what came of it."""
        way, folder = WAYS[name], self.work / "runs" / slug(name) / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        taught: dict[str, Any] | None = {"path": self.teacher}
        if way.teacher != LIVE:
            taught = {"path": self.teacher, "recorded": str(self.recording(way.teacher))}
        elif self.name == "tokenizers" and name == "alone":
            taught = None  # of a vocabulary that no loss compares
        config = merged(self.base, {"model": {"teacher": taught, "losses": list(way.losses), **way.model}})
        if way.after is not None:
            started = self.work / "runs" / slug(way.after) / f"seed-{seed}"
            config["model"]["student"] = {"path": str(started)}
            half = {"max_steps": self.base["trainer"]["max_steps"] // 2}
            config = merged(config, {"callbacks": list(way.callbacks), "trainer": half})
        if way.answers:
            config = merged(config, {"data": {"files": {"train": str(self.texts())}, "add_special_tokens": True}})
        file = self.work / f"{slug(name)}.yaml"
        file.write_text(json.dumps(config, indent=1))
        arguments = ["--seed", str(seed), "--id", folder.name, "--name", folder.parent.name]
        used = distill("fit", "-c", str(file), *arguments, "--runs", str(folder.parents[1]))
        found = {**facts(json.loads((folder / "result.json").read_text())), **used}
        return found | (exported(folder) if way.callbacks else {})

    def recording(self, form: str) -> Path:
        """What the teacher says of the training data, made if it is not there."""
        folder = self.work / "recorded" / form
        if not (folder / "index.json").exists():
            file = self.work / "record.yaml"
            taught = {"model": {"teacher": {"path": self.teacher}, "losses": [KL]}}
            file.write_text(json.dumps(merged(self.base, taught)))
            used = distill("record", "-c", str(file), "--to", str(folder), *RECORDINGS[form])
            (self.work / f"recorded-{form}.json").write_text(json.dumps(used))
        return folder

    def texts(self) -> Path:
        """Texts that the teacher wrote, made if they are not there; needs ``prompts.jsonl`` in the folder."""
        answers, texts = self.work / "answers.jsonl", self.work / "texts.jsonl"
        if not texts.exists():
            words = ("--max-new-tokens", "448", "--temperature", "1.0", "--batch-size", "64", "--keep-unfinished")
            used = distill("generate", self.teacher, str(self.work / "prompts.jsonl"), "--to", str(answers), *words)
            rows = [json.loads(line) for line in answers.read_text().splitlines()]
            lines = (json.dumps({"text": row["prompt"] + row["completion"]}) for row in rows)
            texts.write_text("\n".join(lines) + "\n")
            (self.work / "written.json").write_text(json.dumps(used))
        return texts


def code(work: Path, steps: int) -> Pair:
    """The quickstart's pair on a fifth of its modules, and prompts for its teacher: what their parts begin with."""
    from transformers import AutoTokenizer

    from distill.config.files import load
    from distill.data.corpus import stdlib

    teacher = str(Path(__file__).parents[1] / "configs/quickstart/teacher")
    splits = {"train": stdlib()["train"]["text"][::5], "validation": stdlib()["validation"]["text"]}
    for split, texts in splits.items():
        write(work / f"{split}.jsonl", ({"text": text} for text in texts))
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    parts = 4 * steps * 256 // 512
    write(work / "prompts.jsonl", starts(splits["train"], tokenizer, parts, 64))
    base = load(["quickstart/alone"])
    base["data"] = {
        "files": {split: str(work / f"{split}.jsonl") for split in splits},
        "pack_length": 256,
        "batch_size": 4,
    }
    del base["name"]
    base["trainer"] |= {"max_steps": steps, "limit_val_batches": 4}
    return Pair("code", base, teacher, work)


def starts(texts: Iterable[str], tokenizer: Any, count: int, length: int) -> Iterator[dict[str, str]]:
    """The first ``length`` tokens of ``count`` parts of all texts, evenly spaced."""
    tokens = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    for part in range(count):
        begin = part * (len(tokens) // count)
        yield {"prompt": tokenizer.decode(tokens[begin : begin + length])}


def tokenizers(work: Path, steps: int, teacher: str, data: str) -> Pair:
    """SmolLM2 and the quickstart's student, each with its own tokenizer, on WikiText-2."""
    from distill.config.files import load

    base = load(["quickstart/alone"])
    del base["name"]
    base["data"] = {"pack_length": 256, "batch_size": 4, "eval_batch_size": 4, **_wikitext(data)}
    base["trainer"] |= {"max_steps": steps, "limit_val_batches": 64, "precision": "bf16-mixed"}
    return Pair("tokenizers", base, teacher, work)


def smollm2(name: str, work: Path, steps: int, teacher: str, data: Mapping[str, Any]) -> Pair:
    """Ten of the layers of SmolLM2."""
    base = {
        "model": {
            "task": "causal-lm",
            "student": {"layers": "uniform", "num_layers": 10},
            "optimizer": {"lr": 3.0e-4, "warmup": 0.1, "schedule": "cosine", "end": 0.1, "weight_decay": 0.0},
        },
        "data": {"pack_length": 256, "batch_size": 4, "eval_batch_size": 4, **data},
        "trainer": {"max_steps": steps, "limit_val_batches": 16, "gradient_clip_val": 1.0},
    }
    return Pair(name, base, teacher, work)


def wikitext(work: Path, steps: int, teacher: str, data: str) -> Pair:
    """SmolLM2 on the lines of WikiText-2, joined."""
    return smollm2("wikitext", work, steps, teacher, _wikitext(data))


def _wikitext(data: str) -> dict[str, Any]:
    return {"path": data, "splits": {"train": "validation", "validation": "test"}, "join": "\n"}


def chats(work: Path, steps: int, teacher: str, data: str) -> Pair:
    """SmolLM2 on chats: what counts are the answers."""
    files = {split: str(Path(data) / f"{split}.jsonl") for split in ("train", "validation")}
    return smollm2("chats", work, steps, teacher, {"files": files})


def write(file: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Rows as a file of one JSON object a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def slug(name: str) -> str:
    """A way's name as a folder's."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two configurations; what the second has goes before."""
    both = {**first, **second}
    for key in first.keys() & second.keys():
        if isinstance(first[key], Mapping) and isinstance(second[key], Mapping):
            both[key] = merged(first[key], second[key])
    return both


def distill(*words: str) -> dict[str, Any]:
    """Run a command with one thread; seconds of the processor that it took, and its peak memory."""
    print("$ distill", *words, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = os.posix_spawn(sys.executable, [sys.executable, "-m", "distill.cli", *words], environment)
    _, status, usage = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"distill {' '.join(words)} failed")
    return {"cpu_seconds": round(usage.ru_utime + usage.ru_stime), "peak_mb": usage.ru_maxrss // 1024}


def exported(run: Path) -> dict[str, Any]:
    """Size of the ONNX file with integers that a run is exported to, and how far it is from the trained student."""
    distill("export", str(run), "--to", "onnx-int8", "--samples", "32")
    report = json.loads((run / "exports/onnx-int8/export.json").read_text())
    return {"onnx_mb": round(report["bytes"] / 1e6, 3), "verified": report["verified"]}


def facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a table shows of a run's result."""
    scores = result["scores"]
    kept = ("bits_per_byte", "perplexity", "acceptance", "agreement", "accuracy")
    return {
        **{metric: round(scores["student"][metric], 4) for metric in kept if metric in scores["student"]},
        **{
            who: round(scores[who]["bits_per_byte"], 4)
            for who in ("teacher", "guess")
            if "bits_per_byte" in scores[who]
        },
        "steps": result["steps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", choices=["code", "wikitext", "chats", "tokenizers"])
    parser.add_argument("--teacher", help="folder of SmolLM2")
    parser.add_argument("--data", help="folder of the data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="of 1,024 tokens (code: 400, tokenizers: 200, else 146)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY", help=", ".join(WAYS))
    given = parser.parse_args()
    work = given.work.resolve()
    if given.pair == "code":
        pair = code(work, given.steps or 400)
    elif given.teacher and given.data:
        make = {"wikitext": wikitext, "chats": chats, "tokenizers": tokenizers}[given.pair]
        work.mkdir(parents=True, exist_ok=True)
        steps = given.steps or (200 if given.pair == "tokenizers" else 146)
        pair = make(work, steps, given.teacher, given.data)
    else:
        parser.error(f"{given.pair} needs --teacher and --data")
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    there = {(row["pair"], row["way"], row["seed"]) for row in map(json.loads, lines)}
    for seed in given.seeds:
        for way in given.ways or pair.ways:
            if (given.pair, way, seed) not in there:
                row = {"pair": given.pair, "way": way, "seed": seed, **pair.run(way, seed)}
                with given.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    main()
