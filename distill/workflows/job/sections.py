"""From a mapping to objects: the sections of a configuration, typed by the signatures of the classes they make."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningDataModule, Trainer

import distill.callbacks  # its classes can be named without their path
import distill.core.schedules  # noqa: F401
from distill.config.argument_names import TRAINER_SKIPPED, refuse_skipped
from distill.config.class_paths import classes_in
from distill.config.files import SECTIONS, class_spec
from distill.config.known_keys import instead
from distill.core.utils.errors import TrainingError, UserError, first_line, nearest
from distill.losses import DistillationLoss
from distill.models.students import StudentConfig
from distill.models.students.outline import check_outline
from distill.run.loggers.config import LoggingConfig
from distill.tasks import Task, TextTask, make_task
from distill.training.completions import CompletionsConfig
from distill.training.module import Distillation
from distill.training.names import check_names, name_layers, outline_of_teacher
from distill.training.on_policy import OnPolicyConfig
from distill.training.optimizer import OptimizerConfig
from distill.workflows.job.explain import class_arguments, explain_arguments, explain_value, prefer_ours, refuse_null
from distill.workflows.job.lightning_refusals import refusal

__all__ = ["Sections"]

_SECTIONS: dict[str, Any] = {
    "model": Distillation,
    "data": LightningDataModule,
    "callbacks": list[Callback],
    "trainer": Trainer,
    "logging": LoggingConfig,
}


class Sections:
    """A configuration whose every value has the type that its place asks for; nothing is built yet.

    Must be made and used inside :func:`distill.config.class_paths.only_allowed_imports`.

    Args:
        config: Merged and complete.
        allowed: Packages whose classes may be named besides our own.

    Raises:
        UserError: naming the key that is unknown, missing or of the wrong type.
    """

    def __init__(self, config: Mapping[str, Any], allowed: Sequence[str] = ()) -> None:
        check_top(config)
        self.config, self.allowed = dict(config), list(allowed)
        self.config["callbacks"] = prefer_ours(config["callbacks"], [Callback])
        if isinstance(losses := config["model"].get("losses"), list):
            self.config["model"] = {**config["model"], "losses": prefer_ours(losses, [DistillationLoss])}
        self._parsers = {name: _parser(name, kind) for name, kind in _SECTIONS.items()}
        self._values = {name: self._parse(name) for name in _SECTIONS}
        self.config["trainer"] = _with_numbers(self.config["trainer"], self._values["trainer"].trainer)

    def _parse(self, name: str) -> Namespace:
        value = self.config[name]
        try:
            # A copy: what it is given is rewritten in place, and messages show what was written.
            parsed: Namespace = self._parsers[name].parse_object({name: copy.deepcopy(value)})
            _check_known(value, parsed[name], name)
            refuse_null(_SECTIONS[name], value, name)
            return parsed
        except UserError:
            raise
        except Exception as error:
            self._explain(name, value)
            raise UserError(first_line(error), key=name, hint="check this section") from error

    def _explain(self, name: str, value: Any) -> None:
        kind = _SECTIONS[name]
        if name == "trainer":
            refuse_skipped(value)
            explain_arguments(kind, value, name, self.allowed, skip=TRAINER_SKIPPED)
        elif name in ("model", "logging"):
            explain_arguments(kind, value, name, self.allowed)
        else:
            explain_value(kind, value, name, self.allowed)

    def resolved(self) -> dict[str, Any]:
        """The whole configuration with every default written out: the same run, whatever the defaults become."""
        out = {name: self.config[name] for name in ("name", "runs", "seed")}
        for name, parser in self._parsers.items():
            section = yaml.safe_load(parser.dump(_plain(self._values[name]), skip_unset=False))[name]
            if name == "trainer":
                # Dozens of arguments are null unless given; null is said only where it is not the default.
                section = {k: v for k, v in section.items() if v is not None or self.config[name].get(k, "") is None}
            out[name] = section
        return out

    # ------------------------------------------------------------------ building

    def losses(self) -> list[DistillationLoss] | None:
        """The losses, made before data and models are loaded, so that a mistake in them shows at once."""
        specs = self._values["model"]["model"].losses
        if specs is None:
            return None
        written = self.config["model"]["losses"]
        return [
            self._part(DistillationLoss, spec, f"model.losses.{index}", written[index])
            for index, spec in enumerate(specs)
        ]

    def check_model(self) -> None:
        """Judge what the model says of its task, optimizer and student before data and models are loaded.

        Raises:
            UserError: naming the key.
        """
        values, written = self._values["model"]["model"], self.config["model"]
        if isinstance(values.task, str):
            make_task(values.task)
        self._part(OptimizerConfig, values.optimizer, "model.optimizer", written["optimizer"])
        if values.on_policy is not None:
            self._part(OnPolicyConfig, values.on_policy, "model.on_policy", written["on_policy"])
        if values.completions is not None:
            self._part(CompletionsConfig, values.completions, "model.completions", written["completions"])
        if isinstance(values.student, Namespace) and "class_path" not in values.student:
            student = self._part(StudentConfig, values.student, "model.student", written["student"])
            student.check(has_teacher=values.teacher is not None)

    def check_outline(self, losses: Sequence[DistillationLoss], callbacks: Sequence[Callback]) -> None:
        """Judge the student, and what names layers, by the models' configurations, before data and models are loaded.

        Raises:
            UserError: naming the key.
        """
        values, written = self._values["model"]["model"], self.config["model"]
        student, teacher = values.student, written.get("teacher")
        if isinstance(student, str):
            student = Namespace(path=student)  # type: ignore[no-untyped-call]
        if not isinstance(student, Namespace) or "class_path" in student:
            return
        named = isinstance(values.task, str)
        task = make_task(values.task) if named else self._part(Task, values.task, "model.task", written["task"])
        first = teacher[0] if isinstance(teacher, list) and teacher else teacher
        path = first.get("path") if isinstance(first, Mapping) else first
        if isinstance(task, TextTask):
            made = self._part(StudentConfig, student, "model.student", written["student"])
            named = made.lora is None and name_layers(losses, callbacks)  # an adapter moves names
            path = path if isinstance(path, str) else None
            outline = check_outline(made, task.auto_model, path, named=named)
            if named and outline is not None:
                check_names(outline, outline_of_teacher(teacher, task.auto_model), losses, callbacks)

    def _part(self, kind: Any, value: Any, key: str, written: Any) -> Any:
        """One part of a section, made by itself."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--part", type=kind, enable_path=False)
        values = Namespace(part=value)  # type: ignore[no-untyped-call]
        return self._build(parser, values, key, written).part

    def model(self, losses: list[DistillationLoss] | None, labels: list[str] | None) -> Distillation:
        """The module, with ``labels`` from the data unless the configuration gives some."""
        values = self._values["model"].clone()
        values["model"].losses = losses
        if values["model"].labels is None:
            values["model"].labels = labels
        made = self._build(self._parsers["model"], values, "model", self.config["model"]).model
        assert isinstance(made, Distillation)
        return made

    def make(self, name: str) -> Any:
        """The object or objects of the section ``name`` (data, callbacks, logging; trainer: its arguments)."""
        made = self._build(self._parsers[name], self._values[name], name, self.config[name])
        return made[name].as_dict() if name == "trainer" else made[name]

    def _build(self, parser: ArgumentParser, values: Namespace, key: str, written: Any) -> Any:
        errors: list[tuple[Exception, str]] = []

        def build(cls: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            # jsonargparse tries the members of a union in turn and reports all failures together: the
            # first one is the one to show, and a UserError is never to be passed over.
            try:
                return cls(*args, **kwargs)
            except Exception as error:
                errors.append((error, getattr(cls, "__name__", "")))
                raise

        made: Any = None
        try:
            made = parser.instantiate(
                values, instantiate_groups=key != "trainer", instantiators=[(build, object, True)]
            )
        except Exception as error:
            errors.append((error, ""))
        if errors:
            raise _first(errors, key, written)
        return made


def _first(errors: list[tuple[Exception, str]], key: str, written: Any) -> Exception:
    """The error to show of those that building ``key`` raised, each with the class that raised it."""
    shown, name = next((each for each in errors if isinstance(each[0], (UserError, TrainingError))), errors[0])
    if isinstance(shown, UserError):
        return located(shown, key, written, name)
    if isinstance(shown, (ValueError, TypeError, ImportError, MisconfigurationException)):
        place = next((place for place, named in classes_in(written, key) if named == name), key)
        refused = refusal(shown)
        problem = f"cannot be built: {refused.problem}"
        return UserError(problem, key=place, value=name if place != key else None, hint=refused.hint)
    return shown


def _with_numbers(written: Mapping[str, Any], parsed: Namespace) -> dict[str, Any]:
    """What is written, with the numbers that its texts stand for: a quoted ``'90'``."""
    read = {name: getattr(parsed, name, value) for name, value in written.items()}
    numbers = {name: value for name, value in read.items() if isinstance(value, int | float)}
    return {name: numbers.get(name, value) if isinstance(value, str) else value for name, value in written.items()}


def _plain(values: Any) -> Any:
    """``values`` with texts for the members of an ``Enum`` of texts, which are defaults of Lightning's."""
    if isinstance(values, Enum):
        return values.value
    if isinstance(values, Namespace):
        return Namespace(**{name: _plain(value) for name, value in vars(values).items()})  # type: ignore[no-untyped-call]
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list) else values


