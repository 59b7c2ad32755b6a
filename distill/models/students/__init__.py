"""Where the student comes from: a saved model, fresh weights, or some layers and coordinates of the teacher."""

from distill.models.students.build import build_student
from distill.models.students.config import StudentConfig
from distill.models.students.layers import choose_layers, keep_layers
from distill.models.students.lora import LoraConfig
from distill.models.students.width import narrow

__all__ = ["LoraConfig", "StudentConfig", "build_student", "choose_layers", "keep_layers", "narrow"]
