"""Pictures: files to pixels, what training changes of them, and a run from its beginning to its predictions."""

import io
import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from lightning_fabric.utilities.rank_zero import rank_zero_only
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from distill.cli.main import main
from distill.core.images import ImageSettings, augmented, decoded
from distill.core.signals import Request, Signals
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.images import _left_aside
from distill.models.teachers import LiveTeacher
from distill.tasks import ImageClassification
from distill.training.module import Distillation

NAMES = ["blue", "green", "red"]
SIZE = {"height": 16, "width": 16}


def vit(folder=None, layers=2, seed=0, processor=None, **settings):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16, "patch_size": 8}
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    made = ViTForImageClassification(
        ViTConfig(num_hidden_layers=layers, initializer_range=0.3, **(sizes | labels | settings))
    ).eval()
    if folder is not None:
        made.save_pretrained(folder)
        (processor or ViTImageProcessorPil(size=SIZE)).save_pretrained(folder)
    return made


def pixels(row):
    """A picture of the class ``row % 3``; sides differ."""
    made = np.random.default_rng(row).integers(0, 90, (12 + row % 5, 14, 3)).astype(np.uint8)
    made[..., 2 - row % 3] += 120
    return made


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def folder_of(place, counts=(("train", 18), ("validation", 9))):
    for split, count in counts:
        for row in range(count):
            file = place / split / NAMES[row % 3] / f"{row:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(pixels(row)))
    return place


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    vit(folder)
    return str(folder)


def data_of(teacher, **settings):
    return TextData(**{"task": "image-classification", "tokenizer": teacher, "batch_size": 6} | settings)


def inputs(loader):
    return torch.cat([batch.inputs["pixel_values"] for batch in loader])


# ---------------------------------------------------------------- files to pixels


def on_white(rgba):
    """Alpha blending by its formula."""
    alpha = rgba[..., 3:].astype(float) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def test_a_picture_is_decoded_as_it_is_seen():
    rgb = pixels(1)
    assert (decoded(png(rgb), 3) == rgb).all()
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 64, np.uint8)])
    assert np.abs(decoded(png(rgba), 3) - on_white(rgba)).max() <= 1
    grey = rgb[..., 0]
    assert (decoded(png(grey), 3) == grey[..., None]).all()
    assert decoded(png(grey), 1).shape == (*grey.shape, 1)
    deep = grey.astype(np.uint16) * 257
    assert (decoded(png(deep), 1)[..., 0] == grey).all()
    palette = io.BytesIO()
    few = np.where(rgb > 100, 255, 0).astype(np.uint8)
    Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE, colors=8).save(palette, "PNG")
    assert (decoded(palette.getvalue(), 3) == few).all()
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(rgb).save(turned, "PNG", exif=exif)
    assert (decoded(turned.getvalue(), 3) == np.rot90(rgb, -1)).all()


@pytest.mark.parametrize("raw", [b"", b"no picture", png(pixels(0))[:-30], png(pixels(0))[:40]])
def test_what_is_no_whole_picture_is_an_error_of_its_file(raw):
    with pytest.raises(OSError):
        decoded(raw, 3)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "bytes"])
def test_every_form_of_the_same_pictures_makes_the_same_samples(tmp_path, teacher, form):
    place = folder_of(tmp_path / "pictures")
    ours = data_of(teacher, path=str(place))
    files = {}
    for split in ("train", "validation"):
        rows = [
            (f"pictures/{split}/{path.parent.name}/{path.name}", path) for path in sorted(place.glob(f"{split}/*/*"))
        ]
        name = tmp_path / f"{split}.{'parquet' if form == 'bytes' else form}"
        labels = [path.parent.name for _, path in rows]
        if form == "csv":
            name.write_text(
                "image,label\n" + "".join(f"{path},{one}\n" for (path, _), one in zip(rows, labels, strict=True))
            )
        elif form == "jsonl":
            name.write_text(
                "".join(json.dumps({"image": p, "label": n}) + "\n" for (p, _), n in zip(rows, labels, strict=True))
            )
        elif form == "parquet":
            Dataset.from_dict({"image": [path for path, _ in rows], "label": labels}).to_parquet(name)
        else:
            held = [{"bytes": path.read_bytes(), "path": None} for _, path in rows]
            kinds = Features({"image": ImageFeature(), "label": Value("string")})
            Dataset.from_dict({"image": held, "label": labels}, features=kinds).to_parquet(name)
        files[split] = str(name)
    other = data_of(teacher, files=files)
    assert other.labels == ours.labels == NAMES
    for use in ("train", "validation"):
        assert ours.samples(use).fingerprint == other.samples(use).fingerprint


