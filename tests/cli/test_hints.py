"""A hint can be pasted, and a key can be typed as a message prints it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config.files import apply_override, load
from distill.config.known_keys import instead
from distill.core.utils.errors import nearest, nearest_part

# What other tools call it -> what is typed here, which the hint ends with.
KNOWN = {
    "--lr 1e-4": "--model.optimizer.lr 1e-4",
    "--learning-rate=1e-4": "--model.optimizer.lr 1e-4",
    "--learning_rate 1e-4": "--model.optimizer.lr 1e-4",
    "--epochs 3": "--trainer.max_epochs 3",
    "--num_train_epochs 3": "--trainer.max_epochs 3",
    "--max_steps 3": "--trainer.max_steps 3",
    "--batch-size 4": "--data.batch_size 4",
    "--per_device_train_batch_size 4": "--data.batch_size 4",
    "--per_device_eval_batch_size 4": "--data.eval_batch_size 4",
    "--gradient_accumulation_steps 2": "--trainer.accumulate_grad_batches 2",
    "--max_grad_norm 1.0": "--trainer.gradient_clip_val 1.0",
    "--temperature 2": "--model.losses.0.temperature 2",
    "--alpha 0.5": "--model.losses.0.weight 0.5",
    "--output_dir out": "--runs out",
    "--device cpu": "--trainer.accelerator cpu",
    "--device cuda:1": "--trainer.accelerator gpu --trainer.devices [1]",
    "--gpus 2": "--trainer.accelerator gpu --trainer.devices 2",
    "--fp16": "--trainer.precision 16-mixed",
    "--cuda": "--trainer.accelerator gpu",
    "--gradient-checkpointing": "--model.student.gradient_checkpointing true",
    "--bf16 true": "--trainer.precision bf16-mixed",
    "--mixed_precision bf16": "--trainer.precision bf16-mixed",
    "--wandb": "--logging.wandb {}",
    "--wandb_project mine": "--logging.wandb.project mine",
    "--random_seed 1": "--seed 1",
    "--warmup_steps 10": "--model.optimizer.warmup 10",
    "--warmup_ratio 0.1": "--model.optimizer.warmup 0.1",
    "--weight_decay 0.1": "--model.optimizer.weight_decay 0.1",
    "--max_seq_length 64": "--data.max_length 64",
    "--model_name_or_path 'my model'": "--model.student 'my model'",
    "--teacher big": "--model.teacher big",
    "--num_layers 1": "--model.student.num_layers 1",
    "--label_column y": "--data.columns.label y",
    "--text_column t": "--data.columns.text t",
    "--sparsity 0.5": "--callbacks.+ '{class_path: GradualMagnitudePruning, init_args: {final_sparsity: 0.5}}'",
    "--bits 4": "--callbacks.+ '{class_path: QuantizationAwareTraining, init_args: {weights: {bits: 4}}}'",
    "--prune 0.5": "--callbacks.+ '{class_path: GradualMagnitudePruning, init_args: {final_sparsity: 0.5}}'",
    "--prune true": "--callbacks.+ '{class_path: GradualMagnitudePruning, init_args: {final_sparsity: 0.8}}'",
    "--optimizer adam": "--model.optimizer.name adamw",
    "--optim adamw_torch": "--model.optimizer.name adamw",
    "--optimizer SGD": "--model.optimizer.name sgd",
    "--learningrate 1e-4": "--model.optimizer.lr 1e-4",
    "--seed_everything 3": "--seed 3",
    "--clip 1.0": "--trainer.gradient_clip_val 1.0",
    "--accumulate 2": "--trainer.accumulate_grad_batches 2",
    "--beta1 0.8": "--model.optimizer.betas '[0.8, 0.999]'",
    "--adam_beta2 0.98": "--model.optimizer.betas '[0.9, 0.98]'",
    "--save_total_limit 3": "--callbacks.+ '{class_path: ResumeCheckpoint, init_args: {keep: 3}}'",
    "--out here": "--runs here",
    "-o here": "--runs here",
    "--lora_r 8": "--model.student.lora.r 8",
    "--lora-alpha 16": "--model.student.lora.lora_alpha 16",
    "--target_modules all-linear": "--model.student.lora.target_modules all-linear",
    "--save_steps 9": "--callbacks.+ '{class_path: ResumeCheckpoint, init_args: {every_n_steps: 9}}'",
}


@pytest.mark.parametrize(("theirs", "ours"), KNOWN.items(), ids=KNOWN)
def test_a_key_of_another_tool_leads_to_ours(theirs: str, ours: str, refused: Callable[..., str]) -> None:
    message = refused(*shlex.split(theirs))
    pasted = shlex.split(message[message.index("write --") :].removeprefix("write ").rstrip().rstrip("."))
    assert pasted == shlex.split(ours)
    load(["base.yaml"], list(zip((key.removeprefix("--") for key in pasted[::2]), pasted[1::2], strict=True)))


# A slip, what is known -> what was meant; nothing where a guess would only mislead.
SLIPS = [
    ("cuda", ["data", "model", "trainer"], ""),
    ("adam_beta1", ["data", "name", "model"], ""),
    ("tflite", ["onnx", "triton", "openvino"], ""),
    ("reader.header", ["escapechar", "delimiter", "quotechar"], ""),
    ("header", ["escapechar", "delimiter"], ""),
    ("verbose", ["model", "trainer", "seed"], ""),
    ("mlm", ["masked-lm", "causal-lm"], ""),
    ("val", ["train", "validation"], ""),
    ("trian", ["train", "test"], "train"),
    ("modle", ["model", "data", "name"], "model"),
    ("log", ["logging", "model"], "logging"),
    ("lrr", ["lr", "betas", "name"], "lr"),
    ("bret", ["bert", "t5"], "bert"),
    ("onnx8", ["onnx-int8", "gguf", "hf"], "onnx-int8"),
    ("openvno", ["onnx-int8", "openvino", "hf"], "openvino"),
    ("torch", ["torch-export", "hf"], "torch-export"),
    ("tuned", ["block.turned", "head"], "block.turned"),
    ("Pruning", ["StructuredPruning", "EMA"], "StructuredPruning"),
    ("text-class", ["text-classification", "causal-lm"], "text-classification"),
    ("quickstart", ["quickstart/distill", "causal-lm/chat"], "quickstart/distill"),
]


@pytest.mark.parametrize(("typed", "known", "meant"), SLIPS)
def test_a_guess_is_made_of_a_slip_and_of_nothing_else(typed: str, known: list[str], meant: str) -> None:
    said = nearest(typed, known, count=1)
    assert said == f"did you mean {meant!r}?" if meant else said.startswith("known are")


def test_a_number_that_is_to_be_a_name_is_quoted_as_the_hint_says(refused: Callable[..., str]) -> None:
    message = refused("--name", "12")
    _, typed = shlex.split(message[message.index("--name ") :].rstrip().rstrip("."))
    assert load(["base.yaml"], [("name", typed)])["name"] == "12"


def test_a_key_that_nobody_knows_has_no_hint() -> None:
    assert instead("zzz", 1) == ""
    assert instead("model", 1) == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--from", "nowhere"], ["--from = 'nowhere'", "--model.student nowhere"]),
        (["--form", "nowhere"], ["--form: no such option", "'--from'"]),
        (["--dryrun"], ["--dryrun: no such option", "'--dry-run'"]),
        (["--logging.wandb", "true"], ["logging.wandb = True", "--logging.wandb '{}'"]),
        (
            ["--callbacks", "[{class_path: ResumeCheckpoint, keep: 3}]"],
            ["callbacks.0.keep = 3: stands beside", "below init_args"],
        ),
        (["--model.lr", "3"], ["model.lr = 3", "write --model.optimizer.lr 3"]),
        (["--zzz", "3"], ["zzz = 3: no such key. known are"]),
        (["--verbose"], ["--verbose: no such option. known are"]),
        (["--dropout", "0.1"], ["dropout = 0.1", "of the model's own configuration"]),
        (["--num_labels", "3"], ["num_labels = 3", "data.labels"]),
        (
            ["--model.student", "{path: runs/distill/ID}"],
            ["model.student.path = 'runs/distill/ID': stands for a run of yours", "--model.student.path runs/NAME/ID"],
        ),
        (["--model.optimizer.lr"], ["--model.optimizer.lr: needs a value"]),
    ],
)
def test_a_hint_leads_on(argv: list[str], said: list[str], refused: Callable[..., str]) -> None:
    message = refused(*argv)
    for words in said:
        assert words in message


def test_a_key_of_another_tool_in_a_file_is_reported_too(refused: Callable[..., str], base: dict[str, Any]) -> None:
    Path("base.yaml").write_text(yaml.safe_dump({**base, "learning_rate": 0.5}))
    assert "write --model.optimizer.lr 0.5" in refused()


def test_the_class_of_an_item_stands_for_its_place() -> None:
    config = {"callbacks": ["ResumeCheckpoint", {"class_path": "distill.callbacks.BestCheckpoint"}]}
    apply_override(config, "callbacks.BestCheckpoint.mode", "max")
    apply_override(config, "callbacks.ResumeCheckpoint.keep", 3)
    assert config["callbacks"][1]["init_args"] == {"mode": "max"}  # type: ignore[index]
    assert config["callbacks"][0] == {"class_path": "ResumeCheckpoint", "init_args": {"keep": 3}}


def test_a_plus_adds_to_what_a_recipe_has() -> None:
    config: dict[str, Any] = {"callbacks": ["ResumeCheckpoint"], "model": {"losses": None}}
    apply_override(config, "callbacks.+", {"class_path": "BestCheckpoint", "init_args": {"mode": "max"}})
    apply_override(config, "callbacks.+", "EMA")
    apply_override(config, "model.losses.+", "CrossEntropy")
    assert config["callbacks"] == [
        "ResumeCheckpoint",
        {"class_path": "BestCheckpoint", "init_args": {"mode": "max"}},
        "EMA",
    ]
    assert config["model"]["losses"] == ["CrossEntropy"]


def test_a_pattern_may_be_a_slip_of_a_part_of_a_long_name() -> None:
    names = ["bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.1.output.dense", "classifier"]
    assert nearest_part("intermedate", names) == "did you mean 'intermediate'?"
    assert nearest_part("clasifier", names) == "did you mean 'classifier'?"
    assert nearest_part("intermediat.dense", names).startswith("did you mean 'intermediate.dense'")
    assert nearest_part("layer.0.intermedate", names).startswith("did you mean 'layer.0.intermediate'")
    assert nearest_part("q_proj", names).startswith("known are ")


@pytest.mark.parametrize("name", ["streaming", "stream", "streaming_dataset"])
def test_a_page_that_a_hint_names_tells_of_it(name: str) -> None:
    page = Path(__file__).parents[2] / instead(name, "true").partition("(")[2].partition(")")[0]
    assert "there is no streaming" in page.read_text()
