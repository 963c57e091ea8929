import json
import time
from argparse import Namespace

import torch

from benchmarks import measure


def test_variants_are_timed_in_turn_after_a_warm_up():
    calls = []
    slow = {"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.02))}
    seconds = measure.in_turn(slow, 3, torch.device("cpu"))
    assert calls == ["a", "a", "b", "b"] + ["a", "b"] * 3
    assert seconds["b"] >= 0.02 > seconds["a"]


def allocate(megabytes, device):
    return float(torch.ones(megabytes * 2**18, device=device).sum())


def test_peak_memory_is_that_of_the_call():
    small, large = (measure.peak_memory(allocate, megabytes, torch.device("cpu")) / 2**20 for megabytes in (20, 220))
    assert 200 <= large <= 260
    assert 195 <= large - small <= 205


def test_a_run_with_the_same_options_replaces_its_figures(tmp_path):
    args = Namespace(output=tmp_path / "x.json", device="cpu", batch_size=2, teacher_weights=tmp_path)
    for value in (1, 2):
        measure.save(args, "x", torch.device("cpu"), {"value": value})
    measure.save(Namespace(**{**vars(args), "batch_size": 3}), "x", torch.device("cpu"), {"value": 3})
    runs = json.loads(args.output.read_text())["runs"]
    assert [run["value"] for run in runs] == [2, 3]
    assert runs[0]["options"] == {"batch_size": 2}
    assert runs[0]["hardware"]["cores"] > 0


def test_numbers_stand_to_the_right():
    assert measure.table(["what", "ms"], [["a", 1.234], ["bb", 1234.5]]) == "what    ms\n----  ----\na     1.23\nbb    1234"
