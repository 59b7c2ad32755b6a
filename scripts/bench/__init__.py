"""The parts of ``bench_training.py``: what is trained, the three sections, and the report."""
