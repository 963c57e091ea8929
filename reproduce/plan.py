"""What the quickstart does with a folder of images: sizes, networks and lengths, by a time budget.

Everything here is arithmetic on what is known of the images and of this machine's speed. Imports no
PyTorch.
"""

import math
from dataclasses import dataclass, replace

from utils import schedules
from utils.options import Run

TEACHERS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5")  # the primary first
STUDENT = "resnet18"

SMALL = 64  # below this side, in pixels, images are small: pad-and-shift, and a stem of their own
LEAST_SIDE = 28  # networks of this kind need about as much; smaller images are enlarged to it
SIDES = (224, 160, 128, 96, 64)  # for larger images

# Lengths without a limit of time: the paper's steps and student, the field's recipes for teachers.
EPOCHS, ITERATION = 300, 4000
TEACHER_EPOCHS, TEACHER_STEPS = {"small": 30, "large": 90}, 2000
# What the budget may shrink them to. Teachers, on which all else rests, shrink last.
LEAST_EPOCHS, LEAST_ITERATION, LEAST_TEACHERS = 40, 100, 0.2
_GOOD = 0.5  # a larger image or a better stem is taken where this share of the lengths fits
_SHARE = 0.85  # of the budget that the estimate may fill: it leaves out reading and writing
_TESTS = 5  # of each student: on many test images they cost more than its training


@dataclass(frozen=True)
class Plan:
    """Everything the quickstart chose; its fields are plain values, kept in plan.json.

    image_size: side in pixels. stem: of teachers and student. ipc: images per class. iteration: of
    recover. epochs: of labels and students. eval_every: epochs between a student's tests.
    units_per_step: of recover. flip_prob: of every stage. batch_size, lr, teacher_epochs: of
    squeeze. share: of the lengths without a limit of time. seconds: {stage: estimate}. better:
    (image size, stem, minutes) of the cheapest better choice and the budget it needs, or None.
    """

    image_size: int
    stem: str
    teachers: tuple
    ipc: int
    iteration: int
    epochs: int
    eval_every: int
    units_per_step: int
    flip_prob: float
    batch_size: int
    lr: float
    teacher_epochs: int
    share: float
    seconds: dict
    better: tuple | None = None

    @property
    def total(self):
        """The estimate of the whole run in seconds."""
        return sum(self.seconds.values())


class TooShort(ValueError):
    """Nothing fits into the budget. minutes: the least budget that something fits into."""

    def __init__(self, minutes):
        super().__init__(f"the least budget is {minutes} minutes")
        self.minutes = minutes


@dataclass(frozen=True)
class Wishes:
    """What the user asked for, None where the plan may choose.

    minutes: the budget. seeds: students per set and kind of labels.
    """

    minutes: float = 30.0
    seeds: int = 1
    ipc: int | None = None
    image_size: int | None = None
    mirror: str = "auto"
    sets: int = 3


def choose(train, tests, wishes, speed):
    """The Plan for a Survey of the training images.

    tests: number of test images. speed: function (network, image size, stem) of the seconds that
    an image takes in training and in a forward. Images as large and stems as good as possible
    are taken of which half of the usual lengths fits into the budget; else those of which most
    fits. Raises TooShort where nothing fits.
    """
    plans, better = [], []
    for size, stem in candidates(train, wishes.image_size):
        plan, half = fill(train, tests, wishes, size, stem, speed)
        plans.append(replace(plan, better=min(better, key=lambda b: b[2], default=None)))
        better.append((size, stem, minutes(half)))
        if plan.share >= _GOOD:
            break
    fitting = [plan for plan in plans if plan.share > 0]
    if not fitting:
        raise TooShort(min(minutes(plan.total) for plan in plans))
    good = [plan for plan in fitting if plan.share >= _GOOD]
    return good[0] if good else max(fitting, key=lambda plan: plan.share)


def minutes(seconds):
    """The budget in whole minutes that an estimate in seconds needs."""
    return math.ceil(seconds / _SHARE / 60)


