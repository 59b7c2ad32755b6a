"""Metrics that torchmetrics lacks, or defines otherwise: ratios of exact sums, and correlations of what is constant."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from distill.core.signals import IGNORE
from distill.core.tally import Counts

__all__ = [
    "BitsPerByte",
    "Matthews",
    "Pearson",
    "Perplexity",
    "Ratio",
    "Spearman",
    "negative_log_likelihood",
    "unigram",
]


class Ratio(Metric):
    """R = sum of numerators over sum of denominators, over all batches and ranks; NaN while there are none.

    :attr:`standard_error`, known after :meth:`compute`, is that of R as samples (or packed blocks) are drawn anew,

        SE = sqrt(sum_i (x_i - R y_i)^2) / sum_i y_i

    over the samples' numerators x_i and denominators y_i: what a bootstrap over samples tends to, without its draws
    (Efron, Stein: The jackknife estimate of variance, 1981). Of a proportion it is sqrt(R (1 - R) / n).
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = True
    numerator: Tensor
    denominator: Tensor
    squares: Tensor
    standard_error: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        # Millions of small terms add up: float32 would lose them. Apple's devices have nothing longer.
        exact = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("numerator", torch.zeros((), dtype=exact), dist_reduce_fx="sum")
        self.add_state("denominator", torch.zeros((), dtype=exact), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(3, dtype=exact), dist_reduce_fx="sum")  # of x x, x y and y y

    def update(self, numerator: Tensor, denominator: Tensor) -> None:
        """Add one batch's numerator and denominator: scalars, or arrays to sum up, whose first axis are samples."""
        x, y = (_of_samples(part, self.numerator.dtype) for part in (numerator, denominator))
        self.numerator = self.numerator + x.sum()
        self.denominator = self.denominator + y.sum()
        if x.shape == y.shape:
            self.squares = self.squares + torch.stack([(x * x).sum(), (x * y).sum(), (y * y).sum()])

    def ratio(self) -> Tensor:
        """R in full precision; it notes the standard error of R."""
        ratio = self.numerator / self.denominator
        xx, xy, yy = self.squares
        self.standard_error = (xx - 2 * ratio * xy + ratio**2 * yy).clamp(min=0).sqrt() / self.denominator
        return ratio

    def compute(self) -> Tensor:
        return self.ratio().float()


class Perplexity(Ratio):
    """exp of the mean negative log likelihood in nats: numerator the likelihoods, denominator the predictions."""

    higher_is_better = False

    def compute(self) -> Tensor:
        perplexity = self.ratio().exp()
        assert self.standard_error is not None
        self.standard_error = perplexity * self.standard_error  # the derivative of exp is exp
        return perplexity.float()


class BitsPerByte(Ratio):
    """Negative log likelihood in bits over the bytes of text predicted: comparable across tokenizers."""

    higher_is_better = False

    def compute(self) -> Tensor:
        bits = self.ratio() / math.log(2)
        assert self.standard_error is not None
        self.standard_error = self.standard_error / math.log(2)
        return bits.float()


def _of_samples(part: Tensor, dtype: torch.dtype) -> Tensor:
    return part.flatten(1).sum(1).to(dtype) if part.dim() > 1 else part.to(dtype)


class Matthews(MulticlassConfusionMatrix):
    """Matthews correlation coefficient of C classes; 0, as is usual, where labels or predictions are all one class.

    With t_k labels of class k, p_k predictions of it, c of n predictions right:
    (c n - sum_k t_k p_k) / sqrt((n^2 - sum_k p_k^2) (n^2 - sum_k t_k^2)).
    (torchmetrics gives a limit that depends on the classes' shares, such as 0.06, of a constant prediction.)

    Reference:
        Gorodkin: Comparing two K-category assignments by a K-category correlation coefficient, 2004.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        matrix = super().compute().double()
        labels, predictions, n = matrix.sum(1), matrix.sum(0), matrix.sum()
        covariance = matrix.trace() * n - labels @ predictions
        spread = (n**2 - labels @ labels) * (n**2 - predictions @ predictions)
        return torch.where(spread > 0, covariance / spread.clamp(min=1).sqrt(), torch.zeros_like(n)).float()


class Pearson(PearsonCorrCoef):
    """Pearson's r; 0 where predictions or labels are constant, and no correlation is defined.

    :attr:`standard_error`, known after :meth:`compute`, is (1 - r^2) / sqrt(n - 1).
    """

    standard_error: Tensor | None = None

    def compute(self) -> Tensor:
        r, counted = super().compute(), self.n_total.sum()
        known = self.var_x.isfinite().all() & self.var_y.isfinite().all() & (counted > 1)
        r = torch.where(known, r.nan_to_num(nan=0.0), r)
        self.standard_error = (1 - r**2) / (counted - 1).clamp(min=1).sqrt()
        return r


class Spearman(SpearmanCorrCoef):
    """Spearman's rho; 0 where predictions or labels are constant, NaN where there are none or some are no numbers."""

    def compute(self) -> Tensor:
        preds, target = (dim_zero_cat(part) if len(part) else torch.zeros(0) for part in (self.preds, self.target))
        if len(preds) < 2 or not (preds.isfinite().all() and target.isfinite().all()):
            return torch.tensor(math.nan, device=self.device)
        if (preds == preds[0]).all() or (target == target[0]).all():
            return torch.zeros((), device=self.device)
        return super().compute()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) in nats for every label, in float32; 0 where it is :data:`IGNORE`.

    Args:
        logits: ``[..., C]``.
        labels: ``[...]``.

    Returns:
        ``[...]``.
    """
    flat = functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return flat.view_as(labels)


def unigram(counts: Counts, tokens: Tensor) -> tuple[dict[str, float], float]:
    """Scores of the language model that knows nothing but how frequent each token is.

    p(token) = (m_token + 1) / (sum m + C) of the counts m in the training data (Laplace's rule).

    Args:
        counts: Of the data that is scored, ``counts.labels`` ``[C]``.
        tokens: How often each token is to be predicted in the training data, ``[C]`` or shorter.

    Returns:
        ``perplexity`` and ``token_accuracy``, and the negative log likelihood of all predictions in nats.
    """
    labels = counts.labels.double()
    known = torch.zeros_like(labels)
    known[: len(tokens)] = tokens[: len(labels)].double()
    nats = float(-(labels * ((known + 1) / (known.sum() + len(known))).log()).sum())
    right = float(labels[int(known.argmax())])
    return {"perplexity": math.exp(nats / counts.total), "token_accuracy": right / counts.total}, nats
