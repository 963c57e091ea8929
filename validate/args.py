"""Options of validate, with FKD's names. Defaults are the paper's, with the decisions of EXPERIMENTS.md where paper and
released code differ."""

import argparse
import re

from utils import datasets, options, schedules
from validate.losses import LOSSES, WITH_GROUND_TRUTH, WITH_TEMPERATURE

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
OF_OPTIMIZER = {"adamw": {"lr": 1e-3, "weight_decay": 0.01},
                "sgd": {"lr": 0.1, "weight_decay": 1e-4}}  # SGD: torchvision's ResNet recipe (paper Table 2)


def folder_name(text):
    """A name that is a single folder."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a plain name of letters, digits and . _ + = -")
    return text


def get_args_parser():
    parser = options.Parser(prog="validate.train_fkd", description="Train a student on images and labels (stage 3 of PRISM).")
    _add_data(parser.add_argument_group("data"))
    _add_method(parser.add_argument_group("method"))
    _add_optimisation(parser.add_argument_group("optimisation"))
    run = options.add_run_arguments(parser)
    run.add_argument("--seed", type=options.count, default=0, help="of the student; with --loss-type ce also of the plan")
    run.add_argument("--eval-every", type=options.positive_int, default=10, metavar="EPOCHS",
                     help="test after every so many epochs and after the last; the best of these is the headline (paper)")
    run.add_argument("--evaluate", type=options.path, metavar="CHECKPOINT",
                     help="train nothing: print top-1 and top-5 of a saved student (students/NAME/best.safetensors, or any "
                          "state dict of --student)")
    return parser


def _add_data(data):
    data.add_argument("--output-dir", type=options.path, help="run folder, shared by the three stages (needed to train)")
    data.add_argument("--train-dir", type=options.path, help="distilled images (default: OUTPUT_DIR/images)")
    data.add_argument("--fkd-path", type=options.path, help="labels of relabel (default: OUTPUT_DIR/labels)")
    data.add_argument("--val-dir", type=options.path, help="real test images: one folder per class, or where CIFAR lies")
    data.add_argument("--dataset", choices=datasets.NAMES,
                      help="of the test images (default: what images.json says, else imagefolder)")
    data.add_argument("--image-size", type=options.positive_int, metavar="PIXELS",
                      help="side of the test images; read by --evaluate only, where neither checkpoint nor distilled images say "
                           "it (default: 224, or 32 for CIFAR and digits)")
    data.add_argument("--labels", choices=["auto", "stored", "online"], default="auto",
                      help="online: make the labels here by the recipe in labels.json, the same numbers; auto: stored ones, "
                           "online when relabel stored none")
    data.add_argument("--teacher-weights", help="with online labels: weights name or folder (default: what labels.json says); "
                                                "other weights than those are refused")


def _add_method(method):
    method.add_argument("--student", default="resnet18", metavar="NAME", help="torchvision name or timm/NAME")
    method.add_argument("--student-name", type=folder_name, metavar="NAME",
                        help="folder below students/ (default: from student, soft or hard labels, and seed)")
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
    method.add_argument("--min-scale-crops", type=options.positive_fraction,
                        help="least area of a crop (default: the labels'; 0.25 with --loss-type ce)")
    method.add_argument("--mix-type", choices=["cutmix", "mixup", "none"],
                        help="(default: the labels'; none with --loss-type ce)")


def _add_optimisation(group):
    group.add_argument("--epochs", type=options.positive_int, default=300, help="at most as many as were labelled")
    group.add_argument("--batch-size", type=options.positive_int,
                       help="images in an optimiser step (default: the labels', which it must equal; 50 with --loss-type ce)")
    group.add_argument("--gradient-accumulation-steps", type=options.positive_int, default=2, metavar="N",
                       help="micro-batches of a batch: BatchNorm sees 50 / 2 = 25 images (released code)")
    group.add_argument("--optimizer", choices=sorted(OF_OPTIMIZER), default="adamw",
                       help="adamw: betas 0.9 and 0.999")
    group.add_argument("--lr", type=options.positive_float, help="(default: 1e-3 for adamw, 0.1 for sgd)")
    group.add_argument("--weight-decay", type=options.weight,
                       help="on parameters named weight with more than one dimension (default: 0.01 for adamw, 1e-4 for sgd)")
    group.add_argument("--momentum", type=options.fraction, help="of sgd (default: 0.9)")
    group.add_argument("--lr-schedule", choices=sorted(schedules.STUDENT), default="ssrs", help="set once per epoch")
    group.add_argument("--zeta", type=options.positive_float, help="of ssrs and ssrs_continuous (default: 2.5, paper)")


def unread(args):
    """Options that were given and that nothing reads beside the others: a list of words for the user."""
    soft, schedule = args.loss_type != "ce", args.lr_schedule
    reasons = {
        "ce_weight": None if args.loss_type in WITH_GROUND_TRUTH else f"--loss-type {args.loss_type}",
        "temperature": None if args.loss_type in WITH_TEMPERATURE else f"--loss-type {args.loss_type}",
        "gt_target": None if args.loss_type not in WITH_TEMPERATURE else f"--loss-type {args.loss_type}",
        "momentum": None if args.optimizer == "sgd" else f"--optimizer {args.optimizer}",
        "zeta": None if schedule.startswith("ssrs") else f"--lr-schedule {schedule}",
        "fkd_path": None if soft else "--loss-type ce",
        "teacher_weights": None if soft and args.labels != "stored" else "--labels stored" if soft else "--loss-type ce",
        "image_size": "training: test images take the size of the distilled ones",
    }
    return [f"--{name.replace('_', '-')} is not read with {why}" for name, why in reasons.items()
            if why is not None and getattr(args, name) is not None]
