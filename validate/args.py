"""Options of validate, with FKD's names. Defaults are the paper's, with the decisions of EXPERIMENTS.md where paper and
released code differ."""

import argparse
import re

from data import datasets
from models.ensemble import RULES
from utils import options, precision, schedules
from validate import views
from validate.losses import LOSSES, WITH_GROUND_TRUTH, WITH_TEMPERATURE
from validate.presets import PRESETS
from validate.rules import ACCUMULATION_RULES, BATCH_RULES, LR_RULES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
OF_OPTIMIZER = {"adamw": {"lr": 1e-3, "weight_decay": 0.01},
                "sgd": {"lr": 0.1, "weight_decay": 1e-4}}  # SGD: torchvision's ResNet recipe (paper Table 2)


def folder_name(text):
    """A name that is a single folder."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a plain name of letters, digits and . _ + = -")
    return text


def folder_or_none(text):
    """A path, or "none"."""
    return text if text == "none" else options.path(text)


def number_or(kind, *rules):
    """Option type: a number of this kind (its `number`), or the name of a rule."""
    def read(text):
        if text in rules:
            return text
        try:
            return kind(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or {' or '.join(rules)}") from None

    read.number = kind
    return read


def decay(text):
    """A number from 0 up to, but not including, 1."""
    value = options.fraction(text)
    if value == 1:
        raise argparse.ArgumentTypeError("found 1, expected less: the average would never leave the start")
    return value


def rand_augment(text):
    """A string that timm's RandAugment reads, or none."""
    if text != "none":
        try:
            views.rand_augment(text, 224)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def get_args_parser():
    parser = options.Parser(prog="validate.train_fkd", description="Train a student on images and labels (stage 3 of PRISM).")
    _add_data(parser.add_argument_group("data"))
    method = parser.add_argument_group("method")
    parser.add_preset(method, PRESETS, "defaults of an evaluation protocol of the field; every option can still be given")
    _add_method(method)
    _add_views(parser.add_argument_group("views"))
    _add_optimisation(parser.add_argument_group("optimisation"))
    run = options.add_run_arguments(parser)
    run.add_argument("--seed", type=options.count, default=0, help="of the student, and of its views where no folder gives them")
    run.add_argument("--eval-every", type=options.positive_int, default=10, metavar="EPOCHS",
                     help="test after every so many epochs and after the last; the best of these is the headline (paper)")
    run.add_argument("--eval-from", type=options.fraction, default=0.0, metavar="FRACTION",
                     help="test only after this part of the epochs, and after the last (RDED: 0.8)")
    run.add_argument("--evaluate", type=options.path, metavar="CHECKPOINT",
                     help="train nothing: print top-1 and top-5 of a saved student (students/NAME/best.safetensors, or any "
                          "state dict of --student)")
    return parser


def _add_data(data):
    data.add_argument("--output-dir", type=options.path, help="run folder, shared by the three stages (needed to train)")
    data.add_argument("--train-dir", type=options.path, help="distilled images (default: OUTPUT_DIR/images)")
    data.add_argument("--fkd-path", type=options.path, help="labels of relabel (default: OUTPUT_DIR/labels)")
    data.add_argument("--val-dir", type=options.path, help="real test images: one folder per class, or where CIFAR lies")
    data.add_argument("--val-cache", type=folder_or_none, metavar="DIR|none",
                      help="where test images of a folder are kept decoded, for all runs to share (ImageNet at 224 px: 7.5 GB); "
                           "none: decode them in every run, into memory (default: .cache beside OUTPUT_DIR; none where that cannot "
                           "be written, or without OUTPUT_DIR)")
    data.add_argument("--dataset", choices=datasets.NAMES,
                      help="of the test images (default: what images.json says, else imagefolder)")
    data.add_argument("--image-size", type=options.positive_int, metavar="PIXELS",
                      help="side of the test images; read by --evaluate only, where neither checkpoint nor distilled images say "
                           "it (default: 224, or 32 for CIFAR and digits)")
    data.add_argument("--labels", choices=["auto", "stored", "online", "teacher"], default="auto",
                      help="stored: those of relabel; online: make them here by the recipe in labels.json, the same numbers; "
                           "auto: stored ones, online when relabel stored none; teacher: no labels folder, --teachers label this "
                           "run's own views (DELT, RDED)")
    data.add_argument("--teacher-weights",
                      help="name of published torchvision weights, or a folder of NAME.safetensors / NAME.pth (default: with "
                           "online labels what labels.json says, and other weights than those are refused; with --labels teacher "
                           "IMAGENET1K_V1)")


