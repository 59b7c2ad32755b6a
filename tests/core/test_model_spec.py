import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from distill.compression.structure.removal import rebuild
from distill.core.forward import detached, forward
from distill.core.model_spec import ModelSpec, parameter_count
from distill.core.record import note
from distill.core.signals import Request
from distill.core.utils.errors import UserError

SHARED = {"vocab_size": 50, "attn_implementation": "eager", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "bert": lambda: BertForSequenceClassification(
        BertConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24, **SHARED)
    ),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(dim=16, n_layers=3, n_heads=4, hidden_dim=24, **SHARED)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=3, n_head=4, n_positions=16, **SHARED)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=6,
            intermediate_size=24,
            **SHARED,
        )
    ),
}
SIZE = {"bert": 4, "distilbert": 4, "gpt2": 4, "llama": 6}
every_model = pytest.mark.parametrize("name", MODELS)
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}


def make(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def layers_of(model):
    (layers,) = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 3]
    return layers


@every_model
def test_hidden_states_k_is_the_output_of_layer_k_and_0_the_embeddings(name):
    model, seen = make(name), {}
    for k, layer in enumerate(layers_of(model), start=1):
        layer.register_forward_hook(lambda _m, _a, out, k=k: seen.update({k: out if torch.is_tensor(out) else out[0]}))
    layers_of(model)[0].register_forward_pre_hook(
        lambda _m, args, kwargs: seen.update({0: args[0] if args else kwargs["hidden_states"]}), with_kwargs=True
    )
    hidden = forward(model, INPUTS, Request(hidden_states=frozenset({0, 1, 2, 3, -1, -4}))).hidden_states
    for k in (0, 1, 2):
        torch.testing.assert_close(hidden[k], seen[k])
    last = seen[3] if name in ("bert", "distilbert") else hidden[3]  # decoders give the last one after their final norm
    torch.testing.assert_close(hidden[3], last)
    torch.testing.assert_close(hidden[-1], hidden[3])
    torch.testing.assert_close(hidden[-4], hidden[0])


@every_model
def test_projections_are_split_into_the_heads_of_the_model(name):
    model = make(name)
    projections = forward(model, INPUTS, Request(projections=frozenset({1, -1}))).projections
    for q, k, v in projections.values():
        assert q.shape == k.shape == v.shape == (2, 4, 5, SIZE[name])
    assert ModelSpec(model, "m").attention_width(1) == 4 * SIZE[name]


@every_model
def test_widths_are_those_that_are_left_where_heads_and_coordinates_were_removed(name):
    model = make(name)
    # Of Llama's four query heads two share each of the two heads of keys and values, and go together.
    units, queries = (
        ({1: [1], 3: [0]}, {1: 2, 2: 4, 3: 2}) if name == "llama" else ({1: [0, 3], 3: [2]}, {1: 2, 2: 4, 3: 1})
    )
    step = {
        "kind": "remove",
        "heads": {str(layer): kept for layer, kept in units.items()},
        "hidden": {"0": [0, 1, 2, 3, 5, 7, 8, 9, 12, 15]},
    }
    rebuild(model, step)
    note(model, step)
    spec = ModelSpec(model, "m")
    signals = forward(model, INPUTS, Request(hidden_states=frozenset({0, 2}), projections=frozenset({1, 2, -1})))
    assert {hidden.shape[-1] for hidden in signals.hidden_states.values()} == {spec.hidden_size} == {10}
    for number, layer in ((1, 1), (2, 2), (-1, 3)):
        assert spec.num_heads(number) == queries[layer]
        assert spec.attention_width(number) == queries[layer] * SIZE[name]
        for part in signals.projections[number]:
            assert part.shape == (2, queries[layer], 5, SIZE[name])


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2"])
@pytest.mark.parametrize("layer", [1, 3, -2])
def test_projections_reproduce_the_attention_maps_of_eager_attention(name, layer):
    model = make(name)
    signals = forward(model, INPUTS, Request(attentions=frozenset({layer}), projections=frozenset({layer})))
    q, k, _ = signals.projections[layer]
    visible = (IDS > 0)[:, None, None, :].expand(-1, -1, 5, -1)
    if ModelSpec(model, "m").is_causal(1, "layer"):
        visible = visible.tril()
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), signals.attentions[layer])


def test_projections_of_grouped_queries_repeat_the_keys_and_values_of_their_group():
    model = make("llama")
    _, key, value = forward(model, INPUTS, Request(projections=frozenset({2}))).projections[2]
    for part in (key, value):
        torch.testing.assert_close(part[:, 0], part[:, 1])
        torch.testing.assert_close(part[:, 2], part[:, 3])
        assert not torch.equal(part[:, 1], part[:, 2])


@every_model
def test_projections_are_the_same_under_sdpa(name):
    model = make(name)
    request = Request(projections=frozenset({1}))
    eager = forward(model, INPUTS, request).projections[1]
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(forward(model, INPUTS, request).projections[1], eager)
    with pytest.raises(UserError, match="eager"):
        ModelSpec(model, "m").check_attentions("a loss")


