#!/usr/bin/env python
"""Draw README's picture, ``docs/timeline.png``: one run that distils, prunes and quantizes, with losses and accuracy.

    python scripts/readme_timeline.py [--seed 0] [--out docs]

The data are scikit-learn's 1,797 digits, 1,300 of them to train on; the nets those of ``scripts/digits.py``. A teacher
of 19,658 parameters learns from the labels; a student of 1,466 from the labels and the teacher. Of the student's 1,260
steps of 64 images the first third distils alone; then 80 % of the weights are pruned away; from 70 % on weights and
inputs are rounded to 8 bits. The pictures in ``docs`` are of seed 0, on one thread of an x86 processor with AVX-512
(another machine may end a few images apart), in half a minute. ``timeline-dark.png`` is the same for dark pages.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path

from digits import STUDENT, TEACHER, data, every_row, fit, net
from pytorch_lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from distill import Distillation
from distill.callbacks import GradualMagnitudePruning, QuantizationAwareTraining
from distill.core.utils.plots import DARK
from distill.losses import CrossEntropy, HintonKL
from distill.run.loggers.csv_logger import CsvLogger
from distill.tasks import Plain
from distill.training.optimizer import OptimizerConfig
from distill.workflows.timeline import DrawTimeline

PICTURES = {"timeline.png": None, "timeline-dark.png": DARK}


def train(folder: Path, seed: int, epochs: int = 60, teacher_epochs: int = 20) -> Trainer:
    """Train the teacher and then the student, whose history is written into ``folder``."""
    seed_everything(seed, verbose=False)
    full, _, validation = data()
    teacher = net(TEACHER)
    fit(teacher, full, validation, epochs=teacher_epochs)
    losses = [CrossEntropy(weight=0.3), HintonKL(weight=0.7, temperature=2.0)]
    module = Distillation(net(STUDENT), Plain(every_row), teacher, losses, OptimizerConfig(lr=1e-2))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        check_val_every_n_epoch=2,
        log_every_n_steps=5,
        logger=CsvLogger(folder),
        callbacks=[
            GradualMagnitudePruning(final_sparsity=0.8, begin=0.33, end=0.6),
            QuantizationAwareTraining(observe=0.6, begin=0.7, freeze_observers=0.9, float_validation=False),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(full, 64, shuffle=True), DataLoader(validation, 512))
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="the pictures' folder")
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        trainer = train(Path(folder), arguments.seed)
        for name, settings in PICTURES.items():
            DrawTimeline(Path(folder, name), settings).draw(trainer)
            Path(folder, name).replace(arguments.out / name)
            print(arguments.out / name)


if __name__ == "__main__":
    main()
