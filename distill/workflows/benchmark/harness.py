"""A model that is loaded already, on tasks of lm_eval (0.4.13): what is handed over, and what is taken back."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks
import lm_eval.utils
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api import metrics as _registered  # noqa: F401  (which makes the registry of metrics)
from lm_eval.api.registry import metric_registry
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel

from distill.core.generators import reseed
from distill.core.internals.lm_eval import LoadedModel
from distill.core.utils.errors import UserError, first_line, nearest
from distill.core.utils.hub import settle
from distill.core.utils.quiet import quiet_datasets, quiet_transformers
from distill.models.compatibility import positions_of
from distill.workflows.benchmark.task_files import KEY, Chosen, choose

__all__ = ["VERSION", "Harness", "Settings", "Taken", "load_tasks"]

VERSION: str = lm_eval.__version__

_OWN = Path(lm_eval.tasks.__file__).parent
_VALUE = re.compile(r"""[:\-\[,]\s*["']?([^\s"',\[\]#:]+)["']?\s*(?:$|[,\]#])""", re.M)
_SEED = 1234  # lm_eval's own, of the examples before a question
_DRAWS = 1000  # of a bootstrap, for metrics that are no means
_LOST = re.compile("Combined length of context")


@dataclass(frozen=True)
class Settings:
    """How models are asked.

    Attributes:
        limit: The first so many rows of each task; all if not given.
        shots: Examples before each question; the task's own number if not given.
        batch_size: Texts that are read at once.
        max_length: Most tokens of a text; as many as the model reads if not given.
        chat_template: Whether each question is put through the tokenizer's chat template.
        start_token: Whether each text begins with the start token (the end token where there is none), as in training
            here; otherwise as the tokenizer has it, which is how published scores are made.
    """

    limit: int | None = None
    shots: int | None = None
    batch_size: int = 8
    max_length: int | None = None
    chat_template: bool = False
    start_token: bool = False

    def __post_init__(self) -> None:
        least = {"limit": 1, "num_fewshot": 0, "batch_size": 1, "max_length": 2}
        for name, low in least.items():
            value = self.shots if name == "num_fewshot" else getattr(self, name)
            if value is not None and value < low:
                key = f"--{name.replace('_', '-')}"
                raise UserError(f"must be at least {low}", key=key, value=value, hint="give a larger number")


@dataclass
class Taken:
    """What one model scored.

    Attributes:
        scores: Task -> metric -> value and standard error; ``None`` where that is not known.
        versions: Task -> its version.
        shots: Task -> examples before each question.
        rows: Task -> rows that were scored.
        higher_is_better: Task -> metric -> whether more is better.
        max_length: Most tokens that were read of a text.
        cut: Requests that were longer, and lost their beginning.
    """

    scores: dict[str, dict[str, tuple[float, float | None]]] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    shots: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    higher_is_better: dict[str, dict[str, Any]] = field(default_factory=dict)
    max_length: int = 0
    cut: int = 0


class Harness:
    """Tasks, loaded once, on which one model after the other is scored.

    Args:
        tasks: What ``TaskManager.load`` gives.
        settings: How models are asked.
    """

    def __init__(self, tasks: Mapping[str, Any], settings: Settings) -> None:
        self._tasks, self._settings = tasks, settings

    def score(self, model: PreTrainedModel, tokenizer: Any) -> Taken:
        """What a model scores.

        Args:
            model: In eval mode, where it is to run.
            tokenizer: Its own.

        Raises:
            UserError: if a task cannot be done by it.
        """
        settings = self._settings
        if settings.chat_template and not getattr(tokenizer, "chat_template", None):
            hint = "leave it out"
            raise UserError("the tokenizer has no chat template", key="--chat-template", hint=hint)
        room = positions_of(model)
        if settings.max_length is not None and room is not None and settings.max_length > room:
            problem, hint = f"this {type(model).__name__} reads {room:,} tokens", "give as many, or fewer"
            raise UserError(problem, key="--max-length", value=settings.max_length, hint=hint)
        self._begin()
        with _still() as lost, _sandboxed():
            asked = LoadedModel(
                model, tokenizer, settings.batch_size, settings.max_length, start_token=settings.start_token
            )
            try:
                found = evaluate(
                    lm=asked,
                    task_dict=self._tasks,
                    limit=settings.limit,
                    bootstrap_iters=_DRAWS,
                    log_samples=False,
                    apply_chat_template=settings.chat_template,
                )
            except (AssertionError, ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"lm_eval cannot score this model on it ({first_line(error)})"
                raise UserError(problem, key=KEY, hint="leave the task out, or correct its file") from error
        return _taken(found, asked.max_length, len(lost) + asked.cut)

    def _begin(self) -> None:
        """The same examples and draws for every model, and as lm_eval's own command has them."""
        reseed(_SEED)
        for task in self._tasks["tasks"].values():
            own = task.get_config("num_fewshot")
            if own is None or (self._settings.shots is not None and own != 0):
                task.set_config(key="num_fewshot", value=self._settings.shots or 0)
            task.set_fewshot_seed(seed=_SEED)


def load_tasks(given: Sequence[str], allow: Sequence[str], settings: Settings) -> Harness:
    """The tasks that are asked for, with their data.

    Args:
        given: Names of lm_eval's tasks, task files, and folders of them.
        allow: Modules whose functions a task file may name.
        settings: How models will be asked.

    Raises:
        UserError: if there is no such task, its file is not right or runs code, or its data cannot be had.
    """
    writing = {"until", "max_gen_toks", *vars(GenerationConfig())}  # type: ignore[no-untyped-call]
    chosen = choose(given, allow, list(metric_registry.keys()), sorted(writing))
    with _still(), _sandboxed():
        manager = TaskManager(
            include_path=list(chosen.folders), include_defaults=bool(chosen.names) or chosen.groups, metadata={}
        )
        _refuse_two(chosen)
        for name in chosen.names:
            if name not in manager.all_tasks:
                hint = nearest(name, manager.all_tasks)
                raise UserError("lm_eval has no such task", key=KEY, value=name, hint=hint)
        return Harness(_loaded(manager, chosen), settings)


def _refuse_two(chosen: Chosen) -> None:
    """Refuse a name that a local folder has and a task of lm_eval too: silently one of them would be scored.

    Raises:
        UserError: naming it.
    """
    written = sorted({*chosen.bare} & _values()) if chosen.bare else ()
    own = TaskManager(metadata={}).all_tasks if written else ()  # the index of all takes ten seconds and more
    for name in written:
        if name in own:
            hint = f"write ./{name} for the one that lies here; rename it to have lm_eval's"
            raise UserError("is a task of lm_eval, and lies here too", key=KEY, value=name, hint=hint)


def _values() -> set[str]:
    """The values of lm_eval's task files, and what they include: every task, group and tag is named by one of them."""
    others = (".py", ".pyc", ".md")
    files = (path for path in _OWN.rglob("*") if path.suffix not in others and path.is_file())
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in files)
    return {value for text in texts for value in _VALUE.findall(text)}


def _loaded(manager: TaskManager, chosen: Chosen) -> Mapping[str, Any]:
    settle()
    try:
        return manager.load([*chosen.names, *map(str, chosen.files)])  # type: ignore[no-any-return]
    except Exception as error:  # task files and data of others can make it stumble anywhere
        problem = f"a task, or its data, cannot be loaded ({first_line(error)})"
        hint = "without the hub, give a task file with dataset_path: json and data_files of your own"
        raise UserError(
            problem, key=KEY, value=",".join([*chosen.names, *map(str, chosen.files)]), hint=hint
        ) from error


def _taken(found: Mapping[str, Any], max_length: int, cut: int) -> Taken:
    taken = Taken(max_length=max_length, cut=cut)
    for task, values in (found["results"] | found.get("groups", {})).items():
        scores: dict[str, tuple[float, float | None]] = {}
        for name, value in values.items():
            metric, _, how = name.partition(",")
            if metric.endswith("_stderr") or not how or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{how}")
            shown = metric if how == "none" else f"{metric} ({how})"
            scores[shown] = float(value), float(error) if isinstance(error, (int, float)) else None
        if not scores:
            continue
        taken.scores[task] = scores
        taken.higher_is_better[task] = {
            name: found["higher_is_better"].get(task, {}).get(name.partition(" ")[0]) for name in scores
        }
        for into, key in ((taken.versions, "versions"), (taken.shots, "n-shot")):
            into[task] = found[key].get(task)
        if rows := found["n-samples"].get(task):
            taken.rows[task] = int(rows["effective"])
    return taken


@contextmanager
def _sandboxed() -> Iterator[None]:
    """Render the templates of task files where they reach no Python."""
    own, sandbox = lm_eval.utils.env, SandboxedEnvironment()
    sandbox.undefined, sandbox.keep_trailing_newline = own.undefined, own.keep_trailing_newline
    sandbox.filters |= own.filters
    lm_eval.utils.env = sandbox
    try:
        yield
    finally:
        lm_eval.utils.env = own


@contextmanager
def _still() -> Iterator[list[str]]:
    """Without what lm_eval and its libraries say of themselves; gives what it says of texts that lose a part."""
    lost: list[str] = []

    class Keep(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if _LOST.match(record.getMessage()):
                lost.append(record.getMessage())
            return record.levelno > logging.WARNING

    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "lm_eval"]
    keep, start = Keep(), tqdm.__init__

    def without(bar: Any, *given: Any, **settings: Any) -> None:
        start(bar, *given, **settings | {"disable": True})

    for name in names:
        logging.getLogger(name).addFilter(keep)
    if not sys.stderr.isatty():
        tqdm.__init__ = without
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # a bootstrap would fork this process, threads and all
    try:
        with quiet_transformers(), quiet_datasets(), redirect_stdout(sys.stderr):
            yield lost
    finally:
        tqdm.__init__ = start
        for name in names:
            logging.getLogger(name).removeFilter(keep)
