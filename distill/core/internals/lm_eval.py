"""What lm_eval keeps to itself: how a question and an answer become tokens.

Written against lm_eval 0.4.13. ``tests/core/internals/test_lm_eval.py`` holds what is counted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["LoadedModel"]


class LoadedModel(HFLM):  # type: ignore[misc]
    """lm_eval's view of a model that is loaded: no process started, nothing fetched, no weight touched.

    Args:
        model: In eval mode, where it is to run.
        tokenizer: Its own.
        batch_size: Texts that are read at once.
        max_length: Most tokens of a text; as many as the model reads if not given.
        start_token: Whether each text begins with the start token (the end token where there is none).

    Attributes:
        cut: Texts that were longer, of those that it goes on with, and lost their beginning.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, batch_size: int, max_length: int | None, start_token: bool
    ) -> None:
        # What ties weights anew would undo those that compression has untied.
        model.tie_weights = lambda *_, **__: None  # type: ignore[method-assign]
        try:
            super().__init__(
                pretrained=model,
                backend="causal",
                tokenizer=tokenizer,
                batch_size=batch_size,
                max_length=max_length,
                softmax_dtype="float32",
            )
        finally:
            del model.tie_weights
        self.cut = 0
        self._start = self.tokenizer.decode([self.prefix_token_id]) if start_token else ""

    def _begun(self, text: str) -> str:
        return text if text.startswith(self._start) else self._start + text

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return super()._encode_pair(self._begun(context), continuation)  # type: ignore[no-any-return]

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        begun = [self._begun(text) for text in strings]
        ids, mask = super().tok_batch_encode(begun, padding_side, None, truncation)
        if left_truncate_len is None:
            return ids, mask
        self.cut += int((mask.sum(1) > left_truncate_len).sum())
        return ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
