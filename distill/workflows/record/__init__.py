"""``distill record``: a teacher run once over the training data of a recipe."""

from distill.workflows.record.form import Form
from distill.workflows.record.origin import Files, Server
from distill.workflows.record.prompts import write_prompts
from distill.workflows.record.recorder import record

__all__ = ["Files", "Form", "Server", "record", "write_prompts"]
