"""Small runs that compress, made once for all tests that only look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor, nn

from distill.config.files import load
from distill.run.folder import Run
from distill.workflows import fit as launch

ENCODER = [  # all that is pruned of two layers of BERT, written out
    *(
        f"bert.encoder.layer.{layer}.{map_}.weight"
        for layer in (0, 1)
        for map_ in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        )
    ),
    "bert.pooler.dense.weight",
]


class Fitted(NamedTuple):
    """A run that has ended, its module as it then is, and the inputs of a validation batch."""

    run: Run
    module: Any
    inputs: Mapping[str, Tensor]

    def logits(self, model: nn.Module | None = None) -> Tensor:
        model = (model or self.module.student).eval()
        with torch.no_grad():
            logits: Tensor = model(**self.inputs).logits
            return logits


def prune_80() -> dict[str, Any]:
    arguments = {"final_sparsity": 0.8, "end": 0.5, "every_n_steps": 2}
    return {"class_path": "GradualMagnitudePruning", "init_args": arguments}


def quantize_8() -> dict[str, Any]:
    arguments = {"begin": 0.6, "observe": 0.2, "freeze_observers": 0.9}
    return {"class_path": "QuantizationAwareTraining", "init_args": arguments}


@pytest.fixture
def pruning() -> dict[str, Any]:
    """Of 80 % of the weights, in the first half of the run."""
    return prune_80()


@pytest.fixture
def quantization() -> dict[str, Any]:
    """To 8 bits, in the second half of the run."""
    return quantize_8()


@pytest.fixture(scope="session")
def encoder() -> list[str]:
    """The names of all weights that are pruned."""
    return ENCODER


@pytest.fixture(scope="session")
def zeros() -> Callable[[Mapping[str, Tensor], list[str]], tuple[int, int]]:
    """How many of the named weights of a state are zero, and how many there are."""

    def count(state: Mapping[str, Tensor], names: list[str]) -> tuple[int, int]:
        weights = torch.cat([state[name].flatten() for name in names])
        return int((weights == 0).sum()), weights.numel()

    return count


@pytest.fixture(scope="session")
def train(recipe: dict[str, Any], changed: Callable[..., dict[str, Any]]) -> Callable[..., Fitted]:
    """Trains the recipe for 20 steps with these callbacks, in a folder, with sections changed."""

    def run(folder: Path, callbacks: list[Any], **changes: Any) -> Fitted:
        steps = {"max_steps": 20, "val_check_interval": 5, "limit_val_batches": 1.0, "log_every_n_steps": 5}
        config = changed(recipe, {"trainer": steps, "runs": str(folder / "runs"), "callbacks": callbacks})
        config = changed(config, changes)
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(config))
        jobs: list[Any] = []
        build = launch.build
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "build", lambda *given, **named: jobs.append(build(*given, **named)) or jobs[0])
            done = launch.fit(load([str(path)]), run_id="one")
        [job] = jobs
        batch = job.module.task.batch(next(iter(job.data.val_dataloader())))
        return Fitted(done, job.module.cpu(), batch.inputs)

    return run


@pytest.fixture(scope="session")
def joint(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Fitted]) -> Fitted:
    """Distilled, 80 % pruned and quantized."""
    return train(tmp_path_factory.mktemp("joint"), [prune_80(), quantize_8()])


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Fitted]) -> Fitted:
    """Distilled only."""
    return train(tmp_path_factory.mktemp("plain"), [])
