import functools
import json

import pytest
import torch

from benchmarks import measure, relabel
from benchmarks.plain_views import PlainViews
from benchmarks.relabel_epoch import Reference, floor, label_batch, labellings
from data.epoch_plan import draw_plan, make_views
from data.labels import EpochLabels
from data.names import LABEL_FORMATS
from utils.errors import UserError
from utils.precision import Arithmetic

CPU = torch.device("cpu")
TEACHERS = ["squeezenet1_1", "shufflenet_v2_x0_5"]
TINY = ["--teachers", *TEACHERS, "--image-size", "32", "--label-top-k", "2", "--device", "cpu",
        "--workers", "0"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    args = relabel.get_args_parser().parse_args(
        [*TINY, "--batch-size", "3", "--classes", "7", "--batches", "2"])
    return labellings(args, CPU, tmp_path_factory.mktemp("work"))


def test_reference_and_ours_label_the_same_views_alike(ours):
    """Neither is faster because it does less: both leave the same labels on the disk."""
    reference = Reference(ours["fp16"], workers=0)
    reference()
    for name, labelling in ours.items():
        labelling.run([0])
        labels = EpochLabels(labelling.folder / "epoch_000.safetensors", labelling.plan_options,
                             labelling.number_format)
        plan = labels.plan
        for batch in range(2):
            order, crops, flips, partners, lam, box, logits = torch.load(
                reference.folder / f"batch_{batch}.tar")
            rows = plan.options.rows(batch)
            for mine, theirs in ((plan.order, order), (plan.crops, crops), (plan.flips, flips),
                                 (plan.partners, partners)):
                assert torch.equal(mine[rows], theirs)
            assert (lam, box) == (plan.lams[batch].item(), plan.boxes[batch].tolist())
            if name != "topk":  # its near-equal logits may change places
                torch.testing.assert_close(labels.logits(rows), logits.float(), rtol=0.02,
                                           atol=0.01 * float(logits.abs().max()))


def test_plain_views_are_those_of_the_plan(ours):
    images, plan = ours["fp16"].images, draw_plan(ours["fp16"].plan_options, 0)
    plain, pixels = PlainViews(images, plan), images.cache_on(CPU)
    views = torch.cat([make_views(pixels[plan.order[plan.options.rows(batch)]], plan, batch)
                       for batch in range(2)])
    torch.testing.assert_close(torch.stack([plain[i] for i in range(len(plain))]), views,
                               rtol=0, atol=1e-6)


def test_the_floor_runs_every_teacher_on_every_batch(ours):
    run, calls = floor(ours["fp16"], Arithmetic()), []
    hooks = [teacher.register_forward_hook(
        lambda network, inputs, _: calls.append((network.name, len(inputs[0]))))
        for teacher in ours["fp16"].ensemble.teachers]
    run()
    for hook in hooks:
        hook.remove()
    assert calls == [(name, 3) for name in TEACHERS] * 2


@pytest.mark.gpu
def test_a_batch_of_labels_waits_for_no_gpu(tmp_path):
    args = relabel.get_args_parser().parse_args(
        [*TINY, "--batch-size", "3", "--classes", "7", "--batches", "2"])
    gpu = torch.device("cuda")
    for labelling in labellings(args, gpu, tmp_path).values():
        label_batch(labelling)  # first calls may wait
        assert measure.count_waits(functools.partial(label_batch, labelling), gpu) == 0


def test_a_small_run_from_start_to_file(tmp_path, capsys):
    arguments = [*TINY, "--batch-size", "2", "--classes", "5", "--turns", "1", "--batches", "1",
                 "--output", str(tmp_path / "out.json")]
    relabel.main(arguments)
    assert "of the floor's speed" in capsys.readouterr().out
    (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert set(run["seconds"]) == {"reference", *LABEL_FORMATS, "floor"}
    assert run["bytes a row"]["int8"] == 5 + 8
    with pytest.raises(UserError, match="--label-top-k 100: there are 5 classes"):
        relabel.main([*arguments, "--label-top-k", "100"])
