from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch

from data.labels import LabelStore
from report import page_records
from report.document import Code
from report.runs import Recipe, Run, Step, Student
from utils.files import read_json, write_json

TIMINGS = Path("timings.json")
RECIPE = Recipe("resnet18", "soft", "prism", ())


class Images:
    """Five images of two classes."""

    by_class = (torch.arange(2), torch.arange(3))

    def __len__(self):
        return 5


def student(seconds, device):
    return Student(RECIPE, 0, 90.0, 89.0, (), {"seconds": seconds, "device": device,
                                               "options": {"epochs": 2, "seed": 0}})


def run(**changed):
    steps = (Step(TIMINGS, 2, "recover", "python -m recover.data_synthesis", 3.0),
             Step(TIMINGS, 0, "squeeze", "python -m models.pretrain", 1.5),
             Step(TIMINGS, 3, "relabel", "python -m relabel.generate_soft_label", 8.0))
    made = {"preset": "sre2l", "preset_changed": ["start"], "versions": {"torch": "2.6"},
            "options": {"start": "real", "iteration": 100, "seed": 4, "classes": None},
            "teachers": {"resnet18": {"top1": 97.0}}}
    return replace(Run("A", Path("a"), Images(), made, {}, (student(2.0, "cpu"),
                                                            student(4.0, "H100")), 195_600, 43.8,
                       steps), **changed)


def page(*runs):
    return SimpleNamespace(runs={r.name: r for r in runs}, recipes=[RECIPE])


def rows(table):
    return {name: cells for name, *cells in table.rows}


def test_how_a_set_was_made():
    unknown = run(name="B", made={}, students=())
    real = run(name="C", made={"options": {"iteration": 0, "start": "random"}, "teachers": {}})
    table, *folds = page_records.made_section(page(run(), unknown, real)).blocks
    made = rows(table)
    assert made["per class"] == ["2 to 3"] * 3
    assert made["method"] == ["sre2l, 1 option changed", "not known", "none: real images"]
    assert made["start"] == ["real", "–", "random"]
    assert made["teachers of the images"] == ["resnet18 (97.0 %)", "–", "–"]
    assert made["seed of images, labels"] == ["4, –", "–, –", "–, –"]
    assert made["made with"] == ["torch 2.6", "not known", "not known"]
    assert [fold.title for fold in folds] == ["All options of the images",
                                              "All options of the students"]
    options = rows(folds[0].blocks[0])
    assert options["iteration"] == ["100", "–", "0"]
    assert rows(folds[1].blocks[0]) == {"epochs": ["2"]}  # each seed has its own


@pytest.mark.parametrize(("made", "words"), [
    ({"method": "dap", "options": {"ipc_end": 10}}, "dap"),
    ({"method": "rded", "options": {"dataset": "imagefolder"}}, "rded"),  # imported
    ({"method": None, "options": {"dataset": "imagefolder"}}, "not known"),
    ({"preset": "rded", "options": {"iteration": 0, "start": "mosaic"}}, "rded"),
    ({"preset": "prism", "options": {"iteration": 0, "start": "real"}}, "none: real images"),
    ({"preset": "delt", "options": {"iteration": 0, "start": "medium"}}, "none: real images"),
    ({"preset": "prism", "options": {"iteration": 0, "start": "real"},
      "identity": {"start_images": "ab"}}, "prism")])
def test_the_method_is_what_the_record_says(made, words):
    assert page_records.method_words(run(made=made)) == words


def test_a_teachers_record_says_how_good_it_is_on_test_images(tmp_path):
    write_json(tmp_path / "resnet18.json", {"result": {"top1": 98.25}})
    made = {**run().made, "teacher_weights": str(tmp_path)}
    table = page_records.made_section(page(run(made=made))).blocks[0]
    assert rows(table)["teachers of the images"] == ["resnet18 (98.2 %)"]


def test_what_a_set_costs():
    cost = rows(page_records.cost_section(page(run(), run(name="B", students=(), steps=(),
                                                          seconds=None))).blocks[0])
    assert cost == {"images on disk": ["195.6 kB", "195.6 kB"], "labels on disk": ["–", "–"],
                    "seconds of the images": ["44", "–"], "seconds of the labels": ["8.0", "–"],
                    "seconds of a student": ["3.0", "–"],
                    "device of the students": ["cpu, H100", "–"]}


