#!/usr/bin/env python
"""A whole step of distilling a language model: ours, TRL's, a bare loop, and what its products alone would take.

    python scripts/bench_lm.py --teacher SMOLLM2 [--student-layers 10] [--threads 2] [--out FILE]
    python scripts/bench_lm.py --teacher SMOLLM2 --gpt2

The student is ten of the teacher's layers, the loss KL, the batches are four blocks of 256 tokens, the optimizer is
AdamW. With ``--gpt2`` both models are GPT-2's of twelve and six layers with random weights, and the teacher's tokenizer
alone is used. Every contender trains in a process of its own, in turn, in another order from repeat to repeat; figures
are medians over the repeats of its median step after the first, and ratios are those within a repeat. ``processor`` is
the seconds of the processor, which other jobs on the machine disturb least; memory is the process's peak.

TRL is measured where it is installed (``pip install --no-deps trl accelerate psutil``). Its ``DistillationTrainer``
generates what it trains on; here it is fed with the texts instead, so that the step does the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from bench.report import Row, machine, row, show, write
from rich.console import Console
from torch import Tensor, nn

BATCH, LENGTH = 4, 256
FLOOR = "the products alone (floor)"
OURS, HIDDEN, TOPK, ALONE = "ours, live", "ours, recorded hidden int8", "ours, recorded top 50", "ours, fine-tuning"
BARE = "a bare loop"
TRL_SFT, TRL_GKD, TRL = "TRL, SFTTrainer", "TRL, GKDTrainer (lmbda 0)", "TRL, DistillationTrainer"
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


def ours(work: Work, name: str, clock: Clock) -> None:
    """A run of this project, with its checkpoints switched off."""
    from pytorch_lightning import Callback

    from distill.core.utils.quiet import quiet_lightning
    from distill.run.folder import Run
    from distill.workflows.job.build import build, make_trainer

    class Ends(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            clock.tick()

    kl = {"class_path": "HintonKL", "init_args": {"temperature": 1.0}}
    taught: dict[str, Any] | None = {"path": str(work.folder / "teacher")}
    if name in RECORDINGS:
        taught = {"recorded": str(work.folder / slug(name))}
    if name == ALONE:
        taught = None
    losses: list[Any] = [{"class_path": "CrossEntropy"} if name == ALONE else kl]
    job = build(work.config(losses, taught), run=Run(Path("unused")))
    with quiet_lightning():
        trainer = make_trainer(job, callbacks=[Ends()], enable_checkpointing=False)
        trainer.fit(job.module, datamodule=job.data)


def bare(work: Work, name: str, clock: Clock) -> None:
    """What one would write: both models' logits as a whole, and the formula."""
    teacher, student = work.model("teacher").eval(), work.model("student").train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    blocks = torch.tensor(work.rows()).view(work.steps, BATCH, LENGTH)
    for ids in blocks:
        with torch.no_grad():
            theirs = teacher(ids, use_cache=False).logits.log_softmax(-1)
        mine = student(ids, use_cache=False).logits.log_softmax(-1)
        sizes = {"reduction": "batchmean", "log_target": True}
        loss = nn.functional.kl_div(mine.flatten(0, 1), theirs.flatten(0, 1), **sizes)  # type: ignore[arg-type]
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


