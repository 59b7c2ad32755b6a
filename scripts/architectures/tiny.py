"""A tiny random model of any architecture that transformers knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedModel

from distill.core.utils.quiet import quiet_transformers
from distill.tasks import TASKS, Task, TextTask

__all__ = ["DEPTH", "VOCABULARY", "model_types", "task_of", "tiny_config", "tiny_model"]

DEPTH, VOCABULARY, CLASSES = 4, 99, ("no", "maybe", "yes")

_LIMIT = 20_000_000  # parameters

_SIZES: tuple[tuple[str, int], ...] = (
    (r"(num_hidden_layers|n_layers?|num_layers|num_decoder_layers|num_encoder_layers|(en|de)coder_layers)", DEPTH),
    (r"(\w+_)?vocab_size|vocab_size\w*", VOCABULARY),
    (r"(num|n)_(key_value|kv)_heads|\w*num_key_value_heads|num_kv_heads|\w*n_kv_heads", 2),
    (r"(\w+_)?(num_attention_heads|attention_heads|n_heads?|num_heads)|\w*_n_heads|\w*_num_heads", 4),
    (r"(num|n|moe_num|num_local|n_routed|num_routed)_experts|moe_num_experts|num_local_experts", 4),
    (r"num_kv_shared_layers|num_hash_layers", 0),
    (r"(num_experts_per_tok(en)?|moe_topk|moe_k|top_k|num_selected_experts|num_experts_per_token)", 2),
    (r"n_groups?|topk_groups?|num_groups|num_expert_groups?|n_group", 1),
    (r"(first_k_dense_replace|moe_layer_start_index|num_dense_layers|n_shared_experts|num_shared_experts)", 1),
    (r"(kv_channels|d_kv|head_dim|\w+_head_dim|attention_head_dim|d_head|head_size|\w+_head_size)", 4),
    (r"\w*lora_rank\w*|\w+_rank|\w+_low_rank_dim|lora_\w+", 8),
    (r"(mamba_)?(d_state|state_size|ssm_state_size)|mamba_d_head", 4),
    (
        r"(max|n)_(position_embeddings|positions|target_positions|source_positions)|max_position_embeddings_\w+|n_ctx",
        64,
    ),
    (r"(\w+_)?(intermediate_size|ffn_dim|inner_dim|mlp_dim)\w*|d_ff|d_inner|n_inner|ffn_hidden_size|hidden_dim", 32),
    (r"(\w+_)?(hidden_size|d_model|d_embed|embed_dim|embedding_size|emb_dim|n_embd|embedding_dim)\w*|dim|d_model", 16),
    (r"\w*(image_size|num_mel_bins|sliding_window|attention_window|chunk_size|window_size|local_attention)", 16),
)
"""What an entry of a configuration is called -> how large it is here; the first that fits holds."""

_MORE: tuple[dict[str, int], ...] = (
    {},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 4, "head_dim": 8},
    {"head_dim": 4},
)
"""What is tried in turn where sizes must fit together in another way, until a model computes something."""

_MAMBA = {"mamba_expand": 2, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}
_T5 = {"decoder_start_token_id": 0}

_OWN: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA | {"attn_layer_indices": [1, 3]},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 32},
    "granitemoehybrid": _MAMBA | {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "dots1": {"n_routed_experts": 4},
    "xmod": {"default_language": "en_XX"},
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    "blenderbot": {"encoder_layers": DEPTH},
    "codegen": {"rotary_dim": 4},
    "esm": {"vocab_size": VOCABULARY},
    "gptj": {"rotary_dim": 4},
    "hunyuan_v1_moe": {"head_dim": 4},
    "mamba2": {"head_dim": 8, "num_heads": 4, "n_groups": 1},
    "mobilebert": {"true_hidden_size": 16, "intra_bottleneck_size": 16, "embedding_size": 16},
    "lilt": {"channel_shrink_ratio": 1},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [8, 8], "axial_pos_shape": [8, 8]},
    "layoutlmv3": {"coordinate_size": 2, "shape_size": 4, "input_size": 32, "patch_size": 16},
    "zamba": {"num_hidden_layers": 7, "layers_block_type": None},
    "xlstm": {"num_heads": 4},
}
"""What single architectures need besides."""


def task_of(name: str) -> TextTask:
    """The task of that name, with classes where it has some."""
    kind: type[Task] = TASKS[name]
    assert issubclass(kind, TextTask)
    return kind(list(CLASSES) if "classification" in name else None)


def model_types(tasks: list[str]) -> Iterator[tuple[str, str]]:
    """Every model type that the Auto class of one of the tasks makes, with the task."""
    for task in tasks:
        known = task_of(task).auto_model._model_mapping._model_mapping
        yield from ((kind, task) for kind in sorted(known))


def tiny_config(kind: str, more: Mapping[str, int], layers: int, **head: Any) -> Any:
    """The configuration of ``kind``, whose usual sizes are small; nested ones too."""
    with quiet_transformers():
        plain = CONFIG_MAPPING[kind]().to_dict()
        return CONFIG_MAPPING[kind](**(_small(plain, more, layers) | _OWN.get(kind, {}) | head))


def _small(entries: Mapping[str, Any], more: Mapping[str, int], layers: int) -> dict[str, Any]:
    depth = next((entries[n] for n in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if n in entries), None)
    changed: dict[str, Any] = {}
    for name, value in entries.items():
        if isinstance(value, dict) and value and (name.endswith("config") or "model_type" in value):
            changed[name] = _small(value, more, layers) | {k: v for k, v in value.items() if k == "model_type"}
        elif isinstance(value, list) and value and len(value) == depth:
            changed[name] = [*dict.fromkeys(map(_frozen, value)), *value][:layers]
        elif name.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY:
            changed[name] = 1
        elif isinstance(value, int) and not isinstance(value, bool):
            place = next((i for i, (pattern, _) in enumerate(_SIZES) if re.fullmatch(pattern, name)), None)
            if place is not None and (value > _SIZES[place][1] or place == 0):  # some are of two layers by default
                changed[name] = _SIZES[place][1] if place else layers
    return changed | {name: size for name, size in more.items() if name in entries}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def tiny_model(kind: str, task: str, layers: int = DEPTH) -> PreTrainedModel:
    """A model of ``kind`` with the task's head, in eval mode, none of whose weights is at a default such as 0 or 1.

    Raises:
        Exception: whatever transformers raises where none of the sizes that are tried fit.
    """
    first: Exception | None = None
    for more in _MORE:
        try:
            model = _model(kind, task, more, layers)
            with torch.no_grad(), quiet_transformers():
                model(input_ids=torch.tensor([[5, 6, 7, 8, VOCABULARY - 5, 5, 6, 2]]))
            return model
        except Exception as error:  # of which there are as many kinds as architectures
            first = first or error
    assert first is not None
    raise first


def _model(kind: str, task: str, more: Mapping[str, int], layers: int) -> PreTrainedModel:
    head = task_of(task)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = tiny_config(kind, more, layers, **special, **head.head_config())
    text = config.get_text_config()
    for name, value in special.items():
        setattr(text, name, value)
    if task == "causal-lm" and hasattr(text, "is_decoder"):
        text.is_decoder = True  # of an encoder's file, as a run with it asks for
    with torch.device("meta"), quiet_transformers():
        size = sum(p.numel() for p in head.auto_model.from_config(config).parameters())
    if size > _LIMIT:
        raise ValueError(f"it has {size:,} parameters")
    torch.manual_seed(0)
    with quiet_transformers():
        model: PreTrainedModel = head.auto_model.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0  # as it is in every trained model
    model.eval()  # type: ignore[no-untyped-call]
    return model
