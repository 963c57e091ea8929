import pytest
import tiny
import torch

from data.opening import open_distilled, open_real
from relabel.accuracy import describe, samples, teacher_accuracy

CPU = torch.device("cpu")


class Brightest(torch.nn.Module):
    """Logits of three classes: an image's is the colour channel that is brightest."""

    num_classes = 3

    def forward(self, x):
        return x.mean((2, 3))


class Last(torch.nn.Module):
    num_classes = 3

    def forward(self, x):
        return torch.eye(3)[torch.full((len(x),), 2)]


def test_both_sets_are_measured(tmp_path, capsys):
    """A constant answer gets its class alone; the set's labels decide which images those are."""
    train = tiny.image_folder(tmp_path / "train", tiny.WNIDS, 2, size=(16, 16))
    run = tiny.distilled_folder(tmp_path / "run", train, tiny.WNIDS, 2, size=16)
    distilled = open_distilled(run / "images")
    tiny.image_folder(tmp_path / "val", tiny.WNIDS, 3, size=(16, 16), seed=1)
    (tmp_path / "val" / tiny.WNIDS[2] / "img_000.JPEG").unlink()
    real = open_real("imagefolder", "test", tmp_path / "val", 16, tiny.WNIDS)

    networks, stated = {"last": Last(), "brightest": Brightest()}, {"last": 95.5, "brightest": None}
    found = teacher_accuracy(networks, stated, samples(distilled, real), CPU)
    assert found["last"] == {"stated": 95.5, "real": 25.0, "distilled": pytest.approx(100 / 3)}
    pixels = distilled.all_pixels.float().mean((2, 3))
    scale = torch.tensor([0.229, 0.224, 0.225]) * 255
    normalised = (pixels - torch.tensor([0.485, 0.456, 0.406]) * 255) / scale
    right = normalised.argmax(1).eq(distilled.labels).float().mean()
    assert found["brightest"]["distilled"] == pytest.approx(100 * float(right))
    out = capsys.readouterr().out
    assert ("last: top-1 95.5 % of real test images, as its weights state, 25.0 % of 8 real test "
            "images, 33.3 % of 6 distilled images\nnote: last is near chance (33.3 %)") in out

    found = teacher_accuracy({"last": Last()}, {"last": None}, samples(distilled, None), CPU)
    assert found["last"]["real"] is None
    assert "last: top-1 33.3 % of 6 distilled images\n" in capsys.readouterr().out


@pytest.mark.parametrize(("scores", "noted"), [
    ((69.8, 68.0, 90.0), False), ((69.8, None, 10.2), False), ((69.8, None, 1.0), True),
    ((None, None, 1.0), True), ((0.1, None, 90.0), True), ((69.8, 0.2, 90.0), True)])
def test_a_teacher_near_chance_is_noted(scores, noted):
    scores = dict(zip(("stated", "real", "distilled"), scores, strict=True))
    text = describe("resnet18", scores, {"real": 1000, "distilled": 1000}, 1000)
    assert ("note: resnet18 is near chance (0.1 %) there. Probably the class folders are in "
            "another order" in text) == noted
