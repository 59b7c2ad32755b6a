"""Pictures: a file's bytes as an array, what is drawn for each in training, and an image processor of transformers."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.core.draws import uniform

__all__ = ["ImageProcessor", "ImageSettings", "Pixels", "augmented", "decoded", "raw_bytes"]

Pixels = NDArray[np.uint8]
"""``[H, W, channels]``."""

_DRAWS = 11  # the key of these draws, as masking and orders have others
_TRIED = ((40, 30), (30, 56))  # width and height of two pictures


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How pictures are read and, in training, changed.

    Attributes:
        crop: In training each picture is shifted by up to this share of its sides, in both directions; its border is
            repeated where nothing is left. 0.125 is usual for small pictures.
        flip: In training every second picture, drawn anew in every epoch, is mirrored.
        skip_broken: Leave out pictures that cannot be read, and say how many; else they are refused.
        folder: Where paths in a table begin; the folder of the table's file if not given.
        size: Without a model's own processor: pixels of the sides that pictures are resized to.
        grey: Likewise: whether they have one channel, and not three.
    """

    crop: float = 0.0
    flip: bool = False
    skip_broken: bool = False
    folder: str | None = None
    size: int | None = None
    grey: bool = False

    @property
    def changes(self) -> bool:
        """Whether what is trained on differs from epoch to epoch."""
        return self.crop > 0 or self.flip


def raw_bytes(value: Any) -> bytes:
    """The bytes of a picture's file.

    Args:
        value: A path; the bytes themselves; or, as ``datasets`` has them, both in a mapping.

    Raises:
        OSError: if there is none, or it cannot be read.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not value:
        raise OSError("there is no picture")
    return Path(value).read_bytes()


def decoded(raw: bytes, channels: int) -> Pixels:
    """A picture as it is seen: turned as its camera says, on white where it is transparent, the first if it moves.

    Args:
        raw: Of the file, in any format that Pillow reads.
        channels: 1 (its brightness) or 3.

    Raises:
        OSError: if it is no picture, or not a whole one.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(raw)) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
        if picture.mode == "F":
            raise OSError("its pixels are floating-point numbers, of which nothing says what is white")
        if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
            deep = np.asarray(picture, np.int64).clip(0, 65535)
            picture = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
        if picture.has_transparency_data:
            seen = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        array = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except OSError:
        raise
    except Exception as error:  # readers of broken files raise whatever they stumble over
        raise OSError(f"{type(error).__name__}: {error}") from error
    return array.reshape(*array.shape[:2], channels)


def augmented(picture: Pixels, settings: ImageSettings, seed: int, epoch: int, sample: int) -> Pixels:
    """What is trained on in this epoch: a function of its arguments alone, so that workers share no state.

    Args:
        picture: ``[H, W, channels]``.
        settings: What may happen to it.
        seed: Of the run.
        epoch: From 0.
        sample: Its number.

    Returns:
        Of the same shape.
    """
    flips, down, right = uniform(seed, epoch, sample, _DRAWS, np.arange(3))
    if settings.flip and flips < 0.5:
        picture = picture[:, ::-1]
    if settings.crop:
        height, width = picture.shape[:2]
        room = round(height * settings.crop), round(width * settings.crop)
        top, left = (int(drawn * (2 * most + 1)) for drawn, most in zip((down, right), room, strict=True))
        wider = np.pad(picture, ((room[0],) * 2, (room[1],) * 2, (0, 0)), mode="edge")
        picture = wider[top : top + height, left : left + width]
    return np.ascontiguousarray(picture)


class ImageProcessor:
    """An image processor of transformers: what makes a model's inputs of pictures, as a tokenizer does of texts.

    Args:
        made: It, of a backend that needs no torchvision.
    """

    def __init__(self, made: Any) -> None:
        self.made = made

    def __call__(self, pictures: Sequence[Pixels]) -> Tensor:
        """``[B, channels, H, W]``, float32."""
        found = self.made(list(pictures), return_tensors="np", input_data_format="channels_last")["pixel_values"]
        return torch.from_numpy(np.ascontiguousarray(found, np.float32))

    @property
    def channels(self) -> int:
        """1 or 3."""
        mean = self.made.to_dict().get("image_mean")
        return 1 if isinstance(mean, Sequence) and len(mean) == 1 else 3

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of what it makes.

        Raises:
            ValueError: if they depend on the picture, or it makes nothing.
        """
        made = {tuple(self([np.zeros((high, wide, self.channels), np.uint8)]).shape[1:]) for wide, high in _TRIED}
        if len(made) > 1:
            raise ValueError("it makes inputs of several sizes, and a batch has one")
        return made.pop()

    @property
    def settings(self) -> dict[str, Any]:
        """What it does, by name."""
        known = self.made.to_dict()
        return {name: known[name] for name in sorted(known) if isinstance(known[name], _PLAIN) and name not in _NAMES}

    @property
    def identity(self) -> str:
        """A hash of what it does."""
        return hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=16).hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json``, as every user of transformers reads it."""
        self.made.save_pretrained(folder)


_PLAIN = (bool, int, float, str, list, tuple, dict)
_NAMES = ("image_processor_type", "processor_class", "name_or_path", "_processor_class")
"""Of its settings, what changes no pixel."""