def _add_method(method):
    method.add_argument("--student", default="resnet18", metavar="NAME", help="torchvision name or timm/NAME")
    method.add_argument("--student-name", type=folder_name, metavar="NAME",
                        help="folder below students/ (default: from student, protocol and seed)")
    method.add_argument("--stem", choices=["imagenet", "small"], default="imagenet",
                        help="small: first convolution with stride 1 and no max-pool, for small images")
    method.add_argument("--input-resize", metavar="PIXELS",
                        help="side that the student resizes its input to, as 64 or NAME=64 (AlexNet needs 64 at 32 px)")
    method.add_argument("--loss-type", choices=LOSSES, default="mse_gt",
                        help="mse_gt, mae_gt: distance of raw logits plus ground truth; kl, dist: of softmaxes; ce: plain hard "
                             "labels, needs no labels folder")
    method.add_argument("--ce-weight", type=options.weight,
                        help=f"weight of the ground truth in {' and '.join(WITH_GROUND_TRUTH)} (default: 0.1, paper Table 3a)")
    method.add_argument("--temperature", type=options.positive_float,
                        help=f"of both softmaxes in {' and '.join(WITH_TEMPERATURE)} (default: 20, SRe2L)")
    method.add_argument("--gt-target", choices=["unmixed", "mixed"],
                        help="class of the ground truth: the un-mixed image's (released code), or both classes of a mixed image "
                             "by lambda (default: unmixed; mixed with --loss-type ce)")
    method.add_argument("--teachers", nargs="+", default=["resnet18"], metavar="NAME",
                        help="with --labels teacher: the primary teacher first; torchvision names or timm/NAME")
    method.add_argument("--ensemble", choices=list(RULES), default="single",
                        help="with --labels teacher: how their logits become one label (see relabel)")


def _add_views(group):
    group.add_argument("--min-scale-crops", type=options.positive_fraction,
                       help="least area of a crop (default: the labels'; 0.25 with --labels teacher and --loss-type ce)")
    group.add_argument("--mix-type", choices=["cutmix", "mixup", "none"],
                       help="(default: the labels'; cutmix with --labels teacher, none with --loss-type ce)")
    group.add_argument("--randaugment", type=rand_augment, default="none", metavar="STRING",
                       help="timm's RandAugment before the crop, as rand-m6-n2-mstd1.0 (DELT), or none; needs --labels teacher or "
                            "--loss-type ce")
    group.add_argument("--shuffle-patches", type=options.positive_int, default=1, metavar="N",
                       help="cut images into N strips along both sides and shuffle these before the crop (RDED: 2), 1: do not; "
                            "needs --labels teacher or --loss-type ce")


def _add_optimisation(group):
    group.add_argument("--epochs", type=options.positive_int, default=300, help="at most as many as were labelled")
    group.add_argument("--batch-size", type=number_or(options.positive_int, *BATCH_RULES), metavar=f"N|{'|'.join(BATCH_RULES)}",
                       help="images in an optimiser step; a protocol's name: its rule by images per class (default: the labels', "
                            "which it must equal; 50 where no labels folder is read)")
    group.add_argument("--gradient-accumulation-steps", type=number_or(options.positive_int, *ACCUMULATION_RULES), default=2,
                       metavar=f"N|{'|'.join(ACCUMULATION_RULES)}",
                       help="micro-batches of a batch: BatchNorm sees 50 / 2 = 25 images (released code); gvbsm: its rule by "
                            "student")
    group.add_argument("--micro-batches", choices=["together", "apart"], default="together",
                       help="together: one pass for all of them, BatchNorm group by group, the same up to rounding and faster; "
                            "apart: a pass for each, which needs less memory")
    group.add_argument("--bn-momentum", type=options.positive_fraction,
                       help="weight of the newest batch in BatchNorm's running statistics (default: the net's own, 0.1 as a rule; "
                            "DELT and RDED: 0.19)")
    group.add_argument("--optimizer", choices=sorted(OF_OPTIMIZER), default="adamw",
                       help="adamw: betas 0.9 and 0.999")
    group.add_argument("--lr", type=number_or(options.positive_float, *LR_RULES), metavar=f"NUMBER|{'|'.join(LR_RULES)}",
                       help="delt: its table by student (default: 1e-3 for adamw, 0.1 for sgd)")
    group.add_argument("--weight-decay", type=options.weight, help="(default: 0.01 for adamw, 1e-4 for sgd)")
    group.add_argument("--weight-decay-on", choices=["matrices", "all"], default="matrices",
                       help="matrices: parameters named weight with more than one dimension (released code); all: torchvision's "
                            "recipe")
    group.add_argument("--momentum", type=options.fraction, help="of sgd (default: 0.9)")
    group.add_argument("--lr-schedule", choices=sorted(schedules.STUDENT), default="ssrs", help="set once per epoch")
    group.add_argument("--zeta", type=options.positive_float, help="of ssrs and ssrs_continuous (default: 2.5, paper)")
    group.add_argument("--ema", type=decay, default=0.0, metavar="DECAY",
                       help="test and keep a moving average of the weights with this decay per step (EDC: 0.99); 0: the weights "
                            "themselves")
    precision.add_arguments(group)
