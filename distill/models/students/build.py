"""The student that a configuration describes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel

from distill.core.record import note, steps_of
from distill.core.stacks import starts_with
from distill.core.task import Task, TextTask
from distill.core.utils.errors import UserError, nearest, nearest_part
from distill.core.utils.extras import require
from distill.core.utils.quiet import quiet_transformers
from distill.models.folder import check_entries, check_memory, check_sizes, parameters_of
from distill.models.pretrained import FAILURES, explain, load_model, load_tokenizer, mark_padding
from distill.models.students.config import StudentConfig
from distill.models.students.layers import keep_layers, kept_by_stack
from distill.models.students.lora import LoraConfig
from distill.models.students.width import narrow, widths

__all__ = ["build_student", "freeze", "refuse_quantized"]

_KEY = "model.student"
_ALWAYS_KNOWN = {
    "decoder_start_token_id",
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
    "rope_theta",
    "rope_scaling",
    "head_dim",
}
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")


def build_student(
    config: StudentConfig,
    task: Task,
    teacher: nn.Module | None = None,
    labels: Sequence[str] | None = None,
    tokenizer: Any = None,
    base: nn.Module | None = None,
) -> nn.Module:
    """The student, in train mode, on the host, in float32; it shares nothing with the teacher but ``base``.

    Fresh weights come from torch's global generator: seed it first.

    Args:
        config: What is wanted.
        task: Which head the model needs.
        teacher: The model to copy from where the configuration says so.
        labels: Names of the classes in the order of their ids; the task's if not given.
        tokenizer: The teacher's, which gives the padding of a student of fresh weights.
        base: What is loaded already of ``config.path``, to have the adapter.

    Raises:
        UserError: if the configuration does not describe a model that can be made.
    """
    config.check(teacher is not None)
    if config.lora is not None:
        require("lora", f"{_KEY}.lora")
    if not isinstance(task, TextTask):
        raise UserError(
            f"a student for {task.name} cannot be described in words",
            key=_KEY,
            hint="give a module: Distillation(student=module, ...)",
        )
    head = _head(task, labels)
    if config.config is not None:
        student: nn.Module = _fresh(config, task, teacher, head, tokenizer)
    else:
        student = _loaded_or_copied(config, task, teacher, head) if base is None else base
    freeze(student, config.freeze)
    if config.lora is not None:
        _add_adapter(student, config.lora, task)
    if config.gradient_checkpointing:
        _recompute(student)
    return student.train()


def _recompute(student: nn.Module) -> None:
    """Have the layers of ``student`` compute their activations again in the backward pass.

    Raises:
        UserError: if the architecture cannot.
    """
    assert isinstance(student, PreTrainedModel)
    try:
        student.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        problem = f"the layers of {type(student).__name__} cannot compute their activations again"
        key = f"{_KEY}.gradient_checkpointing"
        raise UserError(problem, key=key, value=True, hint="leave it out, and take smaller batches") from error


def _add_adapter(student: nn.Module, config: LoraConfig, task: Task) -> None:
    from distill.models.students.adapter import add_adapter  # imports peft

    assert isinstance(student, PreTrainedModel)
    add_adapter(student, config, task)


def _head(task: TextTask, labels: Sequence[str] | None) -> dict[str, Any]:
    head = task.head_config()
    if labels is not None and "id2label" not in head:
        head = head | {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return head


def _loaded_or_copied(
    config: StudentConfig, task: TextTask, teacher: nn.Module | None, head: dict[str, Any]
) -> nn.Module:
    if config.path is not None:
        origin = load_model(
            config.path, task.auto_model, f"{_KEY}.path", head=head, attn_implementation=config.attn_implementation
        )
        return _part(origin, config) if config.cuts_layers or config.narrows else origin
    if not isinstance(teacher, PreTrainedModel):
        raise UserError(
            f"layers can be copied from models of transformers, and the teacher is a {type(teacher).__name__}",
            key=_KEY,
            hint="give the student as a module",
        )
    student = _part(teacher, config)
    names = head.get("id2label")
    if names and len(names) == student.config.num_labels:
        student.config.id2label, student.config.label2id = dict(names), {name: i for i, name in names.items()}
    if "problem_type" in head:
        student.config.problem_type = head["problem_type"]
    if config.attn_implementation is not None:
        try:
            student.set_attn_implementation(config.attn_implementation)
        except FAILURES as error:
            raise explain(error, task.auto_model, f"{_KEY}.layers", None, config.attn_implementation) from error
    return student


def _part(origin: PreTrainedModel, config: StudentConfig) -> PreTrainedModel:
    """Some layers and coordinates of ``origin``, with what was left out noted on the new model."""
    refuse_quantized(origin, config.path)
    steps, student = steps_of(origin), origin
    for stack, (kept, depth) in kept_by_stack(config, origin).items():
        student = keep_layers(student, kept, stack)
        if len(kept) < depth:
            whose = {} if stack is None else {"stack": stack}
            steps.append({"kind": "layers", "kept": kept, "of": depth, **whose})
    if config.narrows:
        student = narrow(student, config.hidden_size, config.num_heads, config.intermediate_size)
        steps.append({"kind": "width", "kept": widths(student.config), "of": widths(origin.config)})
    note(student, *steps)
    return student


def _fresh(
    config: StudentConfig, task: TextTask, teacher: nn.Module | None, head: dict[str, Any], tokenizer: Any
) -> PreTrainedModel:
    """A model of fresh weights; vocabulary and special tokens are the tokenizer's or the teacher's if not given."""
    assert config.config is not None
    wanted = dict(config.config)
    kind = str(wanted.pop("model_type", ""))
    key = f"{_KEY}.config"
    if kind not in CONFIG_MAPPING:
        raise UserError(
            "model_type must be one that transformers knows",
            key=f"{key}.model_type",
            value=kind,
            hint=nearest(kind, CONFIG_MAPPING.keys()),
        )

    def refuse(problem: str, hint: str) -> UserError:
        return UserError(problem, key=key, value=config.config, hint=hint)

    check_sizes(wanted, refuse)
    check_entries(wanted, refuse)
    try:
        with quiet_transformers():
            _check_names(kind, wanted, key)
            _check_head(wanted, head, key)
            shared = _vocabulary(config, teacher, tokenizer) if task.reads == "tokens" else _picture_size(kind, teacher)
            made = AutoConfig.for_model(kind, **(shared | _start(teacher) | wanted | head))
            _settle_start(made)
            attention = {"attn_implementation": config.attn_implementation} if config.attn_implementation else {}
            check_memory(parameters_of(task.auto_model, made), refuse)
            model: PreTrainedModel = task.auto_model.from_config(made, dtype=torch.float32, **attention)
    except UserError:
        raise
    except Exception as error:  # a configuration that is not right can make a modelling file stumble anywhere
        raise explain(error, task.auto_model, key, config.config, config.attn_implementation) from error
    mark_padding(model, task.auto_model)
    return model


def _start(teacher: nn.Module | None) -> dict[str, Any]:
    """The token that starts the decoder of a teacher that is an encoder-decoder, and so its student's."""
    apart = getattr(getattr(teacher, "config", None), "is_encoder_decoder", False)
    found = starts_with(teacher) if teacher is not None and apart else None
    return {} if found is None else {"decoder_start_token_id": found}


