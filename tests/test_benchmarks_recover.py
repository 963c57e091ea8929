import contextlib
import json
from argparse import Namespace
from collections import Counter

import pytest
import torch

from benchmarks import measure, recover
from recover.synthesize import Recipe, UnitState, one_step
from recover.teacher_pool import Teachers, draw_slots
from utils.precision import Arithmetic
from utils.seeding import stream

ARGS = Namespace(batch_size=4, image_size=32, precision="fp32")
CPU = torch.device("cpu")
NETS = ["resnet18", "shufflenet_v2_x0_5"]


def test_the_reference_takes_our_steps():
    teachers = Teachers("resnet18", (*NETS, "alexnet"))
    x, labels = recover.start_of(4, 64, CPU)
    unit = recover.unit_of(teachers, 4)
    networks = {name: recover.network(name, CPU) for name in teachers.bn}
    reference = recover.Reference(networks, teachers, x, labels, Recipe(), unit)
    ours, guides = UnitState(unit, x, labels), recover.alignments(NETS, Arithmetic(), CPU)
    with contextlib.ExitStack() as stack:
        for alignment in guides.values():
            stack.enter_context(alignment)
        reference.step(0)
        one_step([ours], guides, Recipe(), 0, 100)
    gradients = [adam.state[leaf]["exp_avg"].flatten() for adam, leaf in ((reference.adam, reference.x), (ours.adam, ours.x))]
    assert gradients[0].abs().max() > 0
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9999
    assert ((reference.x - ours.x).abs() < 1e-3).float().mean() > 0.95  # a first step of Adam is a sign: some pixels' are chance


@pytest.mark.parametrize("name", [*NETS, "mobilenet_v2", "efficientnet_b0"])
def test_the_floor_is_the_same_net(name):
    plain, folded = recover.network(name, CPU), recover.folded_alignments([name], Arithmetic(), CPU)[name]
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(folded.logits(x), plain(x), rtol=1e-3, atol=1e-4)
    assert folded(x, [1, 1])[1].shape == (2,)


def test_the_law_is_that_of_the_draws():
    pool = ["a", "b", "c", "d"]
    law = recover.released_law("phi", pool)
    assert sum(weight for weight, _ in law) == pytest.approx(1)
    drawn = Counter(tuple(sorted(draw_slots(pool, 3, 0.5, stream("law", i)))) for i in range(4000))
    for weight, teachers in law:
        assert drawn[teachers.bn[1:]] / 4000 == pytest.approx(weight, abs=0.025)


def test_a_small_run_from_start_to_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "peak_memory", lambda *_: 1e6)
    recover.main(["--batch-size", "2", "--image-size", "64", "--turns", "1", "--output", str(tmp_path / "r.json"), "--device",
                  "cpu", "--bn-teachers", "mobilenet_v2", "alexnet", "shufflenet_v2_x0_5"])
    assert "eager / floor" in capsys.readouterr().out
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert set(run["seconds"]) == {"law", "all teachers"}
    assert run["seconds"]["law"]["reference"] > 0
