"""W&B: one run for life, online or offline, whatever becomes of the process and of the server."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.core.internals.lightning import OpenWandbLogger
from distill.core.ranks import is_rank_zero
from distill.core.utils.secrets import scrub
from distill.run.folder import Run
from distill.run.history import read_rows
from distill.run.loggers.fail_safe import FailSafe
from distill.run.loggers.wandb_file import history
from distill.run.loggers.wandb_service import Troubles, begin, end_service, finish, sync_command

if TYPE_CHECKING:
    from distill.run.loggers.config import WandbConfig

__all__ = ["SafeWandbLogger", "log_export"]

Mode = Literal["online", "offline", "disabled"]

AXIS = "trainer/global_step"


class _Absent:
    """Stands for W&B's run where there is none, as on other ranks: whatever is done with it, nothing happens."""

    def __getattr__(self, name: str) -> _Absent:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Absent:
        return self

    def __getitem__(self, key: Any) -> _Absent:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class SafeWandbLogger(FailSafe, OpenWandbLogger):
    """W&B under the run's own id, inside its folder, plotted over ``trainer/global_step``; it never stops the run.

    **History.** W&B only appends, and its service process, which writes the file, dies with the run, up to a second
    of rows unwritten. So a row is known by its step and the names in it, of which a run has no two alike: one that is
    recorded is not logged again, and at a resume those that are not are taken from ``metrics.csv``. That is right
    wherever the run was killed, also between two rows of one step. Recorded is what the local files hold; but when
    online, of the files of online runs only what the server says it has, as nobody syncs these. Without a
    ``metrics.csv``, what the service had not written is lost.

    **Trouble.** Where W&B cannot start online, or its service process ends, the run continues offline, as a resumed one
    does; after that without W&B. A server that fails later costs one warning: the service keeps trying beside the
    training, all is in the local file, and the warning says what sends it.

    Args:
        config: Where W&B puts the run.
        run: The run.
        mode: ``online`` or ``offline``, as :func:`distill.run.loggers.wandb_mode.decide` found.
        at: The optimizer step that a resumed run starts from.
        more: Whether something is logged when the training has ended, before :meth:`log_artifact` of the student.
    """

    label = "W&B"

    def __init__(self, config: WandbConfig, run: Run, mode: str, at: int | None = None, more: bool = False) -> None:
        logging.getLogger("wandb").setLevel(logging.ERROR)
        super().__init__(
            name=f"{run.name} {run.id}",
            save_dir=run.folder.absolute(),  # its service process may have begun in another folder
            id=run.id,
            project=config.project,
            entity=config.entity,
            group=scrub(config.group),
            tags=scrub(config.tags) or None,
        )
        self._run, self._artifacts = run, config.artifacts
        self._more = more or "student" in config.artifacts
        self._recorded: set[tuple[int, str]] = set()
        self._hyperparameters: Any = None
        self._fallen = self._unsent = False
        self._troubles, self._to_send = Troubles(), Path()
        self._try("start", lambda: self._start(mode, at))

    # ------------------------------------------------------------------ start

    def _start(self, mode: str, at: int | None) -> None:
        """Begin, or continue after the optimizer step ``at``."""
        folder = Path(self._run.folder, "wandb").absolute()
        files = sorted(folder.glob(f"*run-*/run-{self._run.id}.wandb"))  # of the processes before this one
        copied = len(files) < len(list(folder.glob("*run-*/*.wandb")))  # others are of the run that it is a copy of
        # Not `offline=True`: that sets WANDB_MODE for the whole process and everything it starts.
        self._troubles = Troubles()
        self.begun = begin(self._troubles, **{**self.arguments(), "mode": mode})
        self._unsent = mode == "offline"
        # Of the runs before it an online one sends anew what the server had not got; an offline one has them sent too.
        self._to_send = folder if self._unsent and not copied else Path(self.begun.dir).parent
        self.begun.define_metric(AXIS)
        self.begun.define_metric("*", step_metric=AXIS, step_sync=True)
        if self._hyperparameters is not None:
            super().log_hyperparams(self._hyperparameters)
        if at is not None:
            self._catch_up(files, mode == "online", at)

    def _catch_up(self, files: Iterable[Path], online: bool, at: int) -> None:
        """Log the rows up to the optimizer step ``at`` that are not in ``files``."""
        experiment: Any = self.begun
        self._recorded = set()
        for file in files:
            sent = experiment.starting_step if online and not file.parent.name.startswith("offline") else None
            for row in history(file):
                if AXIS in row and (sent is None or row["_step"] < sent):
                    self._recorded.add(_key(row[AXIS], row))
        for line in read_rows(self._run.folder / "metrics.csv"):
            done = int(line.pop("step") or 0)
            if 0 < done <= at:
                self._log({name: float(value) for name, value in line.items() if value}, done - 1)

    def _try(self, what: str, action: Callable[[], object]) -> None:
        def again() -> None:
            try:
                action()
            except Exception as error:
                if self._fallen or not is_rank_zero():
                    raise
                self._fall_back(what, error)
                if what != "start":
                    action()

        super()._try(what, again)

    def _fall_back(self, what: str, error: Exception) -> None:
        """Continue offline: only a new service process can."""
        self._fallen = True
        end_service()
        self._start("offline", sys.maxsize)
        reason = scrub(f"it could not {what} ({error!r})")
        rest = f"To send the run when it has ended: {sync_command(self._to_send)}"
        warnings.warn(f"W&B is offline from here on: {reason}. {rest}", stacklevel=2)

    @property
    def experiment(self) -> Any:
        return _Absent() if self.begun is None else self.begun

    # ------------------------------------------------------------------ log

    def log_hyperparams(self, params: Any) -> None:
        self._hyperparameters = params
        self._try("take the hyperparameters", lambda: super(SafeWandbLogger, self).log_hyperparams(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try("log", lambda: self._log(metrics, step))
        self._troubles.report(self._to_send)

    def _log(self, metrics: Mapping[str, float], step: int | None) -> None:
        key = None if step is None else _key(step, metrics)
        if key is None or key not in self._recorded:
            super().log_metrics(metrics, step)
        if key is not None:
            self._recorded.add(key)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Nothing: checkpoints stay in the run's folder."""

    def log_completions(self, file: Path) -> None:
        """Show the texts of ``file``, a mapping a line, as a table."""
        self._try("show the completions", lambda: self._show("completions", file))

    def _show(self, name: str, file: Path) -> None:
        import wandb

        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
        columns = list(rows[0])
        self.begun.log({name: wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])})

    def log_artifact(self, kind: str, folder: str | Path) -> None:
        """Keep ``folder`` with the run, if the configuration asks for artifacts of this kind.

        The student's comes last: it ends the run, which :meth:`finalize` has left open for it.
        """
        if kind in self._artifacts:
            self._try(f"keep the {kind}", lambda: _log_folder(self.begun, f"{self._run.name}-{kind}", folder))
        if kind == "student":
            self._finish("success")

    def finalize(self, status: str) -> None:
        """End the run, so that its file is complete when the command ends; wait :data:`FINISH_SECONDS` at most."""
        if status != "success" or not self._more:
            self._finish(status)

    def _finish(self, status: str) -> None:
        if self.begun is not None:
            if not self._failed:
                finish(self.begun, self._troubles, 0 if status == "success" else 1)
                self._troubles.report(self._to_send)
            if self._unsent:
                print(f"W&B was offline; to send it: {sync_command(self._to_send)}", flush=True)
            self.begun, self._failed = None, True


