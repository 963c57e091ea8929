import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from data.opening import open_distilled
from report import runs
from report.runs import Recipe
from utils.errors import UserError
from utils.files import write_json

CLASSES = ("a", "b")


@pytest.fixture
def run(tmp_path):
    """A run folder with images, labels, records, two students and the seconds of its steps."""
    tiny.image_folder(tmp_path / "train", CLASSES, 3)
    folder = tiny.distilled_folder(tmp_path / "lab/prism", tmp_path / "train", CLASSES, 3)
    tiny.label_folder(folder, epochs=2)
    for seed in (1, 0):
        tiny.finished_student(folder, f"soft_seed{seed}", seed, labels={"options": {}})
    tiny.finished_student(folder, "hard", top1=70.0, loss_type="ce")
    for unit in (0, 1):
        write_json(folder / f"units/slice0000{unit}.json",
                   {"seconds": 4.5, "units_together": ["slice00000", "slice00001"]})
    write_json(folder / "units/slice00002.json", {"seconds": 2.0})
    steps = {"squeeze": "python -m models.pretrain --output-dir results/lab/teachers",
             "other": "python -m recover.data_synthesis --output-dir results/lab/prism2",
             "recover": "python -m recover.data_synthesis --output-dir results/lab/prism",
             "soft": "python -m validate.train_fkd --fkd-path results/lab/prism/labels"}
    write_json(tmp_path / "lab/timings.json", {
        title: {"seconds": 1.0, "command": command} for title, command in steps.items()})
    return folder


def read(folder):
    images = folder / "images"
    return runs.read_run("PRISM", folder, open_distilled(images if images.is_dir() else folder))


def titles(content):
    return [step.title for step in content.steps]


def test_what_a_run_folder_says(run):
    content = read(run)
    assert (content.name, content.ipc) == ("PRISM", "3")
    assert content.image_bytes == sum(p.stat().st_size for p in run.rglob("*.png"))
    assert content.seconds == 6.5  # two units were made together in 4.5 seconds
    assert content.labels["labels"].options["teachers"] == ["resnet18"]

    soft = Recipe("resnet18", "soft", "prism", ("epochs 2",), ("augment crop",))
    assert str(replace(soft, label_settings=())) == "resnet18, soft labels (prism, epochs 2)"
    assert [student.seed for student in content.of_recipe(soft)] == [0, 1]
    assert content.of_recipe(soft)[0].tests == ((1, 45.0), (2, 90.0))
    hard = content.of_recipe(Recipe("resnet18", "hard", "prism", ("epochs 2",)))
    assert [(student.top1, student.last) for student in hard] == [(70.0, 69.0)]


ONE = {"teachers": ["resnet18"], "label_format": "fp16", "label_top_k": None, "fkd_seed": 42,
       "augment": "crop", "compile": False}


def test_students_of_other_labels_are_of_another_recipe(run):
    older = {name: value for name, value in ONE.items() if name != "augment"}
    other = {**ONE, "label_format": "int8", "teachers": ["alexnet"]}
    for name, seed, labels in (("soft_seed0", 0, ONE), ("soft_seed1", 1, older), ("int8", 0, other),
                               ("fkd", 0, {**ONE, "fkd_seed": 43, "compile": True}),
                               ("copy", 0, ONE)):
        tiny.finished_student(run, name, seed, labels={"options": labels})
    content = runs.tell_apart({"PRISM": read(run)})["PRISM"]
    soft, int8 = (Recipe("resnet18", "soft", "prism", ("epochs 2",), settings) for settings in (
        ("teachers resnet18", "label_format fp16"), ("teachers alexnet", "label_format int8")))
    assert {student.recipe for student in content.students if student.recipe.labels == "soft"} == {
        soft, int8}
    assert str(int8) == ("resnet18, soft labels (prism, epochs 2; labels: teachers alexnet, "
                         "label_format int8)")
    # The copy has the seeds of another student, and counts as that one.
    assert [(student.seed, student.fkd_seed) for student in content.of_recipe(soft)] == [
        (0, 42), (0, 43), (1, 42)]


def test_two_sets_of_one_recipe_are_told_apart_by_their_labels_alone(run, tmp_path):
    other = tiny.distilled_folder(tmp_path / "lab/other", tmp_path / "train", CLASSES, 3)
    tiny.finished_student(other, "soft", labels={"options": {**ONE, "teachers": ["alexnet"]}})
    for seed in (0, 1):
        tiny.finished_student(run, f"soft_seed{seed}", seed, labels={"options": ONE})
    both = runs.tell_apart({"A": read(run), "B": read(other)})
    assert {student.recipe.label_settings for run in both.values() for student in run.students} == {
        (), ("teachers resnet18",), ("teachers alexnet",)}
    alone = runs.tell_apart({"A": read(run)})["A"]
    assert {student.recipe.label_settings for student in alone.students} == {()}


