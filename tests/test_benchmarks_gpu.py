import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import cell, gpu, gpu_parts, gpu_report, recover_steps
from benchmarks.gpu import Part, take

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def test_the_command_on_a_cpu(tmp_path):
    """A few parts at tiny size: nothing in what it writes passes for a GPU."""
    run = subprocess.run(
        ["sh", "benchmarks/gpu.sh", "--device", "cpu", "--budget", "60", "--threads", "1",
         "--parts", "device", "recover", "tests", "relabel", "--units-per-step", "1",
         "--batch-size", "2",
         "--bn-teachers", "alexnet", "squeezenet1_1", "shufflenet_v2_x0_5",
         "--output-dir", tmp_path],
        cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tests: left out: needs a GPU" in run.stdout
    table = run.stdout[run.stdout.index("\n\n") + 2 :].splitlines()
    assert table[0].startswith("No GPU: ")
    assert len(table) <= 25
    assert "hours" not in run.stdout

    (entry,) = json.loads((tmp_path / "gpu_cpu.json").read_text())["runs"]
    assert entry["hardware"]["device"] == "cpu"
    assert entry["options"]["image_size"] == 64
    assert entry["cell"] == entry["command"] == entry["targets"] == {}
    if set(entry["left out"]) != {"tests"}:
        pytest.skip("this machine is too busy for the budget")
    assert any(line.startswith("recover eager, 1 unit a step: image-steps/s") for line in table)
    assert entry["parts"]["recover"]["bf16"][0]["image-steps/s"] > 0
    assert entry["parts"]["relabel"]["fp32"]["seconds"]["fp16"] > 0


def test_a_part_that_fails_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    def fails(found, *_):
        found["bf16"] = []
        raise ValueError("broken\nin two lines")

    def works(found, *_):
        path = tmp_path / "gpu_cpu.json"
        found["before"] = list(json.loads(path.read_text())["runs"][0]["parts"])

    monkeypatch.setattr(gpu_parts, "MEASURES", {"recover": fails, "relabel": works})
    monkeypatch.setattr(gpu_report, "table", lambda _: [])
    with pytest.raises(SystemExit) as end:
        gpu.main(["--device", "cpu", "--budget", "60", "--parts", "relabel", "recover",
                  "--output-dir", str(tmp_path)])
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert "recover: failed: ValueError: broken (0 s)\n" in out
    assert "failed: recover\n" in out

    (entry,) = json.loads((tmp_path / "gpu_cpu.json").read_text())["runs"]
    assert "in two lines" in entry["failed"]["recover"]["traceback"]
    # The file was there after the part before, with what that had found
    assert entry["parts"] == {"recover": {"bf16": []}, "relabel": {"before": ["recover"]}}


def test_the_budget_leaves_out_and_stops(capsys):
    def slow(found, *_):
        found["first"] = 1
        time.sleep(5)

    figures = {"parts": {}, "left out": {}, "failed": {}}
    begin = time.monotonic()
    take(Part("long", 9, 9, 9), slow, figures, None, CPU, left=8)
    take(Part("slow", 0, 0, 0), slow, figures, None, CPU, left=0.1)
    take(Part("slower", 0, 0.1, 0), slow, figures, None, torch.device("cuda"), left=60)
    assert time.monotonic() - begin < 2
    assert figures["parts"] == {"slow": {"first": 1}, "slower": {"first": 1}}
    assert figures["left out"] == {"long": "budget", "slow": "budget, when it had begun"}
    assert figures["failed"] == {"slower": {"error": "failed: not finished after 0.1 s"}}
    assert "long: left out: budget\n" in capsys.readouterr().out


def test_a_part_that_memory_does_not_hold_is_no_failure(capsys):
    def large(found, *_):
        found["bf16"] = 1
        raise torch.OutOfMemoryError("CUDA out of memory.")

    figures = {"parts": {}, "left out": {}, "failed": {}}
    take(Part("floor", 1, 9, 1), large, figures, None, CPU, left=8)
    assert figures == {"parts": {"floor": {"bf16": 1}}, "failed": {},
                       "left out": {"floor": "out of GPU memory"}}
    assert "floor: out of GPU memory (0 s)\n" in capsys.readouterr().out


def test_units_that_memory_does_not_hold_are_a_row(capsys):
    def row(text, _):
        raise RuntimeError(text)

    recover, figures = SimpleNamespace(row=row, work=SimpleNamespace(device=CPU)), {}
    gpu_parts.add_row(figures, recover, "bf16", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", 5)
    assert figures == {"bf16": [{"units": 5, "out of memory": True}]}
    assert capsys.readouterr().out == "  bf16, units 5: out of memory\n"
    with pytest.raises(RuntimeError, match="a defect"):
        gpu_parts.add_row(figures, recover, "bf16", "a defect", 5)


def test_the_floor_builds_each_network_of_the_reference_once(monkeypatch):
    names, network = [], recover_steps.network
    monkeypatch.setattr(recover_steps, "network", lambda *of: names.append(of[0]) or network(*of))
    monkeypatch.setattr(gpu_parts.measure, "in_turn", lambda steps, *_: dict.fromkeys(steps, 1.0))
    args = gpu.get_args_parser().parse_args([
        "--batch-size", "2", "--image-size", "64", "--bn-teachers", "alexnet", "squeezenet1_1",
        "shufflenet_v2_x0_5"])
    figures = {}
    gpu_parts.recover_floor(figures, args, CPU)
    # Ours and the floor in two precisions, of those that have BatchNorm; the reference in one
    assert Counter(names) == {"resnet18": 5, "shufflenet_v2_x0_5": 5, "alexnet": 1,
                              "squeezenet1_1": 1}
    assert figures["fp32"]["law"] == {name: pytest.approx(1) for name in
                                      ("ours", "floor", "reference")}


def test_an_alarm_that_is_lost_comes_again():
    def slow():
        with contextlib.suppress(gpu.OutOfTime):  # as a destructor does
            time.sleep(5)
        time.sleep(5)

    begin = time.monotonic()
    with pytest.raises(gpu.OutOfTime), gpu.at_most(0.05):
        slow()
    assert time.monotonic() - begin < 3
    time.sleep(1.1)  # there is none after the block


def test_the_counts_of_the_cell():
    assert cell.counts() == {
        "distilled images": 10_000, "image-steps": 25_500_000, "crops": 3_000_000,
        "training images": 3_000_000, "tests": 30, "test images": 50_000}


def made_up():
    """Figures of an invented GPU, of all parts."""
    row = {"units": 1, "waits": 0, "peak bytes": 6e9, "image-steps/s": 7_000.0,
           "host seconds, all teachers": 0.03, "seconds, all teachers": 0.04}
    faster = {**row, "units": 5, "image-steps/s": 12_750.0}
    rates = {"decoded once": 5_000.0, "decoding": 500.0}
    return {
        "device": {"memory": 8e10, "torch": "2.11.0", "cuda": "13.0", "driver": "580",
                   "matrix product, FLOP/s": {"bf16": 8e14, "fp32": 5e13, "tf32": 4e14},
                   "tf32": {"convolutions": True, "matrix products": False},
                   "copy, bytes/s": 3e12},
        "recover": {"bf16": [row, faster], "fp32": [row, {"units": 5, "out of memory": True}]},
        "compiled-bf16": {"bf16": [{**faster, "image-steps/s": 17_000.0}]},
        "tests": {"passed": 20, "skipped": 1, "failed": []},
        "memory": {"all / largest alone": {"bf16": 1.2, "fp32": 1.4}},
        "relabel": {name: {"images": 1000, "seconds": {"fp16": 0.5, "floor": 0.4},
                           "seconds to decode an image": 0.001, "waits in a batch": 0}
                    for name in ("bf16", "fp32")},
        "validate": {name: {"images": 50, "seconds": {"together": 0.01}, "waits in a step": 0,
                            "test_images_per_second": rates} for name in ("bf16", "fp32")},
        "floor": {name: {"law": {"ours": 0.012, "floor": 0.01}} for name in ("bf16", "fp32")}}


def conclusions(parts, on_gpu=True, *more):
    args = gpu.get_args_parser().parse_args(["--image-size", "224", "--batch-size", "100", *more])
    return gpu_report.conclusions(parts, on_gpu, args)


def test_hours_are_measured_rates_times_counts():
    found = conclusions(made_up())
    decoding = 10_000 * 0.001
    seconds = {"recover": 25.5e6 / 17_000, "relabel": 3e6 / 2_000 + decoding,
               "validate": 3e6 / 5_000 + 30 * 50_000 / 5_000 + decoding + 50_000 / 500}
    seconds["all"] = sum(seconds.values())
    assert found["cell"]["bf16"] == pytest.approx({k: v / 3600 for k, v in seconds.items()})
    assert found["cell"]["fp32"]["recover"] == pytest.approx(25.5e6 / 7_000 / 3600)
    assert found["modes"] == {"bf16": ("compiled", 5), "fp32": ("eager", 1)}
    assert found["targets"] == {
        "image-steps/s": [17_000, True], "hours": [pytest.approx(seconds["all"] / 3600), False],
        "memory": [1.2, True], "waits": [0, True]}


def test_nothing_is_concluded_from_what_is_not_there():
    parts = made_up()
    nothing = {"cell": {}, "modes": {}, "command": {}, "targets": {}}
    assert conclusions(parts, on_gpu=False) == nothing
    assert conclusions(parts, True, "--image-size", "64") == nothing

    del parts["validate"], parts["memory"]
    found = conclusions(parts)
    assert set(found["cell"]["bf16"]) == {"recover", "relabel"}
    assert set(found["targets"]) == {"image-steps/s", "waits"}

    del parts["recover"], parts["compiled-bf16"]
    found = conclusions(parts)
    assert found["modes"] == {}
    assert set(found["command"]) == set(found["cell"]["fp32"]) == {"relabel"}
    assert set(found["targets"]) == {"waits"}


def test_hours_of_the_command_as_it_is():
    """A faster mode, in any precision, changes the cell's hours and not the command's."""
    parts = made_up()
    before = conclusions(parts)["command"]
    assert before == conclusions(parts)["cell"]["fp32"]  # its only mode so far
    parts["compiled-fp32"] = {"fp32": [{"units": 5, "waits": 0, "image-steps/s": 9_000.0}]}
    found = conclusions(parts)
    assert found["command"] == before
    assert found["modes"]["fp32"] == ("compiled", 5)
    assert found["cell"]["fp32"]["recover"] < before["recover"]
    # Without a measurement of one unit per step there is nothing to tell.
    parts["recover"]["fp32"] = parts["recover"]["fp32"][1:]
    assert "all" not in conclusions(parts)["command"]


def test_the_table_of_a_gpu():
    parts = made_up()
    parts["validate"]["bf16"]["waits in a step"] = 2
    figures = {"parts": parts, "failed": {"floor": {}}, "left out": {"compiled-fp32": "budget"},
               **conclusions(parts)}
    lines = gpu_report.text(figures, {"device": "NVIDIA X"}).splitlines()
    assert lines[0] == "NVIDIA X, 80 GB, torch 2.11.0, cuda 13.0, driver 580"
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 110
    text = [" ".join(line.split()) for line in lines]
    assert "matrix product, TFLOP/s 800 50" in text
    assert "recover compiled, 5 units a step: image-steps/s 17,000 bf16 ≥ 14,000: met" in text
    assert "host's time / step's, eager, at most 0.75 0.75" in text
    assert "memory, five teachers / largest alone 1.20 1.40 ≤ 1.3: met" in text
    assert "waits for the GPU in steps of all stages 2 0: not met" in text
    assert "GPU tests: 20 passed, 0 failed, 1 skipped" in text
    assert ("Table 1, R18 IPC 10, hours: recover+relabel+validate 0.42+0.42+0.28 1.01+0.42+0.28"
            ) in text
    assert "of the whole cell 1.12 1.71 ≤ 1: not met" in text
    assert "with recover's fastest mode, units a step compiled, 5 eager, 1" in text
    assert "of reproduce/table1.sh as it is: fp32, eager, 1 unit 1.71" in text
    assert text[-2:] == ["left out: compiled-fp32", "failed: floor"]


def test_tests_are_counted_from_what_pytest_prints():
    assert gpu_parts.count_tests(
        "tests/test_a.py::test_x[a b] PASSED            [ 10%]\n"
        "tests/test_a.py::test_y FAILED                 [ 20%]\n"
        "tests/test_a.py::test_z SKIPPED (no GPU)       [ 30%]\n"
        "tests/test_a.py::test_w ERROR                  [ 40%]\n"
        "tests/test_a.py::test_running \n"
        "FAILED tests/test_a.py::test_y - AssertionError\n"
        "ERROR tests/test_b.py - ImportError\n") == {
            "passed": 1, "skipped": 1,
            "failed": ["tests/test_a.py::test_y", "tests/test_a.py::test_w", "tests/test_b.py"]}
