"""The promises of the importance of heads, neurons and layers, against sums written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from distill.compression.structure.importance import (
    choose,
    choose_globally,
    layer_change,
    layer_magnitude,
    layer_taylor,
    magnitude,
    output_norm,
    taylor,
)
from distill.compression.structure.units import find_units


def pieces(model: Any, family: str, kind: str, layer: int, unit: int) -> list[tuple[Any, Any]]:
    """(parameter, index) of all that belongs to a unit, read off the architecture by hand."""
    if family == "bert":
        block = model.bert.encoder.layer[layer]
        if kind == "neurons":
            into, out = block.intermediate.dense, block.output.dense
            return [(into.weight, np.s_[unit]), (into.bias, np.s_[unit]), (out.weight, np.s_[:, unit])]
        rows, attention = np.s_[4 * unit : 4 * unit + 4], block.attention.self
        maps = (attention.query, attention.key, attention.value)
        parts = [(p, rows) for m in maps for p in (m.weight, m.bias)]
        return [*parts, (block.attention.output.dense.weight, np.s_[:, rows])]
    if family == "gpt2":
        block = model.transformer.h[layer]
        if kind == "neurons":
            into, out = block.mlp.c_fc, block.mlp.c_proj
            return [(into.weight, np.s_[:, unit]), (into.bias, np.s_[unit]), (out.weight, np.s_[unit])]
        rows = [np.s_[16 * part + 4 * unit : 16 * part + 4 * unit + 4] for part in range(3)]
        fused = block.attn.c_attn
        parts = [pair for r in rows for pair in ((fused.weight, np.s_[:, r]), (fused.bias, r))]
        return [*parts, (block.attn.c_proj.weight, rows[0])]
    block = model.model.layers[layer]
    if kind == "neurons":
        gate, up, down = block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj
        parts = [(p, np.s_[unit]) for m in (gate, up) for p in (m.weight, m.bias)]
        return [*parts, (down.weight, np.s_[:, unit])]
    attention = block.self_attn
    group, one = np.s_[8 * unit : 8 * unit + 8], np.s_[4 * unit : 4 * unit + 4]
    parts = [(p, group) for p in (attention.q_proj.weight, attention.q_proj.bias)]
    parts += [(p, one) for m in (attention.k_proj, attention.v_proj) for p in (m.weight, m.bias)]
    return [*parts, (attention.o_proj.weight, np.s_[:, group])]


def stream(model: Any, family: str) -> tuple[list[tuple[Any, int]], list[tuple[Any, int]]]:
    """(parameter, axis) over the residual stream, by hand: of what writes to it or scales it, and of what reads it."""
    if family == "bert":
        embeddings, blocks = model.bert.embeddings, model.bert.encoder.layer
        tables = [embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings]
        norms = [embeddings.LayerNorm, *(n for b in blocks for n in (b.attention.output.LayerNorm, b.output.LayerNorm))]
        writers = [m for b in blocks for m in (b.attention.output.dense, b.output.dense)] + [model.bert.pooler.dense]
        selves = [b.attention.self for b in blocks]
        readers = [m for own in selves for m in (own.query, own.key, own.value)]
        readers += [b.intermediate.dense for b in blocks] + [model.bert.pooler.dense, model.classifier]
    elif family == "gpt2":
        base, blocks = model.transformer, model.transformer.h
        tables, norms = [base.wte, base.wpe], [base.ln_f, *(n for b in blocks for n in (b.ln_1, b.ln_2))]
        writers = [m for b in blocks for m in (b.attn.c_proj, b.mlp.c_proj)]
        readers = [m for b in blocks for m in (b.attn.c_attn, b.mlp.c_fc)]
    else:
        base, blocks = model.model, model.model.layers
        tables, norms = [base.embed_tokens], [base.norm]
        norms += [n for b in blocks for n in (b.input_layernorm, b.post_attention_layernorm)]
        writers = [m for b in blocks for m in (b.self_attn.o_proj, b.mlp.down_proj)]
        attentions = [b.self_attn for b in blocks]
        readers = [m for own in attentions for m in (own.q_proj, own.k_proj, own.v_proj)]
        readers += [m for b in blocks for m in (b.mlp.gate_proj, b.mlp.up_proj)] + [model.lm_head]
    into = 0 if family == "gpt2" else 1  # the axis of a map's weight that reads
    biases = [(m.bias, 0) for m in (*norms, *writers) if getattr(m, "bias", None) is not None]
    written = [(m.weight, 1) for m in tables] + [(m.weight, 0) for m in norms] + [(m.weight, 1 - into) for m in writers]
    return written + biases, [(m.weight, into) for m in readers]


def along(values: Any, axis: int) -> Any:
    """Sums over all axes but one."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).sum(1)