def test_imported_labels_are_told_by_the_tool_that_they_come_from(run):
    for name, word in (("soft_seed0", "ab"), ("soft_seed1", "cd")):
        tiny.finished_student(run, name, int(name[-1]), labels={"options": {
            "teachers": [], "ensemble": None, "source": f"FKD files, SHA-256 of the first {word}"}})
    tiny.finished_student(run, "own", labels={"options": ONE})
    recipes = {student.recipe.label_settings for student in runs.tell_apart(
        {"A": read(run)})["A"].students if student.recipe.labels == "soft"}
    assert recipes == {("source FKD files",), ("teachers resnet18", "label_format fp16")}


def test_the_steps_of_a_run_are_those_of_its_folder_and_of_its_teachers(run):
    assert titles(read(run)) == ["recover", "soft"]
    manifest = json.loads((run / "images.json").read_text())
    write_json(run / "images.json", {**manifest, "teacher_weights": "/any/lab/teachers"})
    assert titles(read(run)) == ["squeeze", "recover", "soft"]


def test_all_labels_folders_count_in_the_run_and_in_its_work_elsewhere(run, tmp_path):
    works = [tmp_path / f"compare/random_seed{seed}" for seed in (0, 1)]
    for folder in (run / "labels_edc", works[0] / "labels_edc", works[0] / "labels_soft",
                   works[1] / "labels_soft"):
        shutil.copytree(run / "labels", folder)
    manifest = json.loads((run / "labels/labels.json").read_text())
    manifest["options"]["teachers"] = ["alexnet"]
    write_json(run / "labels_edc/labels.json", manifest)
    content = runs.read_run("PRISM", run, open_distilled(run / "images"), works)
    assert {name: labels.folder for name, labels in content.labels.items()} == {
        "labels_edc": works[0] / "labels_edc", "labels_soft": works[0] / "labels_soft",
        "labels": run / "labels", "prism/labels_edc": run / "labels_edc"}


def test_steps_of_a_set_and_of_its_work_elsewhere_are_both_there(run, tmp_path):
    work = tmp_path / "compare/set_prism"
    steps = {"recover": "python -m recover.data_synthesis --output-dir results/compare/set_prism"}
    write_json(work.parent / "timings.json", {
        title: {"seconds": 1.0, "command": command} for title, command in steps.items()})
    content = runs.read_run("PRISM", run, open_distilled(run / "images"), [work])
    assert titles(content) == ["recover", "soft", "recover"]


def test_a_folder_of_class_folders_says_little(tmp_path):
    tiny.image_folder(tmp_path / "other", CLASSES, 2, (32, 32))
    (tmp_path / "other/a/img_001.JPEG").unlink()
    content = read(tmp_path / "other")
    assert (content.made, content.labels, content.students, content.steps) == ({}, {}, (), ())
    assert content.seconds is None
    assert content.ipc == "1 to 2"


def test_the_record_of_images_is_beside_their_class_folders(run, tmp_path):
    (tmp_path / "cache").mkdir()
    (run / "images").rename(tmp_path / "cache/train")  # as a dataset of Hugging Face is kept
    shutil.copy(run / "images.json", tmp_path / "cache")
    assert read(tmp_path / "cache/train").made == json.loads((run / "images.json").read_text())


@pytest.mark.parametrize(("file", "text", "message"), [
    ("students/hard/result.json", '{"options": {}}', "result.json: damaged .it does not say"),
    ("students/hard/metrics.jsonl", "[", "metrics.jsonl: damaged"),
    ("../timings.json", '{"a": {"command": "x"}}', "timings.json: damaged")])
def test_damaged_files_are_named(run, file, text, message):
    (run / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read(run)


def test_sets_are_called_as_their_folders():
    folders = [(None, Path("/r/a/prism")), (None, Path("/r/b/prism")), ("x", Path("/r/c"))]
    assert list(runs.named_folders(folders)) == ["a/prism", "b/prism", "x"]
    with pytest.raises(UserError, match="two sets are called x. Give each a name of its own, as "
                                        "x2=/r/d."):
        runs.named_folders([("x", Path("/r/c")), ("x", Path("/r/d"))])
