#!/usr/bin/env python
"""The main job: distil a code language model on the source of Python's standard library.

    scripts/quickstart [--seed 0] [--runs runs]

Trains one small student twice on the same tokens, alone and from the shipped teacher; prunes and quantizes the
distilled one while it is distilled on; exports it as integers for onnxruntime. Ends with a table of bits per byte and
perplexity on held-out modules, a completion by each model, the export's size and speed, and a report of all of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from transformers import AutoTokenizer

import distill
from distill.config import files as configuration
from distill.core.utils.paths import resolve
from distill.export.summary import megabytes
from distill.run.folder import Run
from distill.workflows.export import export
from distill.workflows.fit import fit
from distill.workflows.report.predictions import Options
from distill.workflows.report.run import FILE, report

ALONE = ["quickstart/alone"]
PAGE = "report.html"
DISTILLED = ["quickstart/distilled"]
COMPRESSED = ["quickstart/compressed"]
TEACHER = "distill:quickstart/teacher"
MEASURED = Options(samples=64, seconds=5.0)
"""How much of the held-out text the report is of, and how long it may measure time."""
PROMPT = '''def read_lines(path):
    """Return the lines of a file."""
    with open('''


def train(title: str, files: list[str], console: Console, **overrides: str) -> Run:
    console.rule(title)
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    console.print("$ distill fit", *(f"-c {file}" for file in files), *(f"--{k} {v}" for k, v in given.items()))
    return fit(configuration.load(files, list(given.items())))


@torch.inference_mode()
def complete(model: Any, tokenizer: Any, tokens: int = 48) -> str:
    """The likeliest continuation of the prompt."""
    inputs = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)["input_ids"]
    inputs = torch.cat([torch.tensor([[tokenizer.bos_token_id]]), inputs], dim=1)
    out = model.eval().generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=tokens, do_sample=False, repetition_penalty=1.1,
        pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return str(tokenizer.decode(out[0, inputs.shape[1] :], skip_special_tokens=True))


def table(runs: dict[str, dict[str, Any]]) -> Table:
    """The teacher and the students, by their results."""
    made = Table(
        title="Half of the held-out modules of the standard library (bits per byte and perplexity: lower is better)",
        title_justify="left",
    )
    for column in ("model", "bits per byte", "perplexity", "token accuracy", "agreement", "parameters", "training"):
        made.add_column(column, justify="left" if column == "model" else "right")
    one = runs["student, distilled"]
    rows: list[tuple[str, Any, int, float | None]] = [
        ("teacher", one["scores"]["teacher"], one["parameters"]["teacher"], None)
    ]
    for name, result in runs.items():
        rows.append((name, result["scores"]["student"], result["parameters"]["student"], result["train_seconds"]))
    for name, scores, parameters, seconds in rows:
        made.add_row(
            name,
            f"{scores['bits_per_byte']:.4f}",
            f"{scores['perplexity']:.2f}",
            f"{scores['token_accuracy']:.1%}",
            f"{scores['agreement']:.1%}" if "agreement" in scores else "",
            f"{parameters:,}",
            "shipped" if seconds is None else f"{seconds:.0f} s",
        )
    return made


def shipped(report: dict[str, Any]) -> str:
    """The export's file, size and speed, beside those of what it was measured against."""
    other, taken = report["reference"], report["latency_ms"]
    return (
        f"{report['folder']}/model.onnx runs in onnxruntime: {megabytes(report['bytes'])}, "
        f"{other['bytes'] / report['bytes']:.1f} times smaller than {other['name']}, and "
        f"{taken[other['name']] / taken['export']:.1f} times as fast (one thread, batch 1)."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs")
    arguments = parser.parse_args(argv)
    console = Console(width=None if Console().is_terminal else 120)
    started = time.perf_counter()

    common = {"seed": str(arguments.seed), "runs": arguments.runs}
    alone = train("1/3  the student alone", ALONE, console, **common)
    distilled = train("2/3  the same student, distilled", DISTILLED, console, **common)
    start = {"model__student__path": str(distilled.folder)}
    compressed = train("3/3  distilled on, 80 % pruned, int8", COMPRESSED, console, **common, **start)
    console.rule("export")
    console.print(f"$ distill export {compressed.folder} --to onnx-int8")
    exported = export(compressed.folder, "onnx-int8")

    console.rule("result")
    students = {"student, alone": alone, "student, distilled": distilled, "student, 80 % pruned, int8": compressed}
    console.print(table({name: run.result for name, run in students.items()}))
    tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    models = {"teacher": Path(resolve(TEACHER, "teacher"))} | {name: run.student for name, run in students.items()}
    for name, folder in models.items():
        text = Text(PROMPT, style="dim") + Text(complete(distill.load(folder), tokenizer))
        console.print(Panel(text, title=name, title_align="left"))
    console.print(f"The students are in {distilled.student} and {compressed.student}: distill.load(folder) opens them.")
    console.print("So small a model, trained so briefly, writes no sense: the order of the scores is the point.")
    console.print(shipped(exported) + " It was verified on all held-out modules.")
    console.rule("report")
    folders, page = [run.folder for run in (compressed, distilled, alone)], compressed.folder / PAGE
    console.print("$ distill report", *folders, f"--samples {MEASURED.samples} --html {page}")
    report(folders, MEASURED, html=page)
    console.print(f"The report is {page}, and {compressed.folder / FILE} for programs.")
    console.print("Next: your own data, as the README says; `.venv/bin/distill runs` lists what was trained.")
    console.print(f"{time.perf_counter() - started:.0f} s in all.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
