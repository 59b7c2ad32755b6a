"""Vectors of texts: batches, metrics, a run from its beginning to its export."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from distill.cli.main import main
from distill.core.forward import forward
from distill.core.pairs import REFERENCE, partners
from distill.core.signals import Batch, Request
from distill.core.utils.errors import UserError
from distill.core.utils.paths import resolve
from distill.losses import LogitMSE, VectorCosine
from distill.tasks import SentenceEmbeddings
from distill.tasks.vector_scores import neighbours
from distill.training.module import Distillation

TOKENIZER = "distill:quickstart/tokenizer"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(resolve(TOKENIZER, "tokenizer"))


def bert(tokenizer, layers=2, width=16, kind=BertModel):
    torch.manual_seed(0)
    return kind(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def encoded(task, tokenizer, **columns):
    made = task.encode(tokenizer, 16)(columns)
    rows = [{name: np.asarray(values[i]) for name, values in made.items()} for i in range(len(columns["text"]))]
    return [row | {"id": i, "epoch": 0, "seed": 0} for i, row in enumerate(rows) if len(row["input_ids"])]


def test_each_text_of_a_pair_is_a_row_beside_the_other(tokenizer):
    task = SentenceEmbeddings()
    rows = encoded(task, tokenizer, text=["a", "b b"], text_pair=["c c c", "d"], label=[0.5, float("nan")])
    batch = task.collate(rows, tokenizer)
    texts = tokenizer.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
    assert [text.strip() for text in texts] == [
        t.strip()
        for t in tokenizer.batch_decode(tokenizer(["a", "c c c", "b b", "d"]).input_ids, skip_special_tokens=True)
    ]
    assert batch.ids == [0, 1, 2, 3]
    assert int(batch.count) == batch.size == 4
    first, second = partners(batch, 0, 1)
    assert (first.tolist(), second.tolist()) == ([0, 2], [1, 3])


def test_an_empty_text_leaves_its_row_out(tokenizer):
    rows = encoded(SentenceEmbeddings(), tokenizer, text=["a", "b", " "], text_pair=["c", "", "d"])
    assert [row["id"] for row in rows] == [0]


def test_a_class_is_no_score_and_a_text_alone_has_none():
    task = SentenceEmbeddings()
    assert task.find_columns(["sentence", "label"]) == {"text": "sentence"}
    assert "label" not in task.find_columns(["premise", "hypothesis", "label"])
    assert task.find_columns(["sentence1", "sentence2", "score"])["label"] == "score"
    assert task.find_columns(["query", "positive", "negative"]) == {
        "text": "query",
        "text_pair": "positive",
        "negative": "negative",
    }


def rank(values):
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def test_similarity_is_the_rank_correlation_of_a_texts_cosines():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4).double(), torch.randn(6, 7).double()
    found, counts = neighbours(student, teacher)
    assert counts.tolist() == [1.0] * 6
    for i in range(6):
        rows = []
        for x in (student.numpy(), teacher.numpy()):
            others = [x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for j in range(6) if j != i]
            rows.append(rank(np.array(others)))
        np.testing.assert_allclose(float(found[i]), np.corrcoef(*rows)[0, 1], rtol=1e-9)


def test_one_vector_for_all_texts_scores_what_the_guess_does():
    task, teacher = SentenceEmbeddings(), torch.randn(8, 4)
    metrics = task.metrics()
    constant = torch.full((8, 3), 0.1)
    task.update(metrics, constant, Batch({"input_ids": torch.ones(8, 2)}, extras={REFERENCE: teacher}))
    assert float(metrics["similarity"].compute()) == 0.0 == task.guess(None, None).scores["similarity"]
    assert metrics["cosine"].compute().isnan()  # of other widths there is none


def test_a_nan_is_no_score():
    vectors = torch.randn(8, 4)
    broken = vectors.clone()
    broken[2, 1] = torch.nan
    assert neighbours(broken, vectors)[0].isnan().all()


def test_the_student_pools_as_its_teacher_does_where_nothing_else_is_said(tokenizer):
    from distill.core.pooling import Pooling, pooling_of, set_pooling

    teacher, student = bert(tokenizer), bert(tokenizer, 1)
    set_pooling(teacher, Pooling("cls", True))
    Distillation(student, "sentence-embeddings", teacher, [VectorCosine()])
    assert pooling_of(student) == Pooling("cls", True)


def test_a_pooling_that_nothing_tells_is_said(tokenizer, caplog):
    from distill.core.pooling import Pooling, pooling_of, set_pooling

    told, bare = bert(tokenizer), bert(tokenizer)
    set_pooling(told, Pooling("cls"))
    task = SentenceEmbeddings()
    task.meet_models(bert(tokenizer), [told])
    assert not caplog.records
    task.meet_models(bare, None)
    assert pooling_of(bare) == Pooling("mean")
    assert [record.getMessage() for record in caplog.records] == [
        "nothing beside BertModel says how its tokens are pooled (modules.json): the mean over them is taken"
    ]


def test_a_teacher_that_classifies_is_refused(tokenizer):
    teacher = bert(tokenizer)
    teacher.config.architectures = ["BertForSequenceClassification"]
    with pytest.raises(UserError, match="trained for its head"):
        Distillation(bert(tokenizer), "sentence-embeddings", teacher)


def test_a_loss_that_compares_feature_by_feature_is_refused_beside_another_width(tokenizer):
    with pytest.raises(UserError, match="16 features and the teacher's 32") as error:
        Distillation(bert(tokenizer), "sentence-embeddings", bert(tokenizer, width=32), [LogitMSE()])
    assert error.value.key == "model.losses.0"


@pytest.mark.parametrize("loss", ["HintonKL", "CrossEntropy", "BinaryKL"])
def test_losses_of_classes_are_refused(tokenizer, loss):
    import distill.losses

    with pytest.raises(UserError, match="where a text has a vector"):
        Distillation(bert(tokenizer), "sentence-embeddings", bert(tokenizer), [getattr(distill.losses, loss)()])


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory):
    """A teacher of sentence-transformers' layout, and texts."""
    folder = tmp_path_factory.mktemp("embeddings")
    teacher = bert(tokenizer, 2)
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    (folder / "teacher/1_Pooling").mkdir()
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (folder / "teacher/modules.json").write_text(json.dumps(modules))
    (folder / "teacher/1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    draw = np.random.default_rng(0)
    words = ["good", "bad", "film", "story", "dull", "bright", "long", "short", "actor", "music"]
    rows = [{"text": " ".join(draw.choice(words, draw.integers(2, 8)))} for _ in range(24)]
    for name in ("train", "val"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = f"""
model:
  teacher: {folder}/teacher
data:
  files: {{train: {folder}/train.jsonl, validation: {folder}/val.jsonl}}
  tokenizer: {folder}/teacher
  batch_size: 8
  max_length: 32
trainer: {{min_epochs: null, min_steps: null, max_steps: 4}}
runs: {folder}/runs
"""
    (folder / "my.yaml").write_text(config)
    code = main(["fit", "-c", "sentence-embeddings/distill", "-c", str(folder / "my.yaml"), "--id", "one"])
    assert not code
    return folder, next(folder.glob("runs/**/one"))


def test_a_run_leaves_a_student_whose_vectors_are_the_mean_of_its_tokens(world):
    _, run = world
    student, files = run / "student", json.loads((run / "student/modules.json").read_text())
    assert [part["path"] for part in files] == ["", "1_Pooling", "2_Normalize"]
    plain, tokenizer = AutoModel.from_pretrained(student).eval(), AutoTokenizer.from_pretrained(student)
    inputs = tokenizer(["good film", "a long dull story"], padding=True, return_tensors="pt")
    import distill

    opened = distill.load(student)
    with torch.no_grad():
        found = forward(opened, inputs, Request(logits=True)).logits
        hidden = plain(**inputs).last_hidden_state
    for row in range(2):
        mean = hidden[row][inputs["attention_mask"][row].bool()].mean(0)
        torch.testing.assert_close(found[row], mean / mean.norm())
    scores = json.loads((run / "result.json").read_text())
    assert scores["monitor"] == "similarity"
    assert scores["scores"]["teacher"]["similarity"] == pytest.approx(1.0)


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "hf"])
def test_an_export_gives_vectors_with_the_pooling_inside(world, to):
    folder, run = world
    assert not main(["export", str(run), "--to", to, "--output", str(folder / to), "--no-timing"])
    report = json.loads((folder / to / "export.json").read_text())
    assert report["verified"]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert (folder / to / "modules.json").is_file()
    if to == "onnx":
        import onnxruntime

        tokenizer = AutoTokenizer.from_pretrained(folder / to)
        inputs = tokenizer(["good film", "a long dull story"], padding=True, return_tensors="np")
        graph = onnxruntime.InferenceSession(folder / to / "model.onnx")
        names = {one.name for one in graph.get_inputs()}
        [vectors] = graph.run(None, {name: x for name, x in inputs.items() if name in names})
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["quantize", "compress"])
def test_integers_keep_the_vectors(world, way):
    folder, run = world
    if way == "quantize":
        assert not main(["quantize", str(run), "--calibrate", "8", "--id", way, "--trainer.accelerator", "cpu"])
    else:
        recipe = ["-c", "sentence-embeddings/compress", "-c", str(folder / "my.yaml"), "--trainer.max_steps", "12"]
        assert not main(["fit", *recipe, "--model.student.path", str(run), "--id", way])
    small = next(folder.glob(f"runs/*/{way}"))
    assert not main(["export", str(small), "--to", "onnx-int8", "--output", str(folder / way), "--no-timing"])
    assert json.loads((folder / way / "export.json").read_text())["verified"]["cosine"] > 0.99