def test_paths_in_parquet_of_pictures_begin_in_its_folder(tmp_path, teacher, monkeypatch):
    place = folder_of(tmp_path / "pictures")
    paths = sorted(place.glob("train/*/*"))
    kinds = Features({"image": ImageFeature(decode=False), "label": Value("string")})
    held = [{"bytes": None, "path": str(path.relative_to(tmp_path))} for path in paths[:-1]]
    held.append(
        {"bytes": paths[-1].read_bytes(), "path": str(paths[0].relative_to(tmp_path))}
    )  # held: its path is a name
    rows = Dataset.from_dict({"image": held, "label": [path.parent.name for path in paths]}, features=kinds)
    pq.write_table(rows.data.table, tmp_path / "rows.parquet")
    other = tmp_path / "elsewhere"
    decoy = other / held[0]["path"]
    decoy.parent.mkdir(parents=True)
    decoy.write_bytes(png(pixels(99)))
    monkeypatch.chdir(other)
    data = data_of(teacher, files={"train": "../rows.parquet", "validation": "../rows.parquet"})
    read = [data.samples("train").features["image"][row].tobytes() for row in range(len(paths))]
    assert read == [path.read_bytes() for path in paths]


def test_files_of_a_folder_that_are_not_read_are_counted_and_named(tmp_path, teacher):
    place = folder_of(tmp_path / "pictures")
    for name in ("1.heic", "2.heic", "3.avif", "photo"):
        (place / "train" / NAMES[0] / name).write_bytes(b"a picture of a format that is not read")
    for name in ("metadata.txt", "Thumbs.db", ".DS_Store"):
        (place / "train" / name).write_text("beside")
    data = data_of(teacher, path=str(place))
    data.setup("fit")
    told = "4 files in the folder are not read (.heic 2, .avif 1, no ending 1), as train/"
    assert [told in line for line in data.account].count(True) == 1
    tidy = data_of(teacher, path=str(folder_of(tmp_path / "tidy")))
    tidy.setup("fit")
    assert "not read" not in "".join(tidy.account)


@pytest.mark.parametrize("spelled", ["link", "pictures/train/..", "away/../pictures"])
def test_a_folder_that_is_spelled_otherwise_is_the_same_folder(tmp_path, teacher, spelled):
    place = folder_of(tmp_path / "pictures")
    (tmp_path / "link").symlink_to(place)
    (tmp_path / "away").mkdir()
    for left in (0, 1):
        data = data_of(teacher, path=f"{tmp_path}/{spelled}")
        data.setup("fit")
        told = [line for line in data.account if "not read" in line]
        assert len(told) == left
        assert all(f"1 file in the folder is not read (.heic 1), as train/{NAMES[0]}/1.heic" in line for line in told)
        (place / "train" / NAMES[0] / "1.heic").write_bytes(b"a picture of a format that is not read")


def test_paths_of_a_table_that_lead_through_a_link_are_of_the_folder(tmp_path):
    place = folder_of(tmp_path / "pictures")
    (tmp_path / "link").symlink_to(place)
    every = sorted(path.relative_to(place) for path in place.glob("train/*/*"))
    rows = Dataset.from_dict({"image": [f"{tmp_path}/link/train/../{path}" for path in every[1:]]})
    (told,) = _left_aside(place, {"train": rows}, "image")
    assert told.startswith(f"{1 + len([*place.glob('validation/*/*')])} files in the folder are not read (.png ")


