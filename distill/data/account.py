"""What a run says of its data: what was taken for what, and what was left out; how often tokens come."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]
import torch

from distill.core.processor import is_tokenizer
from distill.core.signals import IGNORE
from distill.core.utils.console import number
from distill.core.utils.visible import in_line
from distill.core.utils.words import amount
from distill.core.verdict import ENOUGH, few_classes
from distill.data import arrow
from distill.data.balance import balance, class_counts, only_number
from distill.data.features import Ragged, Samples
from distill.data.joining import joined_text
from distill.data.label_values import Value, canonical, folded
from distill.data.labels import Labels
from distill.data.odd_labels import odd_lines
from distill.data.packing import PackedSamples
from distill.data.raw_data import RawData

if TYPE_CHECKING:
    from distill.data.text import TextData

__all__ = ["doubtful_scores", "doubts", "said", "sizes", "statistics", "token_counts", "unread"]

_BETWEEN = re.compile(r"[|,;/+&]")
_FEW = 10  # integers that might be classes
_SOME = 20  # rows of which more classes than half are suspicious
_UNKNOWN = 0.01  # share of tokens that is worth a line
_LISTED = 6  # classes of a few rows
_COUNTED = 1 << 24  # tokens at the most


def sizes(rows: RawData, samples: Mapping[str, Samples], splits: Mapping[str, str]) -> list[str]:
    """A line on what the rows are for, if any are read: ``data: 300 rows for training, 100 for validation``.

    Args:
        rows: The data.
        samples: Use -> its samples, tokenized; packed ones are counted too.
        splits: Use -> the split's own name.
    """
    parts: list[str] = []
    for use, one in samples.items():
        count = len(rows.splits[use])
        text = f"{count:,}{'' if parts else ' rows'} for {'training' if use == 'train' else use}"
        text += f" (split {splits[use]!r})" if splits.get(use, use) != use else ""
        kind = "block" if isinstance(one, PackedSamples) else "window" if len(one) != one.rows else ""
        parts.append(text + (f" in {amount(len(one), kind)}" if kind else ""))
    joined = [joined_text(count, len(rows.splits[use]), use) for use, count in rows.joined.items() if use in samples]
    return _told(([", ".join(parts)] if parts else []) + joined)


def said(
    rows: RawData,
    left_out: Mapping[str, int],
    given: Mapping[str, str],
    notes: Sequence[str],
    train: Samples | None = None,
) -> list[str]:
    """Lines on columns that were recognized by their names, on the classes, on rows without a label and on empty texts.

    Args:
        rows: The data.
        left_out: Use -> rows of which the tokenizer made nothing; uses that are not read are not there.
        given: Role -> column, as the user has it: not reported.
        notes: What was decided when the data was read.
        train: The training samples, of which classes are counted.
    """
    roles: dict[str, str] = {}
    for columns in rows.columns.values():
        roles |= columns
    classes = balance(rows.labels, train) if "label" in roles and rows.labels is not None else None
    taken = [
        f"{role} is the column {column!r}" + (f" ({classes})" if role == "label" and classes else "")
        for role, column in roles.items()
        if role not in given
    ]
    if classes and "label" in given:
        taken.append(classes)
    lines = [*notes, ", ".join(taken)] if taken else [*notes]
    if rows.labels is not None and "label" in roles:
        lines.extend([*rows.labels.notes, *doubts(rows, rows.labels, roles["label"])])
    for use, count in rows.without_label.items():
        if count and use in left_out:
            of = len(rows.splits[use])
            what = "a teacher alone says what to learn there" if use == "train" else "they are not judged"
            lines.append(f"{count} of {of} rows of {use} have no label: {what}")
    for use, dropped in left_out.items():
        if "text" not in rows.columns[use]:
            if dropped and "image" in rows.columns[use]:
                told = "cannot be read and are left out (data.images.skip_broken)"
                lines.append(f"{dropped} of {len(rows.splits[use])} pictures of {use} {told}")
            elif dropped:
                why = "nothing of them counts, as they have no answer, or are cut before it ends"
                lines.append(f"{dropped} of {len(rows.splits[use])} rows of {use} are left out: {why}")
            continue
        empty = _empty(rows.splits[use], rows.columns[use]["text"])
        if dropped or empty:
            what = "left out, as the tokenizer makes nothing of them" if dropped else "read as they are"
            lines.append(f"{dropped or empty} of {len(rows.splits[use])} texts of {use} are empty or blank: {what}")
    return _told(lines)


def _told(lines: Sequence[str]) -> list[str]:
    """As a run says them. Names in them are the data's: what a terminal would obey is escaped."""
    return [f"data: {in_line(line)}" for line in lines]


