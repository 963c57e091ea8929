import json
from collections import Counter

import pytest
import torch

from benchmarks import measure, recover
from benchmarks.recover_steps import (
    OPTIONS,
    FoldedAlignment,
    OurStep,
    Reference,
    ReferenceNetworks,
    Work,
    alignments_of,
    network,
    possible_draws,
)
from recover.alignment import NormAlignment
from recover.gradient import Part
from recover.options import TeacherLaw
from recover.synthesize import UnitState, synthesize
from recover.teacher_pool import Teachers, draw_slots
from utils.precision import Arithmetic
from utils.seeding import stream

CPU = torch.device("cpu")
NETS = ["resnet18", "shufflenet_v2_x0_5"]


def start():
    """A unit's work, its teachers and our alignments."""
    teachers = Teachers("resnet18", (*NETS, "alexnet"))
    return Work(4, 64, CPU), teachers, alignments_of(NormAlignment, NETS, Arithmetic(), CPU)


def test_random_images_are_drawn_by_the_device_that_works_on_them(monkeypatch):
    drawn, randn = [], torch.randn

    def noted(*shape, generator, device):
        drawn.append((generator.device, device))
        return randn(*shape, generator=generator, device=device)

    monkeypatch.setattr(torch, "randn", noted)
    x, labels = Work(2, 8, CPU).start()
    assert drawn == [(CPU, CPU)]
    assert (x.shape, labels.tolist()) == ((2, 3, 8, 8), [0, 1])
    assert torch.equal(x, Work(2, 8, CPU).start()[0])


@pytest.mark.parametrize("units", [1, 2])
def test_our_step_is_that_of_recover(units):
    work, teachers, alignments = start()
    ours = OurStep(work, alignments, teachers, units)
    states = [UnitState(work.unit(teachers, i), *work.start()) for i in range(units)]
    ours()
    next(synthesize(states, alignments, OPTIONS, first_step=1))
    for mine, state in zip(ours.states, states, strict=True):
        assert torch.equal(mine.x, state.x)
    if units == 2:
        assert not torch.equal(states[0].x, states[1].x)  # they have their own crops


def test_the_reference_takes_our_steps():
    work, teachers, alignments = start()
    reference = Reference(work, teachers, ReferenceNetworks(teachers.bn, CPU))
    ours = UnitState(work.unit(teachers), *work.start())
    reference()
    next(synthesize([ours], alignments, OPTIONS))

    gradients = [adam.state[leaf]["exp_avg"].flatten()
                 for adam, leaf in ((reference.adam, reference.x), (ours.adam, ours.x))]
    assert gradients[0].abs().max() > 0
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9999
    # Adam's first step is a sign, which is chance for some pixels.
    assert ((reference.x - ours.x).abs() < 1e-3).float().mean() > 0.95


def test_the_reference_gathers_statistics_of_bn_teachers_alone(monkeypatch):
    work, teachers, _ = start()
    networks = ReferenceNetworks(teachers.bn, CPU)
    reference, norms, norm = Reference(work, teachers, networks), [], torch.norm
    Reference(work, Teachers("resnet18", ("resnet18",)), networks)  # shares them
    monkeypatch.setattr(torch, "norm", lambda *args: norms.append(args) or norm(*args))
    layers = sum(isinstance(module, torch.nn.BatchNorm2d) for name in teachers.bn
                 for module in networks.networks[name].modules())
    for _ in range(2):
        norms.clear()
        reference()
        assert len(norms) == 2 * layers  # of mean and variance; phi's own forward adds none


@pytest.mark.parametrize("name", [*NETS, "mobilenet_v2", "efficientnet_b0"])
def test_the_floor_is_the_same_network(name):
    plain = network(name, CPU)
    folded = FoldedAlignment(network(name, CPU), Arithmetic())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(folded.logits(x), plain(x), rtol=1e-3, atol=1e-4)

    parts = [Part(torch.zeros(1), {}), Part(torch.zeros(1), {})]
    assert folded(x, parts)[1].shape == (2,)


def test_possible_draws_against_drawing():
    law = TeacherLaw("phi", ("a", "b", "c", "d"))
    draws = possible_draws(law)
    assert sum(probability for probability, _ in draws) == pytest.approx(1)
    drawn = Counter(tuple(sorted(draw_slots(law.pool, 3, 0.5, stream("law", i))))
                    for i in range(4000))
    for probability, teachers in draws:
        assert drawn[teachers.bn[1:]] / 4000 == pytest.approx(probability, abs=0.025)


def test_a_small_run_from_start_to_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "peak_memory", lambda *_: 1e6)
    recover.main(["--batch-size", "2", "--image-size", "64", "--turns", "1",
                  "--bn-teachers", "mobilenet_v2", "alexnet", "shufflenet_v2_x0_5",
                  "--device", "cpu", "--output", str(tmp_path / "r.json")])
    assert "eager / floor" in capsys.readouterr().out
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert set(run["seconds"]) == {"law", "all teachers"}
    assert run["seconds"]["law"]["reference"] > 0
