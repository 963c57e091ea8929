import pytest
import tiny
import torch

from data.epoch_plan import PlanOptions, draw_plan, mixed_batch
from data.labels import LabelStore
from data.opening import open_distilled
from utils.seeding import stream
from validate.batches import Batch, epoch_batches

CPU = torch.device("cpu")
CLASSES = ("new000", "new001", "new002")


def whole_images(pixels, plan):
    """The images of every batch in the order of the plan."""
    for batch in range(plan.options.batches):
        yield pixels[plan.order[plan.options.rows(batch)]]


def batches(pixels, classes, plan, labels=None, mixed_target=False):
    return list(epoch_batches(whole_images(pixels, plan), classes, plan, labels, mixed_target,
                              CPU))


def test_classes_of_both_images_follow_the_mixing():
    classes = torch.arange(7)
    grey = (classes.view(-1, 1, 1, 1) * 30).to(torch.uint8).expand(7, 3, 8, 8)  # level per class
    plan = draw_plan(PlanOptions(7, 8, batch_size=5, mix="mixup", seed=3), 0)
    for mixed_target in (False, True):
        found = batches(grey, classes, plan, mixed_target=mixed_target)
        assert [len(batch) for batch in found] == [5, 2]
        assert torch.cat([batch.classes for batch in found]).tolist() == plan.order.tolist()
        assert all((batch.partner_classes is not None) == mixed_target for batch in found)
        assert all(batch.soft_labels is None for batch in found)
    for batch in found:
        level = (batch.images[:, 0, 0, 0] * 0.229 + 0.485) * 255 / 30
        expected = batch.lam * batch.classes + (1 - batch.lam) * batch.partner_classes
        torch.testing.assert_close(level, expected, atol=1e-3, rtol=0)


def test_teacher_and_student_see_the_same_mixed_images():
    pixels = torch.randint(0, 256, (7, 3, 8, 8), generator=stream("batches"), dtype=torch.uint8)
    plan, seen = draw_plan(PlanOptions(7, 8, batch_size=3, seed=3), 2), []

    def label(images):
        seen.append(images.clone())
        return images.mean((2, 3))

    found = batches(pixels, torch.arange(7), plan, label)
    assert [len(batch) for batch in found] == [3, 3, 1]  # the last batch is kept
    for number, (batch, images) in enumerate(zip(found, seen, strict=True)):
        expected = mixed_batch(pixels[plan.order[plan.options.rows(number)]], plan, number)
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.images, expected)
        assert torch.equal(batch.soft_labels, images.mean((2, 3)))


@pytest.mark.parametrize("label_format", ["fp16", "int8"])
def test_stored_labels_belong_to_the_plan_that_was_stored(tmp_path, label_format):
    tiny.image_folder(tmp_path / "images", CLASSES, 3, size=(24, 24))
    tiny.label_folder(tmp_path, 2, label_format=label_format)
    images = open_distilled(tmp_path / "images")
    labels = LabelStore(tmp_path / "labels", images).epoch(1)
    found = batches(images.all_pixels, images.labels, labels.plan, labels)
    assert torch.equal(torch.cat([batch.soft_labels for batch in found]),
                       labels.logits(slice(0, 9)))
    assert torch.equal(torch.cat([batch.classes for batch in found]),
                       images.labels[labels.plan.order])


def test_micro_batches_are_parts_of_a_batch():
    rows = torch.arange(5)
    batch = Batch(rows.float(), rows.float() * 2, rows, rows.flip(0), 0.3)
    first, second = batch.split([3, 2])
    assert (len(first), len(second), second.lam) == (3, 2, 0.3)
    assert second.images.tolist() == [3, 4]
    assert second.soft_labels.tolist() == [6, 8]
    assert second.classes.tolist() == [3, 4]
    assert second.partner_classes.tolist() == [1, 0]
    hard = Batch(rows.float(), None, rows, None, 1.0).part(slice(0, 2))
    assert (hard.soft_labels, hard.partner_classes, len(hard)) == (None, None, 2)
