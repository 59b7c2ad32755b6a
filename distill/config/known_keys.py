"""Keys that people know from other tools, and what is typed for them here. Light."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from typing import Any

from distill.core.utils.errors import nearest

__all__ = ["instead", "known_as", "precision"]

# What is typed here -> the names that it has elsewhere, with _ for every -; {loss} is the first loss that distils.
_SAME = {
    "--model.student": "student student_model student_path student_name_or_path model_name model_name_or_path "
    "model_path",
    "--model.student.num_layers": "layers num_layers n_layers num_hidden_layers student_layers num_student_layers",
    "--model.teacher": "teacher teacher_model teacher_path teacher_name teacher_name_or_path",
    "--model.student.lora.r": "lora_r lora_rank lora_dim",
    "--model.student.lora.lora_alpha": "lora_alpha",
    "--model.student.lora.lora_dropout": "lora_dropout",
    "--model.student.lora.target_modules": "target_modules lora_target_modules lora_target",
    "--model.task": "task task_name",
    "--model.losses.{loss}.temperature": "temperature temp t tau kd_temperature distill_temperature",
    "--model.losses.{loss}.weight": "alpha kd_alpha alpha_kd kd_weight distill_weight lambda_kd",
    "--model.optimizer.lr": "lr learning_rate learningrate base_lr max_lr peak_lr init_lr",
    "--model.optimizer.weight_decay": "weight_decay wd decay",
    "--model.optimizer.betas": "betas adam_betas",
    "--model.optimizer.momentum": "momentum",
    "--model.optimizer.warmup": "warmup warmup_steps num_warmup_steps warmup_ratio warmup_proportion lr_warmup_steps",
    "--model.optimizer.schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay_style",
    "--data.path": "dataset dataset_name dataset_path data_dir data_path datadir train_data",
    "--data.files.train": "train_file train_files train_path",
    "--data.files.validation": "validation_file valid_file val_file eval_file dev_file",
    "--data.batch_size": "batch bs batch_size train_batch_size per_device_train_batch_size per_gpu_train_batch_size "
    "micro_batch_size mini_batch_size",
    "--data.eval_batch_size": "eval_batch_size val_batch_size per_device_eval_batch_size per_gpu_eval_batch_size",
    "--data.max_length": "max_length max_len max_seq_length max_seq_len seq_len seq_length sequence_length",
    "--data.pack_length": "block_size context_length pack_length",
    "--data.num_workers": "workers num_workers dataloader_num_workers preprocessing_num_workers num_proc",
    "--data.columns.label": "label_column label_col label_name target_column",
    "--data.columns.text": "text_column text_col text_name",
    "--data.tokenizer": "tokenizer tokenizer_name tokenizer_path",
    "--data.train_samples": "max_train_samples train_samples num_samples",
    "--trainer.max_epochs": "epochs num_epochs n_epochs num_train_epochs train_epochs epoch max_epochs",
    "--trainer.max_steps": "steps num_steps max_steps max_train_steps num_train_steps train_steps total_steps "
    "iterations max_iters num_iterations",
    "--trainer.accumulate_grad_batches": "gradient_accumulation_steps gradient_accumulation grad_accum "
    "accumulation_steps accumulate_grad_batches accumulate",
    "--trainer.gradient_clip_val": "max_grad_norm grad_clip clip_grad_norm gradient_clipping gradient_clip_val clip "
    "clip_norm",
    "--trainer.log_every_n_steps": "logging_steps log_steps log_interval log_every log_freq print_freq",
    "--trainer.val_check_interval": "eval_steps eval_interval val_interval eval_every val_check_interval",
    "--trainer.precision": "precision dtype torch_dtype",
    "--trainer.accelerator": "accelerator",
    "--trainer.devices": "devices num_devices num_gpus n_gpu n_gpus nproc_per_node nproc world_size num_processes",
    "--trainer.num_nodes": "num_nodes nodes nnodes num_machines",
    "--trainer.strategy": "strategy distributed_strategy",
    "--runs": "output_dir out_dir save_dir output output_path out o save_path work_dir workdir log_dir logdir exp_dir",
    "--name": "run_name experiment experiment_name exp_name job_name",
    "--seed": "seed_everything random_seed manual_seed rng_seed random_state",
    "--logging.wandb.project": "project project_name wandb_project",
    "--logging.wandb.entity": "entity wandb_entity",
    "--logging.tensorboard": "tensorboard use_tensorboard",
    "--from": "init_from load_from pretrained initial_checkpoint load_checkpoint",
    "-c": "config_file config_path cfg cfg_path yaml recipe",
}
_FLAGS = {
    "--trainer.precision 16-mixed": "fp16 half use_fp16 amp use_amp",
    "--trainer.precision bf16-mixed": "bf16 bfloat16 use_bf16",
    "--trainer.precision 32-true": "fp32 float32",
    "--trainer.accelerator gpu": "cuda use_cuda use_gpu",
    "--model.student.gradient_checkpointing true": "gradient_checkpointing grad_checkpointing use_grad_checkpointing",
    "--trainer.accelerator cpu": "no_cuda use_cpu cpu",
    "--trainer.deterministic true": "deterministic full_determinism",
    "--trainer.strategy sharded": "fsdp",
    "--logging.wandb {}": "wandb use_wandb with_wandb log_wandb report_to wandb_mode",
    "--dry-run": "dry_run dryrun debug",
}
_COMMANDS = {
    "distill resume RUN": "resume_from resume_from_checkpoint ckpt_path ckpt checkpoint checkpoint_path restore",
    "distill validate RUN": "do_eval evaluate eval_only evaluate_only eval",
    "distill export RUN --to onnx": "export onnx",
    "distill quantize RUN": "quantize quantization quant int8 load_in_8bit",
    "--callbacks.+ '{class_path: QuantizationAwareTraining}'": "qat",
    "an entry of the model's own configuration, as its config.json calls it": "dropout dropout_rate hidden_dropout "
    "hidden_dropout_prob",
    "as many as the data has, or data.labels names": "num_labels num_classes n_classes",
    "not there, and not needed for memory: what is tokenized is read from disk (docs/language-models.md)": "streaming "
    "stream streaming_dataset",
}
_PRECISIONS = {"no": "32-true", "fp32": "32-true", "float32": "32-true", "fp16": "16-mixed", "float16": "16-mixed"}
_PRECISIONS |= {
    "bf16": "bf16-mixed",
    "bfloat16": "bf16-mixed",
    "half": "16-mixed",
    "float": "32-true",
    "amp": "16-mixed",
}
_PRECISIONS |= {"fp64": "64-true", "float64": "64-true", "double": "64-true", "false": "32-true", "mixed": "16-mixed"}


def _spread(table: Mapping[str, str]) -> dict[str, str]:
    return {name: ours for ours, names in table.items() for name in names.split()}


_OURS, _FLAG, _COMMAND = _spread(_SAME), _spread(_FLAGS), _spread(_COMMANDS)


def instead(name: str, value: Any = None, losses: Any = None) -> str:
    """What is typed here for a key of other tools: a hint with the value that was given; empty for what is none.

    Args:
        name: The key, as it was written.
        value: Its value, a text where it was typed; ``None`` where it has none.
        losses: Of the configuration, among which is the one that a temperature is of.
    """
    plain = name.replace("-", "_").lower()
    if plain in _FLAG or plain in _COMMAND:
        return f"write {_quoted(_FLAG[plain])}" if plain in _FLAG else f"that is: {_COMMAND[plain]}"
    if plain in _SPECIAL:
        return f"write {_SPECIAL[plain](_text(value))}"
    ours = _OURS.get(plain)
    if ours is None:
        return ""
    ours = ours.replace("{loss}", str(_distils(losses)))
    if ours == "--trainer.precision":
        value = precision(value) or value
    typed = f"write {ours} {shlex.quote(_text(value) or 'VALUE')}"
    return f"did you mean {ours.removeprefix('--')!r}? {typed}" if "." in ours else typed


def known_as(name: str, value: Any, key: str, arguments: Collection[str]) -> str:
    """What to do about the argument ``name`` of what stands at ``key``, which takes none of that name."""
    if not arguments:
        return "it takes no arguments"
    close = nearest(name, arguments)
    hint = instead(name, value)
    if close.startswith("did you mean") or not hint:
        return close
    return f"{hint}; {close}" if f"--{key}." in hint else hint


def precision(value: Any) -> str:
    """What ``trainer.precision`` calls a precision that has another name elsewhere; empty for what is none."""
    return _PRECISIONS.get(str(value).lower().removeprefix("torch."), "")


def _device(value: str) -> str:
    kind, _, index = value.partition(":")
    accelerator = {"cuda": "gpu", "": "gpu"}.get(kind, kind)
    if kind.isdigit():
        accelerator, index = "gpu", kind
    return f"--trainer.accelerator {accelerator}" + (f" --trainer.devices '[{index}]'" if index else "")


def _gpus(value: str) -> str:
    several = f"'[{value}]'" if "," in value else value or "1"
    return f"--trainer.accelerator gpu --trainer.devices {several}"


def _metric(value: str) -> str:
    """The run's best checkpoint by another metric than the task's own."""
    name = value.removeprefix("eval_").removeprefix("val/").removeprefix("val_") or "METRIC"
    name = "METRIC" if name == "loss" else name
    name = {"acc": "accuracy", "ppl": "perplexity", "mcc": "matthews"}.get(name, name)
    mode = "min" if name in ("perplexity", "bits_per_byte", "mse", "mae") else "max"
    return f"--callbacks.+ '{{class_path: BestCheckpoint, init_args: {{monitor: val/{name}, mode: {mode}}}}}'"


def _bits(value: str) -> str:
    return _callback("QuantizationAwareTraining", "weights: {{bits: {}}}", "8")(value)


def _callback(name: str, arguments: str, usual: str) -> Callable[[str], str]:
    """A callback beside those that there are, with one argument that the value is for; {} stands for it."""
    return lambda value: f"--callbacks.+ '{{class_path: {name}, init_args: {{{arguments.format(value or usual)}}}}}'"


_OPTIMIZERS = {"sgd": "sgd", "momentum": "sgd"}


def _optimizer(value: str) -> str:
    """The optimizer of ours that is nearest to one of another tool."""
    return f"--model.optimizer.name {_OPTIMIZERS.get(value.lower(), 'adamw')}"


def _betas(first: str, second: str) -> Callable[[str], str]:
    """Both of Adam's coefficients, of which one is given; {} stands for it."""
    return lambda value: f"--model.optimizer.betas '[{first.format(value or 0.9)}, {second.format(value or 0.999)}]'"