def doubts(rows: RawData, labels: Labels, column: str) -> list[str]:
    """What may have been taken for something else than it is."""
    train = rows.splits["train"]
    if column not in train.column_names or labels.form == "spans":
        return []
    unique = arrow.unique(arrow.column(train, column))
    values = sorted({v for v in map(canonical, unique) if isinstance(v, (int, float))})
    lines = []
    names = labels.names or []
    numbered = all(isinstance(canonical(name), int) for name in names)
    if labels.form == "class" and -1 in values and numbered and not labels.listed:
        every = ", ".join(["-1", *names])
        lines.append(f"in {column!r} -1 stands for no label; if it is a class, say so with data.labels: [{every}]")
    if labels.classes_too and len(values) <= _FEW and all(isinstance(v, int) for v in values):
        listed = ", ".join(map(str, values))
        lines.append(f"labels are numbers to regress on; data.labels: [{listed}] would make classes of them")
    if labels.form == "class" and len(train) >= _SOME and len(names) > len(train) / 2:
        lines.append(f"there are {len(names)} classes for {len(train)} rows: is {column!r} the column of the labels?")
    lines.extend(_twins(names))
    if labels.form == "class" and not labels.listed:
        lines.extend(_several(names))
    if labels.form in ("class", "set") and not labels.hot and not labels.listed:
        lines.extend(odd_lines(_rows_of_labels(labels, arrow.column(train, column))))
    if labels.form == "tags" and "O" not in names:
        lines.append("no tag is called 'O' (data.labels names them), so words that belong to nothing count in f1 too")
    return lines


def _rows_of_labels(labels: Labels, column: Any) -> dict[Value, int]:
    """What each label of a column stands for -> how often it comes; names of a column of the hub are its own."""
    rows: dict[Value, int] = {}
    for raw, count in arrow.counts(arrow.flat(column)):
        value, at = canonical(raw), labels.known.get(raw)
        if value is not None and at is not None:
            name = (labels.names or [])[at]
            value = value if isinstance(canonical(name), int) else name
            rows[value] = rows.get(value, 0) + count
    return rows


def _several(names: Sequence[str]) -> list[str]:
    """A line on a class that is several others, as its name says: "a|b" beside "a" and "b"."""
    for name in names:
        parts = {part.strip() for part in _BETWEEN.split(name)} - {""}
        if len(parts) > 1 and parts < {*names}:
            how = "if a row has several classes, give lists to the task multi-label-classification"
            return [f"the class {name!r} is of its own, beside {', '.join(map(repr, sorted(parts)))}; {how}"]
    return []


