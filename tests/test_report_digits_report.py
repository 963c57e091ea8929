import json
import math
import types

import torch

from report import digits_report
from reproduce.steps import Steps

ROWS = [{"set": "PRISM", "soft": [90.0, 92.0], "soft_last": [89.0, 92.0], "hard": [80.0, 80.0], "hard_last": [80.0, 79.0],
         "cosine": 0.8, "images": 100},
        {"set": "other", "soft": [50.0, 50.0], "soft_last": [50.0, 50.0], "hard": [81.0, 81.0], "hard_last": [81.0, 81.0],
         "cosine": 0.7, "images": 100}]


def test_standard_error_by_hand():
    assert math.isclose(digits_report.sampling_error(90.0, 400), 1.5)


def test_words_say_what_the_test_set_cannot_tell():
    words = digits_report.in_words(ROWS, 500).splitlines()
    assert words[0] == "- soft labels: PRISM is 41.0 points above other"
    assert words[1] == "- hard labels: PRISM is 1.0 points below other; 500 test images cannot tell (standard error 2.5)"
    assert words[2] == "- diversity (lowest cosine first): other, PRISM"


def test_table_has_mean_and_spread():
    lines = digits_report.markdown_table(ROWS).splitlines()
    assert lines[0] == "| set | top-1 soft labels | top-1 hard labels | mean intra-class cosine |"
    assert lines[2] == "| PRISM | 91.0 ± 1.4 | 80.0 ± 0.0 | 0.800 |"


def test_csv_has_a_line_per_set_and_seed(tmp_path):
    digits_report.write_csv(ROWS, tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().split()
    assert lines[0] == "set,seed,images,soft_best_top1,soft_last_top1,hard_best_top1,hard_last_top1,intra_class_cosine"
    assert lines[2] == "PRISM,1,100,92.0,92.0,80.0,79.0,0.8"
    assert len(lines) == 5


def test_cosine_of_features():
    class Pixels(torch.nn.Module):
        def features(self, x):
            return x.flatten(1)

    images = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    images[1] = 255
    distilled = types.SimpleNamespace(pixels=images, labels=torch.tensor([0, 0, 1]))
    black, white = (digits_report.images.normalise(images[i : i + 1]).double().flatten() for i in (0, 1))
    expected = float(black @ white / (black.norm() * white.norm()))
    assert math.isclose(digits_report.mean_cosine(distilled, Pixels()), expected, rel_tol=1e-6)


def test_steps_keep_the_seconds_of_the_first_complete_run(tmp_path, capsys):
    calls = []
    entry = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="a.b"), main=calls.append)
    steps = Steps(2, tmp_path / "t.json")
    steps.run("one", entry, "--n", 3)
    first = json.loads((tmp_path / "t.json").read_text())
    assert first["one"]["command"] == "python -m a.b --n 3"
    again = Steps(2, tmp_path / "t.json")
    again.run("one", entry, "--n", 3)
    assert again.timings.seconds == first
    assert calls == [["--n", "3"]] * 2
    again.run("one", entry, "--n", 4)
    assert again.timings.seconds["one"]["command"].endswith("--n 4")
    assert "=== 1/2  one" in capsys.readouterr().out
