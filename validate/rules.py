"""What a protocol makes of the student and of the number of images per class (IPC).

Options take a number or the name of a protocol, which stands for its rule.
"""

from utils.errors import UserError

# (least IPC, batch size): the last line whose IPC is reached counts.
_BATCHES = {"delt": ((1, 20), (10, 100), (30, 200)), "rded": ((1, 20), (10, 100), (50, 200))}
_LEARNING_RATES = {"delt": {"resnet18": 1e-3, "resnet50": 1e-3, "resnet101": 1e-3,
                            "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3, "vgg11": 5e-4,
                            "alexnet": 1e-4, "vit_b_16": 1e-4, "swin_v2_t": 1e-4}}
# A batch of 1024 lies on two GPUs, where BatchNorm sees 512 images, or 128 in the large networks.
_ACCUMULATION = {"gvbsm": {"resnet18": 2, "resnet50": 8, "resnet101": 8}}

BATCH_RULES = tuple(_BATCHES)
LR_RULES = tuple(_LEARNING_RATES)
ACCUMULATION_RULES = tuple(_ACCUMULATION)


def images_per_class(images, classes):
    """IPC of `images` images of `classes` classes, rounded, at least 1."""
    return max(1, round(images / classes))


def batch_size(value, ipc, student):
    """A number (or None) as it is, or a rule by IPC.

    delt halves it for ResNet-101 from IPC 10 on, but not for ResNet-50; rded never does.
    """
    if value not in _BATCHES:
        return value
    size = [size for least, size in _BATCHES[value] if ipc >= least][-1]
    halved = value == "delt" and student == "resnet101" and ipc >= 10
    return size // 2 if halved else size


def learning_rate(value, student):
    """A number (or None) as it is, or a rule by student. Raises UserError for an unknown one."""
    return _by_student("--lr", value, _LEARNING_RATES, student)


def accumulation_steps(value, student):
    """A number as it is, or a rule by student. Raises UserError for an unknown one."""
    return _by_student("--gradient-accumulation-steps", value, _ACCUMULATION, student)


def _by_student(option, value, rules, student):
    if value not in rules:
        return value
    if student not in rules[value]:
        raise UserError(f"{option} {value}: known for {', '.join(rules[value])}, not for "
                        f"{student}. Give a number.")
    return rules[value][student]
