"""Does an exported model do what the trained one does?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, kl_div

from distill.core.candidates import NEVER
from distill.core.forward import forward
from distill.core.pairs import REFERENCE
from distill.core.signals import Batch, Request, Signals
from distill.core.task import TokenTask
from distill.core.utils.errors import UserError
from distill.export.base import Predict
from distill.export.onnx.graph import feed
from distill.export.unpacking import unpack
from distill.tasks import Task

__all__ = ["Comparison", "check_float", "check_integer", "compare", "nothing_to_compare", "torch_logits"]

RELATIVE_ERROR = 1e-4
AGREEMENT = 0.995
COSINE = 0.99
INTEGER_ERROR = 0.02  # of the logits' spread; a grid of 8 bits has steps of 1/256 of its range
DIVERGENCE = 0.01  # nats a token: what a student loses of its teacher is a hundred times that
_POSITIONS = 512  # of a language model at once: 100 MB of logits over 49,152 tokens
_ROWS = 128  # as many at once become doubles: those of a language model's batch would not fit
METRIC = 0.003  # three tenths of a point, of a metric in [0, 1]; of the metric itself where it is larger


@dataclass(frozen=True)
class Comparison:
    """Two models on the same data.

    Attributes:
        predictions: How many predictions were compared.
        relative_error: max |a - b| / max |a| over the logits of all predictions, a of the trained model.
        mean_error: sqrt(sum (a - b)^2 / sum (a - mean a)^2) over all logits: the error in parts of their spread.
        agreement: The part of the decisions that are equal; ``None`` where predictions are no classes.
        metric: The name of the task's metric.
        trained: Its value for the trained model.
        exported: And for the exported one.
        one_class: Whether all decisions of the trained model are one, which any constant model's equal.
        divergence: Of tokens, KL(trained || exported) in nats, a prediction; ``None`` of anything else.
        differ: How many decisions are not equal.
        samples: Of how many samples (packed: blocks) the predictions are; 0 if not counted.
        cosine: Of vectors, the mean cosine of the exported model's to the trained one's; ``None`` of anything else.
    """

    predictions: int
    relative_error: float
    mean_error: float
    agreement: float | None
    metric: str
    trained: float
    exported: float
    one_class: bool = False
    divergence: float | None = None
    differ: int = 0
    cosine: float | None = None
    samples: int = 0


def torch_logits(model: nn.Module) -> Predict:
    """``model`` as a function of its inputs."""

    @torch.no_grad()
    def predict(inputs: dict[str, Tensor]) -> Tensor:
        logits = forward(model, inputs, Request(logits=True)).logits
        assert logits is not None
        return logits.float()

    return predict


def compare(task: Task, batches: Iterable[Batch], trained: Predict, exported: Predict) -> Comparison:
    """Run both models over ``batches``, reading nothing but what exported models read (:func:`feed`).

    Documents that were packed into one row and hidden from each other are rows of their own here (:func:`unpack`), so
    that the metric is that of the validation. Of tokens no more rows are read at once than have logits of 128 MiB.

    Raises:
        UserError: if there is no prediction in them.
    """
    metrics = task.metrics(), task.metrics()
    count = equal = decided = 0
    taken: set[int] = set()
    vectors, cosine = task.outputs == "vectors", 0.0
    difference, largest = torch.zeros(()), torch.zeros(())
    spread, tokens, divergence = _Spread(), isinstance(task, TokenTask), 0.0
    batches = _Counted(batches)
    for batch in _parts(batches, tokens):
        inputs = feed(batch)
        first, second = trained(inputs), exported(inputs)
        if vectors:  # the trained model's are what is to be met
            batch = replace(batch, extras=batch.extras | {REFERENCE: first})
        task.update(metrics[0], first, batch)
        task.update(metrics[1], second, batch)
        decided_by = [task.decisive(logits, batch) for logits in (first, second)]
        first, second = _of_candidates(first, second, decided_by[0])
        a, b = Signals(first).at(batch.mask), Signals(second).at(batch.mask)
        if not len(a):
            continue
        count += len(a)
        # Not a number anywhere is as far off as can be.
        difference = torch.maximum(difference, (a - b).abs().nan_to_num(torch.inf).max())
        largest = torch.maximum(largest, a.abs().max())
        spread.add(a, b)
        divergence += _divergence(a, b) if tokens else 0.0
        cosine += float(cosine_similarity(a.double(), b.double(), dim=-1).sum()) if vectors else 0.0
        decisions = [task.predict(Signals(logits).at(batch.mask)) for logits in decided_by]
        if decisions[0] is not None and decisions[1] is not None:
            equal, decided = equal + int((decisions[0] == decisions[1]).sum()), decided + decisions[0].numel()
            if len(taken) < 2:
                taken |= set(torch.unique(decisions[0]).tolist())
    if not count:
        raise nothing_to_compare()
    return Comparison(
        predictions=count,
        relative_error=float(difference / largest.clamp(min=torch.finfo(torch.float32).tiny)),
        mean_error=spread.error,
        agreement=equal / decided if decided else None,
        metric=task.monitor,
        trained=float(metrics[0][task.monitor].compute()),
        exported=float(metrics[1][task.monitor].compute()),
        one_class=len(taken) == 1,
        divergence=divergence / count if tokens else None,
        differ=decided - equal,
        cosine=cosine / count if vectors else None,
        samples=batches.samples,
    )


class _Counted:
    """The batches, and how many samples those that were taken have."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches, self.samples = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.samples += batch.size
            yield batch


