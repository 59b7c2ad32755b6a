"""Rows and processor of a data set: read, loaded or made as its settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill.core.images import ImageSettings
from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.data.images import located
from distill.data.language import use_template
from distill.data.reader import reader_config
from distill.data.sources import Source, load
from distill.data.tokenize import load_for_batches, warn_of_length

if TYPE_CHECKING:
    from distill.data.text import TextData

__all__ = ["made_processor", "read_source"]


def read_source(data: TextData, task: TextTask) -> Source:
    """The rows of every split, of pictures with whole paths.

    Args:
        data: Its settings.
        task: Its task, which need not know its classes.

    Raises:
        UserError: if it is not clear what to read, or it cannot be read.
    """
    given = None if data.reader is None else reader_config(data.reader)
    plain = "paragraph" if task.packs else "line"
    found = load(data.path, data.name, data.files, given, data.document, plain)
    if task.reads == "tokens":
        return found
    return located(
        found, task, data.columns, data.files, None if data.images is None else data.images.folder, data.path
    )


def made_processor(
    path: str, task: TextTask, template: str | bool | None, longest: tuple[str, int], images: ImageSettings | None
) -> Any:
    """What makes the inputs of rows.

    Args:
        path: Where it is; empty if nothing says so.
        task: The task of the data.
        template: The chat template, as the user has it.
        longest: The setting that bounds the length of a text, and its tokens.
        images: How pictures are read.

    Raises:
        UserError: if there is none.
    """
    if not path and task.reads == "pictures":
        return _new(images)
    made = load_for_batches(path, task)
    use_template(made, template)
    warn_of_length(made, *longest)
    return made


def _new(images: ImageSettings | None) -> Any:
    if images is None or images.size is None:
        hint = "name the folder of a model that has one, or give pixels: data.images.size: 32"
        raise UserError("an image processor is missing", key="data.tokenizer", hint=hint)
    from distill.models.processors import new_image_processor

    return new_image_processor(images.size, images.grey)
