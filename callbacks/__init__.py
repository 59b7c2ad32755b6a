"""Lightning callbacks, imported as ``distill.callbacks``."""

from distill.callbacks.best_checkpoint import BestCheckpoint
from distill.callbacks.determinism import Determinism
from distill.callbacks.ema import ExponentialMovingAverage
from distill.callbacks.low_rank import LowRank
from distill.callbacks.mixup import Mixup
from distill.callbacks.pruning import GradualMagnitudePruning
from distill.callbacks.qat import QuantizationAwareTraining
from distill.callbacks.resume_checkpoint import ResumeCheckpoint
from distill.callbacks.sharing import ShareParameters
from distill.callbacks.structured import StructuredPruning
from distill.callbacks.warm_start import WarmStart
from distill.compression.base import Compression, compressions

__all__ = [
    "BestCheckpoint",
    "Compression",
    "Determinism",
    "ExponentialMovingAverage",
    "GradualMagnitudePruning",
    "LowRank",
    "Mixup",
    "QuantizationAwareTraining",
    "ResumeCheckpoint",
    "ShareParameters",
    "StructuredPruning",
    "WarmStart",
    "compressions",
]