def _parts(batches: Iterable[Batch], tokens: bool) -> Iterator[Batch]:
    for batch in (part for whole in batches for part in unpack(whole)):
        yield from batch.parts(max(1, _POSITIONS // batch.inputs["input_ids"].shape[1])) if tokens else [batch]


def _of_candidates(first: Tensor, second: Tensor, decisive: Tensor) -> tuple[Tensor, Tensor]:
    """Both models' logits, where a position is no candidate the mean of the first's own: padding is read anyhow."""
    if decisive is first:
        return first, second
    out = decisive == NEVER
    kept = first.masked_fill(out, 0).sum(-1, keepdim=True) / (~out).sum(-1, keepdim=True).clamp(min=1)
    return torch.where(out, kept, first), torch.where(out, kept, second)


def _divergence(a_NC: Tensor, b_NC: Tensor) -> float:
    """KL(softmax(a) || softmax(b)), summed."""
    total = 0.0
    for a, b in zip(torch.split(a_NC, _ROWS), torch.split(b_NC, _ROWS), strict=True):
        ours, theirs = b.double().log_softmax(-1).nan_to_num(nan=-100.0, neginf=-100.0), a.double().log_softmax(-1)
        total += float(kl_div(ours, theirs, log_target=True, reduction="sum"))
    return max(0.0, total)


class _Spread:
    """Sums of squares, of the differences between two models' logits and of those of the first's around their mean."""

    def __init__(self) -> None:
        self.count = 0
        self.differences, self.total, self.squares = (torch.zeros((), dtype=torch.float64) for _ in range(3))

    def add(self, a_NC: Tensor, b_NC: Tensor) -> None:
        self.count += a_NC.numel()
        for some_a, some_b in zip(torch.split(a_NC, _ROWS), torch.split(b_NC, _ROWS), strict=True):
            a, b = some_a.double(), some_b.double()
            self.differences += (a - b).square().nan_to_num(torch.inf).sum()
            self.total += a.sum()
            self.squares += a.square().sum()

    @property
    def error(self) -> float:
        around = self.squares - self.total.square() / self.count
        tiny = (
            torch.finfo(torch.float32).eps * self.squares + torch.finfo(torch.float64).tiny
        )  # all logits are one number
        return float((self.differences / torch.maximum(around, tiny)).sqrt())


def nothing_to_compare() -> UserError:
    """What to say where there is no prediction to compare."""
    return UserError("holds nothing to verify the export with", key="data.splits.validation", hint="name another")


def check_float(found: Comparison) -> None:
    """Refuse logits that differ by more than 1e-4 of the largest.

    Raises:
        UserError: with the numbers.
    """
    if not found.relative_error <= RELATIVE_ERROR:
        raise UserError(
            f"the exported model's logits differ from the trained model's by {found.relative_error:.1e} of the "
            f"largest, and {RELATIVE_ERROR:.0e} is allowed; nothing was written",
            key="--to",
            hint="of a target of your own look at its write and open; any other report with the run's config.yaml",
        )


def _check_vectors(found: Comparison, cosine: float) -> None:
    """Refuse vectors whose mean cosine to the trained model's is below 0.99.

    Raises:
        UserError: with the numbers.
    """
    if not cosine >= COSINE:
        raise UserError(
            f"the exported model's vectors have a mean cosine of {cosine:.4f} to the trained model's, and {COSINE} "
            f"must be; its {found.metric} is {found.exported:.4g}, the trained model's {found.trained:.4g}; "
            "nothing was written",
            key="--to",
            hint="train longer with quantization on, or export to onnx",
        )


def check_integer(found: Comparison) -> None:
    """Refuse decisions of which more than 0.5 % differ, a metric off by more than 0.3 points, and logits by 2 %.

    Decisions alone would pass any model that is wrong in the same direction everywhere, or on easy data. Tokens are
    judged by the metric and by their distributions, which may differ by 0.01 nats: among tens of thousands of tokens
    the most likely one is often one of several that are nearly so. A single decision may always differ, and take the
    metric with it: among 200 it is all that 0.5 % allow, and among a few of a rare class it moves F1 by points.
    Vectors are judged by their mean cosine to the trained model's alone, which must be 0.99.

    Raises:
        UserError: with the numbers.
    """
    faults = []
    if found.cosine is not None:
        _check_vectors(found, found.cosine)
        return
    if found.divergence is not None and not found.divergence <= DIVERGENCE:
        faults.append(
            f"its tokens' distributions are {found.divergence:.2g} nats from the trained model's, and {DIVERGENCE:g} "
            "are allowed"
        )
    judged = found.divergence is None  # by decisions and logits
    one = judged and found.differ == 1
    if judged and not one and found.agreement is not None and not found.agreement >= AGREEMENT:
        faults.append(f"{found.agreement:.2%} of its decisions are the trained model's, and {AGREEMENT:.1%} must be")
    allowed = METRIC * max(1.0, abs(found.trained))
    off = abs(found.trained - found.exported)
    if not (off <= allowed or (one and isfinite(off))):
        faults.append(
            f"its {found.metric} is {found.exported:.4g}, the trained model's {found.trained:.4g}, and a difference of "
            f"{allowed:.2g} is allowed"
        )
    if judged and not found.mean_error <= INTEGER_ERROR:
        faults.append(
            f"its logits are off by {found.mean_error:.1%} of their spread, and {INTEGER_ERROR:.0%} is allowed"
        )
    if faults:
        raise UserError(
            f"the exported model does not do what the trained one does: {'; '.join(faults)}; nothing was written",
            key="--to",
            hint="validate on more data if these are few, else train longer with quantization on, or export to onnx",
        )