def log_export(config: WandbConfig, run: Run, folder: Path, mode: Mode) -> None:
    """Keep an exported ``folder``, in a W&B run of its own: opening the training's again would say that it is running.

    Args:
        config: Of the training.
        run: The training.
        folder: What was exported.
        mode: ``online`` or ``offline``.
    """
    if "exports" in config.artifacts and mode != "disabled":
        _Export(config, run, mode).log(folder)


class _Export(FailSafe):
    label = "W&B"

    def __init__(self, config: WandbConfig, run: Run, mode: Mode) -> None:
        self._config, self._run, self._mode = config, run, mode

    def log(self, folder: Path) -> None:
        self._try("keep the export", lambda: self._log(folder))

    def _log(self, folder: Path) -> None:
        troubles = Troubles()
        experiment = begin(
            troubles,
            name=f"{self._run.name} {self._run.id} {folder.name}",
            id=f"{self._run.id}-{folder.name}",
            dir=self._run.folder.absolute(),
            project=self._config.project,
            entity=self._config.entity,
            group=scrub(self._config.group),
            job_type="export",
            resume="allow",
            mode=self._mode,
        )
        _log_folder(experiment, f"{self._run.name}-{folder.name}", folder)
        finish(experiment, troubles)
        end_service()  # which writes the file of an offline run behind: now it is complete
        troubles.report(Path(experiment.dir).parent)


def _log_folder(experiment: Any, name: str, folder: str | Path) -> None:
    import wandb

    artifact = wandb.Artifact(name, type="model")
    # Immutable: sent from where it lies, without a copy in the user's home.
    artifact.add_dir(str(folder), policy="immutable", skip_cache=True)
    experiment.log_artifact(artifact)


def _key(step: Any, row: Mapping[str, Any]) -> tuple[int, str]:
    """What a row is known by: its step and its names, but for W&B's own."""
    names = sorted(name for name in row if not name.startswith("_") and name != AXIS)
    return int(step), sys.intern("\n".join(names))
