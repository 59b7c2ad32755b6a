#!/usr/bin/env python
"""The main job: distil a code language model on the source of Python's standard library.

    scripts/quickstart [--seed 0] [--runs runs]

Trains one small student twice on the same tokens, alone and from the shipped teacher, and ends with a table of
bits per byte and perplexity on held-out modules and with a completion by each model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from transformers import AutoTokenizer

import distill
from distill import config as configuration
from distill.launch import fit
from distill.paths import resolve
from distill.run import Run

ALONE = ["quickstart/alone"]
DISTILLED = ["quickstart/distilled"]
TEACHER = "distill:quickstart/teacher"
PROMPT = '''def read_lines(path):
    """Return the lines of a file."""
    with open('''


def train(title: str, files: list[str], seed: int, runs: str, console: Console) -> Run:
    console.rule(title)
    console.print("$ distill fit", *(f"-c {file}" for file in files), f"--seed {seed}")
    return fit(configuration.load(files, [("seed", str(seed)), ("runs", runs)]))


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


def table(alone: dict[str, Any], distilled: dict[str, Any]) -> Table:
    made = Table(
        title="Held-out modules of the standard library (bits per byte and perplexity: lower is better)",
        title_justify="left",
    )
    for column in ("model", "bits per byte", "perplexity", "token accuracy", "agreement", "parameters", "training"):
        made.add_column(column, justify="left" if column == "model" else "right")
    rows = (
        ("teacher", distilled["scores"]["teacher"], distilled["parameters"]["teacher"], None),
        ("student, alone", alone["scores"]["student"], alone["parameters"]["student"], alone["train_seconds"]),
        (
            "student, distilled",
            distilled["scores"]["student"],
            distilled["parameters"]["student"],
            distilled["train_seconds"],
        ),
    )
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs")
    arguments = parser.parse_args()
    console = Console(width=None if Console().is_terminal else 120)
    started = time.perf_counter()

    alone = train("1/2  the student alone", ALONE, arguments.seed, arguments.runs, console)
    distilled = train("2/2  the same student, distilled", DISTILLED, arguments.seed, arguments.runs, console)

    console.rule("result")
    console.print(table(alone.result, distilled.result))
    tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    models = {
        "teacher": resolve(TEACHER, "teacher"),
        "student, alone": alone.student,
        "student, distilled": distilled.student,
    }
    for name, folder in models.items():
        text = Text(PROMPT, style="dim") + Text(complete(distill.load(folder), tokenizer))
        console.print(Panel(text, title=name, title_align="left"))
    console.print(f"The distilled student is in {Path(distilled.student)}: distill.load(folder) opens it.")
    console.print(f"{time.perf_counter() - started:.0f} s in all.")


if __name__ == "__main__":
    main()
