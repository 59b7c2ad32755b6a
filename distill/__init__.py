"""Knowledge distillation, gradual pruning and quantization-aware training in one PyTorch Lightning run.

``dir(distill)`` lists what is public: the classes that one's own code names, and the rooms that hold all of a kind.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distill.core.utils.version import VERSION

__version__ = VERSION

_HOME = {
    "ActivationScheme": "distill.compression.quantization.scheme",
    "Batch": "distill.core.signals",
    "Compression": "distill.compression.base",
    "Distillation": "distill.training.module",
    "DistillationLoss": "distill.losses.base",
    "ExportTarget": "distill.export.base",
    "IGNORE": "distill.core.signals",
    "LossSum": "distill.losses.base",
    "Needs": "distill.core.signals",
    "OptimizerConfig": "distill.training.optimizer",
    "Request": "distill.core.signals",
    "Signals": "distill.core.signals",
    "Start": "distill.compression.quantization.starts.settings",
    "Task": "distill.core.task",
    "TeacherSource": "distill.core.teacher",
    "TextData": "distill.data.text",
    "TextTask": "distill.core.task",
    "UserError": "distill.core.utils.errors",
    "WeightScheme": "distill.compression.quantization.scheme",
    "finish": "distill.workflows.finish",
    "load": "distill.models.saved_student",
    "prune": "distill.workflows.prune",
    "quantize": "distill.workflows.quantize_module",
    "save": "distill.models.saved_student",
}
_ROOMS = ("callbacks", "data", "export", "losses", "tasks")  # of which export is a function too

__all__ = ["__version__", *_HOME, *_ROOMS]

if TYPE_CHECKING:
    from distill import callbacks as callbacks
    from distill import data as data
    from distill import losses as losses
    from distill import tasks as tasks
    from distill.compression.base import Compression as Compression
    from distill.compression.quantization.scheme import ActivationScheme as ActivationScheme
    from distill.compression.quantization.scheme import WeightScheme as WeightScheme
    from distill.compression.quantization.starts.settings import Start as Start
    from distill.core.signals import IGNORE as IGNORE
    from distill.core.signals import Batch as Batch
    from distill.core.signals import Needs as Needs
    from distill.core.signals import Request as Request
    from distill.core.signals import Signals as Signals
    from distill.core.task import Task as Task
    from distill.core.task import TextTask as TextTask
    from distill.core.teacher import TeacherSource as TeacherSource
    from distill.core.utils.errors import UserError as UserError
    from distill.data.text import TextData as TextData
    from distill.export.base import ExportTarget as ExportTarget
    from distill.export.student import export as export
    from distill.losses.base import DistillationLoss as DistillationLoss
    from distill.losses.base import LossSum as LossSum
    from distill.models.saved_student import load as load
    from distill.models.saved_student import save as save
    from distill.training.module import Distillation as Distillation
    from distill.training.optimizer import OptimizerConfig as OptimizerConfig
    from distill.workflows.finish import finish as finish
    from distill.workflows.prune import prune as prune
    from distill.workflows.quantize_module import quantize as quantize
else:

    def __getattr__(name: str) -> Any:
        # On demand: this package is imported for ``--help`` too, and torch takes seconds.
        if name in _HOME:
            return getattr(import_module(_HOME[name]), name)
        if name in _ROOMS:
            return import_module(f"distill.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
