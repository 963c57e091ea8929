import json
import math
from dataclasses import replace

import pytest
import tiny
import torch
from PIL import Image

from report import quickstart_report, similarity
from report.quickstart_report import Row
from reproduce.quickstart import Recipe
from utils.files import write_json

ROWS = [Row("PRISM", images=100, test_images=500, cosine=0.8,
            best={"soft": [90.0, 92.0], "hard": [80.0, 80.0]},
            last={"soft": [89.0, 92.0], "hard": [80.0, 79.0]}),
        Row("other", images=100, test_images=500, cosine=0.7,
            best={"soft": [50.0, 50.0], "hard": [81.0, 81.0]},
            last={"soft": [50.0, 50.0], "hard": [81.0, 81.0]})]


def test_sampling_error_by_hand():
    assert math.isclose(quickstart_report.sampling_error(90.0, 400), 1.5)


def test_findings_say_what_the_test_images_cannot_tell():
    assert quickstart_report.findings(ROWS).splitlines() == [
        "- soft labels: PRISM is 41.0 points above other",
        "- hard labels: PRISM is 1.0 points below other; 500 test images cannot tell (standard "
        "error 2.5)",
        "- diversity (lowest cosine first): other, PRISM"]


def test_the_table_has_mean_and_spread():
    assert quickstart_report.results_table(ROWS).splitlines() == [
        "| set | top-1 soft labels | top-1 hard labels | mean intra-class cosine |",
        "|---|---|---|---|",
        "| PRISM | 91.0 ± 1.4 | 80.0 ± 0.0 | 0.800 |",
        "| other | 50.0 ± 0.0 | 81.0 ± 0.0 | 0.700 |"]


def test_the_csv_has_a_line_per_set_and_seed(tmp_path):
    quickstart_report.write_csv(ROWS, tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().split()
    assert lines[0] == ("set,seed,images,soft_best_top1,soft_last_top1,hard_best_top1,"
                        "hard_last_top1,intra_class_cosine")
    assert lines[2] == "PRISM,1,100,92.0,92.0,80.0,79.0,0.8"
    assert len(lines) == 5


RECIPE = Recipe("Digits", ("resnet18",), ipc=2, iteration=3, epochs=2, units_per_step=1, train=())
STUDENT = {"eval_every": 10, "dataset": "digits", "image_size": 32, "stem": "imagenet"}


@pytest.fixture
def out(tmp_path):
    """A folder as the stages leave it, with two sets and a student per set and kind of labels."""
    classes = ("a", "b", "c")
    tiny.image_folder(tmp_path / "train", classes, 2)
    tiny.teacher_folder(tmp_path / "teachers", ["resnet18"], classes)
    write_json(tmp_path / "teachers/resnet18.json", {"result": {"top1": 97.25}})
    for name, top1 in (("prism", 90.0), ("random", 50.0)):
        tiny.distilled_folder(tmp_path / name, tmp_path / "train", classes, 2)
        for kind in ("soft", "hard"):
            student = tmp_path / name / f"students/{kind}_seed0"
            test = {"epoch": 1, "top1": top1, "top5": 100.0}
            write_json(student / "result.json", {"best": test, "last": test, "test_images": 500,
                                                "options": STUDENT})
            (student / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "loss": 1.0}) + "\n"
                                                   + json.dumps(test) + "\n")
    return tmp_path


def test_the_report_is_one_page_with_two_pictures(out, capsys):
    folders = {"PRISM": out / "prism", "random real": out / "random"}
    seconds = {"recover: PRISM": {"seconds": 2.0, "command": "python -m a"},
               "relabel: PRISM": {"seconds": 3.5, "command": "python -m b"}}
    path = quickstart_report.write_report(out, RECIPE, folders, 1, seconds, torch.device("cpu"))

    text = path.read_text()
    assert path == out / "report.md"
    for part in ("# Digits, distilled to 6 images\n", "| PRISM | 90.0 | 90.0 | ", "on 500 real",
                 "- soft labels: PRISM is 40.0 points above random real\n", "1 student seed.",
                 "| resnet18 | 97.2 |\n", "Sizes: 32 px, IPC 2, 3 steps, 2 epochs, stem imagenet; ",
                 "| recover: PRISM | 2.0 |\n",
                 "| together | 6 |\n", "```\npython -m a\npython -m b\n```\n"):
        assert part in text, part
    assert "| PRISM | 90.0 | 90.0 | " in capsys.readouterr().out
    assert Image.open(out / "grid.png").size == (90 + 3 * 66 + 2, 16 + 4 * 66 + 2)
    assert Image.open(out / "curves.png").size == (840, 480)
    assert len((out / "table.csv").read_text().splitlines()) == 3


def test_one_image_per_class_has_no_cosine(tmp_path):
    one = [replace(row, cosine=None) for row in ROWS]
    assert quickstart_report.results_table(one).splitlines()[2] == (
        "| PRISM | 91.0 ± 1.4 | 80.0 ± 0.0 | – |")
    assert "diversity" not in quickstart_report.findings(one)
    quickstart_report.write_csv(one, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().split()[2].endswith(",79.0,")
    assert similarity.mean({}) is None
