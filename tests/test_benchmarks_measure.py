import json
import subprocess
import sys
import time
import warnings
from argparse import Namespace
from pathlib import Path

import torch

from benchmarks import measure

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def test_variants_are_timed_in_turn_after_a_warm_up():
    calls = []
    variants = {"a": lambda: calls.append("a"),
                "b": lambda: (calls.append("b"), time.sleep(0.02))}
    seconds = measure.in_turn(variants, 3, CPU)
    assert calls == ["a", "a", "b", "b"] + ["a", "b"] * 3
    assert seconds["b"] >= 0.02 > seconds["a"]


def test_calls_in_a_row_are_one_time():
    calls = []
    seconds = measure.in_turn({"a": lambda: (calls.append("a"), time.sleep(0.01))}, 2, CPU,
                              warm_up=1, calls=4)
    assert len(calls) == 1 + 2 * 4
    assert 0.01 <= seconds["a"] < 0.03


def test_waits_are_counted_where_pytorch_tells_them(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def function():
        assert modes == ["warn"]
        for text in ("called a synchronizing CUDA operation", "something else") * 3:
            warnings.warn(text, stacklevel=1)

    assert measure.count_waits(function, torch.device("cuda")) == 3
    assert modes == ["warn", "default"]
    assert measure.count_waits(function, CPU) is None


def allocate(megabytes):
    return float(torch.ones(megabytes * 2**18).sum())


def test_peak_memory_is_that_of_the_call():
    small, large = (measure.peak_memory(CPU, allocate, megabytes) / 2**20
                    for megabytes in (20, 220))
    assert 200 <= large <= 260
    assert 195 <= large - small <= 205


def test_a_run_with_the_same_options_replaces_its_figures(tmp_path):
    args = Namespace(output=tmp_path / "x.json", device="cpu", batch_size=2, names=("a", "b"),
                     teacher_weights=tmp_path)
    for value in (1, 2):
        measure.save(args, "x", CPU, {"value": value})
    measure.save(Namespace(**{**vars(args), "batch_size": 3}), "x", CPU, {"value": 3})

    runs = json.loads(args.output.read_text())["runs"]
    assert [run["value"] for run in runs] == [2, 3]
    assert runs[0]["options"] == {"batch_size": 2, "names": ["a", "b"]}
    assert runs[0]["hardware"]["cores"] > 0


def test_numbers_are_aligned_on_the_right(capsys):
    measure.print_table("what", {"a": {"ms": 1.234, "of the floor": 0.5},
                                 "bb": {"ms": 12345.6, "of the floor": 1}})
    assert capsys.readouterr().out.splitlines() == [
        "", "what         ms  of the floor", "a         1.234           0.5",
        "bb    1.235e+04             1"]


def test_help_does_not_wait_for_pytorch():
    names = ("recover", "relabel", "validate", "scaling", "bf16", "gpu")
    program = (f"import sys, {', '.join(f'benchmarks.{name}' for name in names)}\n"
               "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