def trl(work: Work, name: str, clock: Clock) -> None:
    """TRL's trainers, on blocks of tokens."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback

    class Ends(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            clock.tick()

    tokenizer = AutoTokenizer.from_pretrained(work.folder / "teacher")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    common: dict[str, Any] = {
        "output_dir": str(work.folder / "trl"),
        "per_device_train_batch_size": BATCH,
        "max_steps": work.steps,
        "learning_rate": 1e-4,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
    }
    rows = Dataset.from_dict({"input_ids": work.rows()})
    make = {TRL_SFT: _sft, TRL_GKD: _gkd, TRL: _distillation}[name]
    trainer = make(work, common, rows, tokenizer)
    trainer.add_callback(Ends())
    trainer.train()


def _sft(work: Work, common: dict[str, Any], rows: Any, tokenizer: Any) -> Any:
    trl = import_module("trl")
    settings = trl.SFTConfig(**common, max_length=LENGTH)
    return trl.SFTTrainer(work.model("student"), args=settings, train_dataset=rows, processing_class=tokenizer)


def _collated(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids = torch.tensor([one["input_ids"] for one in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone(), "prompts": ids[:, :1]}


def _gkd(work: Work, common: dict[str, Any], rows: Any, tokenizer: Any) -> Any:
    gkd = import_module("trl.experimental.gkd")
    settings = gkd.GKDConfig(
        **common, lmbda=0.0, beta=0.0, temperature=1.0, max_length=LENGTH, remove_unused_columns=False
    )
    student, teacher = work.model("student"), work.model("teacher")
    return gkd.GKDTrainer(student, teacher, settings, _collated, rows, processing_class=tokenizer)


def _distillation(work: Work, common: dict[str, Any], rows: Any, tokenizer: Any) -> Any:
    from datasets import Dataset

    trl = import_module("trl")
    ready = iter(rows["input_ids"])

    class Fed(trl.DistillationTrainer):  # type: ignore[misc, name-defined]
        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            ids = torch.tensor([next(ready) for _ in inputs])
            ones = torch.ones_like(ids)
            return {
                "prompt_ids": ids[:, :1], "prompt_mask": ones[:, :1],
                "completion_ids": ids[:, 1:], "completion_mask": ones[:, 1:],
                "num_items_in_batch": ones[:, 1:].sum(),
            }  # fmt: skip

    settings = trl.DistillationConfig(**common, beta=0.0, temperature=1.0)
    prompts = Dataset.from_dict({"prompt": ["."] * len(rows)})
    models = work.model("student"), work.model("teacher")
    return Fed(models[0], models[1], args=settings, train_dataset=prompts, processing_class=tokenizer)


def floor(work: Work, name: str, clock: Clock) -> None:
    """The step's products as one of the same number of operations, of a size at which this machine is fastest.

    Two operations a weight of the linear layers and a token forward, of the student's four more backward.
    """
    weights = {who: linear_weights(work.model(who)) for who in ("teacher", "student")}
    operations = BATCH * LENGTH * (2 * weights["teacher"] + 6 * weights["student"])
    size = 2048
    left, right = torch.randn(size, size), torch.randn(size, size)
    out = left @ right
    for _ in range(work.steps):
        for _ in range(round(operations / (2 * size**3))):
            torch.mm(left, right, out=out)
        clock.tick()


def linear_weights(model: nn.Module) -> int:
    """Weights that take part in a product for each token; the head's among them, tied or not."""
    from transformers.pytorch_utils import Conv1D

    return sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear | Conv1D))


CONTENDERS: dict[str, Callable[[Work, str, Clock], None]] = {
    FLOOR: floor, OURS: ours, HIDDEN: ours, TOPK: ours, ALONE: ours, BARE: bare, TRL: trl, TRL_GKD: trl, TRL_SFT: trl,
}  # fmt: skip


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


def measure(work: Work, name: str) -> dict[str, float]:
    """One contender, in this process."""
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CONTENDERS[name](work, name, clock)
    return {
        "wall": statistics.median(clock.wall),
        "processor": statistics.median(clock.processor),
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def rows(found: Mapping[str, list[dict[str, float]]]) -> Iterator[Row]:
    """Tokens a second, processor time, memory, and ours beside each."""
    tokens = BATCH * LENGTH
    for name, runs in found.items():
        yield row(name, [tokens / run["wall"] for run in runs], "tokens/s")
    for name, runs in found.items():
        yield row(f"{name}: processor", [run["processor"] for run in runs], "s a step")
    for name, runs in found.items():
        if name != FLOOR:
            yield row(f"{name}: memory", [run["mb"] for run in runs], "MB")
    pairs = [(OURS, other) for other in (FLOOR, BARE, TRL, TRL_GKD)]
    pairs += [(ALONE, TRL_SFT), (HIDDEN, ALONE), (TOPK, ALONE)]
    for mine, theirs in pairs:
        if mine in found and theirs in found:
            ratios = [a["processor"] / b["processor"] for a, b in zip(found[mine], found[theirs], strict=True)]
            goal = {} if theirs in (FLOOR, ALONE) else {"at_most": 1.0}
            yield row(f"{mine} : {theirs}, processor", ratios, "x", **goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="folder of the teacher")
    parser.add_argument("--gpt2", action="store_true", help="GPT-2's of 12 and 6 layers, random weights")
    parser.add_argument("--student-layers", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5, help="of a contender in a repeat; the first does not count")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        print("\n" + json.dumps(measure(Work(Path(given.one[0]), given.steps), given.one[1])))
        return
    if given.teacher is None:
        parser.error("name the folder of the --teacher")
    names = given.only or [name for name in CONTENDERS if not name.startswith("TRL") or find_spec("trl")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    about = machine(given.threads, "32-true")
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), given.steps)
        prepare(work, given.teacher, given.student_layers, given.gpt2)
        if RECORDINGS.keys() & set(names):
            record(work)
        for repeat in range(given.repeats):
            for name in names[:: 1 if repeat % 2 else -1]:
                command = [sys.executable, __file__, "--one", folder, name, "--steps", str(given.steps)]
                command += ["--threads", str(given.threads)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, found[name][-1], flush=True)
    title = "GPT-2, 12 to 6 layers" if given.gpt2 else f"{Path(given.teacher).name} to {given.student_layers} layers"
    result = list(rows(found))
    show(title, result, Console(width=140))
    if given.out:
        settings = {"batch": BATCH, "length": LENGTH, "steps": given.steps, "repeats": given.repeats, "pair": title}
        write(given.out, about, settings, {title: result})


if __name__ == "__main__":
    main()
