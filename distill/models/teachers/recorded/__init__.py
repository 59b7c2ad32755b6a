"""A teacher that was recorded: what it says of every training sample, on disk."""

from distill.models.teachers.recorded.source import RecordedTeacher

__all__ = ["RecordedTeacher"]
