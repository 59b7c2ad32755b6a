"""Sealed files of what a run resumes from."""
