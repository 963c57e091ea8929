import json

from benchmarks import document, measure

RUN = {"options": {"batch_size": 8, "image_size": 224, "threads": None, "turns": 3, "precision": "fp32", "compile": True},
       "hardware": {"device": "cpu", "cpu": "Some Processor", "threads": 2, "instructions": "AVX512"},
       "versions": {"torch": "2.14.1+cu130"},
       "seconds": {title: {"reference": 1.2, "eager": 0.6, "compiled": 0.5, "floor": 0.4} for title in ("law", "all teachers")},
       "seconds alone": {"resnet18": {f"{kind} {mode}": 0.25 for kind in ("ours", "floor") for mode in ("eager", "compiled")}},
       "memory": {"bytes": {"all teachers": {"reference": 4e9, "eager": 1e9}},
                  "all / largest alone": {"reference": 5.0, "eager": 1.25}}, "image_steps_per_second": 16.0}


def test_a_run_is_shown_with_its_command_hardware_and_ratios(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    assert "`python -m benchmarks.recover`: not run yet" in document.markdown()
    (tmp_path / "recover_cpu.json").write_text(json.dumps({"runs": [RUN]}))
    text = document.markdown()
    command = "`python -m benchmarks.recover --batch-size 8 --image-size 224 --turns 3 --precision fp32 --compile`"
    assert f"{command} (Some Processor, 2 threads" in text
    assert "| all five at once | 1200 | 600 | 500 | 400 | **1.50** | **1.25** | 2.00 | 2.40 | 3.00 |" in text
    assert "against the largest net alone: reference 5.00, eager 1.25" in text
    assert "unmeasured" in text
    on_gpu = {**RUN, "hardware": {**RUN["hardware"], "device": "NVIDIA X"}}
    (tmp_path / "recover_cuda.json").write_text(json.dumps({"runs": [on_gpu]}))
    text = document.markdown()
    assert "(NVIDIA X, AVX512" in text
    assert "unmeasured" not in text
