"""The promises of packed documents: each gets the logits that it has by itself, or the run is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from distill.core.document_masking import check_causal, check_isolation
from distill.core.forward import forward
from distill.core.signals import Request
from distill.core.utils.errors import UserError

LLAMA = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
OPT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "word_embed_proj_dim": 16}
FALCON = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
EXPERTS = {"num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 1}
BLOCKS = {
    "gpt2": ({"n_embd": 16, "n_layer": 1, "n_head": 2}, "positions"),
    "llama": (LLAMA, "positions"),
    "gemma2": ({**LLAMA, "head_dim": 8, "num_key_value_heads": 1, "sliding_window": 3}, "positions"),
    "mixtral": ({**LLAMA, **EXPERTS}, "positions"),  # rounds by how many rows an expert gets
    "opt": (OPT, "mask"),
    "falcon": (FALCON, "mask"),
    "mpt": ({"d_model": 16, "n_layers": 1, "n_heads": 2}, "mask"),
    "biogpt": (LLAMA, "mask"),
    "gpt_oss": ({**LLAMA, **EXPERTS, "head_dim": 8, "sliding_window": 3}, "masks"),
}
VISIBLE = {
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 2},
    "openai-gpt": {"n_embd": 16, "n_layer": 1, "n_head": 2},
}
LENGTHS = [7, 1, 9]


def language_model(kind: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=40, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    return AutoModelForCausalLM.from_config(config)


def block(seed: int = 0) -> dict[str, torch.Tensor]:
    """Two rows of three documents; the last document of the first row is the same for every seed."""
    ids = torch.randint(3, 40, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(seed))
    ids[0, -LENGTHS[-1] :] = torch.arange(3, 3 + LENGTHS[-1])
    return {"input_ids": ids, "position_ids": torch.cat([torch.arange(n) for n in LENGTHS]).repeat(2, 1)}


def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        found = forward(model, inputs, Request(logits=True)).logits
    assert found is not None
    return found


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_document_in_a_block_has_the_logits_that_it_has_by_itself(kind: str) -> None:
    sizes, way = BLOCKS[kind]
    model = language_model(kind, **sizes).eval()
    check_isolation("model.teacher", model)
    assert model._documents == way
    found = logits(model, block())
    with torch.no_grad():  # the oracle is transformers' own, of one document at a time
        alone = [model(input_ids=part, use_cache=False).logits for part in block()["input_ids"].split(LENGTHS, 1)]
    torch.testing.assert_close(found, torch.cat(alone, 1), rtol=1e-4, atol=1e-5)
    last = slice(-LENGTHS[-1], None)
    other = logits(model, block(seed=1))[0, last]
    if kind != "mixtral":
        assert torch.equal(found[0, last], other)
    torch.testing.assert_close(found[0, last], other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", VISIBLE)
def test_a_model_in_which_documents_see_each_other_is_refused_with_what_mends_it(kind: str) -> None:
    with pytest.raises(UserError, match=r"model\.student.*isolate_documents: false.*data\.pack_length: 0") as refused:
        check_isolation("model.student", language_model(kind, **VISIBLE[kind]))
    assert refused.value.key == "data.isolate_documents"


def test_windows_are_not_opened_by_a_mask_for_all_layers() -> None:
    """One whose layers have windows and read no positions gets no mask that knows none."""
    model = language_model("opt", **OPT)
    model.config.sliding_window = 4
    with pytest.raises(UserError, match="would see each other"):
        check_isolation("model.student", model)


def test_trying_a_model_leaves_it_and_the_random_numbers_as_they_were() -> None:
    model = language_model("opt", **OPT, dropout=0.5, layerdrop=0.5).train()
    model.model.decoder.layers[0].eval()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    check_isolation("model.student", model)
    check_causal("model.student", model)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_model_is_tried_once_and_costs_nothing_more_in_training() -> None:
    model = language_model("llama", **LLAMA)
    check_isolation("model.student", model)
    seen: list[dict[str, Any]] = []
    model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True)
    logits(model, block())
    assert [sorted(kwargs) for kwargs in seen] == [["input_ids", "position_ids", "use_cache"]]


def test_trying_a_model_takes_a_short_pass_for_each_question() -> None:
    """Does it see ahead; what is a document alone; and in a block, beside one whose first document is another."""
    model, passes = language_model("llama", **LLAMA), list[torch.Size]()
    model.register_forward_pre_hook(lambda _, __, given: passes.append(given["input_ids"].shape), with_kwargs=True)
    check_causal("model.student", model)
    check_isolation("model.student", model)
    assert len(passes) == 3
    assert all(rows * length <= 16 for rows, length in passes)


@pytest.mark.parametrize("kind", VISIBLE)
def test_in_a_loop_of_ones_own_documents_are_run_apart_and_that_is_reported(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = language_model(kind, **VISIBLE[kind]).eval()
    depth = 1
    with caplog.at_level(logging.WARNING), torch.no_grad():
        found = forward(
            model, block(), Request(logits=True, hidden_states=frozenset({depth}), taps=frozenset({"lm_head"}))
        )
        logits(model, block())
    assert caplog.text.count("are run one by one") == 1
    with torch.no_grad():
        parts = block()["input_ids"].split(LENGTHS, 1)
        alone = [model(input_ids=part, use_cache=False, output_hidden_states=True) for part in parts]
    expected = torch.cat([one.logits for one in alone], 1)
    torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.taps["lm_head"], expected, rtol=1e-4, atol=1e-5)
    hidden = torch.cat([one.hidden_states[depth] for one in alone], 1)
    torch.testing.assert_close(found.hidden_states[depth], hidden, rtol=1e-4, atol=1e-5)
    last = slice(-LENGTHS[-1], None)
    assert torch.equal(found.logits[0, last], logits(model, block(seed=1))[0, last])


def test_attention_run_apart_is_that_of_each_document_and_0_between_them() -> None:
    model = language_model("openai-gpt", **VISIBLE["openai-gpt"]).eval()
    model.set_attn_implementation("eager")
    wanted = Request(attentions=frozenset({1}), projections=frozenset({1}))
    inputs = block()
    found = forward(model, inputs, wanted)
    expected, keys = torch.zeros_like(found.attentions[1]), torch.zeros_like(found.projections[1][1])
    for end, part in zip(torch.tensor(LENGTHS).cumsum(0).tolist(), inputs["input_ids"].split(LENGTHS, 1), strict=True):
        own, place = forward(model, {"input_ids": part}, wanted), slice(end - part.shape[1], end)
        expected[:, :, place, place], keys[:, :, place] = own.attentions[1], own.projections[1][1]
    torch.testing.assert_close(found.attentions[1], expected)
    torch.testing.assert_close(found.projections[1][1], keys)
    found.attentions[1].sum().backward()
    assert model.get_input_embeddings().weight.grad is not None


def test_a_language_model_that_sees_what_it_is_to_predict_is_refused() -> None:
    sizes = {**LLAMA, "num_hidden_layers": 1}
    check_causal("model.student", language_model("bert", **sizes, is_decoder=True))
    with pytest.raises(UserError, match="sees the tokens that it is to predict") as refused:
        check_causal("model.student", language_model("bert", **sizes))
    assert refused.value.key == "model.student"


def test_modules_of_ones_own_are_taken_at_their_word() -> None:
    check_isolation("model.student", nn.Linear(1, 1))
    check_causal("model.student", nn.Linear(1, 1))
