#!/usr/bin/env python
"""Run recipes over seeds and print mean and spread beside the teacher.

    python scripts/compare.py sst2/alone sst2/hinton --seeds 0 1 2 -- --model.teacher runs/sst2-teacher/ID

Everything after ``--`` goes to every ``distill fit``. Runs that are there already (same name and seed under
``--runs``) are read, not repeated.
"""
