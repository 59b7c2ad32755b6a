"""The promises of taking heads, neurons and layers out of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import distill
from distill.compression.quantization.layers import quantize_layer
from distill.compression.quantization.scheme import LayerScheme, WeightScheme
from distill.compression.structure.removal import keep_units, rebuild, remove_layers
from distill.core.utils.errors import UserError
from distill.models.saved_student import save

HEADS = {1: [0, 2], 3: [1]}
NEURONS = {1: [0, 3, 19], 2: list(range(0, 20, 2))}

READERS = {
    "bert": ("bert.encoder.layer.{}.attention.output.dense", "bert.encoder.layer.{}.output.dense"),
    "roberta": ("roberta.encoder.layer.{}.attention.output.dense", "roberta.encoder.layer.{}.output.dense"),
    "distilbert": ("distilbert.transformer.layer.{}.attention.out_lin", "distilbert.transformer.layer.{}.ffn.lin2"),
    "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp.c_proj"),
    "llama": ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"),
    "qwen2": ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"),
    "qwen3": ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"),
}
"""The maps that read what heads, and neurons, put out."""


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(**inputs).logits
        return out


def silence(module: nn.Module, kept: list[int], units: int) -> None:
    """Have the map read zeros in place of what the other units put out."""
    mask = torch.zeros(units)
    mask[kept] = 1

    def hook(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] * mask.repeat_interleave(args[0].shape[-1] // units),)

    module.register_forward_pre_hook(hook)


def test_removing_equals_silencing(tiny: Callable[..., Any], family: str, inputs: dict[str, Tensor]) -> None:
    model = tiny(family)
    silenced, full = copy.deepcopy(model), logits(model, inputs)
    heads = 3 if family in ("llama", "qwen2", "qwen3") else 4
    for kept, units, reader in ((HEADS, heads, READERS[family][0]), (NEURONS, 20, READERS[family][1])):
        for layer, stay in kept.items():
            silence(silenced.get_submodule(reader.format(layer - 1)), stay, units)
    keep_units(model, "heads", HEADS, "key")
    keep_units(model, "neurons", NEURONS, "key")
    torch.testing.assert_close(logits(model, inputs), logits(silenced, inputs), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(full, logits(model, inputs), atol=1e-3)


def test_the_shrunken_student_reloads_with_identical_logits(
    tiny: Callable[..., Any], family: str, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    model = tiny(family)
    step = {
        "kind": "remove",
        "heads": {str(layer): kept for layer, kept in HEADS.items()},
        "neurons": {str(layer): kept for layer, kept in NEURONS.items()},
    }
    rebuild(model, step)
    save(model, tmp_path / "student", steps=[step])
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    # and can be copied and trained on
    student = copy.deepcopy(loaded).train()
    student(**inputs).logits.square().sum().backward()
    assert all(p.grad is not None for p in student.parameters())
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def test_eager_attention_maps_are_of_the_heads_that_stay(tiny: Callable[..., Any], inputs: dict[str, Tensor]) -> None:
    for family, heads in (("bert", [2, 4, 1]), ("llama", [4, 6, 2])):
        model = tiny(family, attn_implementation="eager")
        keep_units(model, "heads", HEADS, "key")
        maps = model(**inputs, output_attentions=True).attentions
        assert [part.shape[1] for part in maps] == heads


def stream_silenced(model: Any, kept: list[int], hidden: int) -> None:
    """Have every norm and every map of the residual stream computed on the kept coordinates alone."""
    gone = torch.ones(hidden, dtype=torch.bool)
    gone[kept] = False

    def norm(module: Any, args: tuple[Tensor], _output: Tensor) -> Tensor:
        x = args[0][..., kept]
        if isinstance(module, nn.LayerNorm):
            out = nn.functional.layer_norm(x, (len(kept),), module.weight[kept], module.bias[kept], module.eps)
        else:
            out = nn.functional.rms_norm(x, (len(kept),), module.weight[kept], module.variance_epsilon)
        return torch.zeros_like(args[0]).index_copy(-1, torch.tensor(kept), out)

    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) or (
            "RMSNorm" in type(module).__name__ and not name.endswith(("q_norm", "k_norm"))
        ):
            module.register_forward_hook(norm)
        elif not list(module.children()) and getattr(module, "weight", None) is not None:
            # Whatever it is, what it puts out of the width of the stream is zero at the other coordinates.
            def zero(_module: Any, _args: Any, output: Tensor) -> Tensor:
                return output.masked_fill(gone, 0.0) if output.shape[-1] == hidden else output

            module.register_forward_hook(zero)


def test_a_narrower_stream_equals_a_silenced_one(
    tiny: Callable[..., Any], family: str, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    kept = [0, 2, 3, 7, 9, 11]
    widths = {"gpt2": {"n_embd": 14, "n_head": 7}, "distilbert": {"dim": 14, "n_heads": 7}}
    llama = family in ("llama", "qwen2", "qwen3")
    bert = {"hidden_size": 14, "num_attention_heads": 7}
    model = tiny(family, **({"hidden_size": 18} if llama else widths.get(family, bert)))
    silenced = copy.deepcopy(model)
    stream_silenced(silenced, kept, 18 if llama else 14)
    for name, module in silenced.named_modules():
        if name.endswith(("query", "key", "value", "q_lin", "k_lin", "v_lin")):
            module._forward_hooks.clear()  # as wide as the stream, but not written to it
    step = {"kind": "remove", "hidden": {"0": kept}}
    rebuild(model, step)
    torch.testing.assert_close(logits(model, inputs), logits(silenced, inputs), rtol=1e-6, atol=1e-6)
    save(model, tmp_path / "student", steps=[step])
    assert torch.equal(logits(distill.load(tmp_path / "student"), inputs), logits(model, inputs))


def test_the_parameters_are_fewer_by_those_of_the_units(tiny: Callable[..., Any]) -> None:
    model = tiny("bert")
    before = sum(p.numel() for p in model.parameters())
    keep_units(model, "heads", HEADS, "key")
    keep_units(model, "neurons", NEURONS, "key")
    per_head, per_neuron = 3 * (16 * 4 + 4) + 4 * 16, 16 + 1 + 16
    removed = (2 + 3) * per_head + (17 + 10) * per_neuron
    assert before - sum(p.numel() for p in model.parameters()) == removed
    first = model.bert.encoder.layer[0]
    assert (first.attention.self.num_attention_heads, first.attention.self.all_head_size) == (2, 8)
    assert (first.attention.self.query.out_features, first.attention.output.dense.in_features) == (8, 8)
    assert (first.intermediate.dense.out_features, first.output.dense.in_features) == (3, 3)


def test_generation_with_a_cache_equals_generation_without(tiny: Callable[..., Any], inputs: dict[str, Tensor]) -> None:
    for family in ("gpt2", "llama"):
        model = tiny(family)
        keep_units(model, "heads", HEADS, "key")
        remove_layers(model, [1, 3], "key")
        prompt = {"input_ids": inputs["input_ids"][:1], "attention_mask": inputs["attention_mask"][:1]}
        arguments = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        with_cache = model.generate(**prompt, **arguments, use_cache=True)
        assert torch.equal(with_cache, model.generate(**prompt, **arguments, use_cache=False))


def test_layers_are_taken_out(tiny: Callable[..., Any], family: str, inputs: dict[str, Tensor], tmp_path: Path) -> None:
    model = tiny(family)
    skipped = copy.deepcopy(model)
    layer = next(m for name, m in skipped.named_modules() if name.endswith((".layer.1", ".h.1", ".layers.1")))
    layer.register_forward_hook(lambda _module, args, _output: args[0])
    remove_layers(model, [1, 3], "key")
    assert torch.equal(logits(model, inputs), logits(skipped, inputs))
    assert len(model(**inputs, output_hidden_states=True).hidden_states) == 3
    save(model, tmp_path / "student", steps=[{"kind": "layers", "kept": [1, 3], "of": 3}])
    assert torch.equal(logits(distill.load(tmp_path / "student"), inputs), logits(model, inputs))


def test_masks_and_scales_beside_a_weight_shrink_with_it(tiny: Callable[..., Any]) -> None:
    model = tiny("gpt2")
    up, down = model.transformer.h[0].mlp.c_fc, model.transformer.h[0].mlp.c_proj
    up.register_buffer("weight_mask", up.weight.detach() > 0)
    down.register_buffer("weight_mask", down.weight.detach() > 0)
    up.register_buffer("weight_scale", torch.arange(20.0))
    up.register_buffer("input_range", torch.tensor([-1.0, 1.0]))
    up.learned = nn.Parameter(torch.arange(20.0))
    down.register_buffer("weight_scale", torch.arange(16.0))
    keep_units(model, "neurons", {1: [4, 7]}, "key")
    assert torch.equal(up.weight_mask, up.weight > 0)
    assert torch.equal(down.weight_mask, down.weight > 0)
    assert up.weight_scale.tolist() == up.learned.tolist() == [4, 7]
    assert isinstance(up.learned, nn.Parameter)
    assert up.input_range.tolist() == [-1, 1]
    assert down.weight_scale.tolist() == list(range(16))


def test_an_unknown_architecture_is_refused_with_the_known_ones(tiny: Callable[..., Any]) -> None:
    from transformers import AutoConfig, AutoModel

    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 9, "pad_token_id": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    bart = AutoModel.from_config(AutoConfig.for_model("bart", **sizes, **heads))
    for model in (bart, nn.Linear(2, 2)):
        with pytest.raises(UserError, match=r"bert.*distilbert.*gpt2.*llama"):
            keep_units(model, "heads", HEADS, "key")


@pytest.mark.parametrize("kept", [{4: [0]}, {1: [4]}, {1: []}, {0: [0]}, {1: [-1]}])
def test_units_that_are_not_there_are_refused(tiny: Callable[..., Any], kept: dict[int, list[int]]) -> None:
    with pytest.raises(UserError, match="layer"):
        rebuild(tiny("bert"), {"kind": "remove", "heads": kept})


def test_layers_that_know_their_depth_are_not_removed(tiny: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="scale_attn_by_inverse_layer_idx"):
        remove_layers(tiny("gpt2", scale_attn_by_inverse_layer_idx=True), [1], "key")


def test_trained_scales_of_groups_shrink_with_the_outputs(tiny: Callable[..., Any]) -> None:
    grouped = LayerScheme(weights=WeightScheme(bits=4, granularity="group", group_size=4, learned=True))
    for family, name in (("bert", "bert.encoder.layer.0.intermediate.dense"), ("gpt2", "transformer.h.0.mlp.c_fc")):
        model = tiny(family)
        up = quantize_layer(model.get_submodule(name), grouped)
        up.weight_scale.data = torch.arange(80.0)
        keep_units(model, "neurons", {1: [4, 7]}, "key")
        assert isinstance(up.weight_scale, nn.Parameter)
        assert up.weight_scale.tolist() == [16, 17, 18, 19, 28, 29, 30, 31]
        assert up.grid().scale.shape == (2, 4)


def test_what_was_frozen_stays_frozen(tiny: Callable[..., Any]) -> None:
    model = tiny("bert")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layer.1." not in name)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    keep_units(model, "neurons", {1: [0, 3], 2: [0, 3]}, "key")
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
