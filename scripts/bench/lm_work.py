"""What the contenders of ``bench_lm.py`` train: models, texts and recordings; and the clock of their steps."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

BATCH, LENGTH = 4, 256
HIDDEN, TOPK = "ours, recorded hidden int8", "ours, recorded top 50"
RECORDINGS = {
    HIDDEN: ("--as", "hidden", "--dtype", "int8"),
    TOPK: ("--as", "topk", "--k", "50"),
}


class Clock:
    """Seconds from the end of one step to the end of the next: of the wall and of the processor."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []
        self._since: tuple[float, float] | None = None

    def tick(self) -> None:
        """A step has ended."""
        now = time.perf_counter(), time.process_time()
        if self._since is not None:
            self.wall.append(now[0] - self._since[0])
            self.processor.append(now[1] - self._since[1])
        self._since = now


class Work:
    """What all contenders train: models, texts and recordings, in a folder.

    Args:
        folder: Made by :func:`prepare`.
        steps: Of each contender; the first is not counted.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps

    def config(self, losses: list[Any], teacher: Mapping[str, Any] | None) -> dict[str, Any]:
        """A configuration of ours."""
        files = {"train": str(self.folder / "texts.jsonl"), "validation": str(self.folder / "held-out.jsonl")}
        return {
            "model": {
                "task": "causal-lm",
                "teacher": teacher,
                "student": {"path": str(self.folder / "student")},
                "losses": losses,
                "optimizer": {"lr": 1e-4, "warmup": 0.0},
            },
            "data": {"init_args": {"files": files, "pack_length": LENGTH, "batch_size": BATCH}},
            "trainer": {
                "max_steps": self.steps,
                "limit_val_batches": 0,
                "gradient_clip_val": 1.0,
                "precision": "32-true",
                "accelerator": "cpu",
                "enable_progress_bar": False,
            },
        }

    def model(self, name: str) -> Any:
        """``teacher`` or ``student``, in float32."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folder / name, dtype=torch.float32)

    def rows(self) -> list[list[int]]:
        """Blocks of tokens that are no special ones, as many as the steps take."""
        from transformers import AutoTokenizer

        generator, width = torch.Generator().manual_seed(0), len(AutoTokenizer.from_pretrained(self.folder / "teacher"))
        found: list[list[int]] = torch.randint(
            width // 10, width * 9 // 10, (BATCH * self.steps, LENGTH), generator=generator
        ).tolist()
        return found


def slug(name: str) -> str:
    """A contender's name as a folder's."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def prepare(work: Work, teacher: str, layers: int, gpt2: bool) -> None:
    """Both models, and texts enough for the steps."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from distill.models.students import StudentConfig, build_student
    from distill.tasks import make_task

    big: Any
    small: Any
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    if gpt2:
        big, small = (GPT2LMHeadModel(GPT2Config(n_layer=layers)) for layers in (12, 6))
    else:
        big = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
        small = build_student(StudentConfig(layers="uniform", num_layers=layers), make_task("causal-lm"), teacher=big)
    for name, model in (("teacher", big), ("student", small)):
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.config.bos_token_id = model.generation_config.bos_token_id = tokenizer.bos_token_id
        model.save_pretrained(work.folder / name)
        tokenizer.save_pretrained(work.folder / name)
    for file, rows in (("texts.jsonl", work.rows()), ("held-out.jsonl", work.rows()[:BATCH])):
        lines = (json.dumps({"text": tokenizer.decode(ids)}) for ids in rows)
        (work.folder / file).write_text("\n".join(lines) + "\n")


def record(work: Work) -> None:
    """What the teacher says of the texts, in each form."""
    config = work.config([{"class_path": "HintonKL"}], {"path": str(work.folder / "teacher")})
    (work.folder / "record.yaml").write_text(json.dumps(config))
    for name, words in RECORDINGS.items():
        command = ["record", "-c", str(work.folder / "record.yaml"), "--to", str(work.folder / slug(name)), *words]
        subprocess.run([sys.executable, "-m", "distill.cli", *command], check=True)


def linear_weights(model: nn.Module) -> int:
    """Weights that take part in a product for each token; the head's among them, tied or not."""
    from transformers.pytorch_utils import Conv1D

    return sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear | Conv1D))
