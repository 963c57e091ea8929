import json

import pytest
import torch

pytest.importorskip("diffusers")

from benchmarks import dap, dap_steps, measure  # noqa: E402

SMALL = ["--width", "32", "--latent-size", "8", "--layers", "4", "--layer", "1", "--reals", "6",
         "--batch-size", "3", "--steps", "2", "--turns", "1", "--device", "cpu"]


def test_expected_ratios_by_hand():
    args = dap.get_args_parser().parse_args(["--layer", "6", "--steps", "4"])
    # A quarter of 28 blocks in half of the steps; 100 reals beside 2 x 10 images of a step.
    assert dap_steps.expected_ratios(args) == {"plain": 1, "guided": 1.125, "with reals": 1.75}


def test_variants_do_what_they_are_named_for():
    variants = dap_steps.variants(dap.get_args_parser().parse_args(SMALL), torch.device("cpu"))
    plain, guided, with_reals = (variants[name]() for name in ("plain", "guided", "with reals"))
    assert not torch.equal(plain, guided)
    assert torch.equal(guided, with_reals)


def test_figures_are_stored(tmp_path, capsys, monkeypatch):
    def in_this_process(_, function, *args):  # three of its own take half a minute to start
        function(*args)
        return 1

    monkeypatch.setattr(measure, "peak_memory", in_this_process)
    dap.main([*SMALL, "--output", str(tmp_path / "dap.json")])
    (run,) = json.loads((tmp_path / "dap.json").read_text())["runs"]
    assert set(run["seconds"]) == set(run["expected"]) == {"plain", "guided", "with reals"}
    assert run["bytes"] == {"plain": 1, "guided": 1, "with reals": 1}
    assert "share of guidance" in capsys.readouterr().out
