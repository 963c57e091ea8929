"""The generated part of docs/speed.md."""

import json

from benchmarks import document
from reproduce.document import replaced

MODES = [f"{kind} {mode}" for kind in ("ours", "floor") for mode in ("eager", "compiled")]
RUN = {
    "options": {"batch_size": 8, "image_size": 224, "threads": None, "turns": 3, "workers": 0,
                "precision": "fp32", "compile": True},
    "hardware": {"device": "cpu", "cpu": "Some Processor", "threads": 2, "instructions": "AVX512"},
    "versions": {"torch": "2.14.1+cu130"},
    "seconds": {title: {"reference": 1.2, "eager": 0.6, "compiled": 0.5, "floor": 0.4}
                for title in ("law", "all teachers")},
    "seconds alone": {"resnet18": dict.fromkeys(MODES, 0.25)},
    "memory": {"bytes": {"all teachers": {"reference": 4e9, "eager": 1e9}},
               "all / largest alone": {"reference": 5.0, "eager": 1.25}},
    "image_steps_per_second": 16.0}


def test_a_run_has_its_command_hardware_and_ratios(tmp_path):
    (tmp_path / "recover_cpu.json").write_text(json.dumps({"runs": [RUN]}))
    text = document.markdown(tmp_path)
    assert ("`python -m benchmarks.recover --batch-size 8 --image-size 224 --turns 3 --workers 0 "
            "--precision fp32 --compile` (Some Processor, 2 threads, AVX512, torch 2.14.1)") in text
    assert ("| all teachers at once | 1200 | 600 | 500 | 400 | **1.50** | **1.25** | 2.00 | 2.40 "
            "| 3.00 |") in text
    assert "against the largest net alone: reference 5.00, eager 1.25" in text
    assert "no GPU has been measured" in text

    on_gpu = {**RUN, "hardware": {**RUN["hardware"], "device": "NVIDIA X"}}
    (tmp_path / "recover_cuda.json").write_text(json.dumps({"runs": [on_gpu]}))
    text = document.markdown(tmp_path)
    assert "(NVIDIA X, AVX512" in text
    assert "no GPU has been measured" not in text


def test_a_gpus_figures_are_shown_and_a_cpus_trial_is_not(tmp_path):
    trial = {"options": {"budget": 60}, "hardware": RUN["hardware"], "versions": RUN["versions"],
             "parts": {"device": {"matrix product, FLOP/s": {"bf16": 1e12}}}, "left out": {},
             "failed": {}, "cell": {}, "targets": {}}
    (tmp_path / "gpu_cpu.json").write_text(json.dumps({"runs": [trial]}))
    text = document.markdown(tmp_path)
    assert "matrix product" not in text
    assert "no GPU has been measured yet. `sh benchmarks/gpu.sh` measures one" in text

    on_gpu = {**trial, "hardware": {**RUN["hardware"], "device": "NVIDIA X"},
              "parts": {"recover": {"bf16": [{"units": 2, "image-steps/s": 15000.0, "waits": 0,
                                              "peak bytes": 8e9,
                                              "host seconds, all teachers": 1.0,
                                              "seconds, all teachers": 2.0}]}},
              "targets": {"image-steps/s": [15000.0, True]}, "left out": {"memory": "budget"}}
    (tmp_path / "gpu_cuda.json").write_text(json.dumps({"runs": [on_gpu]}))
    text = document.markdown(tmp_path)
    assert "no GPU has been measured" not in text
    assert "`python -m benchmarks.gpu --budget 60` (NVIDIA X, AVX512" in text
    assert ("| recover eager, 2 units a step: image-steps/s | 15,000 |  | bf16 ≥ 14,000: met |"
            ) in text
    assert "left out: memory" in text


def test_speed_md_is_what_the_generator_writes():
    text = document.FILE.read_text()
    made = replaced(text, {"speed": document.markdown(document.RESULTS)}, document.FILE.name)
    assert made == text, "run python -m benchmarks.document"
