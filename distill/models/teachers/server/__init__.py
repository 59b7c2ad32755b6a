"""A teacher behind an OpenAI-compatible server, which is asked for the log-probabilities of given tokens."""

from distill.models.teachers.server.client import Client
from distill.models.teachers.server.source import ServerTeacher

__all__ = ["Client", "ServerTeacher"]