def as_array(tensor: torch.Tensor) -> Any:
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_magnitude_and_taylor_are_sums_over_the_weights_of_a_unit(
    tiny: Callable[..., Any], name: str, kind: Any, inputs: dict[str, torch.Tensor]
) -> None:
    model = tiny(name)
    model(**inputs).logits.square().sum().backward()
    weights = dict(model.named_parameters())
    for units in find_units(model, kind, "key"):
        norms, products = [], []
        for unit in range(units.count):
            parts = pieces(model, name, kind, units.layer - 1, unit)
            norms.append(np.sqrt(sum((as_array(p)[index] ** 2).sum() for p, index in parts)))
            products.append(abs(sum((as_array(p) * as_array(p.grad))[index].sum() for p, index in parts)))
        np.testing.assert_allclose(magnitude(units, weights).numpy(), norms, rtol=1e-5)
        np.testing.assert_allclose(taylor(units, weights).numpy(), products, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_output_norm_weighs_features_by_the_columns_that_read_them(
    tiny: Callable[..., Any], name: str, kind: Any
) -> None:
    model = tiny(name)
    units = find_units(model, kind, "key")[1]
    per = {"neurons": 1, "heads": 8 if name == "llama" else 4}[kind]
    squares = torch.rand(units.count * per)
    expected = []
    for unit in range(units.count):
        parameter, index = pieces(model, name, kind, 1, unit)[-1]
        norms = (as_array(parameter)[index] ** 2).reshape((per, -1) if name == "gpt2" else (-1, per))
        norms = norms.sum(1 if name == "gpt2" else 0)
        expected.append(np.sqrt((norms * as_array(squares)[per * unit : per * unit + per]).sum()))
    np.testing.assert_allclose(output_norm(units, dict(model.named_parameters()), squares).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_magnitude_and_taylor_of_a_coordinate_are_sums_over_all_that_writes_or_reads_it(
    tiny: Callable[..., Any], name: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = tiny(name)
    model(**inputs).logits.square().sum().backward()
    weights = dict(model.named_parameters())
    [units] = find_units(model, "hidden", "key")
    written, read = stream(model, name)
    parts = [*written, *read]  # BERT's pooler does both: its rows count, and its columns
    norms = np.sqrt(sum(along(as_array(p) ** 2, axis) for p, axis in parts))
    products = abs(sum(along(as_array(p) * as_array(p.grad), axis) for p, axis in parts if p.grad is not None))
    np.testing.assert_allclose(magnitude(units, weights).numpy(), norms, rtol=1e-5)
    np.testing.assert_allclose(taylor(units, weights).numpy(), products, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_output_norm_of_a_coordinate_weighs_it_by_the_columns_of_all_that_read_it(
    tiny: Callable[..., Any], name: str
) -> None:
    model = tiny(name)
    [units] = find_units(model, "hidden", "key")
    squares = torch.rand(units.count)
    columns = sum(along(as_array(p) ** 2, axis) for p, axis in stream(model, name)[1])
    expected = np.sqrt(columns * as_array(squares))
    np.testing.assert_allclose(output_norm(units, dict(model.named_parameters()), squares).numpy(), expected, rtol=1e-5)


def test_importance_of_a_layer(tiny: Callable[..., Any], inputs: dict[str, torch.Tensor]) -> None:
    model = tiny("bert")
    model(**inputs).logits.square().sum().backward()
    weights = dict(model.named_parameters())
    layer = [find_units(model, kind, "key")[1] for kind in ("heads", "neurons")]  # type: ignore[arg-type]
    block = model.bert.encoder.layer[1]
    self, into, out = block.attention.self, block.intermediate.dense, block.output.dense
    maps = [p for m in (self.query, self.key, self.value, into) for p in (m.weight, m.bias)]
    outputs = [block.attention.output.dense.weight, out.weight]
    norm = np.sqrt(sum((as_array(p) ** 2).sum() for p in [*maps, *outputs]))
    np.testing.assert_allclose(layer_magnitude(layer, weights).item(), norm, rtol=1e-5)
    product = abs(sum((as_array(p) * as_array(p.grad)).sum() for p in outputs))
    np.testing.assert_allclose(layer_taylor(layer, weights).item(), product, rtol=1e-3, atol=1e-3)
    assert layer_change(torch.tensor([9.0, 4.0])).item() == 1.5


def test_weights_without_a_gradient_count_as_zero(tiny: Callable[..., Any]) -> None:
    model = tiny("bert")
    units = find_units(model, "heads", "key")[0]
    assert taylor(units, dict(model.named_parameters())).tolist() == [0, 0, 0, 0]


def test_the_least_important_go_first_and_do_not_come_back() -> None:
    importance = torch.tensor([3.0, 1.0, 2.0, 1.0, 9.0])
    every = torch.ones(5, dtype=torch.bool)
    assert choose(importance, every, 0).all()
    assert choose(importance, every, 1).tolist() == [True, False, True, True, True]  # of equals the first
    assert choose(importance, every, 3).tolist() == [True, False, False, False, True]
    gone = torch.tensor([True, True, True, True, False])
    assert choose(importance, gone, 1).tolist() == gone.tolist()
    assert choose(importance, gone, 2).tolist() == [True, False, True, True, False]
    assert choose(importance, gone, 0).tolist() == gone.tolist()


def test_global_choice_compares_multiples_of_a_layers_mean_and_leaves_one_in_each() -> None:
    every = [torch.ones(3, dtype=torch.bool)] * 2
    # The second layer is larger throughout; in multiples of its mean (100) its units are 0.1, 1.4 and 1.5.
    layers = [torch.tensor([0.9, 1.0, 1.1]), torch.tensor([10.0, 140.0, 150.0])]
    first, second = choose_globally(layers, every, 1)
    assert (first.tolist(), second.tolist()) == ([True] * 3, [False, True, True])
    first, second = choose_globally(layers, every, 4)
    assert (first.tolist(), second.tolist()) == ([False, False, True], [False, False, True])
    again = choose_globally(layers, [first, second], 4)
    assert torch.equal(torch.stack(again), torch.stack([first, second]))


def test_units_that_are_gone_are_no_part_of_a_ranking_over_all_layers() -> None:
    importances = [torch.tensor([9.0, 1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])]
    masks = [torch.tensor([False, True, True]), torch.tensor([True, True, True])]
    # Multiples of the means of what stayed, 1.5 and 4: 0.67 and 1.33, and 0.75, 1 and 1.25; the best of each stays.
    kept = [one.tolist() for one in choose_globally(importances, masks, 3)]
    assert kept == [[False, False, True], [False, True, True]]


def test_what_is_gone_makes_no_layer_look_less_important_and_is_not_the_one_that_stays() -> None:
    masks = [torch.tensor([False, True, True]), torch.tensor([True, True, True])]
    # 0.91 and 1.09 of the mean of what stayed, beside 0.75, 1 and 1.25: with the unit that is gone 0.27 and 0.32.
    kept = choose_globally([torch.tensor([9.0, 1.0, 1.2]), torch.tensor([3.0, 4.0, 5.0])], masks, 2)
    assert [one.tolist() for one in kept] == [[False, True, True], [False, True, True]]
    # 1.09 stays as the best of its layer, though 1.49 goes; 9 is no unit of it any more.
    kept = choose_globally([torch.tensor([9.0, 1.0, 1.2]), torch.tensor([0.1, 10.0, 10.1])], masks, 4)
    assert [one.tolist() for one in kept] == [[False, False, True], [False, False, True]]
