"""Ways to train the same student on the same phrases; each gives samples a second.

Every contender reads tokenized phrases from memory, pads and collates them in its own process while it trains,
and keeps its defaults where it has some.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PrinterCallback, TrainingArguments
from transformers import Trainer as HubTrainer

from bench.draw import WARM_UP, Clock, Draw
from bench.pair import CLIP, RATE, TEMPERATURE, WEIGHT, Pair, Settings, objective
from distill.callbacks import Determinism
from distill.callbacks.scores import LastValidation, Scores
from distill.core.signals import Batch
from distill.core.utils.quiet import quiet_lightning
from distill.models.teachers import LiveTeacher
from distill.run.loggers.make import CsvLogger
from distill.training.optimizer import OptimizerConfig, make_optimizer


def ours(pair: Pair, settings: Settings, draw: Draw, teacher: LiveTeacher) -> float:
    """:class:`~distill.training.module.Distillation`, with length-bucketed batches; the teacher may remember or not."""
    loader = pair.data.train_dataloader()
    assert loader.collate_fn is not None
    clock = Clock(loader.collate_fn)
    with TemporaryDirectory() as folder, quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            precision=settings.precision,  # type: ignore[arg-type]
            max_epochs=1,
            gradient_clip_val=CLIP,
            log_every_n_steps=10,
            logger=CsvLogger(folder),
            callbacks=[Determinism(0), LastValidation(), Scores()],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        batches = DataLoader(loader.dataset, batch_sampler=draw.bucketed, collate_fn=clock)
        trainer.fit(pair.module(teacher), train_dataloaders=batches)
    return clock.rate(draw)


# ---------------------------------------------------------------------- transformers


class KdTrainer(HubTrainer):
    """The usual subclass: ``compute_loss`` runs the teacher too."""

    def __init__(self, *args: Any, teacher: nn.Module, settings: Settings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher, self.settings = teacher, settings

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        with torch.no_grad(), self.settings.autocast():
            teacher = self.teacher(**inputs).logits
        outputs = model(**inputs)
        loss = objective(outputs.logits, teacher, labels)
        return (loss, outputs) if return_outputs else loss


def default_optimizer() -> str:
    """The optimizer that ``transformers.Trainer`` takes if none is named."""
    return str(TrainingArguments.__dataclass_fields__["optim"].default or TrainingArguments.default_optim)


def hub_trainer(pair: Pair, settings: Settings, draw: Draw, order: list[int], optim: str | None = None) -> float:
    """``transformers.Trainer`` over the rows in ``order``, batches padded to their longest phrase."""
    clock = Clock(DataCollatorWithPadding(pair.data.tokenizer))
    with TemporaryDirectory() as folder, quiet_lightning():
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=draw.size,
            num_train_epochs=1,
            train_sampling_strategy="sequential",  # the rows are shuffled already
            bf16=settings.bf16,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            optim=optim or default_optimizer(),
        )
        trainer = KdTrainer(
            pair.student(),
            arguments,
            data_collator=clock,
            train_dataset=_features(pair, order),
            teacher=pair.teacher,
            settings=settings,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.rate(draw)


def _features(pair: Pair, order: list[int]) -> Any:
    """Phrases as the tokenizer's own output, in plain lists: faster to read than a column store."""
    samples = pair.data.samples("train")
    names = [name for name in ("input_ids", "token_type_ids") if name in samples.features]
    return [
        {name: sample[name].tolist() for name in names}
        | {"attention_mask": [1] * len(sample["input_ids"]), "labels": int(sample["label"])}
        for sample in (samples[0, row] for row in order)
    ]


# ---------------------------------------------------------------------- TextBrewer


def textbrewer() -> Any:
    """The package; ``None`` where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its sources compare strings with `is`
        try:
            import textbrewer
        except ImportError:
            return None
    return textbrewer


def text_brewer(pair: Pair, settings: Settings, draw: Draw) -> float:
    """TextBrewer's ``GeneralDistiller`` and ``torch.optim.AdamW`` as in its examples.

    Its examples took AdamW from transformers, which has none any more. A model's output has become a mapping
    with attributes, which the adaptor reads; batches must be plain dictionaries.
    """
    brewer = textbrewer()
    pad = DataCollatorWithPadding(pair.data.tokenizer)
    clock = Clock(lambda features: dict(pad(features)))
    student = pair.student()

    def adaptor(batch: dict[str, Tensor], outputs: Any) -> dict[str, Any]:
        return {"logits": outputs.logits, "losses": outputs.loss}

    with TemporaryDirectory() as folder:
        loader = DataLoader(_features(pair, draw.shuffled()), batch_size=draw.size, collate_fn=clock)
        distiller = brewer.GeneralDistiller(
            brewer.TrainingConfig(output_dir=folder, device="cpu"),
            brewer.DistillationConfig(
                temperature=TEMPERATURE,
                kd_loss_weight=(1 - WEIGHT) * TEMPERATURE**2,
                hard_label_weight=WEIGHT,
            ),
            _Cast(pair.teacher, settings),
            _Cast(student, settings),
            adaptor,
            adaptor,
        )
        optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)
        with distiller:
            distiller.train(optimizer, loader, num_epochs=1, max_grad_norm=CLIP)
    return clock.rate(draw)


class _Cast(nn.Module):
    """A model in the precision of the settings; TextBrewer knows only that of apex."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, **inputs: Any) -> Any:
        with self.settings.autocast():
            return self.model(**inputs)


# ---------------------------------------------------------------------- the floor


def floor(pair: Pair, settings: Settings, draw: Draw, *, optimizes: bool) -> float:
    """The student alone on our batches, collated beforehand: forward, cross entropy, backward.

    Args:
        pair: What is trained.
        settings: Their precision is used.
        draw: The phrases.
        optimizes: Clip and step as well, with fused AdamW.
    """
    loader = pair.data.train_dataloader()
    make: Callable[[list[Any]], Batch] = loader.collate_fn
    batches = [make([loader.dataset[key] for key in keys]) for keys in draw.bucketed]
    student = pair.student().train()
    optimizer = make_optimizer(OptimizerConfig(lr=RATE), [student])
    started = 0.0
    for number, batch in enumerate(batches[: WARM_UP + draw.steps]):
        if number == WARM_UP:
            started = perf_counter()
        with settings.autocast():
            assert batch.labels is not None
            loss = nn.functional.cross_entropy(student(**batch.inputs).logits.float(), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        if optimizes:
            torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
            optimizer.step()
        optimizer.zero_grad()
    return draw.steps * draw.size / (perf_counter() - started)