def _parser(name: str, kind: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    if name in ("model", "trainer", "logging"):
        skip: set[str | int] = set(TRAINER_SKIPPED) if name == "trainer" else set()
        parser.add_class_arguments(kind, name, skip=skip, fail_untyped=False)
    else:
        parser.add_argument(f"--{name}", type=kind, enable_path=False)
    return parser


def check_top(config: Mapping[str, Any]) -> None:
    """Check the keys at the top, and those of plain type.

    Raises:
        UserError: naming the key.
    """
    for key, value in config.items():
        if key not in SECTIONS:
            below = [f"{s}.{key}" for s in ("model", "data", "trainer") if key in class_arguments_of(s)]
            typed = f"did you mean {below[0]!r}? write --{below[0]} {shlex.quote(json.dumps(value))}" if below else ""
            model = config.get("model")
            losses = model.get("losses") if isinstance(model, dict) else None
            hint = instead(key, value, losses) or typed or nearest(key, SECTIONS)
            raise UserError("no such key", key=key, value=value, hint=hint)
    for key, kind, words in (("name", str, "a text"), ("runs", str, "a folder"), ("seed", int, "an integer")):
        if not isinstance(config[key], kind) or isinstance(config[key], bool):
            typed = config[key] if type(config[key]) is int else "TEXT"  # of yes and 1e3 only the value is known
            quoted = f"; within two pairs of quotes anything is one: --{key} '\"{typed}\"'" if kind is str else ""
            raise UserError(f"must be {words}", key=key, value=config[key], hint=f"give {words}{quoted}")
    if not 0 <= config["seed"] < 2**32:
        raise UserError("must be from 0 to 4294967295", key="seed", value=config["seed"], hint="give another seed")
    for key in ("model", "trainer", "logging", "data"):
        if not isinstance(config[key], dict):
            raise UserError("must be a mapping", key=key, value=config[key], hint="write its keys below it")
    if not isinstance(config["callbacks"], list):
        raise UserError("must be a list", key="callbacks", value=config["callbacks"], hint="begin each with a dash")


def class_arguments_of(section: str) -> Mapping[str, Any]:
    """The keys that a section takes."""
    from distill.data import TextData

    return class_arguments({"model": Distillation, "data": TextData, "trainer": Trainer}[section])


def located(error: UserError, key: str, written: Any, name: str = "") -> UserError:
    """``error`` with the full key of what it complains about, and the value as it was written.

    A constructor knows only the names of its own arguments.

    Args:
        error: As it was raised.
        key: Where what was built stands.
        written: What stands there.
        name: Of the class that raised it.
    """
    if error.key.split(".")[0] in SECTIONS or error.key.startswith("--"):
        return error
    if key == "model":
        # Only losses do not know where they stand; data, teacher and student say the whole key.
        written = {"losses": written.get("losses") or []}
    for place, value in _places(written, error.key.split("."), key):
        if value == error.value or (isinstance(value, (list, dict)) and error.value in value):
            shown = value if value == error.value else error.value
            return UserError(error.problem, key=place, value=shown, hint=error.hint)
    # Not written: a default, or of several arguments together.
    own = [place for place, named in classes_in(written, key) if named == name]
    if len(own) == 1:
        return UserError(error.problem, key=f"{own[0]}.{error.key}".rstrip("."), value=error.value, hint=error.hint)
    full = f"{key}.{error.key}".rstrip(".") if key not in ("model", "callbacks") or not error.key else error.key
    return UserError(error.problem, key=full, value=error.value, hint=error.hint)


def _check_known(written: Any, parsed: Any, key: str) -> None:
    """Refuse keys that are not in ``parsed``: jsonargparse passes over unknown ones whose value is empty.

    Raises:
        UserError: naming the key.
    """
    if class_spec(written):
        _check_known(written.get("init_args") or {}, parsed.get("init_args") or {}, key)
    elif isinstance(written, dict) and isinstance(parsed, Namespace):
        for name, value in written.items():
            if name not in parsed:
                hint = nearest(str(name), vars(parsed))
                raise UserError("no such key", key=f"{key}.{name}", value=value, hint=hint)
            _check_known(value, parsed[name], f"{key}.{name}")
    elif isinstance(written, list) and isinstance(parsed, (list, tuple)):
        for index, (item, made) in enumerate(zip(written, parsed, strict=False)):
            _check_known(item, made, f"{key}.{index}")


def _places(written: Any, parts: list[str], key: str) -> list[tuple[str, Any]]:
    """Where in ``written``, which stands at ``key``, a key ending in ``parts`` stands, the outermost first."""
    found: list[tuple[str, Any]] = []
    if class_spec(written):
        return _places(written.get("init_args") or {}, parts, key)
    if isinstance(written, Mapping):
        if parts[0] in written:
            value = written[parts[0]]
            found += (
                [(f"{key}.{parts[0]}", value)] if len(parts) == 1 else _places(value, parts[1:], f"{key}.{parts[0]}")
            )
        for name, item in written.items():
            found += _places(item, parts, f"{key}.{name}")
    elif isinstance(written, list):
        if parts[0].isdecimal() and int(parts[0][:9]) < len(written):
            item, place = written[int(parts[0])], f"{key}.{parts[0]}"
            found += [(place, item)] if len(parts) == 1 else _places(item, parts[1:], place)
        for index, item in enumerate(written):
            found += _places(item, parts, f"{key}.{index}")
    return found
