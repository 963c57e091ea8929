import pytest
import torch

from models.networks import build
from recover.alignment import NormAlignment
from recover.estimate import propose_units, seconds_per_image_step


@pytest.mark.parametrize(("images", "unit_gb", "gpu_gb", "alike", "expected"), [
    (100, 6, 80, 10, 5),  # ImageNet: ten chunks of 100 classes a slice
    (100, 20, 80, 10, 2),  # 3 fit, 2 divide ten
    (100, 70, 80, 10, 1),
    (100, 90, 80, 10, 1),  # what does not fit at all is not this function's to say
    (10, 0.1, 80, 1, 1),  # other slices have other numbers of steps
    (40, 1, 80, 250, 10),  # as many as 512 images, which is 13 units; 10 divide 250
])
def test_units_proposed_for_a_gpu(images, unit_gb, gpu_gb, alike, expected):
    assert propose_units(images, unit_gb * 1e9, gpu_gb * 1e9, alike) == expected


@pytest.mark.parametrize("compiled", [False, True])
def test_an_image_step_is_timed_for_every_teacher(compiled, monkeypatch):
    monkeypatch.setattr("recover.estimate.CPU_PIXELS", 4 * 32**2)
    alignment = NormAlignment(build("shufflenet_v2_x0_5", 3).eval().requires_grad_(False))
    run, seen = alignment._run, []

    def noting(x, sizes):
        seen.append(sizes)
        return run(x, sizes)

    monkeypatch.setattr(alignment, "_run", noting)
    device = torch.device("cpu")
    seconds = seconds_per_image_step({"s": alignment}, [8, 2], 32, device, compiled)
    assert seconds["s"] > 0
    assert set(seen) == {(8, 2) if compiled else (4,)}  # compiled networks take their own shape
