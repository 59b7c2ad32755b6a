#!/usr/bin/env python
"""What a language model keeps of its perplexity when its weights are pruned without training, by each method.

    python scripts/one_shot_pruning.py MODEL DATA.parquet CALIBRATION.parquet

MODEL is a folder of transformers; the files have a column ``text``. The table is that of docs/methods.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, cast

from quantization_starts import blocks, loaded, perplexity

from distill.compression.pruning.at_once import OneShot, prune


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, a line each as it is known."""
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "calibration"):
        parser.add_argument(name)
    parser.add_argument("--samples", type=int, default=8, help="blocks of 512 tokens that are scored")
    parser.add_argument("--calibrate", type=int, default=4, help="blocks whose inputs are looked at")
    options = parser.parse_args(argv)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = blocks(options.data, tokenizer, options.samples)
    calibration = blocks(options.calibration, tokenizer, options.calibrate)
    batches = [{"input_ids": row[None], "use_cache": False} for row in calibration]
    print(f"| dense | | {perplexity(loaded(options.model), data):.2f} | |", flush=True)
    for granularity in ("unstructured", "2:4"):
        for method in ("magnitude", "wanda", "sparsegpt"):
            model, began = loaded(options.model), time.process_time()
            how = OneShot(method, granularity=granularity)
            prune(model, how, batches, lambda m, batch: cast(Any, m).model(**batch))
            seconds = time.process_time() - began
            print(f"| {granularity} | {method} | {perplexity(model, data):.2f} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
