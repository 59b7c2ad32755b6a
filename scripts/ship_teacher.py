#!/usr/bin/env python
"""Make the quickstart's teacher of a run: its student's weights in float16, with configuration and tokenizer.

python scripts/ship_teacher.py runs/quickstart-teacher/ID [--out configs/quickstart/teacher]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

import distill
from distill.run.folder import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path("configs/quickstart/teacher"))
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    model = distill.load(run.student)
    assert isinstance(model, PreTrainedModel)
    shutil.rmtree(arguments.out, ignore_errors=True)
    model.half().save_pretrained(arguments.out)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(run.student).save_pretrained(arguments.out)
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"{arguments.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
