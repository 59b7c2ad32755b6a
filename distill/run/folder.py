"""The folder of one run: everything that validating, exporting and reporting it needs is in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from distill.config.files import dump, read_file
from distill.config.header import MADE_BY, REPEAT, first_line, refuse_old
from distill.core.utils.errors import UserError
from distill.core.utils.files import write
from distill.core.utils.half_made import remove
from distill.core.utils.json_file import Unreadable, read_mapping
from distill.core.utils.paths import RUNS, at_home, check_folder, check_path
from distill.core.utils.replacing import Taken, replacing
from distill.core.utils.secrets import scrub
from distill.core.utils.visible import visible
from distill.run.boundary import refuse_links
from distill.run.lock import held, locked
from distill.run.run_id import check_name, new_id, own_id

__all__ = ["Run", "State", "begun_from"]

State = Literal["running", "finished", "failed", "interrupted"]


class Run:
    """``<runs>/<name>/<id>/``.

    * ``config.yaml``: the resolved configuration, without secrets; ``distill fit -c`` repeats the training;
    * ``checkpoints/``: what training resumes from;
    * ``student/``: the saved student, written by :mod:`distill.models.saved_student`;
    * ``plan.json``: how many steps it has, and by which metric its best student is chosen;
    * ``result.json``: the metrics of the final table;
    * ``failure.json``: why training failed, where it did;
    * ``completions.jsonl``: of a language model, what it and its teacher write after a few held-out prompts;
    * ``evaluations/``: what ``distill evaluate`` found;
    * ``metrics.csv`` and the folders of the other loggers.

    Nothing is on the disk before :meth:`create`.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.shown = str(folder)  # in messages, as the user wrote it
        self.id, self.name = self.folder.name, self.folder.parent.name
        self.copy_of = ""
        """The id of the run that the folder is a copy of, where it is one that was not resumed since."""
        self.checkpoints, self.student = self.folder / "checkpoints", self.folder / "student"
        self.config_file, self.result_file = self.folder / "config.yaml", self.folder / "result.json"
        self.failure_file, self.lock_file = self.folder / "failure.json", self.folder / ".lock"
        self.plan_file = self.folder / "plan.json"
        self._above: list[Path] = []

    @classmethod
    def named(cls, root: str | Path, name: str, run_id: str) -> Run:
        """The run of this name and id, whether its folder is there or not.

        Raises:
            UserError: if the name or the id cannot be a folder's.
        """
        check_name("name", name)
        check_name("--id", run_id)
        return cls(Path(root) / name / run_id)

    @classmethod
    def plan(cls, root: str | Path, name: str, run_id: str | None = None) -> Run:
        """The run that :meth:`create` would make.

        Raises:
            UserError: if the name or the id cannot be a folder's, or the folder is there already.
        """
        run = cls.named(root, name, new_id() if run_id is None else run_id)
        check_folder(root, "runs")
        if os.path.lexists(run.folder):  # a link to what is not there would have it made there
            hint = f"distill resume {run.folder}, or give another id, or none"
            raise UserError(f"the run folder {run.folder} exists", key="--id", value=run.id, hint=hint)
        return run

    @classmethod
    def create(cls, root: str | Path, name: str, config: Mapping[str, Any], run_id: str | None = None) -> Run:
        """Make the folder and write ``config`` into it, scrubbed of secrets.

        Raises:
            UserError: as :meth:`plan`.
        """
        run = cls.plan(root, name, run_id)
        run.begin(config)
        return run

    def begin(self, config: Mapping[str, Any], plan: Mapping[str, Any] | None = None) -> None:
        """Make the planned folder: with all of this in it, or not at all, whenever the process is killed.

        Args:
            config: Of the run.
            plan: What :meth:`write_plan` writes.

        Raises:
            UserError: if another run took it in the meantime, or it cannot be written to.
        """
        self._above = [folder for folder in self.folder.parents if not folder.exists()]
        try:
            with self._appearing() as folder:
                _write_text(folder / self.config_file.name, self._config_text(config))
                if plan is not None:
                    _write_text(folder / self.plan_file.name, self._plan_text(plan))
        except OSError as error:
            problem, hint = f"cannot be written to ({error.strerror})", "make room, or name another folder"
            raise UserError(problem, key="runs", value=str(self.folder), hint=hint) from None

    @contextmanager
    def made(self, config: Mapping[str, Any], made_by: str) -> Iterator[Run]:
        """The planned folder, which is there when the block has ended well, and not at all if it has not.

        Args:
            config: Of the run.
            made_by: The command that makes it.

        Raises:
            UserError: if another run took its place, or nothing can be written there.
        """
        with self._appearing() as folder:
            _write_text(folder / self.config_file.name, self._config_text(config, made_by))
            yield Run(folder)

    @contextmanager
    def _appearing(self) -> Iterator[Path]:
        try:
            with replacing(self.folder, "runs", alike=True) as folder:
                yield folder
        except Taken:
            problem = f"the run folder {self.folder} exists"
            raise UserError(problem, key="--id", value=self.id, hint="give another id") from None

    def refuse_half_made(self) -> None:
        """Refuse a folder that another command than training was making when it was killed.

        Raises:
            UserError: naming the command.
        """
        first = first_line(self.config_file)
        if first.startswith(MADE_BY) and not self.result_file.is_file():
            problem = "was being made by another command, which did not end, and cannot be resumed"
            hint = f"remove it, and give that command again: {first.removeprefix(MADE_BY)}"
            raise UserError(problem, key="RUN", value=str(self.folder), hint=hint)

    def extend(self, config: Mapping[str, Any]) -> None:
        """Have the run resume with ``config``: it is neither finished nor failed any more."""
        self.result_file.unlink(missing_ok=True)  # first: what has finished is what the configuration says
        self.failure_file.unlink(missing_ok=True)
        _write_text(self.config_file, self._config_text(config))

    def _config_text(self, config: Mapping[str, Any], made_by: str | None = None) -> str:
        head = f"{MADE_BY}{made_by}" if made_by else f"{REPEAT}distill fit -c {self.config_file}"
        return f"{head}\n{dump(scrub(config))}"

    @classmethod
    def open(cls, folder: str | Path, key: str = "RUN") -> Run:
        """An existing run.

        Args:
            folder: Its own.
            key: Where the user named it.

        Raises:
            UserError: if ``folder`` is none, or one of 0.1.
        """
        check_path(folder, key)
        run = cls(at_home(folder).resolve())
        run.shown = str(folder)
        if not run.folder.is_dir():
            raise UserError("no such folder", key=key, value=str(folder), hint=f"{_others(Path(folder))}")
        if visible(str(run.folder)) != str(run.folder):
            problem = "has characters in its name that a terminal obeys instead of showing them"
            raise UserError(problem, key=key, value=str(folder), hint="rename it")
        if not run.config_file.is_file():
            problem = "is no run's folder: it has no config.yaml"
            raise UserError(problem, key=key, value=str(folder), hint=_others(Path(folder) / "any"))
        refuse_old(run.config_file, key)
        run._take_id()
        return run

    def _take_id(self) -> None:
        self.id, self.copy_of = own_id(self.folder, self._read(self.plan_file, "remove it"))

    def _read(self, file: Path, hint: str) -> dict[str, Any]:
        """What one of the small files holds; nothing where it is not there.

        Raises:
            UserError: if it cannot be read; ``hint`` says what to do then.
        """
        try:
            return read_mapping(file)
        except FileNotFoundError:
            return {}
        except Unreadable as error:
            raise UserError(str(error), key=file.name, value=str(file), hint=hint) from None

    @property
    def to_resume(self) -> str:
        """What is said of how it goes on, should somebody stop it."""
        return f"to resume: distill resume {self.shown}"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return read_file(self.config_file)

    @property
    def checked_config(self) -> dict[str, Any]:
        """The resolved configuration, with the sections that a model is built by.

        Raises:
            UserError: if one of them is not what a run writes there.
        """
        found = {"trainer": {}} | self.config
        for key in ("model", "trainer"):
            value = found.get(key)
            if not isinstance(value, dict) or (key == "model" and not value.get("student")):
                problem, hint = "is not what a run writes there", f"correct {self.config_file}, or begin another run"
                raise UserError(problem, key=f"{self.config_file.name}: {key}", value=value, hint=hint)
        return found

    def locked(self) -> AbstractContextManager[None]:
        """Be the one process that writes this run.

        Raises:
            UserError: if another one is, or a link in the folder leads out of it.
        """
        self.refuse_links()
        return locked(self.lock_file)

    def refuse_links(self) -> None:
        """Refuse to write where a link leads out of the folder, or what is written cannot take its place.

        Raises:
            UserError: naming it.
        """
        refuse_links(self.folder)
        files = [self.config_file, self.result_file, self.failure_file, self.plan_file, self.lock_file]
        files += [self.folder / name for name in ("metrics.csv", "timeline.png", "completions.jsonl")]
        files += [path.with_name(f".{path.name}.new") for path in files]  # and no folder that a killed save left
        for path in (*files, self.checkpoints, self.student):
            folder = path in (self.checkpoints, self.student)
            if path.exists() and not (path.is_dir() if folder else path.is_file()):
                problem = f"is no {'folder' if folder else 'file'}, and could not be written"
                raise UserError(problem, key=path.name, value=str(path), hint="remove it")

    @property
    def state(self) -> State:
        """``running`` while a process writes it; ``interrupted`` if that ended before the run did."""
        if held(self.lock_file):
            return "running"
        if self.result_file.is_file():
            return "finished"
        return "failed" if self.failure_file.is_file() else "interrupted"

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write ``plan.json``: whose folder it is, since when, and what is listed of a run that has not finished."""
        _write_text(self.plan_file, self._plan_text(plan))

    def planned(self, key: str) -> Any:
        """What ``plan.json`` has by this name; ``None`` where it has nothing, or cannot be read."""
        try:
            return read_mapping(self.plan_file).get(key)
        except (OSError, Unreadable):
            return None

    def _plan_text(self, plan: Mapping[str, Any]) -> str:
        started = self.planned("started")
        whose = {"id": self.id, "folder": str(self.folder.resolve()), "started": started or round(time.time())}
        return json.dumps(whose | dict(plan), indent=2) + "\n"

    def write_failure(self, message: str) -> None:
        """Write ``failure.json``; a resumed run removes it."""
        _write_text(self.failure_file, json.dumps({"message": message}, indent=2) + "\n")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``."""
        _write_text(self.result_file, json.dumps(result, indent=2) + "\n")

    @property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` holds.

        Raises:
            UserError: if the run has not finished, or the file cannot be read.
        """
        again = f"distill resume {self.folder}"
        found = self._read(self.result_file, f"remove it, and have it written anew: {again}")
        if not found:
            hint = f"let it finish: {again}"
            raise UserError("this run has not finished", key="RUN", value=str(self.folder), hint=hint)
        return found

    def discard(self) -> None:
        """Remove the folder of a run that ended before there was anything to keep, and those that were made for it."""
        if not any(self.checkpoints.glob("*.ckpt")):
            remove(self.folder)
            with suppress(OSError):  # what else is in one of them stays
                for parent in self._above:
                    parent.rmdir()


def begun_from(folder: str) -> None:
    """Refuse what is no run to begin another one from.

    Raises:
        UserError: naming ``--from``.
    """
    try:
        Run.open(folder)
    except UserError as error:
        hint = f"{error.hint}; a model that is no run is named by --model.student {folder}"
        raise UserError(error.problem, key="--from", value=folder, hint=hint) from None


def _write_text(path: Path, text: str) -> None:
    write(path, text.encode())


def _others(folder: Path) -> str:
    """Runs that lie beside or below ``folder``."""
    above = next((p for p in folder.parents if p.is_dir()), Path())
    runs = sorted(p.parent for pattern in RUNS for p in above.glob(pattern))
    more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
    return f"runs there: {', '.join(map(str, runs[-5:]))}{more}" if runs else "give the folder that `distill fit` named"
