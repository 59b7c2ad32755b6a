"""``predict.py`` in an export's folder: a few lines of Python that run it, without this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.core.answer import LOGITS, MASK
from distill.core.signals import DECODER_INPUT
from distill.core.task import TextTask, WritingTask

__all__ = ["COUNT", "SAMPLE", "SCRIPT", "Lines", "Reading", "predict_script", "write_script"]

SCRIPT = "predict.py"
SAMPLE = "sample.npz"
"""Made-up inputs of the form that a model of arrays reads."""

COUNT = "COUNT"
"""In :attr:`Lines.writes`, how many tokens are written at most."""

_FOLDER = "folder = Path(__file__).parent"
_NEW_TOKENS = 20
_CHANNELS = ('mode = "L" if len(processor.image_mean) == 1 else "RGB"',)


@dataclass(frozen=True)
class Lines:
    """How a runtime is used, in lines of Python that know the export's ``folder``.

    Attributes:
        packages: What must be installed, as pip names it.
        imports: Lines that import it.
        opens: Lines that open the model.
        logits: An expression: the logits, an array, of ``inputs``, which names arrays.
        tensors: What its inputs are: ``np`` or ``pt``.
        writes: Of a language model that continues texts by itself: an expression of the ids, prompt first; of one that
            has a decoder of its own, those that it writes.
        standard: Lines that import of the standard library.
    """

    packages: tuple[str, ...]
    imports: tuple[str, ...]
    opens: tuple[str, ...]
    logits: str
    tensors: str = "np"
    writes: str | None = None
    standard: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How texts are read.

    Attributes:
        task: What the model was trained to do.
        max_length: Most tokens of a text; longer ones are cut.
        pair: Whether a sample is two texts.
        chat: Whether a text is what a user says to a model that answers.
    """

    task: TextTask
    max_length: int | None = None
    pair: bool = False
    chat: bool = False


def predict_script(lines: Lines, reading: Reading | None, *, place: str | None = None) -> str:
    """The script's text.

    Args:
        lines: Of the target's runtime.
        reading: Of texts, whose tokenizer lies in the folder; ``None`` of arrays, which are read from :data:`SAMPLE`.
        place: The folder, where the lines are not a file in it.
    """
    said = f"Run this export: python {SCRIPT}" + (_given(reading) if reading else "")
    head = [f'"""{said}   (pip install {" ".join(lines.packages)})"""', ""]
    folder = _FOLDER if place is None else f'folder = Path("{place}")'
    if reading is None:
        used = ["import numpy as np", *(["import torch"] if lines.tensors == "pt" else [])]
        standard, others, body = list[str](), used, _arrays(lines)
    else:
        standard, others, body = _texts(lines, reading)
    # Sorted as formatters sort them.
    standard = sorted({*standard, *lines.standard, "from pathlib import Path"}, key=_order)
    outside = sorted({*others, *lines.imports}, key=_order)
    return "\n".join([*head, *standard, "", *outside, "", folder, *lines.opens, *body]) + "\n"


def write_script(folder: Path, lines: Lines | None, reading: Reading | None, inputs: Mapping[str, Tensor]) -> None:
    """Write :data:`SCRIPT`, and :data:`SAMPLE` where it reads arrays.

    Args:
        folder: Of the export.
        lines: Of the target's runtime; nothing is written where they are not known.
        reading: How texts are read; ``None`` of arrays.
        inputs: One sample's.
    """
    if lines is None:
        return
    (folder / SCRIPT).write_text(predict_script(lines, reading), encoding="utf-8")
    if reading is None:
        _write_sample(folder, inputs)


def _write_sample(folder: Path, inputs: Mapping[str, Tensor]) -> None:
    """A sample in the form of ``inputs``, and nothing of what is in them.

    Floats are drawn with the mean and deviation of the input's; whole numbers are zeros.
    """
    random = np.random.default_rng(0)
    made = {}
    for name, tensor in inputs.items():
        shape = tuple(tensor[:1].shape)
        if tensor.is_floating_point():
            mean, deviation = float(tensor.float().mean()), float(tensor.float().std(correction=0))
            made[name] = random.normal(mean, deviation, shape).astype(np.float32)
        else:
            made[name] = torch.zeros(shape, dtype=tensor.dtype).numpy()
    np.savez(folder / SAMPLE, allow_pickle=False, **made)


