"""How files and overrides become one mapping, and how it is written again."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pytorch_lightning import Trainer

from distill.cli.parser import Parser
from distill.config.class_paths import only_allowed_imports
from distill.config.files import (
    apply_override,
    dump,
    find_file,
    load,
    merge,
    parse_yaml,
    read_file,
    recipes,
    split_override,
)
from distill.core.utils.errors import UserError
from distill.core.utils.secrets import HIDDEN, is_secret, scrub
from distill.workflows.job.build import resolve
from distill.workflows.job.checks import refuse_hidden
from distill.workflows.job.defaults import with_defaults
from distill.workflows.job.sections import Sections


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_folder_that_is_no_run_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder, and no run's: .* give the path of a YAML file"):
        find_file(str(tmp_path))
    write(tmp_path / "mine.yaml", "seed: 1")
    with pytest.raises(UserError, match=r"is a folder, .* name one of its files: .*/mine\.yaml"):
        find_file(str(tmp_path))
    write(tmp_path / "config.yaml", "seed: 1")
    assert find_file(str(tmp_path)) == tmp_path / "config.yaml"


# ---------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("2.0e-3", 2e-3),
        ("-.5", -0.5),
        ("3", 3),
        ("-3", -3),
        ("007", "007"),
        ("1_000", 1000),
        ("0x10", 16),
        ("12:30:45", "12:30:45"),
        ("2026-11-21", "2026-11-21"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("true", True),
        ("null", None),
        ("", None),
        (".inf", math.inf),
        ("distill:quickstart/teacher", "distill:quickstart/teacher"),
    ],
)
def test_a_scalar_is_what_it_looks_like(text: str, value: Any) -> None:
    found = parse_yaml(text, "key")
    assert found == value
    assert type(found) is type(value)


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(UserError, match="not valid YAML"):
        parse_yaml("!!python/object/apply:os.system ['true']", "key")


@pytest.mark.parametrize(
    "value", [1e-5, 1e22, 0.1, math.inf, -math.inf, 3, "1e-5", "12:30", "yes", "***", "", None, "é"]
)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = dump({"a": {"b": [value]}})
    found = parse_yaml(text, "key")["a"]["b"][0]
    assert found == value
    assert type(found) is type(value)
    assert yaml.safe_load(text)["a"]["b"] == [value]  # and by any other reader


# ---------------------------------------------------------------------- files


def test_later_files_win_and_mappings_are_merged(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", "seed: 1\nmodel: {teacher: a, optimizer: {lr: 1e-3, end: 0.1}}\n")
    second = write(tmp_path / "second.yaml", "model: {teacher: b, optimizer: {lr: 2e-3}}\n")
    config = load([first, second])
    assert config == {
        "name": "first",
        "seed": 1,
        "model": {"teacher": "b", "optimizer": {"lr": 2e-3, "end": 0.1}},
    }


@pytest.mark.parametrize(
    "words", ["-c {} --seed 3 --model.optimizer.lr=0.5", "--seed 3 --model.optimizer.lr=0.5 -c {}"]
)
def test_what_is_typed_wins_over_files_wherever_it_stands(words: str, tmp_path: Path) -> None:
    file = write(tmp_path / "file.yaml", "seed: 1\nmodel: {optimizer: {lr: 1e-3, end: 0.1}}\n")
    parser = Parser("distill fit", "")
    parser.add_argument("-c", action="append")
    known, overrides = parser.split(words.format(file).split())
    config = load(known.c, overrides)
    assert config["seed"] == 3
    assert config["model"] == {"optimizer": {"lr": 0.5, "end": 0.1}}


def test_lists_are_replaced(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", "model: {losses: [HintonKL, CrossEntropy]}\n")
    second = write(tmp_path / "second.yaml", "model: {losses: [ReverseKL]}\n")
    assert load([first, second])["model"]["losses"] == ["ReverseKL"]


def test_another_class_brings_its_own_arguments() -> None:
    base = {"weight": {"class_path": "Linear", "init_args": {"start": 0, "end": 1}}}
    assert merge(base, {"weight": {"class_path": "WarmUp", "init_args": {"value": 1}}}) == {
        "weight": {"class_path": "WarmUp", "init_args": {"value": 1}}
    }
    assert merge(base, {"weight": {"init_args": {"end": 2}}})["weight"]["init_args"] == {"start": 0, "end": 2}


def test_merging_leaves_its_arguments_alone() -> None:
    base, over = {"a": {"b": [1]}}, {"a": {"c": [2]}}
    merged = merge(base, over)
    merged["a"]["c"].append(3)
    assert base == {"a": {"b": [1]}}
    assert over == {"a": {"c": [2]}}


def test_data_without_a_class_is_that_of_text_data(tmp_path: Path) -> None:
    short = write(tmp_path / "short.yaml", "data: {path: x, batch_size: 4}\n")
    long = write(tmp_path / "long.yaml", "data: {class_path: TextData, init_args: {batch_size: 8}}\n")
    assert load([short])["data"] == {"init_args": {"path": "x", "batch_size": 4}}
    assert load([short, long])["data"]["init_args"] == {"path": "x", "batch_size": 8}


def test_the_name_is_the_first_files_unless_one_is_given(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.yaml", "seed: 1\n")
    named = write(tmp_path / "named.yaml", "name: mine\n")
    assert load([plain])["name"] == "plain"
    assert load([plain, named])["name"] == "mine"
    assert load([plain], [("name", "third")])["name"] == "third"


def test_a_recipe_is_found_by_its_name_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, path = next(iter(recipes().items()))
    for said in (name, f"{name}.yaml", f"configs/{name}.yaml", f"distill:{name}"):
        assert find_file(said) == path


def test_a_runs_folder_stands_for_its_configuration(tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", "seed: 3\n")
    assert load([str(tmp_path)])["seed"] == 3


def test_every_recipe_opens_with_its_command_and_is_a_mapping() -> None:
    for name, path in recipes().items():
        head = path.read_text().splitlines()
        assert head[0].startswith("# ")
        assert any("distill fit -c " in line and name in line.split() for line in head[:4]), name
        assert read_file(path)


# ---------------------------------------------------------------------- as a run keeps it


def read_again(kept: dict[str, Any], file: Path) -> None:
    """Requires that a resolved configuration is written, read and resolved to itself, types and order included."""
    text = dump(kept)
    config = load([write(file, text)])
    assert config == kept
    assert dump(config) == text
    assert dump(resolve(config)) == text


@pytest.mark.parametrize("name", recipes())
def test_what_a_run_of_a_recipe_keeps_is_the_same_run_again(name: str, tmp_path: Path) -> None:
    below = ["sst2/prune80-int8"] if name == "sst2/labels-only" else []
    read_again(resolve(load([*below, name])), tmp_path / "config.yaml")


def test_what_a_run_has_kept_is_the_same_run_again(
    base: dict[str, Any], fitted: Callable[..., Path], tmp_path: Path
) -> None:
    pruning = {"final_sparsity": 0.5, "begin": 0.0, "end": 0.5, "every_n_steps": 1, "exclude": ["pooler"]}
    quantization = {"observe": 0.25, "begin": 0.5, "weights": {"bits": 4, "learned": True}}
    base["callbacks"] = [
        {"class_path": "GradualMagnitudePruning", "init_args": pruning},
        {"class_path": "QuantizationAwareTraining", "init_args": quantization},
        {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitor": "val/f1"}},
        "ResumeCheckpoint",
    ]
    base["logging"]["wandb"] = {"project": "12:30", "mode": "disabled"}
    Path("base.yaml").write_text(dump(base))
    run = fitted("--trainer.max_steps", "8", "--trainer.max_time", "'00:01:00:00'")
    read_again(read_file(run / "config.yaml"), tmp_path / "again.yaml")


# ---------------------------------------------------------------------- overrides


def overridden(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    apply_override(config, key, value)
    return config


def test_an_override_reaches_into_mappings_lists_and_arguments() -> None:
    config = {"model": {"losses": ["CrossEntropy", {"class_path": "HintonKL", "init_args": {"weight": 1.0}}]}}
    overridden(config, "model.losses.1.init_args.weight", 0.5)
    overridden(config, "model.losses.1.temperature", 4)
    overridden(config, "model.losses.0.label_smoothing", 0.1)
    overridden(config, "model.optimizer.lr", 1e-3)
    assert config["model"] == {
        "losses": [
            {"class_path": "CrossEntropy", "init_args": {"label_smoothing": 0.1}},
            {"class_path": "HintonKL", "init_args": {"weight": 0.5, "temperature": 4}},
        ],
        "optimizer": {"lr": 1e-3},
    }


def test_an_override_opens_what_was_written_short() -> None:
    assert overridden({"model": {"student": "folder"}}, "model.student.num_layers", 3) == {
        "model": {"student": {"path": "folder", "num_layers": 3}}
    }
    assert overridden({}, "data.batch_size", 8) == {"data": {"init_args": {"batch_size": 8}}}
    assert overridden({}, "data.class_path", "mine.Data") == {"data": {"class_path": "mine.Data"}}
    assert overridden({}, "callbacks.0.class_path", "EarlyStopping") == {"callbacks": [{"class_path": "EarlyStopping"}]}


def test_an_override_one_past_the_end_appends() -> None:
    config = overridden({"model": {"losses": ["CrossEntropy"]}}, "model.losses.1", "HintonKL")
    assert config["model"]["losses"] == ["CrossEntropy", "HintonKL"]


def test_an_override_with_a_mapping_is_merged() -> None:
    assert overridden({"data": {"init_args": {"a": 1}}}, "data", {"init_args": {"b": 2}})["data"]["init_args"] == {
        "a": 1,
        "b": 2,
    }


@pytest.mark.parametrize(
    "key", ["model.losses.5.weight", "model.losses.x", "model.losses.-1", "a..b", "seed.x", "model.losses.²"]
)
def test_an_override_that_leads_nowhere_is_refused(key: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_override({"seed": 1, "model": {"losses": ["CrossEntropy"]}}, key, 1)
    assert caught.value.hint


def test_an_override_of_arguments_that_are_none_is_refused() -> None:
    for given in (3, "abc", [1]):
        with pytest.raises(UserError, match=r"callbacks\.0\.init_args = .*: must be a mapping"):
            apply_override(
                {"callbacks": [{"class_path": "ResumeCheckpoint", "init_args": given}]}, "callbacks.0.keep", 3
            )


def test_a_value_may_follow_an_equals_sign_or_come_next() -> None:
    assert split_override("--a.b=1=2", ["x"]) == (("a.b", "1=2"), 0)
    assert split_override("--a.b", ["-1"]) == (("a.b", "-1"), 1)
    assert split_override("--a.b=", []) == (("a.b", ""), 0)
    with pytest.raises(UserError, match="needs a value"):
        split_override("--data.b", ["--c"])
    with pytest.raises(UserError, match="no such option"):
        split_override("--a.b", ["--c"])


def test_a_text_that_is_no_yaml_is_a_text(tmp_path: Path) -> None:
    config = load([write(tmp_path / "a.yaml", "")], [("name", "*x"), ("runs", "%home%"), ("model.teacher", "a: b: c")])
    assert config["name"] == "*x"
    assert config["runs"] == "%home%"
    assert config["model"]["teacher"] == "a: b: c"


# ---------------------------------------------------------------------- secrets


SECRET = (
    "api_key apiKey API_KEY hf_token token key wandb-api-key client_secret password db_passwd aws_secret_access_key "
    "access_token private_key apikey aws_access_key_id token1 api_key_2 auth_tokens api_keys "
    "authorization hf_token_value"
)
HARMLESS = (
    "tokenizer max_tokens monitor keys keyboard pad_token eos_token_id num_key_value_heads text_key token_type "
    "key_size tokens_a_step monkey label_key"
)


@pytest.mark.parametrize("name", SECRET.split())
def test_a_name_of_a_secret_is_known(name: str) -> None:
    assert is_secret(name)
    assert scrub({"a": [{name: "x"}]}) == {"a": [{name: HIDDEN}]}


@pytest.mark.parametrize("name", HARMLESS.split())
def test_other_names_are_left_alone(name: str) -> None:
    assert not is_secret(name)
    assert scrub({name: "x"}) == {name: "x"}


def test_numbers_and_nothing_are_no_secrets() -> None:
    config = {"token": None, "key": 3, "password": "", "api_key": True}
    assert scrub(config) == config


def test_everything_below_a_secret_goes() -> None:
    assert scrub({"secrets": {"a": "x", "b": ["y"]}}) == {"secrets": {"a": HIDDEN, "b": [HIDDEN]}}


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://user:hunter2@host/data", "hunter2"),
        ("s3://AKIA1:hunter2@bucket", "hunter2"),
        ("https://host/x?token=hunter2&a=1", "hunter2"),
        ("https://host/x?X-Amz-Signature=hunter2", "hunter2"),
        ("use hf_" + "a" * 34 + " here", "a" * 34),
    ],
)
def test_a_secret_inside_a_text_goes(text: str, secret: str) -> None:
    assert secret not in scrub({"path": text})["path"]


def test_harmless_texts_stay() -> None:
    texts = ["user@host", "https://host/path?page=1", "runs/a/b", "0" * 40, "a: b"]
    assert scrub(texts) == texts


def test_a_secret_that_was_taken_out_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"data\.token = '\*\*\*'.*--data\.token"):
        refuse_hidden({"data": {"init_args": {"token": HIDDEN}}})


def test_a_limit_of_one_batch_stays_one_batch_whatever_was_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    # What typing's cache gives Lightning for Optional[Union[int, float]] where another module wrote it so first.
    cached = float | int | None  # which is never cached itself
    for name in ("limit_val_batches", "limit_train_batches"):
        monkeypatch.setitem(Trainer.__init__.__annotations__, name, cached)
    assert get_args(inspect.signature(Trainer).parameters["limit_val_batches"].annotation)[:2] == (float, int)
    limits = [("trainer.limit_val_batches", "1"), ("trainer.limit_train_batches", "1.0")]
    config = load(["quickstart/alone"], limits)
    with only_allowed_imports([]):
        made = Sections(with_defaults(config)).make("trainer")
    for trainer in (resolve(config)["trainer"], made):
        assert [repr(trainer[f"limit_{split}_batches"]) for split in ("val", "train")] == ["1", "1.0"]


@pytest.mark.parametrize(
    ("overrides", "least"),
    [
        ([], {"min_epochs": 3, "min_steps": 1000}),
        ([("trainer.max_steps", "5")], {}),
        ([("trainer.max_epochs", "5"), ("trainer.min_steps", "3")], {"min_steps": 3}),
        ([("trainer.min_steps", "250")], {"min_epochs": 3, "min_steps": 250}),
    ],
)
def test_the_least_length_of_a_recipe_goes_where_the_user_ends_the_run(
    overrides: list[tuple[str, str]], least: dict[str, int]
) -> None:
    trainer = load(["text-classification/distill"], overrides)["trainer"]
    assert {key: value for key, value in trainer.items() if key.startswith("min")} == least


def test_the_least_length_of_a_file_of_ones_own_stays_beside_an_end(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer: {min_steps: 9}")
    trainer = load(["text-classification/distill", str(mine)], [("trainer.max_steps", "5")])["trainer"]
    assert (trainer["min_steps"], trainer.get("min_epochs")) == (9, None)
