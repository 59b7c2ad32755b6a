"""``distill record``: a teacher run once over the training data of a recipe."""

from distill.workflows.record.form import Form
from distill.workflows.record.origin import Server
from distill.workflows.record.recorder import record

__all__ = ["Form", "Server", "record"]
