import json

import pytest
import torch

from benchmarks import relabel
from data.label_formats import FORMATS, label_format, through_format
from data.labels import EpochLabels
from utils.errors import UserError

TEACHERS = ["squeezenet1_1", "shufflenet_v2_x0_5"]


TINY = ["--teachers", *TEACHERS, "--image-size", "32", "--label-top-k", "2", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    args = relabel.get_args_parser().parse_args([*TINY, "--batch-size", "3", "--classes", "7", "--batches", "2"])
    return relabel.Work(args, torch.device("cpu"), tmp_path_factory.mktemp("work"))


def test_reference_and_ours_label_the_same_views_alike(work):
    """Neither is faster because it does less: both leave the same labels on the disk, but for the layout of the nets."""
    work.reference()()
    for name in FORMATS:
        work.ours(name)()
        number_format = label_format(name, 7, 2 if name == "topk" else None)
        labels = EpochLabels(work.folder / name / "epoch_000.safetensors", 0, work.options, number_format)
        for batch in range(2):
            crops, flips, partners, lam, box, logits, order = torch.load(work.folder / "reference" / f"batch_{batch}.tar")
            at = slice(3 * batch, 3 * batch + 3)
            assert torch.equal(order, labels.plan.order[at])
            assert torch.equal(crops, labels.plan.crops[at])
            assert torch.equal(flips, labels.plan.flips[at])
            assert torch.equal(partners, labels.plan.partners[at])
            assert (lam, box) == (labels.plan.lams[batch].item(), labels.plan.boxes[batch].tolist())
            if name != "topk":  # where near-equal logits may change places
                torch.testing.assert_close(labels.batch(batch), logits.float(), rtol=0.02, atol=0.01 * float(logits.abs().max()))


def test_plain_views_are_those_of_the_plan(work):
    from data.epoch_plan import draw_plan, make_views

    plan = draw_plan(work.options, 0)
    plain = relabel.PlainViews(work.images.files, plan, 32)
    mine = torch.cat([make_views(work.images.on(work.device), plan, work.options, batch) for batch in range(2)])
    torch.testing.assert_close(torch.stack([plain[i] for i in range(len(plain))]), mine, rtol=0, atol=1e-6)


def test_the_floor_runs_every_teacher_on_every_batch(work):
    floor, seen = work.floor(), []
    hooks = [net.register_forward_hook(lambda net, inputs, _: seen.append((net.name, inputs[0].shape[0]))) for net in work.networks]
    floor()
    for hook in hooks:
        hook.remove()
    assert seen == [(name, 3) for name in TEACHERS] * 2


def test_label_errors_against_a_slow_loop():
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 9
    formats = {"int8": label_format("int8", 6), "topk": label_format("topk", 6, 2)}
    for name, found in relabel.label_errors(z, formats, temperature=20.0).items():
        back, kl = through_format(z, formats[name]), 0.0
        for row, row_back in zip(z.double(), back.double(), strict=True):
            p, q = (row / 20).softmax(0), (row_back / 20).softmax(0)
            kl += sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True)) / 4
        assert found["kl"] == pytest.approx(kl, rel=1e-6)
        assert found["mse"] == pytest.approx(sum(float(d) ** 2 for d in (back.double() - z.double()).flatten()) / 24)
        assert found["relative"] == pytest.approx(float((back - z).norm() / z.norm()), rel=1e-5)
        assert found["top1"] == 1.0


def test_main(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(relabel.measure, "peak_memory", lambda function, name, *_: function and len(name))
    words = [*TINY, "--batch-size", "2", "--classes", "5", "--turns", "1", "--batches", "1", "--output", str(tmp_path / "out.json")]
    relabel.main(words)
    out = capsys.readouterr().out
    assert "of the floor" in out
    run = json.loads((tmp_path / "out.json").read_text())["runs"][0]
    assert set(run["seconds"]) == {"reference", *FORMATS, "floor"}
    assert run["errors"]["fp32"]["relative"] == 0
    with pytest.raises(UserError, match="--label-top-k 100: there are 5 classes"):
        relabel.main([*words, "--label-top-k", "100"])