def test_one_process_of_several_looks_for_files_that_are_not_read(tmp_path, teacher, monkeypatch):
    place = folder_of(tmp_path / "pictures")
    (place / "1.heic").write_bytes(b"a picture of a format that is not read")
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    data = data_of(teacher, path=str(place))
    data.setup("fit")
    assert "not read" not in "".join(data.account)


def test_pictures_that_are_judged_and_trained_on_are_counted(tmp_path, teacher):
    place = folder_of(tmp_path / "pictures")
    every = sorted(place.glob("validation/*/*"))
    count = len(every)
    for number, judged in enumerate(every):
        judged.write_bytes(png(pixels(100 + number)))
    data = data_of(teacher, path=str(place))
    data.setup("fit")
    assert data.in_train == {"validation": (0, count)}
    trained = sorted(place.glob("train/*/*"))
    for number, judged in enumerate(every[:3]):
        judged.write_bytes(trained[number].read_bytes())
    again = data_of(teacher, path=str(place))
    again.setup("fit")
    assert again.in_train == {"validation": (3, count)}
    assert f"data: 3 of {count} pictures of validation are in train too" in "\n".join(again.account)


def test_inputs_are_those_of_the_models_own_processor(tmp_path, teacher):
    place = folder_of(tmp_path / "pictures")
    data = data_of(teacher, path=str(place), eval_batch_size=4)
    own = ViTImageProcessorPil.from_pretrained(teacher)
    data.setup("validate")
    paths = sorted(place.glob("validation/*/*"))
    for batch in data.val_dataloader():
        wanted = [own(Image.open(paths[i]).convert("RGB"), return_tensors="pt")["pixel_values"][0] for i in batch.ids]
        torch.testing.assert_close(batch.inputs["pixel_values"], torch.stack(wanted), atol=1e-6, rtol=0)
        assert [NAMES[i] for i in batch.labels] == [paths[i].parent.name for i in batch.ids]


