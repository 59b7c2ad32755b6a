"""Where teacher signals come from: a live model, several with weights, or a recording."""

from distill.core.teacher import TeacherSource
from distill.models.teachers.build import TeacherConfig, build_teacher
from distill.models.teachers.ensemble import Ensemble
from distill.models.teachers.fingerprint import fingerprint
from distill.models.teachers.live import LiveTeacher
from distill.models.teachers.recorded import RecordedTeacher
from distill.models.teachers.routed import RoutedTeacher
from distill.models.teachers.several import Several

__all__ = [
    "Ensemble",
    "LiveTeacher",
    "RecordedTeacher",
    "RoutedTeacher",
    "Several",
    "TeacherConfig",
    "TeacherSource",
    "build_teacher",
    "fingerprint",
]
