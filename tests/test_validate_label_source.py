import torch
from torch import nn

from data.epoch_plan import mixed_batch
from models.ensemble import Ensemble
from utils.seeding import stream
from validate import engine
from validate.label_source import TeacherLabels, own_plan


class Teacher(nn.Module):
    """Logits of its input's mean per channel; remembers what it saw."""

    name, num_classes = "mean", 3

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.clone())
        return images.mean((2, 3))


def test_teacher_and_student_see_the_same_mixed_images():
    pixels = torch.randint(0, 256, (7, 3, 8, 8), generator=stream("source"), dtype=torch.uint8)
    options, teacher, made = own_plan(7, 8, 0.5, seed=3, batch_size=3, mix="cutmix"), Teacher(), []

    def load():
        made.append(1)
        return Ensemble([teacher], "single")

    source = TeacherLabels(options, load)
    assert not made  # loaded when it is first needed
    plan, soft_labels = source.epoch(2)
    batches = list(engine.planned_batches(lambda i: pixels[i], torch.arange(7), plan, source.options, soft_labels, False,
                                          torch.device("cpu")))
    assert [len(b.images) for b in batches] == [3, 3, 1]  # the last batch is kept
    for number, (batch, saw) in enumerate(zip(batches, teacher.seen, strict=True)):
        assert torch.equal(batch.images, saw)
        assert torch.equal(batch.images, mixed_batch(lambda i: pixels[i], plan, options, number))
        assert torch.equal(batch.soft_labels, saw.mean((2, 3)))
    assert made == [1]


def test_plans_of_a_run_follow_its_seed():
    plans = [TeacherLabels(own_plan(9, 32, 0.5, seed, mix="cutmix"), None).epoch(0)[0] for seed in (3407, 3407, 4663)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert (own_plan(9, 32, 0.5, 0).batch_size, own_plan(9, 32, 0.5, 0).min_area, own_plan(9, 32, 0.5, 0, mix="cutmix").alpha) == (
        50, 0.25, 1.0)
