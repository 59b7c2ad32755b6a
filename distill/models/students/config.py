"""What YAML says of the student."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from distill.core.idle_settings import idle
from distill.core.stacks import STACKS, Stack
from distill.core.utils.errors import UserError
from distill.models.students.lora import LoraConfig

__all__ = ["StudentConfig"]


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Where the student comes from.

    There are three origins, and one must be given: a saved model (``path``), fresh weights (``config``), or a
    part of the teacher (``layers`` or a narrower width). ``path`` together with ``layers`` or a width is that
    part of the model at ``path``.

    Attributes:
        path: Hub id, folder, or earlier run.
        config: Fresh weights of this structure: ``model_type`` and what differs from its defaults.
        layers: Layers to copy, 1 is the first; or ``uniform`` (spread, the last included), ``first`` or
            ``last``, with ``num_layers``. The embeddings and the head come along.
        num_layers: How many layers to copy, or which share of them (float in (0, 1)); spread uniformly if ``layers``
            does not say.
        decoder_layers: Of an encoder-decoder, as ``layers``, of its decoder, if these are not to be of both stacks.
        num_decoder_layers: Likewise as ``num_layers``; given alone, the encoder keeps all of its layers.
        hidden_size: Width of the residual stream, evenly chosen coordinates of the wider model.
        num_heads: Attention heads, evenly chosen; they keep their size.
        intermediate_size: Neurons of each feed-forward block, those with the largest weights.
        attn_implementation: ``eager`` (needed for losses on attention maps), ``sdpa``, ...
        freeze: Regular expressions; parameters are not trained where one is found in their name.
        lora: An adapter of low rank, which alone is trained; merged into the weights at the end.
        tokenizer: Hub id or folder of the tokenizer where ``path`` has none or another is meant.
        gradient_checkpointing: Whether only what each layer reads is kept of a forward pass, and the rest computed once
            more in the backward pass: less memory for activations, the same gradients, about a third more time.
        save_dtype: In what its weights are saved, rounded to it at the end, before they are judged: ``float32`` (also
            if not given) or ``bfloat16``. It is trained in float32 in any case.
    """

    path: str | None = None
    config: dict[str, Any] | None = None
    layers: list[int] | Literal["uniform", "first", "last"] | None = None
    num_layers: int | float | None = None
    decoder_layers: list[int] | Literal["uniform", "first", "last"] | None = None
    num_decoder_layers: int | float | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    intermediate_size: int | None = None
    attn_implementation: str | None = None
    freeze: list[str] = field(default_factory=list)
    lora: LoraConfig | None = None
    tokenizer: str | None = None
    gradient_checkpointing: bool = False
    save_dtype: Literal["float32", "bfloat16"] | None = None

    @property
    def cuts_layers(self) -> bool:
        """Whether layers are left out."""
        return any(self.layers_of(stack) != (None, None) for stack in STACKS)

    @property
    def names_decoder(self) -> str | None:
        """The first setting that is for a decoder alone; ``None`` if none is given."""
        names = ("decoder_layers", "num_decoder_layers")
        return next((name for name in names if getattr(self, name) is not None), None)

    def layers_of(self, stack: Stack) -> tuple[list[int] | str | None, int | float | None]:
        """``layers`` and ``num_layers`` of one stack of an encoder-decoder; both ``None`` where all are kept."""
        if stack == "decoder" and self.names_decoder is not None:
            return self.decoder_layers, self.num_decoder_layers
        return self.layers, self.num_layers

    @property
    def narrows(self) -> bool:
        """Whether a width is given."""
        return any(width is not None for width in (self.hidden_size, self.num_heads, self.intermediate_size))

    def check(self, has_teacher: bool) -> None:
        """Refuse what does not name exactly one origin.

        Raises:
            UserError: if no origin is given, or two, or the origin is the teacher and there is none.
        """
        part = self.cuts_layers or self.narrows
        if self.path is not None and self.config is not None:
            raise UserError(
                "a student is either a saved model (path) or of fresh weights (config)",
                key="model.student.path",
                value=self.path,
                hint="leave out one of the two",
            )
        if self.config is not None and part:
            raise UserError(
                f"a student of fresh weights (config) copies nothing, and {self._first_of_part()} says what to copy",
                key="model.student.config",
                value=self.config,
                hint="give depth and width inside config, or leave config out",
            )
        if self.path is None and self.config is None and not part:
            raise UserError(
                "nothing says where the student comes from",
                key="model.student",
                hint="give path (a saved model), config (fresh weights), or layers (copied from the teacher)",
            )
        self._check_lora()
        if part and self.path is None and not has_teacher:
            raise UserError(
                "there is no teacher to copy from",
                key=f"model.student.{self._first_of_part()}",
                value=getattr(self, self._first_of_part()),
                hint="give model.teacher, or model.student.path",
            )

    def _check_lora(self) -> None:
        if self.lora is None:
            return
        if self.config is not None:
            problem = "trains an adapter beside frozen weights, and those of config are fresh"
            raise UserError(problem, key="model.student.lora", hint="leave it out, or give path")
        if self.freeze:
            hint = "say by model.student.lora.target_modules what has an adapter"
            raise idle("model.student.freeze", self.freeze, "model.student.lora, which freezes all of them", hint)

    def _first_of_part(self) -> str:
        names = (
            "layers",
            "num_layers",
            "decoder_layers",
            "num_decoder_layers",
            "hidden_size",
            "num_heads",
            "intermediate_size",
        )
        return next(name for name in names if getattr(self, name) is not None)
