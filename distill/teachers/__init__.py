"""Where teacher signals come from: a live model, or several with weights."""

from distill.teachers.base import TeacherSource
from distill.teachers.build import TeacherConfig, build_teacher
from distill.teachers.ensemble import Ensemble
from distill.teachers.fingerprint import fingerprint
from distill.teachers.live import LiveTeacher

__all__ = ["Ensemble", "LiveTeacher", "TeacherConfig", "TeacherSource", "build_teacher", "fingerprint"]
