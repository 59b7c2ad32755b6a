"""The contract of an export target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from distill.export.fit import Obstacle, Unfit
from distill.export.script import Lines

__all__ = ["ExportTarget", "Predict"]

Predict = Callable[[dict[str, Tensor]], Tensor]
"""Named inputs to logits."""


class ExportTarget(ABC):
    """A format in which a student is shipped.

    ``distill export RUN --to NAME`` checks and writes the student, opens what was written, and compares it with the
    student on the run's validation data. Where it does something else there is no export. A target of one's own is
    named by its class: ``--to my_package.MyTarget --allow my_package``.

    Args:
        isa: The instruction set that integers are stored for, one of :data:`~distill.export.onnx.isa.ISAS`.

    Attributes:
        name: As it stands behind ``--to``, and in the folder's name.
        extra: The extra of this distribution that it needs (:data:`~distill.core.utils.extras.EXTRAS`).
        integers: Whether it computes with the integers of a quantized student. It is then given the student as it was
            trained, and may differ by what rounding does (:func:`~distill.export.verify.check_integer`). Any other is
            given plain layers, whose weights lie on their grids, and must compute what these do
            (:func:`~distill.export.verify.check_float`).
        runtime: What :meth:`open` runs it in: ``torch``, ``onnxruntime``, ``openvino``.
        coarse: Whether it keeps in 16 bits what is not quantized either; it may then differ by that.
        onnx: The ONNX file in its folder, if it writes one: it is timed in onnxruntime beside the teacher's.
        halves: Whether its weights can be kept in 16 bits (``--dtype``).
        dtype: What its weights are kept in: ``float32``, ``bfloat16`` or ``float16``. Of 16 bits they are rounded, and
            it may differ by that, as one of integers may.
        counts_positions: Whether its graph counts positions from the attention mask, whatever the model does.
        for_isas: Whether its integers are stored otherwise for each instruction set.
        more: A sentence of how it is loaded otherwise, for the model card.
        tokenizer: What makes the student's inputs of texts, for a format that holds it; ``None`` of data without one.
    """

    name: ClassVar[str]
    extra: ClassVar[str | None] = None
    integers: ClassVar[bool] = False
    halves: ClassVar[bool] = False
    runtime: ClassVar[str] = "torch"
    coarse: ClassVar[bool] = False
    onnx: ClassVar[str | None] = None
    counts_positions: ClassVar[bool] = False
    for_isas: ClassVar[bool] = False
    more: ClassVar[str] = ""

    def __init__(self, isa: str = "avx2") -> None:
        self.isa = isa
        self.dtype = "float32"
        self.tokenizer: Any = None

    def obstacles(self, student: nn.Module) -> Iterable[Obstacle]:
        """What keeps the format from holding a student, and which step of its record brought it; many hold any."""
        return ()

    def check(self, student: nn.Module) -> None:
        """Refuse a student that the format cannot hold, before anything is written.

        Raises:
            Unfit: if there are :meth:`obstacles`.
        """
        if found := list(self.obstacles(student)):
            raise Unfit(self.name, student, found)

    @abstractmethod
    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        """Write the student into an empty folder. Its tokenizer and configuration are added later.

        Args:
            student: In eval mode; not to be changed.
            folder: Where to.
            example: The inputs of a batch of the validation data, by name. Of text they are ``input_ids``,
                ``attention_mask`` and, where the data has them, ``token_type_ids``.

        Returns:
            What ``export.json`` is to say of it besides. ``warnings`` among it are lines to be printed.

        Raises:
            UserError: if it cannot be written.
        """

    @abstractmethod
    def open(self, folder: Path) -> Predict:
        """What :meth:`write` wrote, in the runtime that it is for, as a function of such inputs."""

    def lines(self, student: nn.Module) -> Lines | None:
        """How its runtime is used, for ``predict.py`` in the folder; none is written where it is not known."""
        return None