@pytest.mark.parametrize(("name", "causal"), [("bert", False), ("distilbert", False), ("gpt2", True), ("llama", True)])
def test_decoders_are_known_from_encoders(name, causal):
    assert ModelSpec(make(name), "m").is_causal(2, "layer") is causal


def test_fused_projections_of_modernbert_are_split():
    config = ModernBertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, **SHARED
    )
    model = ModernBertForMaskedLM(config).eval()
    q, k, v = forward(model, INPUTS, Request(projections=frozenset({1}))).projections[1]
    fused = forward(model, INPUTS, Request(taps=frozenset({"model.layers.0.attn.Wqkv"}))).taps
    expected = fused["model.layers.0.attn.Wqkv"].view(2, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(torch.stack([q, k, v]), expected)


@every_model
def test_nothing_unrequested_is_kept_and_no_hook_stays(name):
    model = make(name)
    signals = forward(
        model, INPUTS, Request(taps=frozenset({"lm_head" if name in ("gpt2", "llama") else "classifier"}))
    )
    assert signals.logits is None
    assert not signals.hidden_states
    assert not signals.attentions
    assert not signals.projections
    assert len(signals.taps) == 1
    assert not any(m._forward_hooks for m in model.modules())
    assert forward(model, INPUTS, Request(logits=True)).logits is not None


def test_hooks_are_removed_when_the_forward_pass_fails():
    model = make("bert")
    with pytest.raises(ValueError, match="input_ids"):
        forward(model, {"attention_mask": IDS}, Request(projections=frozenset({1})))
    assert not any(m._forward_hooks for m in model.modules())


def test_plain_modules_yield_logits_and_taps():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    signals = forward(model, {"input": x}, Request(logits=True, taps=frozenset({"1"})))
    torch.testing.assert_close(signals.logits, model(x))
    torch.testing.assert_close(signals.taps["1"], model[:2](x))


def test_a_bare_encoder_yields_hidden_states_without_logits():
    model = BertModel(make("bert").config).eval()
    signals = forward(model, INPUTS, Request(hidden_states=frozenset({-1})))
    assert signals.hidden_states[-1].shape == (2, 5, 16)


def test_layers_count_from_the_front_and_from_the_end():
    spec = ModelSpec(make("bert"), "model.student")
    assert [spec.layer(k, "layer") for k in (0, 3, -1, -4)] == [0, 3, 3, 0]
    assert [spec.attention_layer(k, "layer") for k in (1, 3, -1, -3)] == [1, 3, 3, 1]
    for check, number in ((spec.layer, 4), (spec.layer, -5), (spec.attention_layer, 0), (spec.attention_layer, -4)):
        with pytest.raises(UserError, match=f"layer = {number}"):
            check(number, "layer")


def test_attention_of_the_embeddings_is_refused_rather_than_taken_from_a_layer():
    for request in (Request(attentions=frozenset({0})), Request(projections=frozenset({0}))):
        with pytest.raises(UserError, match="0 are the embeddings"):
            forward(make("bert"), INPUTS, request)


def test_width_of_a_module_is_read_off_its_last_layer():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), nn.Flatten())
    spec = ModelSpec(model, "model.student")
    assert spec.width("0", "taps") == 6
    with pytest.raises(UserError, match="name the layer before it"):
        spec.width("1", "taps")
    assert ModelSpec(make("gpt2"), "m").width("transformer.h.0.mlp", "taps") == 16


def test_names_and_architectures_that_are_not_known_are_refused():
    spec = ModelSpec(make("bert"), "model.student")
    with pytest.raises(UserError, match="did you mean"):
        spec.module("clasifier", "taps")
    with pytest.raises(UserError, match="taps"):
        _ = ModelSpec(nn.Linear(2, 2), "model.student").num_layers
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(UserError, match="in its encoder and in its decoder"):
        ModelSpec(t5, "model.student").projections(1, "RelationTransfer")


def test_parameters_are_counted_once_where_tied():
    model = make("gpt2")
    unique = {id(p): p.numel() for p in model.parameters()}
    assert parameter_count(model) == sum(unique.values())
    model.requires_grad_(False)
    assert parameter_count(model, trained_only=True) == 0


def test_detached_signals_may_be_saved_by_autograd():
    model = make("bert")
    request = Request(True, frozenset({1}), frozenset({1}), frozenset({1}), frozenset({"classifier"}))
    with torch.inference_mode():
        signals = forward(model, INPUTS, request)
    plain = detached(signals)
    weight = torch.ones((), requires_grad=True)
    tensors = (
        plain.logits,
        plain.hidden_states[1],
        plain.attentions[1],
        plain.taps["classifier"],
        *plain.projections[1],
    )
    sum((weight * t).sum() for t in tensors).backward()
    assert weight.grad is not None
