"""What a model writes after prompts of several lengths, against a loop that reads everything anew each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from distill.models.sampling import continuations, reads_padding_beside

SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 24},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


@pytest.fixture(params=SIZES)
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 13}
    config = AutoConfig.for_model(request.param, **(sizes | SIZES[request.param]), bos_token_id=0, eos_token_id=1)
    made: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.train()


PROMPTS = [torch.tensor(ids) for ids in ([0, 5, 7, 2, 4], [0, 9], [0, 3, 3])]


def anew(model: Any, prompt: Tensor, most: int, ends: list[int]) -> list[int]:
    """The most likely tokens one after another, each of a pass over all before it."""
    ids = prompt.tolist()
    for _ in range(most):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("together", [True, False])
def test_each_prompt_goes_on_as_it_would_alone_and_ends_where_it_ends(model: Any, together: bool) -> None:
    assert reads_padding_beside(model)
    model.eval()
    free = [anew(model, prompt, 12, []) for prompt in PROMPTS]
    end = free[0][5]  # one that at least the first comes to
    model.train()
    model.generation_config = GenerationConfig(eos_token_id=end, repetition_penalty=9.0, max_new_tokens=1)  # type: ignore[no-untyped-call]
    found = [made.tolist() for made in continuations(model, PROMPTS, 12, together=together)]
    model.eval()
    assert found == [anew(model, prompt, 12, [end]) for prompt in PROMPTS]
    assert len(found[0]) <= 6


def test_modes_and_settings_are_as_they_were(model: Any) -> None:
    model.lm_head.eval()
    own, modes = model.generation_config, [module.training for module in model.modules()]
    seen: list[bool] = []
    model.lm_head.register_forward_hook(lambda *_: seen.append(any(m.training for m in model.modules())))
    continuations(model, PROMPTS, 3, temperature=1.0)
    assert seen
    assert not any(seen)
    assert model.generation_config is own
    assert [module.training for module in model.modules()] == modes


def test_tokens_are_drawn_from_the_softmax_at_the_temperature(model: Any) -> None:
    model.generation_config.top_k = 2
    model.eval()
    with torch.no_grad():
        expected = (model(PROMPTS[0][None], use_cache=False).logits[0, -1] / 2.5).softmax(-1)
    torch.manual_seed(0)
    drawn = torch.cat(continuations(model, [PROMPTS[0]] * 4000, 1, temperature=2.5))
    often = torch.bincount(drawn, minlength=13) / 4000
    assert (often - expected).abs().max() < 4 * 0.5 / 4000**0.5  # four standard errors of a share of one half
    torch.manual_seed(0)
    again = torch.cat(continuations(model, [PROMPTS[0]] * 4000, 1, temperature=2.5))
    assert torch.equal(drawn, again)


def test_a_model_that_counts_padding_is_found_out(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward: Callable[..., Any] = type(model).forward

    def deaf(self: Any, *args: Any, **given: Any) -> Any:
        given["attention_mask"], given["position_ids"] = None, None
        return forward(self, *args, **given)

    monkeypatch.setattr(type(model), "forward", deaf)
    assert not reads_padding_beside(model)