@pytest.fixture
def stores(tmp_path):
    """LabelStores of a folder in fp16, of another teacher's in int8, and of one without files."""
    tiny.image_folder(tmp_path / "train", ("a", "b"), 3)
    folder = tiny.distilled_folder(tmp_path / "run", tmp_path / "train", ("a", "b"), 3)
    made = {}
    for name, store, changed in (
            ("labels_edc", "files", {"label_format": "int8", "teachers": ["alexnet"],
                                     "fkd_seed": 7}),
            ("labels_none", "none", {}), ("labels", "files", {})):
        tiny.label_folder(folder, 2 if store == "files" else 0, store, **changed)
        content = read_json(folder / "labels/labels.json", "")
        write_json(folder / "labels/labels.json", {**content, "asked": [0, 2]})
        (folder / "labels").rename(folder / name)
        made[name] = LabelStore(folder / name)
    return made


def test_labels_of_one_kind_are_one_row_whatever_their_folders_are_called(stores):
    both = page(run(labels={"labels": stores["labels"]}),
                run(name="B", labels={"labels_edc": stores["labels_edc"]}))
    made = rows(page_records.made_section(both).blocks[0])
    assert made["teachers of the labels"] == ["resnet18", "alexnet"]
    assert made["seed of images, labels"] == ["4, 42", "4, 7"]
    table, fold = page_records.cost_section(both).blocks
    files = [sum(p.stat().st_size for p in stores[name].folder.glob("*.safetensors"))
             for name in ("labels", "labels_edc")]
    assert rows(table)["labels on disk"] == [f"{size / 1e3:.1f} kB" for size in files]
    formats = fold.blocks[0]
    assert formats.header == ("number format", "A", "B")
    assert list(rows(formats)) == ["fp32", "fp16", "int8", "topk 2"]
    estimates = rows(formats)["fp16"][0], rows(formats)["int8"][1]
    for words, size in zip(estimates, files, strict=True):
        assert float(words.removesuffix(" kB")) == pytest.approx(size / 1e3, abs=0.3)  # two epochs
    assert formats.bold == {(1, 1), (2, 2)}


def test_several_labels_folders_of_a_set_are_all_listed(stores):
    both = page(run(labels=stores), run(name="B"))
    made = rows(page_records.made_section(both).blocks[0])
    assert made["teachers of labels"] == ["resnet18", "–"]
    assert made["teachers of labels_edc"] == ["alexnet", "–"]
    assert made["seed of images, labels"] == ["4, 7 and 42", "4, –"]
    table, fold = page_records.cost_section(both).blocks
    size = page_records.label_sizes(stores["labels_none"])["fp16"]
    assert rows(table)["labels_none on disk"] == [
        f"not stored, fp16 would take {size / 1e3:.1f} kB", "–"]
    assert rows(table)["labels_edc on disk"][0].endswith(" kB")
    assert fold.blocks[0].header[1:] == ("A: labels_edc", "A: labels_none", "A: labels")


def test_commands_come_in_their_order_and_each_once():
    section = page_records.commands_section(page(run(), run(name="B")))
    assert section.blocks[0] == Code((
        "python -m models.pretrain", "python -m recover.data_synthesis",
        "python -m relabel.generate_soft_label"))
    assert section.blocks[1].title == "Seconds of each step, 12 together"
    assert page_records.commands_section(page(run(steps=()))).blocks == ()


def test_steps_of_two_roots_do_not_replace_each_other():
    command = "python -m recover.data_synthesis --seed 1"
    other = Step(Path("other/timings.json"), 1, "recover", command, 30.0)
    again = Step(other.file, 0, "squeeze", "python -m models.pretrain", 1.5)  # the first root's
    section = page_records.commands_section(page(run(), run(name="B", steps=(other, again))))
    assert section.blocks[0].lines == (
        "python -m models.pretrain", "python -m recover.data_synthesis",
        "python -m relabel.generate_soft_label", "python -m recover.data_synthesis --seed 1")
    assert section.blocks[1].title == "Seconds of each step, 42 together"
    assert section.blocks[1].blocks[0].rows == (
        ("squeeze", "1.5"), ("recover", "3.0"), ("relabel", "8.0"), ("recover", "30.0"))
