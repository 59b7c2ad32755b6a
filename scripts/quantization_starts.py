#!/usr/bin/env python
"""What a language model keeps of its perplexity when its weights are rounded without training, by each start.

    python scripts/quantization_starts.py MODEL DATA.parquet CALIBRATION.parquet

MODEL is a folder of transformers; the files have a column ``text``. The table is that of docs/methods.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, Bits, WeightScheme
from distill.compression.quantization.starts.settings import Start

LENGTH = 512


class Case(NamedTuple):
    """A column of the table, and the starts that are its rows."""

    name: str
    weights: WeightScheme
    activations: ActivationScheme | None
    starts: tuple[str, ...]


def grouped(bits: Bits, size: int) -> WeightScheme:
    """Weights in groups."""
    return WeightScheme(bits=bits, granularity="group", group_size=size)


INPUTS = ActivationScheme(observer="minmax")
CASES = (
    Case("W8A8", WeightScheme(), INPUTS, ("rtn", "smoothquant")),
    Case("W4 in 64", grouped(4, 64), None, ("rtn", "mse", "gptq", "awq", "awq+gptq")),
    Case("W4 in 32", grouped(4, 32), None, ("rtn", "gptq", "awq")),
)


def blocks(path: str, tokenizer: Any, count: int) -> Tensor:
    """The first tokens of a file's texts, ``[count, 512]``."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    texts = parquet.read_table(path).column("text").to_pylist()
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text)["input_ids"]
        if len(ids) >= count * LENGTH:
            break
    return torch.tensor(ids[: count * LENGTH]).view(count, LENGTH)


@torch.no_grad()
def perplexity(model: Any, rows: Tensor) -> float:
    """exp of the mean negative log-likelihood, each block by itself."""
    total = 0.0
    for row in rows:
        logits = model(input_ids=row[None], use_cache=False).logits[0, :-1]
        total += float(nn.functional.cross_entropy(logits.float(), row[1:], reduction="sum"))
    return float(torch.tensor(total / (rows.numel() - len(rows))).exp())


def loaded(path: str) -> Any:
    """The model of ``path``."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval()


def rounded(path: str, case: Case, method: str, calibration: Tensor) -> Any:
    """The model of ``path``, quantized."""
    model = loaded(path)
    quantize(
        model,
        [
            {"input_ids": row[None], "use_cache": False} for row in (calibration[0, :32], *calibration)
        ],  # a short one to try folds
        lambda m, batch: cast(Any, m).model(**batch),
        weights=case.weights,
        activations=case.activations,
        start=Start(method=method),
    )
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, a line each as it is known."""
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "calibration"):
        parser.add_argument(name)
    parser.add_argument("--samples", type=int, default=8, help="blocks of 512 tokens that are scored")
    parser.add_argument("--calibrate", type=int, default=4, help="blocks that starts look at")
    options = parser.parse_args(argv)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = blocks(options.data, tokenizer, options.samples)
    calibration = blocks(options.calibration, tokenizer, options.calibrate)
    print(f"| float | | {perplexity(loaded(options.model), data):.2f} | |", flush=True)
    for case in CASES:
        for method in case.starts:
            began = time.process_time()
            model = rounded(options.model, case, method, calibration)
            seconds = time.process_time() - began
            print(f"| {case.name} | {method} | {perplexity(model, data):.2f} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
