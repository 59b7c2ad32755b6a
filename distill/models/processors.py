"""Loading what makes a model's inputs: the tokenizer, or the image processor, that lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.images import ImageProcessor
from distill.core.task import TextTask
from distill.core.utils.errors import UserError, first_line
from distill.core.utils.extras import require
from distill.core.utils.paths import resolve
from distill.core.utils.quiet import quiet_transformers
from distill.models.folder import check_config
from distill.models.pretrained import load_tokenizer, not_given

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_picture_size", "check_same_pictures", "load_processor", "new_image_processor"]

_FILE = "preprocessor_config.json"


def load_processor(path: str, key: str, task: TextTask, **options: Any) -> Any:
    """What makes the inputs of ``task`` for the model at ``path``.

    Args:
        path: Hub id, folder or run.
        key: Where it stands in the configuration.
        task: Says what its models read.
        options: Of :func:`~distill.models.pretrained.load_tokenizer`.

    Raises:
        UserError: if there is none, or it cannot do what the task asks of it.
    """
    if task.reads == "pictures":
        return _load_images(path, key)
    return load_tokenizer(path, key, words=task.words, **options)


def _load_images(path: str, key: str) -> ImageProcessor:
    require("vision", key)
    from transformers import AutoImageProcessor

    auto: Any = AutoImageProcessor

    location = resolve(path, key)
    check_config(Path(location), path, key)
    if Path(location).is_dir() and not (Path(location) / _FILE).is_file():
        problem, hint = f"there is no {_FILE}, which says how the model reads pictures", "name a folder that has one"
        raise UserError(problem, key=key, value=path, hint=f"{hint}, or save its image processor there")
    try:
        with quiet_transformers():
            made = auto.from_pretrained(location, trust_remote_code=False, backend="pil")
            processor = ImageProcessor(made)
            processor.shape  # noqa: B018  (which tries it)
    except Exception as error:  # the files of a stranger can make it stumble anywhere
        if missing := not_given(error, key, path):
            raise missing from error
        problem = f"no image processor could be made of {_FILE} ({first_line(error)})"
        hint = "one that needs no torchvision and resizes to one height and width, as ViTImageProcessor"
        raise UserError(problem, key=key, value=path, hint=hint) from error
    return processor


def new_image_processor(size: int, grey: bool) -> ImageProcessor:
    """One that resizes to a square of ``size`` pixels, and brings these to [-1, 1]; for models that have none yet."""
    require("vision", "data.images.size")
    from transformers import ViTImageProcessorPil

    half = [0.5] * (1 if grey else 3)
    square = {"height": size, "width": size}
    with quiet_transformers():
        return ImageProcessor(ViTImageProcessorPil(size=square, image_mean=half, image_std=half))


def check_same_pictures(data: ImageProcessor, own: Any, who: str) -> None:
    """Refuse an image processor that makes other inputs than the model was trained on.

    Args:
        data: That makes the batches.
        own: The model's; one that is none says nothing.
        who: The model's key.

    Raises:
        UserError: naming the first difference.
    """
    if not isinstance(own, ImageProcessor) or own.identity == data.identity:
        return
    ours, theirs = data.settings, own.settings
    name = next((n for n in sorted({*ours, *theirs}) if ours.get(n) != theirs.get(n)), "")
    difference = f"{name} is {ours.get(name)!r} here and {theirs.get(name)!r} there"
    raise UserError(
        f"this is not the image processor of {who}, which would see other pictures than it was trained on: "
        f"{difference}",
        key="data.tokenizer",
        value=str(getattr(data.made, "name_or_path", "") or ""),
        hint=f"teacher, student and data need one image processor: name that of {who}, or another model",
    )


def check_picture_size(data: ImageProcessor, model: nn.Module, who: str) -> None:
    """Refuse pictures of other sides or channels than a model is made for, where its configuration says so.

    Raises:
        UserError: with both.
    """
    channels, height, width = data.shape
    config: Any = getattr(model, "config", None)
    wanted = getattr(config, "num_channels", None)
    if isinstance(wanted, int) and wanted != channels:
        problem = f"makes pictures of {channels} channels, and {who} reads {wanted}"
        hint = "give the image processor that the model was trained with (its image_mean has a number a channel)"
        raise UserError(problem, key="data.tokenizer", value=channels, hint=hint)
    size = getattr(config, "image_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else None
    # What has no table of positions takes any size; its configuration may name one all the same.
    fixed = any("position_embedding" in name for name, _ in model.named_parameters())
    if sides is not None and fixed and sides != (height, width):
        problem = f"makes pictures of {height} x {width}, and {who} reads {sides[0]} x {sides[1]}"
        hint = "give the image processor that the model was trained with, or a student of that image_size"
        raise UserError(problem, key="data.tokenizer", value=f"{height} x {width}", hint=hint)
