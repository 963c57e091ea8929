"""About how many GPU-hours a cell takes on ImageNet-1K: the multiply-adds of every net's passes, counted, over an assumed speed.

torchvision states each net's multiply-adds for an image of 224 px. A pass forward counts once, forward and back to the images twice
(frozen nets), training three times. A multiply-add is two operations. Reading, decoding and writing images is not counted.
"""

from torchvision import models

from recover import settings as of_recover
from recover.args import get_args_parser as recover_parser
from relabel.args import get_args_parser as relabel_parser
from reproduce import commands
from reproduce.departures import IMAGENET
from reproduce.sizes import Sizes
from reproduce.steps import ROOT
from utils import schedules
from validate.args import get_args_parser as validate_parser
from validate.training import is_tested

OPERATIONS_PER_SECOND = 1e13  # sustained; assumed, not measured. Nets of depthwise convolutions stay below it on most cards
TRAIN_IMAGES, TEST_IMAGES, CLASSES = 1_281_167, 50_000, 1000
_FORWARD, _TO_IMAGES, _TRAIN = 1, 2, 3
_DRAWS = 20  # per slice, of teachers that change at every step; whole rounds of four and of five nets in turn


def gpu_hours(cell):
    """Hours of one GPU for a cell's images, labels and three students, at the paper's sizes."""
    own = commands.cell_commands(cell, Sizes(output_dir=ROOT / "results" / "tables"))
    images = min(cell.ipc * CLASSES, TRAIN_IMAGES)
    count = {"recover": _recover, "relabel": _relabel, "validate": _validate}
    return sum(2e9 * count[command.stage](command.arguments, images) for command in own) / OPERATIONS_PER_SECOND / 3600


def operations(name):
    """Multiply-adds of a net for an image of 224 px, in 1e9 (torchvision)."""
    return models.get_model_weights(name)["IMAGENET1K_V1"].meta["_ops"]


def _recover(arguments, images):
    """1e9 multiply-adds of a recover command."""
    args = recover_parser().parse_args(arguments)
    settings, found = of_recover.resolve(args, IMAGENET), 0.0
    if args.start == "medium":
        found += TRAIN_IMAGES * _FORWARD * operations(settings["ranker"])
    if args.start == "mosaic":
        found += CLASSES * args.mosaic_candidates * args.mosaic_crops * _FORWARD * operations(settings["ranker"])
    if args.match == "convolution":  # statistics of all nets, measured once
        found += TRAIN_IMAGES * _FORWARD * sum(map(operations, [args.primary_teacher, *settings["bn_teachers"]]))
    if args.iteration:
        found += images * _TO_IMAGES * sum(_of_slice(args, settings, i) for i in range(args.ipc_end)) / args.ipc_end
    return found


def _of_slice(args, settings, ipc_id):
    """1e9 multiply-adds forward of one image of a slice, over its steps."""
    steps = schedules.recover_steps(ipc_id, args.iteration, args.steps == "varied")
    if args.early_late:  # groups of a class join one after the other: on average they stay for (K + 1) / 2K of the steps
        steps *= (args.early_late + 1) / (2 * args.early_late)
    law = of_recover.make_law(settings)
    draws = [law.at(ipc_id, step=step) for step in range(_DRAWS if law.changes else 1)]
    return steps * sum(sum(map(operations, _running(draw))) for draw in draws) / len(draws)


def _running(teachers):
    """The nets that a step runs: the logit teacher, and BN teachers that have BatchNorm."""
    return {teachers.logit, *(name for name in teachers.bn if name != "alexnet")}


def _relabel(arguments, images):
    args = relabel_parser().parse_args(arguments)
    teachers = args.teachers[:1] if args.ensemble == "single" else args.teachers
    return args.epochs * images * _FORWARD * sum(map(operations, teachers))


def _validate(arguments, images):
    args = validate_parser().parse_args(arguments)
    tests = sum(is_tested(epoch, args.epochs, args.eval_every, args.eval_from) for epoch in range(args.epochs))
    student = (args.epochs * images * _TRAIN + tests * TEST_IMAGES * _FORWARD) * operations(args.student)
    teachers = args.teachers if args.labels == "teacher" else []
    return student + args.epochs * images * _FORWARD * sum(map(operations, teachers))
