"""Weights that nothing of a model takes are refused where the model would compute something else, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from distill.core.utils.errors import UserError
from distill.models.pretrained import load_model

TEXT = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
LLAMA = TEXT | {"num_key_value_heads": 2}
PICTURE = TEXT | {"image_size": 8, "patch_size": 4, "encoder_stride": 4}


def saved(auto_model: Any, kind: str, folder: Path, sizes: dict[str, Any], **more: Tensor) -> Path:
    """A model on disk; ``more`` are tensors beside its own, by name with a double underscore for a dot."""
    torch.manual_seed(0)
    auto_model.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights |= {name.replace("__", "."): tensor for name, tensor in more.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def opened(folder: Path, auto_model: Any, *, trained: bool = True, **head: Any) -> Any:
    return load_model(str(folder), auto_model, "model.teacher.path", head=head, trained=trained)


@pytest.mark.parametrize(
    "name",
    [
        "attention__self__distance_embedding__weight",  # of relative positions, which transformers no longer has
        "output__adapters__own__adapter_down__0__weight",
        "attention__output__adapter_norm",
    ],
)
@pytest.mark.parametrize("auto_model", [AutoModelForSequenceClassification, AutoModel])
def test_what_stands_within_a_layer_is_never_dropped(auto_model: Any, name: str, tmp_path: Path) -> None:
    extra = {f"bert__encoder__layer__0__{name}": torch.ones(3)}
    saved(AutoModelForSequenceClassification, "bert", tmp_path, TEXT, **extra)
    with pytest.raises(UserError, match=r"the weights hold bert\.encoder\.layer\.0\..* without it"):
        opened(tmp_path, auto_model)


def test_weights_of_another_architecture_are_not_taken_for_those_of_the_configuration(tmp_path: Path) -> None:
    saved(AutoModelForCausalLM, "qwen3", tmp_path, LLAMA | {"head_dim": 4})
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.k_norm\.weight.*LlamaAttention without it"):
        opened(tmp_path, AutoModelForCausalLM)


@pytest.mark.parametrize(
    "name", ["layers__0__self_attn__rotary_emb__inv_freq", "layers__1__self_attn__masked_bias", "position_ids"]
)
def test_what_older_versions_saved_and_a_model_counts_anew_is_left_out(name: str, tmp_path: Path) -> None:
    saved(AutoModelForCausalLM, "llama", tmp_path, LLAMA, **{f"model__{name}": torch.ones(2)})
    assert opened(tmp_path, AutoModelForCausalLM)


def test_a_bias_of_zeros_changes_nothing_and_another_one_does(tmp_path: Path) -> None:
    bias = torch.zeros(8)
    for name in ("q_proj", "o_proj"):
        extra = {f"model__layers__1__self_attn__{name}__bias": bias}
        assert opened(saved(AutoModelForCausalLM, "llama", tmp_path, LLAMA, **extra), AutoModelForCausalLM)
    bias[3] = 0.1
    with pytest.raises(UserError, match=r"hold model\.layers\.1\.self_attn\.o_proj\.bias.*Linear without it"):
        opened(saved(AutoModelForCausalLM, "llama", tmp_path, LLAMA, **extra), AutoModelForCausalLM)


@pytest.mark.parametrize("labels", [2, 5])
def test_a_student_may_begin_as_a_model_of_another_task(labels: int, tmp_path: Path) -> None:
    extra = {"score__bias": torch.ones(5)}  # which the head of a text classifier does not have
    saved(AutoModelForTokenClassification, "llama", tmp_path, LLAMA | {"num_labels": 5}, **extra)
    model = opened(tmp_path, AutoModelForSequenceClassification, trained=False, num_labels=labels)
    assert model.score.weight.shape == (labels, 8)
    with pytest.raises(UserError):
        opened(tmp_path, AutoModelForSequenceClassification, num_labels=labels)


def test_the_head_of_the_same_task_is_no_other_tasks(tmp_path: Path) -> None:
    saved(AutoModelForCausalLM, "llama", tmp_path, LLAMA, lm_head__bias=torch.ones(30))
    with pytest.raises(UserError, match=r"hold lm_head\.bias"):
        opened(tmp_path, AutoModelForCausalLM, trained=False)


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_a_vision_model_pretrained_on_masked_pictures_is_a_students_start(kind: str, tmp_path: Path) -> None:
    saved(AutoModelForMaskedImageModeling, kind, tmp_path, PICTURE)
    assert any("mask_token" in name for name in load_file(tmp_path / "model.safetensors"))
    assert opened(tmp_path, AutoModelForImageClassification, trained=False)