def _order(line: str) -> tuple[bool, str]:
    return line.startswith("from"), line


def _given(reading: Reading) -> str:
    if reading.task.reads == "pictures":
        return " image.png ..."
    return " 'a text' 'another'" if reading.pair else " 'a text' ..."


def _arrays(lines: Lines) -> list[str]:
    each = "torch.from_numpy(array)" if lines.tensors == "pt" else "array"
    inputs = f'inputs = {{name: {each} for name, array in np.load(folder / "{SAMPLE}").items()}}'
    return [inputs, f"print({lines.logits})"]


def _texts(lines: Lines, reading: Reading) -> tuple[list[str], list[str], list[str]]:
    """Lines that import of the standard library, others, and what follows the opening."""
    pictures = reading.task.reads == "pictures"
    standard = ["import sys"]
    others = [f"from transformers import Auto{'ImageProcessor' if pictures else 'Tokenizer'}"]
    body = ["tokenizer = AutoTokenizer.from_pretrained(folder)"]
    if pictures:
        others.append("from PIL import Image")
        body = ['processor = AutoImageProcessor.from_pretrained(folder, backend="pil")', *_CHANNELS]
    script = reading.task.script()
    if script.labels:
        standard.append("import json")
        body.append('labels = json.loads((folder / "config.json").read_text()).get("id2label", {})')
    masked, example = MASK in reading.task.example, reading.task.example.replace(MASK, "{tokenizer.mask_token}")
    text = f'f"{example}"' if masked else f'"{example}"'
    texts = '[sys.argv[1:3] or ["a text", "another"]]' if reading.pair else f"sys.argv[1:] or [{text}]"
    body.append(f"for text in {texts}:")
    cut = f"truncation=True, max_length={reading.max_length}, " if reading.max_length else ""
    inputs = f'tokenizer({"*" if reading.pair else ""}text, {cut}return_tensors="{lines.tensors}")'
    if pictures:
        inputs = f'processor(Image.open(text).convert(mode), return_tensors="{lines.tensors}")'
    if isinstance(reading.task, WritingTask):
        if reading.chat:
            said = '[{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True'
            inputs = f'tokenizer.apply_chat_template({said}, return_tensors="{lines.tensors}")'
        if lines.writes is None:
            others.append("import numpy as np")
        inputs = inputs.replace("(text,", f"({reading.task.prefix!r} + text,") if reading.task.prefix else inputs
        inner = (_decoded if reading.task.reads_apart else _continued)(lines, inputs, reading.task)
    else:
        logits = lines.logits.replace(LOGITS, script.logits)
        others += ["import torch"] if "torch.stack" in logits else []
        inner = [f"inputs = {inputs}", f"logits = {logits}", *script.prints]
    return standard, others, [*body, *(f"    {line}" for line in inner)]


def _continued(lines: Lines, inputs: str, task: WritingTask) -> list[str]:
    if lines.writes is not None:
        return [f"inputs = {inputs}", f"print(tokenizer.decode({_writes(lines.writes, _NEW_TOKENS)}))"]
    return [
        f'ids = {inputs}["input_ids"]',
        f"for _ in range({_NEW_TOKENS}):",
        '    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}',
        f"    ids = np.concatenate([ids, {lines.logits}[:, -1:].argmax(-1)], 1)",
        "print(tokenizer.decode(ids[0]))",
    ]


def _writes(expression: str, count: int) -> str:
    return expression.replace(COUNT, str(count))


def _decoded(lines: Lines, inputs: str, task: WritingTask) -> list[str]:
    """Of an encoder-decoder: what its decoder writes, token by token."""
    count = task.longest_answer
    if lines.writes is not None:
        written = _writes(lines.writes, count)
        return [f"inputs = {inputs}", f"print(tokenizer.decode({written}, skip_special_tokens=True))"]
    return [
        f"inputs = dict({inputs})",
        f"ids = np.array([[{task.start}]])",
        f"for _ in range({count}):",
        f'    inputs["{DECODER_INPUT}"] = ids',
        f"    ids = np.concatenate([ids, {lines.logits}[:, -1:].argmax(-1)], 1)",
        "    if ids[0, -1] == tokenizer.eos_token_id:",
        "        break",
        "print(tokenizer.decode(ids[0, 1:], skip_special_tokens=True))",
    ]
