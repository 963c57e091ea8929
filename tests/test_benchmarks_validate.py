import json

import torch

from benchmarks import measure, validate

CPU = torch.device("cpu")


def arguments(*more):
    return validate.get_args_parser().parse_args(["--batch-size", "6", "--image-size", "32", "--classes", "5", "--test-images", "3",
                                                  "--student", "shufflenet_v2_x0_5", "--turns", "1", *more])


def test_the_plain_reference_sees_the_same_views():
    """Its path is Pillow's, image by image; ours is one batched operation on decoded pixels."""
    work = validate.Work(arguments(), CPU)
    ours, plain = work.batches(), work.plain_batches()
    for _ in range(5):  # into the second epoch
        a, b = next(ours), next(plain)
        torch.testing.assert_close(a.images, b.images, rtol=0, atol=1e-5)
        assert torch.equal(a.soft_labels, b.soft_labels)
        assert torch.equal(a.classes, b.classes)


def test_all_modes_take_the_same_step():
    """The first step's loss: equal micro-batches in three modes; the floor's BatchNorm sees the whole batch."""
    args = arguments()
    work = validate.Work(args, CPU)
    values = {mode: validate.step_of(mode, args, work)() for mode in ("plain", "apart", "together")}
    apart, together = (float(values[mode][0]) / args.batch_size for mode in ("apart", "together"))
    assert abs(values["plain"] - apart) < 1e-3 * apart
    assert abs(together - apart) < 1e-5 * apart


def test_the_whole_benchmark_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "peak_memory", lambda function, *args: function(*args) or 10**6)
    validate.main(["--batch-size", "4", "--image-size", "32", "--classes", "5", "--test-images", "3", "--turns", "1", "--student",
                   "shufflenet_v2_x0_5", "--device", "cpu", "--output", str(tmp_path / "found.json")])
    out = capsys.readouterr().out
    assert all(word in out for word in (*validate.MODES, "data path", "decoded once"))
    (run,) = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert set(run["seconds"]) == {*validate.MODES, validate.DATA}
    assert run["test_images_per_second"]["decoded once"] > 0
