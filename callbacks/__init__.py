"""Lightning callbacks, imported as ``distill.callbacks``."""

from distill.callbacks.best import Best
from distill.callbacks.determinism import Determinism
from distill.callbacks.ema import ExponentialMovingAverage
from distill.callbacks.last import Last
from distill.callbacks.low_rank import LowRank
from distill.callbacks.pruning import GradualMagnitudePruning
from distill.callbacks.qat import QuantizationAwareTraining
from distill.callbacks.sharing import ShareParameters
from distill.callbacks.start_from import StartFrom
from distill.callbacks.structured import StructuredPruning
from distill.compression.base import Compression, compressions

__all__ = [
    "Best",
    "Compression",
    "Determinism",
    "ExponentialMovingAverage",
    "GradualMagnitudePruning",
    "Last",
    "LowRank",
    "QuantizationAwareTraining",
    "ShareParameters",
    "StartFrom",
    "StructuredPruning",
    "compressions",
]
