"""A run that is resumed ends with the bits that it would have ended with.

Each case is trained once with a checkpoint kept at every step, and then resumed from some of them in a fresh build.
All that the last checkpoint holds is compared, and all that was logged.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.callbacks import Determinism, GradualMagnitudePruning, QuantizationAwareTraining, ResumeCheckpoint
from distill.run.checkpoints.file import SafeCheckpointIO, read
from distill.run.checkpoints.names import resume_checkpoints

Train = Callable[..., Any]
Changed = Callable[..., dict[str, Any]]
Differences = Callable[[Any, Any], list[str]]

EPOCH = 7  # steps: 55 samples in batches of 8


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


PRUNING = {"final_sparsity": 0.8, "begin": 0.0, "end": 0.7}
PRUNE = spec("GradualMagnitudePruning", **PRUNING)
MOVEMENT = spec("GradualMagnitudePruning", **PRUNING, criterion="movement")
WANDA = spec("GradualMagnitudePruning", **PRUNING, criterion="wanda")
REMOVE = spec("StructuredPruning", heads=0.5, neurons=0.5, criterion="taylor", begin=0.1, end=0.6)
QUANTIZATION = {"observe": 0.2, "begin": 0.4, "freeze_observers": 0.8}
QUANTIZE = spec("QuantizationAwareTraining", **QUANTIZATION)
LSQ = spec("QuantizationAwareTraining", **QUANTIZATION, weights={"bits": 4, "learned": True}, lr_factor=0.5)
AVERAGE = spec("ExponentialMovingAverage", decay=0.9)
STOP = spec("pytorch_lightning.callbacks.EarlyStopping", monitor="val/accuracy", mode="max", patience=1)
HINT = {"losses": [spec("HintonKL"), spec("FitNetHint", regressor="always")]}

# Name -> what it changes in the recipe, which is trained for two epochs unless told otherwise.
CASES: dict[str, dict[str, Any]] = {
    "distillation alone": {},
    "a hint with a trained regressor": {"model": HINT},
    "pruning, quantization, averages and clipping": {
        "trainer": {"val_check_interval": 5, "gradient_clip_val": 1.0},
        "callbacks": [PRUNE, QUANTIZE, AVERAGE],
    },
    "movement pruning with learned step sizes in bf16-mixed": {
        "trainer": {"val_check_interval": 5, "precision": "bf16-mixed"},
        "callbacks": [MOVEMENT, LSQ],
    },
    "pruning by Wanda": {"callbacks": [WANDA]},
    "heads and neurons removed by Taylor, quantization": {"callbacks": [REMOVE, QUANTIZE]},
    "low rank": {"callbacks": [spec("LowRank", rank=4)]},
    "shared layers": {"callbacks": [spec("ShareParameters", groups=2)]},
    "four micro-batches to a step": {
        "trainer": {"accumulate_grad_batches": 4, "max_epochs": 3},
        "callbacks": [PRUNE, QUANTIZE],
    },
    "more micro-batches to a step in the second epoch": {
        "callbacks": [spec("pytorch_lightning.callbacks.GradientAccumulationScheduler", scheduling={0: 1, 1: 2})]
    },
    "batches made by workers": {"data": {"num_workers": 2}, "callbacks": [PRUNE]},
    "early stopping": {"trainer": {"max_epochs": 9, "val_check_interval": 5}, "callbacks": [STOP]},
    "validation within the epoch": {"trainer": {"val_check_interval": 3}},
    "validation of every second epoch": {"trainer": {"check_val_every_n_epoch": 2, "max_epochs": 3}},
    "validation after so many steps, over the epochs": {
        "trainer": {"check_val_every_n_epoch": None, "val_check_interval": 4}
    },
    "an end within an epoch": {"trainer": {"max_epochs": -1, "max_steps": 10}},
    "no validation": {"trainer": {"limit_val_batches": 0}},
}
QUICK = (
    "pruning, quantization, averages and clipping",
    "validation within the epoch",
)
"""Those that are tried from some steps in seconds; all are tried from every step among the slow tests."""


def case(recipe: dict[str, Any], changed: Changed, changes: dict[str, Any]) -> dict[str, Any]:
    small = {"max_epochs": 2, "max_steps": -1, "log_every_n_steps": 1}
    return changed(changed(recipe, {"trainer": small, "data": {"train_samples": 55}}), changes)


def some(config: dict[str, Any], steps: int) -> list[int]:
    """The first step, one within the epoch, one with a validation, the epoch's end, and the last before the end."""
    trainer = config["trainer"]
    per_epoch = -(-EPOCH // trainer.get("accumulate_grad_batches", 1))
    return sorted({1, trainer.get("val_check_interval", per_epoch - 2), per_epoch, steps - 1} - {0, steps})


def every(config: dict[str, Any], steps: int) -> list[int]:
    return list(range(1, steps))


def same_from(
    chosen: Callable[[dict[str, Any], int], list[int]],
    config: dict[str, Any],
    folder: Path,
    train: Train,
    differences: Differences,
) -> None:
    """Resume from each of the chosen steps, and require the same end."""
    whole = train(config, folder / "whole")
    final = whole.final
    for step in chosen(config, whole.steps):
        resumed = train(config, folder / f"from-{step}", whole.checkpoints[step])
        assert resumed.steps == whole.steps, step
        assert differences(final, resumed.final) == [], step
        assert resumed.rows == [row for row in whole.rows if row[0] >= step], step


@pytest.mark.parametrize("name", QUICK)
def test_a_run_resumed_from_anywhere_ends_with_the_same_bits(
    name: str, recipe: dict[str, Any], changed: Changed, train: Train, differences: Differences, tmp_path: Path
) -> None:
    config = case(recipe, changed, CASES[name])
    same_from(some, config, tmp_path, train, differences)


@pytest.mark.slow
def test_teachers_of_rows_of_their_own_are_resumed_with_what_each_has_said(
    recipe: dict[str, Any], changed: Changed, train: Train, differences: Differences, tmp_path: Path
) -> None:
    path = recipe["model"]["teacher"]["path"]
    teachers = [{"path": path, "teaches": name} for name in ("positive", "negative")]
    columns = {"text": "sentence", "label": "label", "teacher": "label"}
    config = case(recipe, changed, {"model": {"teacher": teachers}, "data": {"columns": columns}})
    same_from(some, config, tmp_path, train, differences)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_run_resumed_from_every_single_step_ends_with_the_same_bits(
    name: str, recipe: dict[str, Any], changed: Changed, train: Train, differences: Differences, tmp_path: Path
) -> None:
    same_from(every, case(recipe, changed, CASES[name]), tmp_path, train, differences)


# ---------------------------------------------------------------------- language models


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


@pytest.fixture(
    params=[
        "causal-lm",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("masked-lm", "causal-lm on policy")),
        pytest.param("causal-lm on policy with an adapter", marks=pytest.mark.slow),
    ]
)
def language_model(request: pytest.FixtureRequest, teacher_dir: str, tiny_tokenizer_dir: str, tmp_path: Path) -> Any:
    """What is changed in the recipe for a language model: packed blocks, masks that are drawn anew every epoch,
    batches that the student writes, or such batches and an adapter that its own base teaches."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    torch.manual_seed(0)
    task, _, on_policy = request.param.partition(" ")
    tokenizer, folder = AutoTokenizer.from_pretrained(tiny_tokenizer_dir), str(tmp_path / "teacher")
    if task == "causal-lm":
        config = AutoConfig.for_model(**LLAMA, vocab_size=len(tokenizer))
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    else:
        config = AutoConfig.from_pretrained(teacher_dir)
        model = AutoModelForMaskedLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.save_pretrained(folder)
    data = {"columns": {"text": "sentence"}} | ({"pack_length": 24} if task == "causal-lm" else {})
    changes = {"task": task, "teacher": folder, "student": {"layers": "uniform", "num_layers": 1}}
    callbacks = [PRUNE, QUANTIZE]
    if on_policy:
        changes["on_policy"] = {"share": 0.7, "prompt_length": 5, "max_new_tokens": 6}
    if "adapter" in on_policy:
        lora = {"r": 2, "lora_dropout": 0.3, "modules_to_save": ["norm"]}
        changes |= {"student": {"path": folder, "lora": lora}, "optimizer": {"lr": 1e-2}}
        callbacks = [AVERAGE]
    return {"model": changes | {"losses": ["HintonKL", "CrossEntropy"]}, "data": data, "callbacks": callbacks}


def test_a_language_model_resumed_from_anywhere_ends_with_the_same_bits(
    language_model: Any,
    recipe: dict[str, Any],
    changed: Changed,
    train: Train,
    differences: Differences,
    tmp_path: Path,
) -> None:
    same_from(some, case(recipe, changed, language_model), tmp_path, train, differences)


# ---------------------------------------------------------------------- encoder-decoders


def test_an_encoder_decoder_resumed_from_anywhere_ends_with_the_same_bits(
    train: Train, differences: Differences, tmp_path: Path
) -> None:
    """With regressors for either stack, dropout, and validations within the epoch."""
    small: Any = runpy.run_path(str(Path(__file__).parents[2] / "encoder_decoders.py"))
    stacks = ("encoder", "decoder")
    hints = [spec("FitNetHint") | {"init_args": {"stack": s, "regressor": "always", "name": s}} for s in stacks]
    student = {"layers": "uniform", "num_layers": 1}
    config = small["recipe"](tmp_path, student=student, losses=["HintonKL", "CrossEntropy", *hints])
    config["trainer"] |= {"max_epochs": 3, "val_check_interval": 2, "log_every_n_steps": 1}
    config["callbacks"] = [PRUNE, QUANTIZE, AVERAGE]
    same_from(lambda config, steps: [1, 2, 3, 7], config, tmp_path, train, differences)


# ---------------------------------------------------------------------- without a configuration


def test_a_plain_pair_of_convolutions_resumed_at_the_epochs_end_ends_with_the_same_bits(
    convolutions: Any, differences: Differences, tmp_path: Path
) -> None:
    """In Python a loader's place within the epoch is the user's affair; batch norm's statistics are not."""

    def fit(folder: Path, checkpoint: Path | None = None) -> dict[int, Path]:
        pruning = GradualMagnitudePruning(0.75, end=8, every_n_steps=1)
        quantization = QuantizationAwareTraining(begin=4, observe=2, freeze_observers=10)
        callbacks = [ResumeCheckpoint(keep=1000), pruning, quantization, Determinism()]
        convolutions.fit(folder, *callbacks, resume=checkpoint, max_epochs=3, plugins=[SafeCheckpointIO()])
        return resume_checkpoints(folder / "checkpoints")

    whole = fit(tmp_path / "whole")
    assert list(whole) == [12, 8, 4]
    for step in (4, 8):
        resumed = fit(tmp_path / f"from-{step}", whole[step])
        assert differences(read(whole[12]), read(resumed[12])) == []
