"""The auto class of models that make vectors: transformers' own, which reads how a model pools beside it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import AutoModel, PreTrainedModel

from distill.core.pooling import drop_pooler, pooling_of, set_pooling
from distill.core.pooling_files import MODULES, read_pooling
from distill.core.utils.errors import UserError

__all__ = ["AutoSentenceEncoder"]

_log = logging.getLogger(__name__)


class AutoSentenceEncoder(AutoModel):
    """``AutoModel`` whose models pool as the files of sentence-transformers beside them say, where there are any."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As of ``AutoModel``; that the pooler has no weights is not reported, as it is taken out.

        Raises:
            UserError: if the files name something else than a pooling that there is here.
        """
        pooling = read_pooling(lambda name: _json(str(pretrained_model_name_or_path), name))
        found = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model: PreTrainedModel = found[0] if isinstance(found, tuple) else found
        if pooling is not None:
            set_pooling(model, pooling)
        drop_pooler(model)
        if isinstance(found, tuple) and pooling_of(model) is not None:
            found[1]["missing_keys"] = [name for name in found[1]["missing_keys"] if not name.startswith("pooler.")]
        return found


def _json(location: str, name: str) -> Any:
    """The content of a file beside a model; ``None`` where it is not there.

    Raises:
        UserError: if it holds no JSON.
    """
    file = _file(location, name)
    if file is None or not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        hint = "take the folder anew from the model's origin"
        raise UserError(f"its {name} cannot be read ({error})", key=name, value=location, hint=hint) from None


def _file(location: str, name: str) -> Path | None:
    if Path(location).is_dir():
        return Path(location) / name
    try:
        return Path(hf_hub_download(location, name))
    except LocalEntryNotFoundError:
        if name == MODULES:
            _log.warning("the hub is not reached, and no %s of %s is kept: it is to pool by the mean", name, location)
        return None
    except EntryNotFoundError:
        return None
