"""An adapter of low rank: what it stands beside, what of it is trained, and what it leaves when it is merged."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from distill.core.internals.peft import without_adapter
from distill.core.record import note, recount_zeros, sparsity_step, steps_of
from distill.core.signals import Batch, Request
from distill.core.utils import extras
from distill.core.utils.errors import UserError
from distill.models.pretrained import load_model
from distill.models.students import LoraConfig, StudentConfig, build_student
from distill.models.students.adapter import adapter_files, add_adapter, remove_adapter
from distill.models.teachers import LiveTeacher
from distill.tasks import Task, make_task
from distill.training.lora import merge_adapter as merge_student

LLAMA = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA, "num_attention_heads": 2},
    "gpt2": {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "distilbert": {"vocab_size": 61, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
}
INPUTS = {"input_ids": torch.arange(24).view(2, 12) * 7 % 61}
LM, CLASSES = make_task("causal-lm"), make_task("text-classification")


def plain(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    auto: Any = AutoModelForSequenceClassification if kind == "distilbert" else AutoModelForCausalLM
    return auto.from_config(AutoConfig.for_model(kind, **SIZES[kind], initializer_range=0.2, **more)).eval()


def adapted(kind: str, task: Task = LM, **settings: Any) -> Any:
    """A model whose adapter has learned something."""
    model = plain(kind)
    add_adapter(model, LoraConfig(r=4, **settings), task)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.normal_(std=0.2)
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**INPUTS).logits  # type: ignore[no-any-return]


def test_zeros_that_an_adapter_fills_are_not_said_to_be_there_and_its_base_keeps_them() -> None:
    model = plain("llama")
    layer = model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        layer.weight[:12] = 0
    note(model, sparsity_step(model, ["model.layers.0.mlp.up_proj"]))
    add_adapter(model, LoraConfig(r=4), LM)
    recount_zeros(model)  # as when the training ends
    assert steps_of(model)[0]["actual"] == 0.5
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.normal_()
    config = StudentConfig(path=None, lora=LoraConfig(r=4))
    merged, _ = merge_student(model, config, True)
    assert steps_of(merged)[0]["actual"] == 0
    assert steps_of(merged)[0]["layers"]["model.layers.0.mlp.up_proj"]["zeros"] == 0
    assert model.model.layers[0].mlp.up_proj is layer
    assert int((layer.weight == 0).sum()) == layer.weight.numel() // 2


def test_an_adapter_that_is_not_merged_is_no_teacher_and_no_base(tmp_path: Path) -> None:
    """transformers would put it into the model, or where there is no peft leave it out without a word."""
    model = plain("llama")
    model.save_pretrained(tmp_path / "base")
    get_peft_model(model, PeftConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, tmp_path / "base")
    for folder in ("base", "adapter"):
        with pytest.raises(UserError, match=r"model\.teacher\.path = .*there is an adapter of peft"):
            load_model(str(tmp_path / folder), LM.auto_model, "model.teacher.path", head={})


CASES: list[tuple[str, Task, dict[str, Any]]] = [
    ("llama", LM, {}),
    ("llama", LM, {"target_modules": ["q_proj", "layers.1.mlp.up_proj", "lm_head"], "use_rslora": True}),
    ("llama", LM, {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "norm"]}),
    ("gpt2", LM, {"lora_alpha": 3}),
    ("distilbert", CLASSES, {}),
]


@pytest.mark.parametrize(("kind", "task", "settings"), CASES)
def test_an_adapter_begins_as_its_base_is_switched_off_and_merged(
    kind: str, task: Task, settings: dict[str, Any], tmp_path: Path
) -> None:
    base = plain(kind)
    begun = plain(kind)
    add_adapter(begun, LoraConfig(r=4, **settings), task)
    assert torch.equal(logits(begun), logits(base))

    model = adapted(kind, task, **settings)
    learned = logits(model)
    assert (learned - logits(base)).abs().max() > 0.1
    with without_adapter(model):
        assert torch.equal(logits(model), logits(base))

    for name, content in adapter_files(model, "the/base").items():
        (tmp_path / name).write_bytes(content)
    opened: Any = PeftModel.from_pretrained(plain(kind), str(tmp_path)).eval()
    torch.testing.assert_close(logits(opened), learned, rtol=1e-5, atol=1e-5)

    other = copy.deepcopy(model)
    remove_adapter(model, merge=True)
    torch.testing.assert_close(logits(model), learned, rtol=1e-5, atol=1e-5)
    remove_adapter(other, merge=False)
    assert torch.equal(logits(other), logits(base))
    assert [*model.state_dict()] == [*base.state_dict()] == [*other.state_dict()]


def test_the_adapter_alone_is_trained_and_the_head_of_a_classifier() -> None:
    names = trained(adapted("llama")).keys()
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert len(names) == 2 * 2 * 7  # A and B, layers, linear maps of each
    names = trained(adapted("distilbert", CLASSES)).keys()
    heads = {name.partition(".")[0] for name in names if "lora_" not in name}
    assert heads == {"pre_classifier", "classifier"}
    assert not any("lora_" in name and "classifier" in name for name in names)
    norms = {name for name in trained(adapted("llama", modules_to_save=["norm"])) if "norm" in name}
    assert len(norms) == 5  # two of each layer, and the last


def test_its_size_is_as_the_formula_says() -> None:
    x = torch.randn(3, 16)
    for settings, scale in (({"lora_alpha": 8}, 2.0), ({"lora_alpha": 8, "use_rslora": True}, 4.0)):
        layer = adapted("llama", target_modules=["q_proj"], **settings).model.layers[0].self_attn.q_proj
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = x @ (layer.base_layer.weight + scale * b @ a).t()
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_learns_the_same_where_activations_are_computed_again() -> None:
    gradients = []
    for again in (False, True):
        model = adapted("llama", lora_dropout=0.3).train()
        if again:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(2)
        model(**INPUTS).logits.square().sum().backward()
        gradients.append([p.grad for p in trained(model).values()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": ["query"]}, "target_modules.0 = 'query': the student has no such layer. its linear maps "),
        ({"target_modules": ["q_proj", "norm"]}, "target_modules.1 = 'norm': is a LlamaRMSNorm"),
        ({"modules_to_save": ["lm_heads"]}, "modules_to_save.0 = 'lm_heads': the student has no such module. did you "),
        (
            {"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]},
            "target_modules = ['lm_head']: are all trained in full",
        ),
    ],
)
def test_layers_that_are_not_there_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as raised:
        add_adapter(plain("llama"), LoraConfig(**settings), LM)
    assert f"model.student.lora.{said}" in str(raised.value)


@pytest.mark.parametrize("key", ["target_modules", "modules_to_save"])
@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_a_weight_that_two_layers_share_is_refused(key: str, name: str) -> None:
    with pytest.raises(UserError, match=r"tie_word_embeddings|is a Embedding"):
        add_adapter(plain("llama", tie_word_embeddings=True), LoraConfig(**{key: [name]}), LM)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [("r", 0), ("lora_alpha", 0), ("lora_dropout", 1.0), ("lora_dropout", -0.1), ("target_modules", [])],
)
def test_a_setting_out_of_range_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as raised:
        LoraConfig(**{key: value})
    assert raised.value.key == f"model.student.lora.{key}"


def test_what_an_adapter_cannot_stand_beside_is_refused() -> None:
    fresh = StudentConfig(config={"model_type": "llama"}, lora=LoraConfig())
    with pytest.raises(UserError, match="those of config are fresh"):
        fresh.check(has_teacher=False)
    frozen = StudentConfig(path="a/model", freeze=["embed"], lora=LoraConfig())
    with pytest.raises(UserError, match=r"has no effect with model\.student\.lora"):
        frozen.check(has_teacher=False)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs peft, which is not installed. pip install "lightning-distill\[lora\]"'):
        build_student(StudentConfig(path="a/model", lora=LoraConfig()), LM)


def test_a_teacher_that_lends_its_model_answers_without_the_adapter() -> None:
    batch = Batch(dict(INPUTS), ids=[0, 1])
    alone = LiveTeacher(plain("llama"), LM)
    expected, known = alone.signals(batch, Request(logits=True)).logits, alone.fingerprint
    teacher = LiveTeacher(plain("llama"), LM)
    student = teacher.lend()
    add_adapter(student, LoraConfig(lora_dropout=0.5, target_modules=["up_proj", "lm_head"]), LM)
    assert teacher.lazy
    with torch.no_grad():
        for parameter in trained(student).values():
            parameter.normal_()
    student.train()
    found = teacher.signals(batch, Request(logits=True)).logits
    assert expected is not None
    assert found is not None
    assert torch.equal(found, expected)
    lazily = teacher.signals(batch, Request(logits=True, lazy=True)).lazy_logits
    assert lazily is not None
    torch.testing.assert_close(lazily.whole(), expected)
    assert student.training
    assert not torch.allclose(logits(copy.deepcopy(student).eval()), expected)
    assert teacher.fingerprint == known  # of the plain model, whatever the student has learned
