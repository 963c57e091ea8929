import json

import pytest
import torch

from benchmarks import measure, validate
from benchmarks.validate_steps import DATA, STEPS, Work

CPU = torch.device("cpu")
TINY = ["--image-size", "32", "--classes", "5", "--student", "shufflenet_v2_x0_5"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    args = validate.get_args_parser().parse_args([*TINY, "--batch-size", "6"])
    return Work(args, CPU, tmp_path_factory.mktemp("work"))


def test_the_plain_reference_sees_the_same_batches(work):
    """Its path is Pillow's, image by image; ours is one batched operation on decoded pixels."""
    ours, plain = work.batches(), work.plain_batches()
    for _ in range(5):  # into the second epoch
        a, b = next(ours), next(plain)
        torch.testing.assert_close(a.images, b.images, rtol=0, atol=1e-5)
        assert torch.equal(a.soft_labels, b.soft_labels)
        assert torch.equal(a.classes, b.classes)


def test_all_variants_take_the_same_step(work):
    """The loss of the first step; the floor's BatchNorm sees the whole batch, so it has another."""
    plain, apart, together = (float(STEPS[name](work)()) for name in ("plain", "apart", "together"))
    assert plain == pytest.approx(apart, rel=1e-3)
    assert together == pytest.approx(apart, rel=1e-5)


@pytest.mark.gpu
def test_a_students_step_and_its_data_wait_for_no_gpu(tmp_path):
    args, gpu = validate.get_args_parser().parse_args([*TINY, "--batch-size", "6"]), "cuda"
    step = STEPS["together"](Work(args, torch.device(gpu), tmp_path))
    for _ in range(2):  # first calls may wait
        step()
    assert measure.count_waits(lambda: [step() for _ in range(5)], torch.device(gpu)) == 0


def test_a_small_run_from_start_to_file(tmp_path, capsys):
    validate.main([*TINY, "--batch-size", "4", "--test-images", "3", "--turns", "1",
                   "--device", "cpu", "--output", str(tmp_path / "v.json")])
    out = capsys.readouterr().out
    assert all(text in out for text in (*STEPS, "data path", "decoded once"))
    (run,) = json.loads((tmp_path / "v.json").read_text())["runs"]
    assert set(run["seconds"]) == {*STEPS, DATA}
    assert run["test_images_per_second"]["decoded once"] > 0