def _twins(names: Sequence[str]) -> list[str]:
    """A line on each group of classes that an eye may not tell apart."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(folded(name), []).append(name)
    return [
        f"the classes {', '.join(map(ascii, group))} differ in capitals, blanks or signs that are hardly seen: if they "
        "are one, write all of its labels alike"
        for group in alike.values()
        if len(group) > 1
    ]


def unread(
    use: str, rows: RawData, samples: Samples, tokenizer: Any, longest: tuple[str, int], cut: tuple[int, int] | None
) -> list[str]:
    """Lines on what a model will not see of a split: beyond the length, made into no token, or into the unknown one.

    Args:
        use: ``train``, ``validation`` or ``test``.
        rows: The data.
        samples: The split's, tokenized.
        tokenizer: Of transformers.
        longest: The setting that bounds a sample, and its tokens.
        cut: Samples that were cut to it, and the tokens of the longest of them; ``None`` where that is not known.
    """
    lines = []
    key, limit = longest
    if cut is not None and cut[0]:
        counted = f"{cut[0]:,} of {len(rows.splits[use]):,} rows of {use}"
        lines.append(f"{counted} are cut to {limit:,} tokens ({key}); the longest of them has {cut[1]:,}")
    elif cut is None and (full := int((samples.lengths >= limit).sum())):
        texts = f"{full} of {len(samples)} texts of {use}"
        lines.append(f"{texts} fill {key} ({limit} tokens): longer ones are cut")
    cut_answers: Any = samples.features.get("lost", ())
    if lost := int(np.sum(cut_answers)):
        told = "no window holds it wholly, so nothing of it is learned or found"
        lines.append(f"the answer of {amount(lost, 'question')} of {use} is cut: {told} (data.doc_stride)")
    tags = samples.features.get("labels")
    words = arrow.column(rows.splits[use], next(iter(rows.columns[use].values())))
    if "text" in rows.columns[use] and arrow.is_list(words) and isinstance(tags, Ragged):
        given, kept = pc.sum(arrow.lengths(words)).as_py() or 0, tags.count(lambda ids: ids != IGNORE)
        if kept < given:
            missing = f"{given - kept} of {given} words of {use}"
            lines.append(f"{missing} are left out: cut off, or the tokenizer makes nothing of them")
    if not is_tokenizer(tokenizer):
        return []
    ids, unknown = samples.features["input_ids"], tokenizer.unk_token_id
    if isinstance(ids, Ragged) and unknown not in (None, tokenizer.eos_token_id, tokenizer.pad_token_id):
        share = ids.count(lambda values: values == unknown) / len(ids.values)
        if share >= _UNKNOWN:
            lines.append(f"{share:.1%} of the tokens of {use} are unknown to the tokenizer ({tokenizer.unk_token})")
    return _told(lines)


def doubtful_scores(
    rows: RawData, samples: Mapping[str, Samples], in_train: Mapping[str, tuple[int, int]]
) -> list[str]:
    """Lines on what a score will not tell: classes of a few rows or none, and what is trained on too.

    Args:
        rows: The data.
        samples: Use -> its samples, tokenized; others are not spoken of.
        in_train: Use -> rows that are trained on too, and all of them.
    """
    lines = []
    for use in [use for use in ("validation", "test") if use in samples]:
        if rows.labels is not None and (few := _few(rows.labels, samples[use])):
            more = f" and {len(few) - _LISTED} more" if len(few) > _LISTED else ""
            listed = ", ".join(few[:_LISTED]) + more
            lines.append(f"{use} has little of {listed}: scores of so few say nothing of a class")
        if rows.labels is not None:
            lines.extend(_unscored(use, rows.labels, samples[use], samples.get("train")))
        count, of_all = in_train.get(use, (0, 0)) if "train" in samples else (0, 0)
        if count:
            told = "are in train too: their score is of what was learned by heart"
            what = "pictures" if "image" in samples[use].features else "texts"
            lines.append(f"{count} of {of_all} {what} of {use} {told}")
    return _told(lines)


def _few(labels: Labels, samples: Samples) -> list[str]:
    """The classes of which a split has a few rows only, and how many."""
    counts, names = class_counts(labels, samples), labels.names or []
    if counts is None or counts.sum() < ENOUGH:
        return []
    of = "word" if labels.form == "tags" else "row"
    return [f"{names[i]!r} ({amount(int(counts[i]), of)})" for i in few_classes(counts.tolist())]


def _unscored(use: str, labels: Labels, samples: Samples, train: Samples | None) -> list[str]:
    """A line on labels that are one number, or on classes without a row that training has (as far as that is known)."""
    if (only := only_number(labels, samples)) is not None:
        return [f"all labels of {use} are {number(only)}: no score by them will say anything"]
    counts, names = class_counts(labels, samples), labels.names or []
    if counts is None or not counts.any():
        return []
    of = "word" if labels.form == "tags" else "row"
    there = counts.nonzero()[0]
    if len(there) == 1 and len(names) > 1 and labels.form == "class":
        return [f"{use} has {of}s of {names[there[0]]!r} alone: no score will say anything"]
    trained = None if train is None else class_counts(labels, train)
    missed = [name for i, name in enumerate(names) if not counts[i] and (trained is None or trained[i])]
    if not missed:
        return []
    more = f" and {len(missed) - _LISTED} more" if len(missed) > _LISTED else ""
    return [f"{use} has no {of} of {', '.join(map(repr, missed[:_LISTED]))}{more}: no score will tell of it"]


def statistics(data: TextData) -> dict[str, Any]:
    """Statistics of the data as it is trained on: samples of each split, tokens, batches, padding, classes."""
    samples = {use: data.samples(use) for use in data.uses}
    batches = data.training_batches()
    lengths = samples["train"].lengths
    positions = sum(len(rows) * int(lengths[rows].max()) for rows in batches.epoch(0))
    return {
        **{f"{use}_samples": len(one) for use, one in samples.items()},
        "train_tokens": int(lengths.sum()),
        "mean_length": float(lengths.mean()),
        "batches_per_epoch": len(batches),
        "tokens_per_batch": float(lengths.sum() / len(batches)),
        "padding": 1 - float(lengths.sum()) / positions,
        "labels": data.labels,
        "tokenizer_size": len(data.tokenizer) if is_tokenizer(data.tokenizer) else None,
        "fingerprint": data.fingerprint,
    }


def token_counts(samples: Samples, predicted: str, tokenizer: Any) -> torch.Tensor:
    """How often each token is to be predicted, ``[C]``; of more than 16 million tokens every n-th is counted.

    Args:
        samples: Tokenized.
        predicted: The feature of which tokens are predicted.
        tokenizer: Of transformers.
    """
    column = samples.features[predicted]
    values = column.values if isinstance(column, Ragged) else column
    some = values[:: 1 + len(values) // _COUNTED]
    counts = np.bincount(some[some != IGNORE], minlength=len(tokenizer))
    if predicted == "input_ids":  # special ones are never hidden
        counts[tokenizer.all_special_ids] = 0
    return torch.from_numpy(counts)


def _empty(dataset: Any, column: str) -> int:
    values = arrow.column(dataset, column)
    if arrow.is_list(values):
        return pc.sum(pc.equal(arrow.lengths(values), 0)).as_py() or 0
    empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
    return pc.sum(empty).as_py() or 0