def test_what_reads_probabilities_is_refused_and_leaves_nothing(world, capsys):
    folder, run = world
    assert main(["sensitivity", str(run)]) == 2
    assert "sentence-embeddings has none" in capsys.readouterr().err
    recipe = ["-c", "sentence-embeddings/distill", "-c", str(folder / "my.yaml")]
    assert main(["record", *recipe, "--to", str(folder / "recorded"), "--as", "logits"]) == 2
    assert "--as = 'logits': keeps what is said of classes or tokens" in capsys.readouterr().err
    assert not (run / "sensitivity").exists()
    assert not (folder / "recorded").exists()


def test_unknown_parts_beside_a_model_are_refused_by_name(world, tmp_path):
    folder, _ = world
    import shutil

    shutil.copytree(folder / "teacher", tmp_path / "dense")
    modules = json.loads((tmp_path / "dense/modules.json").read_text())
    modules.append({"type": "sentence_transformers.models.Dense", "path": "3_Dense"})
    (tmp_path / "dense/modules.json").write_text(json.dumps(modules))
    from distill.models.teachers import build_teacher

    with pytest.raises(UserError, match="there is a Dense") as error:
        build_teacher(str(tmp_path / "dense"), SentenceEmbeddings(), None)
    assert error.value.key == "model.teacher.path"


def test_a_checkpoint_that_lacks_a_layer_is_refused(tokenizer, tmp_path):
    from distill.models.pretrained import load_model

    whole = bert(tokenizer, 1)
    whole.config.num_hidden_layers = 2
    whole.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"they lack encoder\.layer\.1"):
        load_model(str(tmp_path), SentenceEmbeddings().auto_model, "model.student.path", head={})


def test_a_classifiers_encoder_can_be_a_student(tokenizer, tmp_path):
    from distill.models.pretrained import load_model

    bert(tokenizer, 1, kind=BertForSequenceClassification).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), SentenceEmbeddings().auto_model, "model.student.path", head={})
    assert isinstance(model, BertModel)
