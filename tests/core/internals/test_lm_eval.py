"""What lm_eval keeps to itself does what we count on."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.core.internals.lm_eval import LoadedModel


@pytest.mark.parametrize("starts", [False, True])
def test_likelihoods_are_of_what_a_question_and_its_answer_become(chat_dir: Path, starts: bool) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(chat_dir).eval(), AutoTokenizer.from_pretrained(chat_dir)
    asked = LoadedModel(model, tokenizer, batch_size=2, max_length=None, start_token=starts)
    seen: list[tuple[str, str]] = []
    encode = LoadedModel._encode_pair

    class Seen(LoadedModel):
        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            seen.append((context, continuation))
            return encode(self, context, continuation)

    asked.__class__ = Seen
    request = Instance("loglikelihood", {}, ("a question", " an answer"), 0)
    [(likelihood, _)] = asked.loglikelihood([request], disable_tqdm=True)
    assert seen == [("a question", " an answer")]
    start = tokenizer.decode([asked.prefix_token_id]) if starts else ""
    context = tokenizer(start + "a question")["input_ids"]
    ids = tokenizer(start + "a question an answer", return_tensors="pt")["input_ids"]
    logp = model(ids).logits[0].detach().log_softmax(-1)
    expected = sum(float(logp[at - 1, ids[0, at]]) for at in range(len(context), ids.shape[1]))
    assert likelihood == pytest.approx(expected, rel=1e-4)