def _settle_start(config: Any) -> None:
    """Have an encoder-decoder start with the padding where nothing says otherwise, as T5 and Marian do."""
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id


def _check_names(kind: str, wanted: dict[str, Any], key: str) -> None:
    """Refuse entries that the configuration does not have; transformers would keep them and never read them."""
    default = AutoConfig.for_model(kind)
    known = set(default.to_dict()) | set(default.attribute_map) | _ALWAYS_KNOWN
    for name in wanted:
        if name not in known:
            raise UserError(
                f"the configuration of {kind} has no such entry",
                key=f"{key}.{name}",
                value=wanted[name],
                hint=nearest(name, known),
            )


def _check_head(wanted: dict[str, Any], head: dict[str, Any], key: str) -> None:
    """Refuse a head that the task and the labels of the data would make another one."""
    names = {str(number): name for number, name in head.get("id2label", {}).items()}
    for name, theirs in (head | {"id2label": names}).items():
        ours = wanted.get(name)
        if name == "id2label" and isinstance(ours, dict):
            ours = {str(number): one for number, one in ours.items()}
        if name in ("num_labels", "id2label", "problem_type") and ours is not None and theirs and ours != theirs:
            problem = f"the task and the data's labels make it {theirs}"
            raise UserError(problem, key=f"{key}.{name}", value=wanted[name], hint="leave it out, or see data.labels")


def _picture_size(kind: str, teacher: nn.Module | None) -> dict[str, Any]:
    """What a model of pictures has in common with its teacher, where its configuration has a word for it."""
    known = AutoConfig.for_model(kind).to_dict()
    theirs: Any = getattr(teacher, "config", None)
    return {n: getattr(theirs, n) for n in ("image_size", "num_channels") if n in known and hasattr(theirs, n)}


def _vocabulary(config: StudentConfig, teacher: nn.Module | None, tokenizer: Any) -> dict[str, Any]:
    if config.tokenizer is not None:
        source = load_tokenizer(config.tokenizer, f"{_KEY}.tokenizer")
        found: dict[str, Any] = {"vocab_size": len(source)}
    elif isinstance(teacher, PreTrainedModel):
        source = teacher.config.get_text_config()
        found = {"vocab_size": source.vocab_size}
    else:
        return {}
    found |= {name: getattr(source, name, None) for name in _SPECIAL}
    if config.tokenizer is None and tokenizer is not None:
        found["pad_token_id"] = tokenizer.pad_token_id  # its configuration may name another, which nothing there reads
    if found["pad_token_id"] in (found["bos_token_id"], found["eos_token_id"]):
        # Embeddings do not train the row of the padding, and this one is no mere padding.
        del found["pad_token_id"]
    return found


def refuse_quantized(student: nn.Module, path: str | None) -> None:
    """Refuse to train, or to take apart, what is quantized: training would undo the rounding of its weights.

    Args:
        student: The student, or what it is to be made of.
        path: Where that is from; ``None`` if it is the teacher.

    Raises:
        UserError: if it is.
    """
    if any(step["kind"] == "quantize" for step in steps_of(student)):
        problem = "weights that are quantized already would leave their grids in training"
        hint = "start from a student that was made without quantization, and quantize this one"
        raise UserError(problem, key=_KEY if path is None else f"{_KEY}.path", value=path, hint=hint)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Stop training the parameters in whose name one of the regular expressions is found.

    Raises:
        UserError: if an expression is not valid or found in no name, or nothing would be left to train.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for number, pattern in enumerate(patterns):
        key = f"{_KEY}.freeze.{number}"
        try:
            found = [p for name, p in parameters.items() if re.search(pattern, name)]
        except re.error as error:
            raise UserError(
                f"not a regular expression ({error})", key=key, value=pattern, hint="correct the pattern"
            ) from error
        if not found:
            raise UserError(
                "found in no parameter's name", key=key, value=pattern, hint=nearest_part(pattern, parameters)
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if patterns and not any(p.requires_grad for p in parameters.values()):
        raise UserError("nothing is left to train", key=f"{_KEY}.freeze", value=list(patterns), hint="freeze less")
