import pytest

from utils.errors import UserError
from validate import rules


@pytest.mark.parametrize(("rule", "student", "sizes"), [
    ("delt", "resnet18", {1: 20, 9: 20, 10: 100, 20: 100, 29: 100, 30: 200, 100: 200, 1200: 200}),
    ("delt", "resnet50", {10: 100, 50: 200}),  # halved for ResNet-101 alone
    ("delt", "resnet101", {1: 20, 10: 50, 20: 50, 30: 100, 100: 100}),
    ("rded", "resnet18", {1: 20, 10: 100, 49: 100, 50: 200, 100: 200}),
    ("rded", "resnet101", {1: 20, 10: 100, 50: 200}),
])
def test_batch_sizes_by_ipc(rule, student, sizes):
    assert {ipc: rules.batch_size(rule, ipc, student) for ipc in sizes} == sizes


def test_numbers_pass_every_rule():
    assert rules.batch_size(7, 10, "resnet18") == 7
    assert rules.batch_size(None, 10, "resnet18") is None
    assert rules.learning_rate(0.3, "densenet121") == 0.3
    assert rules.learning_rate(None, "densenet121") is None
    assert rules.accumulation_steps(4, "densenet121") == 4


@pytest.mark.parametrize(("student", "lr"), [
    ("resnet18", 1e-3), ("resnet50", 1e-3), ("resnet101", 1e-3), ("efficientnet_b0", 2e-3),
    ("mobilenet_v2", 2.5e-3), ("vgg11", 5e-4), ("alexnet", 1e-4), ("vit_b_16", 1e-4),
    ("swin_v2_t", 1e-4)])
def test_learning_rates_of_delt(student, lr):
    assert rules.learning_rate("delt", student) == lr


@pytest.mark.parametrize(("student", "images"),
                         [("resnet18", 512), ("resnet50", 128), ("resnet101", 128)])
def test_batch_norm_of_gvbsm_sees(student, images):
    assert 1024 // rules.accumulation_steps("gvbsm", student) == images


def test_another_student_needs_a_number():
    with pytest.raises(UserError, match="--lr delt: known for resnet18, .*not for densenet121. "
                                        "Give a number"):
        rules.learning_rate("delt", "densenet121")
    with pytest.raises(UserError, match="--gradient-accumulation-steps gvbsm: .*not for mobile"):
        rules.accumulation_steps("gvbsm", "mobilenet_v2")


def test_images_per_class_are_rounded():
    assert [rules.images_per_class(n, 10) for n in (100, 96, 104, 3)] == [10, 10, 10, 1]
