"""What a protocol makes of the student and of the number of images per class: batch size, learning rate, micro-batches."""

from utils.errors import UserError

# (from so many images per class on, batch size), by protocol. Between the named numbers the nearest lower one counts.
_BATCHES = {"delt": ((1, 20), (10, 100), (30, 200)), "rded": ((1, 20), (10, 100), (50, 200))}
_LEARNING_RATES = {"delt": {"resnet18": 1e-3, "resnet50": 1e-3, "resnet101": 1e-3, "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3,
                            "vgg11": 5e-4, "alexnet": 1e-4, "vit_b_16": 1e-4, "swin_v2_t": 1e-4}}
# A batch of 1024 over two GPUs: BatchNorm sees 512 images, or 128 in the large nets.
_ACCUMULATION = {"gvbsm": {"resnet18": 2, "resnet50": 8, "resnet101": 8}}

BATCH_RULES, LR_RULES, ACCUMULATION_RULES = tuple(_BATCHES), tuple(_LEARNING_RATES), tuple(_ACCUMULATION)


def images_per_class(images, classes):
    """IPC of a set, rounded (classes need not hold equally many), at least 1."""
    return max(1, round(images / classes))


def batch_size(value, ipc, student):
    """A number as it is, or a rule by IPC. delt halves it for ResNet-101 (not ResNet-50, not at IPC 1); rded never does."""
    if value not in BATCH_RULES:
        return value
    found = [size for least, size in _BATCHES[value] if ipc >= least][-1]
    return found // 2 if value == "delt" and student == "resnet101" and ipc >= 10 else found


def learning_rate(value, student):
    """A number as it is, or a rule's for this student. Raises UserError for a student that it does not name."""
    return _of_student("--lr", value, _LEARNING_RATES, student)


def accumulation_steps(value, student):
    """A number as it is, or a rule's for this student. Raises UserError for a student that it does not name."""
    return _of_student("--gradient-accumulation-steps", value, _ACCUMULATION, student)


def _of_student(option, value, rules, student):
    if value not in rules:
        return value
    if student not in rules[value]:
        raise UserError(f"{option} {value}: known for {', '.join(rules[value])}, not for {student}. Give a number.")
    return rules[value][student]
