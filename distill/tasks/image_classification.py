"""One class for a picture."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distill.core.broken_rows import BrokenRows
from distill.core.column_look import ColumnLook
from distill.core.images import ImageProcessor, ImageSettings, Pixels, augmented, decoded, raw_bytes
from distill.core.processor import Reads
from distill.core.signals import Batch
from distill.core.task import TRAINED, LabelForm, TextTask
from distill.tasks.classes import Classes

__all__ = ["ImageClassification"]

_log = logging.getLogger(__name__)

_SIDES = (24, 16)  # of the pictures that a model is tried with


class ImageClassification(Classes):
    """Classification of pictures; metrics are ``accuracy``, ``f1`` (of class 1 where there are two, else the mean over
    the classes) and ``matthews``. Rows without a label are not judged.

    A sample keeps a picture's file as it is. Whoever makes a batch decodes it: a loader's worker, if there are some.

    Args:
        labels: Names of the classes.
    """

    name: ClassVar[str] = "image-classification"
    reads: ClassVar[Reads] = "pictures"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("image", "img", "picture", "photo", "file_name", "image_path", "path", "file"),
        "label": ("label", "labels", "class", "target", "category", "fine_label"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"label"})
    takes: ClassVar[frozenset[LabelForm]] = frozenset({"class"})
    pipeline: ClassVar[str | None] = "image-classification"
    example: ClassVar[str] = "image.png"

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        super().__init__(labels)
        self.read_as(ImageSettings())

    def read_as(self, images: ImageSettings) -> None:
        """Take what the data's settings say of pictures."""
        self.images, self.stochastic = images, images.changes

    @property
    def regression(self) -> bool:
        return False

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForImageClassification

        return AutoModelForImageClassification

    def follow(self, other: TextTask) -> None:
        if isinstance(other, ImageClassification):
            self.read_as(other.images)

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        return False  # a text may be a path or not

    def tried(self) -> dict[str, list[Any]]:
        return {"image": [_blank(side) for side in _SIDES]}

    def outside(self, values: Mapping[str, Sequence[Any]]) -> list[Any]:
        paths = [value.get("path") if isinstance(value, Mapping) else value for value in values["image"]]
        held = [isinstance(value, Mapping) and bool(value.get("bytes")) for value in values["image"]]
        return [_stamp(path) for path, inside in zip(paths, held, strict=True) if isinstance(path, str) and not inside]

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        return _Encode(tokenizer.channels, self.images.skip_broken)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        pictures = [self._picture(sample, tokenizer) for sample in features]
        return Batch(
            inputs={"pixel_values": tokenizer(pictures)},
            labels=self.labels_of(features),
            ids=[sample["id"] for sample in features],
        )

    def _picture(self, sample: Mapping[str, Any], processor: ImageProcessor) -> Pixels:
        raw = sample["image"]
        found = decoded(raw.tobytes() if isinstance(raw, np.ndarray) else raw, processor.channels)
        if not sample.get(TRAINED) or not self.images.changes:
            return found
        return augmented(found, self.images, sample["seed"], sample["epoch"], sample["id"])


@dataclass(frozen=True)
class _Encode:
    """Paths or files to files, each tried once."""

    channels: int
    skip_broken: bool

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made: list[bytes] = []
        broken: dict[int, str] = {}
        for place, value in enumerate(columns["image"]):
            try:
                made.append(raw_bytes(value))
                decoded(made[-1], self.channels)
            except OSError as error:
                made[place:] = [b""]
                broken[place] = error.strerror or str(error)
        names = {place: str(_path(columns["image"][place])) for place in broken if _path(columns["image"][place])}
        if broken and not self.skip_broken:
            raise BrokenRows(broken, names)
        for place, why in broken.items():
            _log.warning("left out: %s (%s)", names.get(place, "a picture"), why)
        return {"image": made} | ({"label": columns["label"]} if "label" in columns else {})


def _path(value: Any) -> str | None:
    found = value.get("path") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) else None


def _stamp(path: str) -> list[Any]:
    try:
        found = Path(path).stat()
    except OSError:
        return [path, None]
    return [path, found.st_mtime_ns, found.st_size]


def _blank(side: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side), "gray").save(file, "PNG")
    return file.getvalue()