def test_a_file_that_changes_under_its_name_is_read_anew(tmp_path, teacher):
    place = folder_of(tmp_path / "pictures")
    rows = [{"image": str(path), "label": path.parent.name} for path in sorted(place.glob("train/*/*"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = dict.fromkeys(("train", "validation"), str(tmp_path / "rows.jsonl"))
    before = data_of(teacher, files=files).samples("train").fingerprint
    assert data_of(teacher, files=files).samples("train").fingerprint == before
    Path(rows[3]["image"]).write_bytes(png(255 - pixels(0)))
    assert data_of(teacher, files=files).samples("train").fingerprint != before


def test_broken_files_are_refused_by_row_and_name_or_left_out_and_counted(tmp_path, teacher):
    place = folder_of(tmp_path / "pictures")
    paths = sorted(place.glob("train/*/*"))
    paths[4].write_bytes(paths[4].read_bytes()[:60])
    rows = [{"image": str(path), "label": path.parent.name} for path in paths]
    rows[7]["image"] = str(place / "gone.png")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    validation = [{"image": str(path), "label": path.parent.name} for path in sorted(place.glob("validation/*/*"))]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in validation))
    files = {"train": str(tmp_path / "rows.jsonl"), "validation": str(tmp_path / "held.jsonl")}
    with pytest.raises(UserError, match=r"row 5 of the split train .* \(and 1 more") as error:
        data_of(teacher, files=files).samples("train")
    assert error.value.value == str(paths[4])
    data = data_of(teacher, files=files, images=ImageSettings(skip_broken=True))
    assert len(data.samples("train")) == len(rows) - 2
    assert any("2 of 18 pictures of train" in line for line in data.account)


# ---------------------------------------------------------------- what training changes


def test_a_changed_picture_is_a_window_of_the_wider_one_mirrored_or_not():
    picture, settings = pixels(0), ImageSettings(crop=0.25, flip=True)
    height, width = picture.shape[:2]
    down, right = round(height * 0.25), round(width * 0.25)
    every = {}
    for mirrored in (False, True):
        seen = picture[:, ::-1] if mirrored else picture
        for top in range(-down, down + 1):
            for left in range(-right, right + 1):
                rows = np.clip(np.arange(height) + top, 0, height - 1)
                columns = np.clip(np.arange(width) + left, 0, width - 1)
                every[seen[rows][:, columns].tobytes()] = (mirrored, top, left)
    found = [every[augmented(picture, settings, 0, epoch, 5).tobytes()] for epoch in range(600)]
    mirrored, tops, lefts = zip(*found, strict=True)
    assert 0.4 < np.mean(mirrored) < 0.6
    assert {*tops} == {*range(-down, down + 1)}
    assert {*lefts} == {*range(-right, right + 1)}


def test_training_sees_other_pictures_each_epoch_and_validation_always_the_same(tmp_path, teacher):
    place = folder_of(tmp_path / "pictures")
    plain = data_of(teacher, path=str(place))
    changed = {
        workers: data_of(teacher, path=str(place), images=ImageSettings(crop=0.2, flip=True), num_workers=workers)
        for workers in (0, 2)
    }
    for data in (plain, *changed.values()):
        data.setup("fit")
    first = inputs(changed[0].train_dataloader())
    assert torch.equal(first, inputs(changed[2].train_dataloader()))
    assert not torch.equal(first, inputs(plain.train_dataloader()))
    assert torch.equal(inputs(changed[0].val_dataloader()), inputs(plain.val_dataloader()))
    changed[0].epoch = 1
    assert not torch.equal(first.sort(0)[0], inputs(changed[0].train_dataloader()).sort(0)[0])


@pytest.mark.parametrize(("crop", "runs"), [(0.0, 1), (0.2, 2)])
def test_a_teacher_is_asked_anew_only_where_pictures_change(tmp_path, teacher, crop, runs, caplog):
    data = data_of(teacher, path=str(folder_of(tmp_path / "pictures")), images=ImageSettings(crop=crop))
    model = vit()
    module = Distillation(student=vit(seed=1), teacher=model, task="image-classification")
    module.task.follow(data.task)
    assert isinstance(module.teacher, LiveTeacher)
    asked = []
    model.register_forward_hook(lambda *_: asked.append(1))
    data.setup("fit")
    batches = 0
    for epoch in (0, 1):
        data.epoch = epoch
        for batch in data.train_dataloader():
            module.teacher.signals(batch, Request(logits=True))
            batches += epoch == 0
    probed = runs == 1  # what is remembered is asked twice of the first batch: do its answers stay?
    assert len(asked) == runs * batches + probed
    assert "other inputs" not in caplog.text  # nothing was remembered, and found to be wrong


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"images": ImageSettings(crop=0.7)}, "between 0 and 0.5"),
        ({"images": ImageSettings(size=8)}, "no effect with a model's own image processor"),
        ({"max_length": 32}, "no effect with pictures"),
        ({"task": "text-classification", "images": ImageSettings(flip=True)}, "reads no pictures"),
        ({"tokenizer": ""}, "an image processor is missing"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, teacher, settings, why):
    with pytest.raises(UserError, match=why):
        data_of(teacher, **{"path": str(folder_of(tmp_path / "pictures"))} | settings).setup("fit")


def test_a_column_that_holds_no_pictures_is_refused(tmp_path, teacher):
    (tmp_path / "rows.jsonl").write_text('{"image": 1, "label": "a"}\n{"image": 2, "label": "b"}\n')
    with pytest.raises(UserError, match="must hold paths of pictures"):
        data_of(teacher, files=dict.fromkeys(("train", "validation"), str(tmp_path / "rows.jsonl"))).setup("fit")