def candidates(train, image_size=None):
    """(image size, stem) from the best to the cheapest.

    A size never exceeds the images' own by more than a tenth, but for the least that networks take.
    """
    if image_size is not None:
        sizes = [image_size]
    elif train.side < SMALL:
        own = train.side if train.alike else 4 * round(train.side / 4)
        sizes = [max(own, LEAST_SIDE)]
    else:
        sizes = [side for side in SIDES if side <= 1.1 * train.side]
    return [(size, stem) for size in sizes
            for stem in (("small", "imagenet") if size <= SMALL else ("imagenet",))]


def mirrors(train, image_size, wish):
    """Whether images are mirrored: where asked, else not small grey ones, which may be letters."""
    if wish == "auto":
        return not (train.grey and image_size < SMALL)
    return wish == "yes"


def fill(train, tests, wishes, size, stem, speed):
    """(Plan, seconds of half of the lengths) for one image size and stem.

    The plan's share is 0 where not even the least lengths fit.
    """
    small = size < SMALL
    batch = min(128, max(16, 2 ** int(math.log2(train.images / 16))))
    lr = 0.1 * batch / (128 if small else 256)  # in proportion to the batch, as the recipes' own
    usual = teacher_epochs(train.images, batch, TEACHER_EPOCHS["small" if small else "large"])
    ipc = min(wishes.ipc or 10, min(train.counts))

    def of_share(share):
        epochs = max(LEAST_EPOCHS, round(share * EPOCHS / 10) * 10)
        plan = Plan(
            image_size=size, stem=stem, teachers=TEACHERS, ipc=ipc,
            iteration=max(LEAST_ITERATION, round(share * ITERATION / 100) * 100), epochs=epochs,
            eval_every=math.ceil(epochs / _TESTS),
            units_per_step=min(ipc, max(1, 100 // len(train.classes))),
            flip_prob=0.5 if mirrors(train, size, wishes.mirror) else 0.0, batch_size=batch,
            lr=lr, teacher_epochs=math.ceil(min(1, max(2 * share, LEAST_TEACHERS)) * usual),
            share=share, seconds={})
        return replace(plan, seconds=estimate(plan, train, tests, wishes, speed))

    budget, half = _SHARE * 60 * wishes.minutes, of_share(_GOOD).total
    for percent in range(100, 0, -5):
        plan = of_share(percent / 100)
        if plan.total <= budget:
            return plan, half
    return replace(plan, share=0.0), half


def teacher_epochs(images, batch, usual):
    """The usual epochs, or as many as make TEACHER_STEPS steps of few images, 200 at most."""
    return max(usual, min(200, math.ceil(TEACHER_STEPS * batch / images)))


def estimate(plan, train, tests, wishes, speed):
    """{stage: seconds} of a plan.

    A step of recover, which needs no gradient of weights, is taken to cost what a step of training
    costs, and PRISM to use every teacher at every step: both are a little more than it is.
    """
    costs = {name: speed(name, plan.image_size, plan.stem) for name in plan.teachers}
    training = {name: cost[0] for name, cost in costs.items()}
    forward = {name: cost[1] for name, cost in costs.items()}
    reading = 0.0 if plan.image_size < SMALL else train.decode_seconds / Run().workers
    images = plan.ipc * len(train.classes)

    varied = sum(schedules.recover_steps(i, plan.iteration, True) for i in range(plan.ipc))
    prism = varied * len(train.classes) * sum(training.values())
    sre2l = images * plan.iteration * training[plan.teachers[0]]
    students = wishes.sets * 2 * wishes.seeds
    student = (images * plan.epochs * training[STUDENT]
               + (math.ceil(plan.epochs / plan.eval_every)) * tests * forward[STUDENT])
    return {
        "squeeze": sum(plan.teacher_epochs * (train.images * (seconds + reading)
                                              + min(tests, 5000) * forward[name])
                       for name, seconds in training.items()),
        "recover": prism + sre2l,
        "relabel": wishes.sets * images * plan.epochs * sum(forward.values()),
        "validate": students * student}
