"""Where teacher signals come from: a live model, or several with weights."""

from distill.core.teacher import TeacherSource
from distill.models.teachers.build import TeacherConfig, build_teacher
from distill.models.teachers.ensemble import Ensemble
from distill.models.teachers.fingerprint import fingerprint
from distill.models.teachers.live import LiveTeacher

__all__ = ["Ensemble", "LiveTeacher", "TeacherConfig", "TeacherSource", "build_teacher", "fingerprint"]