@pytest.mark.parametrize(
    ("processor", "why"),
    [
        (ViTImageProcessorPil(size=SIZE, image_mean=[0.1] * 3), "image_mean is"),
        (ViTImageProcessorPil(size={"height": 24, "width": 24}), "size is"),
        (ViTImageProcessorPil(do_resize=False), "several sizes"),
    ],
)
def test_a_student_that_sees_other_pictures_than_its_teacher_is_refused(tmp_path, teacher, processor, why, capsys):
    vit(tmp_path / "student", processor=processor)
    place = folder_of(tmp_path / "pictures")
    argv = ["fit", "--model.task", "image-classification", "--model.teacher", teacher, "--data.path", str(place)]
    more = [
        "--model.student.path",
        str(tmp_path / "student"),
        "--trainer.max_steps",
        "1",
        "--runs",
        str(tmp_path / "r"),
    ]
    assert main([*argv, *more]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_pictures_of_another_size_than_the_models_are_refused(tmp_path, capsys):
    config = json.dumps({"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                         "image_size": 16, "patch_size": 8})  # fmt: skip
    place = folder_of(tmp_path / "pictures")
    argv = ["fit", "--model.task", "image-classification", "--data.path", str(place), "--model.student.config", config]
    assert main([*argv, "--data.images.size", "24", "--trainer.max_steps", "1", "--runs", str(tmp_path / "r")]) == 2
    assert "24 x 24" in capsys.readouterr().err


def test_init_says_how_pictures_are_taken(tmp_path, capsys):
    assert main(["init", str(folder_of(tmp_path / "pictures"))]) == 2
    assert "docs/images.md" in capsys.readouterr().err


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def world(teacher, tmp_path_factory):
    """A teacher, pictures, and a run."""
    folder = tmp_path_factory.mktemp("pictures")
    folder_of(folder / "pictures")
    config = f"""
model: {{teacher: {teacher}}}
data: {{path: {folder}/pictures, batch_size: 6, num_workers: 0}}
trainer: {{accelerator: cpu, min_epochs: null, min_steps: null, max_steps: 4}}
runs: {folder}/runs
"""
    (folder / "my.yaml").write_text(config)
    assert not main(["fit", "-c", "image-classification/distill", "-c", str(folder / "my.yaml"), "--id", "one"])
    return folder, next(folder.glob("runs/**/one"))


def test_a_prediction_is_what_transformers_says_of_the_saved_student(world, capsys):
    folder, run = world
    paths = sorted((folder / "pictures/validation").glob("*/*"))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"image": str(path)}) + "\n" for path in paths))
    assert not main(["predict", str(run), str(folder / "rows.jsonl"), "--jsonl", "--batch-size", "2"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = ViTForImageClassification.from_pretrained(run / "student").eval()
    processor = ViTImageProcessorPil.from_pretrained(run / "student")
    for path, row in zip(paths, found, strict=True):
        with torch.no_grad():
            logits = model(**processor(Image.open(path).convert("RGB"), return_tensors="pt")).logits[0]
        assert row["image"] == str(path)
        assert row["label"] == NAMES[logits.argmax()]
        assert row["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-5)
    assert not main(["predict", str(run), str(paths[0])])
    assert capsys.readouterr().out.split("\t")[0] == found[0]["label"]
    assert main(["predict", str(run), str(folder / "my.yaml")]) == 2  # no picture
    assert "row 1 of FILE" in capsys.readouterr().err
    assert main(["predict", str(run), str(folder)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_an_export_answers_as_the_student_does_and_so_does_the_script_beside_it(world, capsys, monkeypatch):
    folder, run = world
    place, picture = folder / "onnx", str(next((folder / "pictures/validation/red").glob("*")))
    assert not main(["export", str(run), "--to", "onnx", "--output", str(place), "--no-timing"])
    capsys.readouterr()
    said = []
    for model in (run, place):
        assert not main(["predict", str(model), picture])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    monkeypatch.setattr("sys.argv", ["predict.py", picture])
    runpy.run_path(str(place / "predict.py"))
    assert capsys.readouterr().out.split()[0] == said[0].split()[0]
    assert (place / "preprocessor_config.json").is_file()
    assert (run / "student/task.json").is_file()


def test_losses_on_the_layers_of_a_vision_transformer_read_its_patches():
    task, batch = ImageClassification(NAMES), torch.zeros(2, 3, 16, 16)
    from distill.core.signals import Batch

    found = task.forward(vit(), Batch({"pixel_values": batch}), Request(logits=True, hidden_states=frozenset({0, 2})))
    assert isinstance(found, Signals)
    assert found.logits.shape == (2, 3)
    assert found.hidden_states[2].shape == (2, 1 + 4, 16)  # the class's own token, and four patches
