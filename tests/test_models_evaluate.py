import numpy as np
import pytest
import torch
from torch import nn

from data.image_set import Arrays, ImageSet
from data.images import normalise
from models import evaluate
from models.evaluate import accuracy, dataset_accuracy, first_of_each_class, least_accuracy

CPU = torch.device("cpu")
# Labels 0, 1, 2 are right; 3 is given as 20, the second nearest; 7 is given as 0, the farthest.
LEVELS, LABELS = [0, 10, 20, 20, 0], [0, 1, 2, 3, 7]


class Brightness(nn.Module):
    """Logits -|mean grey level - 10 c|: the class is the nearest tenth."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=1.0)

    def forward(self, x):
        if self.training:
            self.norm(x)
        grey = (x[:, 0].mean((1, 2)) * 0.229 + 0.485) * 255
        return -(grey.unsqueeze(1) - 10 * torch.arange(8.0)).abs()


def grey_images(levels):
    grey = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    return grey.expand(-1, 3, 4, 4).contiguous()


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


def test_top1_and_top5_by_hand():
    for batch_size in (1, 2, 250):
        found = accuracy(Brightness(), grey_images(LEVELS), torch.tensor(LABELS), CPU, batch_size)
        assert found == {"top1": 60.0, "top5": 80.0, "count": 5}


def test_fewer_than_five_classes_have_full_top5():
    assert accuracy(linear(), grey_images([0, 9, 200]), torch.tensor([0, 1, 2]), CPU)["top5"] == 100


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_put_back_and_statistics_untouched(training):
    net = Brightness().train(training)
    net.norm.eval()
    accuracy(net, grey_images([0, 10]), torch.tensor([0, 1]), CPU)
    assert net.training is training
    assert net.norm.training is False
    assert net.norm.num_batches_tracked == 0


def test_modes_are_put_back_after_an_error():
    net = Brightness().train()
    with pytest.raises(RuntimeError):
        accuracy(net, grey_images([0, 10]), torch.tensor([0, 1, 1]), CPU)
    assert net.training


def test_images_reach_the_network_normalised():
    seen, net = [], linear()
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    accuracy(net, grey_images([0, 9, 200]), torch.tensor([0, 1, 2]), CPU)
    assert torch.equal(seen[0], normalise(grey_images([0, 9, 200])))


@pytest.mark.parametrize("at_once", [2, 5000])
def test_a_whole_dataset_in_parts(monkeypatch, at_once):
    monkeypatch.setattr(evaluate, "_AT_ONCE", at_once)
    arrays = np.stack([np.full((4, 4, 3), level, dtype=np.uint8) for level in LEVELS])
    images = ImageSet("digits", list("01234567"), LABELS, 4, Arrays(arrays))
    found = dataset_accuracy(Brightness(), images, CPU)
    assert found["count"] == 5
    assert found["top1"] == pytest.approx(60)
    assert found["top5"] == pytest.approx(80)


def test_a_quick_look_takes_whole_rounds_over_the_classes(monkeypatch):
    labels = [1, 0, 1, 1, 0, 2]
    images = ImageSet("imagefolder", "abc", labels, 4, Arrays(np.zeros((6, 4, 4, 3), np.uint8)))
    assert first_of_each_class(images) == [1, 0, 5, 4, 2, 3]
    monkeypatch.setattr(evaluate, "_ACCURACY_IMAGES", 4)
    assert first_of_each_class(images) == [1, 0, 5, 4, 2]
    monkeypatch.setattr(evaluate, "_ACCURACY_IMAGES", 2)
    assert first_of_each_class(images) == [1, 0, 5]


def test_near_chance():
    assert least_accuracy(2) == pytest.approx(55)
    assert least_accuracy(1000) == pytest.approx(10.09)
