"""How a model's folder is opened: the lines of Python in its card."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from distill.core.answer import MASK
from distill.core.record import steps_of
from distill.core.task import WritingTask
from distill.core.utils.visible import visible
from distill.data.task_file import TaskFile
from distill.export.base import ExportTarget
from distill.export.script import SCRIPT, Reading, predict_script

__all__ = ["TRANSFORMERS", "form_of", "how_to_load", "opened_by_transformers", "reading_of"]

TRANSFORMERS = ("student", "hf", "compressed-tensors")
"""Forms of a folder that transformers opens, where it opens the student."""

_NOT_OURS = ("remove", "low_rank", "share")
"""Steps after which transformers alone cannot tell the model's structure."""


def form_of(target: ExportTarget | None) -> str:
    """The form of an export: ``onnx`` of any that is a file for onnxruntime, else the target's name; or ``student``."""
    if target is None:
        return "student"
    return "onnx" if target.onnx else target.name


def opened_by_transformers(student: nn.Module, form: str) -> bool:
    """Whether transformers opens a folder of that form; an export has weights of its own."""
    steps, own = steps_of(student), form == "student"
    packed = any(step["kind"] in _NOT_OURS or (own and step.get("store") == "integers") for step in steps)
    return isinstance(student, PreTrainedModel) and not packed


def reading_of(task_file: TaskFile | None) -> Reading | None:
    """How a script is to read texts."""
    if task_file is None:
        return None
    chat = bool(task_file.settings.get("chat_template"))
    return Reading(task_file.make_task(None), task_file.max_length, pair="text_pair" in task_file.columns, chat=chat)


def how_to_load(
    student: nn.Module, task_file: TaskFile | None, form: str = "student", target: ExportTarget | None = None
) -> str:
    """A few lines of Python, for the folder that the card lies in.

    Args:
        student: The model.
        task_file: How it reads texts, if it does.
        form: Of :func:`form_of`.
        target: Of an export.
    """
    if target is not None and form not in TRANSFORMERS:
        return _by_script(student, task_file, target)
    if not isinstance(student, PreTrainedModel):
        return "`distill.load(folder, model=MODULE)` fills a module of the same structure with its weights."
    if task_file is None:
        return "`distill.load(folder)` opens it."
    pair = "text_pair" in task_file.columns
    task = task_file.make_task(None)
    text = f'"{task.example}"'
    more = "Or from a shell: `distill predict FOLDER FILE`."
    if task.pipeline is not None and opened_by_transformers(student, form):
        given = f'{{"text": {text}, "text_pair": "another"}}' if pair else text
        given = given.replace(MASK, '" + model.tokenizer.mask_token + "')
        if task_file.settings.get("chat_template"):
            given = f'[{{"role": "user", "content": {given}}}]'
        given += "".join(f", {name}={value}" for name, value in task.pipeline_arguments(task_file.max_length).items())
        if form == "compressed-tensors":
            more = "It needs the package `compressed-tensors`. vLLM serves the folder as it is: `vllm serve FOLDER`."
        elif any(step["kind"] == "quantize" for step in steps_of(student)):
            more += " Quantized weights are run in floating point here; `distill.load(folder)` rounds inputs as well."
        code = f"""\
from transformers import pipeline

model = pipeline("{task.pipeline}", ".")
print(model({given}))"""
    else:
        given = f'{text}, "another"' if pair else text
        logits = task.script().logits
        if task.reads == "pictures":
            return _of_pictures(text, logits) + f"\n\n{more}"
        if isinstance(task, WritingTask) and task.reads_apart:
            return f"In this folder:\n\n```python\n{_of_writing(task, text)}\n```\n\n{more}"
        code = f"""\
import distill
{"import torch" if "torch." in logits else ""}
from transformers import AutoTokenizer

model, tokenizer = distill.load("."), AutoTokenizer.from_pretrained(".")
inputs = tokenizer({given}, return_tensors="pt")
print({logits})""".replace("\n\nfrom", "\nfrom")
    return f"In this folder:\n\n```python\n{code}\n```\n\n{more}"


def _of_writing(task: WritingTask, text: str) -> str:
    given = f"{task.prefix!r} + {text}" if task.prefix else text
    return f"""\
import distill
from transformers import AutoTokenizer

model, tokenizer = distill.load("."), AutoTokenizer.from_pretrained(".")
inputs = tokenizer({given}, return_tensors="pt")
written = model.generate(**inputs, max_new_tokens={task.longest_answer})
print(tokenizer.decode(written[0], skip_special_tokens=True))"""


def _of_pictures(picture: str, logits: str) -> str:
    return f"""In this folder:

```python
import distill
from PIL import Image
from transformers import AutoImageProcessor

model, processor = distill.load("."), AutoImageProcessor.from_pretrained(".", backend="pil")
inputs = processor(Image.open({picture}).convert("RGB"), return_tensors="pt")
print({logits})
```"""


def _by_script(student: nn.Module, task_file: TaskFile | None, target: ExportTarget) -> str:
    lines = target.lines(student)
    if lines is None:
        return f"It is in the format `{visible(target.name)}`."
    code = predict_script(lines, reading_of(task_file), place=".")
    more = f"{target.more} " if target.more else ""
    if target.onnx and task_file is not None:
        more += "Or from a shell: `distill predict FOLDER FILE`."
    return f"In this folder `python {SCRIPT}`, which is:\n\n```python\n{code}```\n\n{more}".rstrip()