def _sparsity(value: str) -> str:
    """Pruning to a share of weights, or to the usual one by what says no share."""
    share = re.fullmatch(r"0?\.\d+", value)
    return _callback("GradualMagnitudePruning", "final_sparsity: {}", "0.8")(value if share else "")


_SPECIAL: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(
        ("sparsity", "final_sparsity", "target_sparsity", "pruning_ratio"),
        _callback("GradualMagnitudePruning", "final_sparsity: {}", "0.8"),
    ),
    **dict.fromkeys(("bits", "num_bits", "w_bits", "weight_bits"), _bits),
    **dict.fromkeys(
        ("patience", "early_stopping", "early_stopping_patience"),
        _callback("EarlyStopping", "monitor: val/accuracy, mode: max, patience: {}", "3"),
    ),
    **dict.fromkeys(
        ("save_steps", "save_every", "save_interval"), _callback("ResumeCheckpoint", "every_n_steps: {}", "100")
    ),
    **dict.fromkeys(("prune", "pruning"), _sparsity),
    **dict.fromkeys(("optimizer", "optim", "optimizer_name"), _optimizer),
    **dict.fromkeys(("beta1", "adam_beta1", "adam_beta_1"), _betas("{}", "0.999")),
    **dict.fromkeys(("beta2", "adam_beta2", "adam_beta_2"), _betas("0.9", "{}")),
    "save_total_limit": _callback("ResumeCheckpoint", "keep: {}", "2"),
    "device": _device,
    "gpu": _gpus,
    "gpus": _gpus,
    "gpu_ids": _gpus,
    **dict.fromkeys(("monitor", "metric", "eval_metric", "metric_for_best_model", "best_metric"), _metric),
    "mixed_precision": lambda value: f"--trainer.precision {_PRECISIONS.get(value, '16-mixed')}",
}


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def _quoted(arguments: str) -> str:
    return re.sub(r"\{\}", "'{}'", arguments)


def _distils(losses: Any) -> int:
    """The place of the first loss that compares logits with the teacher's, as far as its name tells."""
    names = [str(each.get("class_path") if isinstance(each, Mapping) else each) for each in losses or []]
    return next((i for i, each in enumerate(names) if not each.endswith(("CrossEntropy", "L1"))), 0)
