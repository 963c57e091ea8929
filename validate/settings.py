"""From the command line to the settings of one student: defaults filled in, rules applied, what cannot go together refused."""

from utils.errors import UserError
from validate import rules
from validate.args import OF_OPTIMIZER
from validate.losses import WITH_GROUND_TRUTH, WITH_TEMPERATURE


def label_kind(args):
    """Where labels come from: "hard" (classes alone), "teacher" (made here for this run's views) or "folder" (relabel's)."""
    return "hard" if args.loss_type == "ce" else "teacher" if args.labels == "teacher" else "folder"


def check_views(args):
    """Refuse views that relabel's plans cannot hold together with relabel's labels."""
    if label_kind(args) != "folder":
        return
    for dest, wanted in (("randaugment", args.randaugment != "none"), ("shuffle_patches", args.shuffle_patches > 1)):
        if wanted:
            raise UserError(f"--{dest.replace('_', '-')}: found labels of relabel, made for other views. Give --labels teacher or "
                            f"--loss-type ce, or {'leave it out' if dest in args.given else f'leave out --preset {args.preset}'}.")


def wanted_of_labels(args, batch_size):
    """What a labels folder must have been made with: [(option, value or None, the preset that asks for it or None)]."""
    values = {"batch_size": batch_size, "min_scale_crops": args.min_scale_crops, "mix_type": args.mix_type}
    return [(f"--{name.replace('_', '-')}", value, None if name in args.given else args.preset) for name, value in values.items()]


def resolve(args, dataset, size, plan):
    """Every option that changes the result, with defaults filled in; None where nothing reads it. plan: PlanOptions."""
    of_optimizer, kind = OF_OPTIMIZER[args.optimizer], label_kind(args)
    soft_max, ground_truth = args.loss_type in WITH_TEMPERATURE, args.loss_type in WITH_GROUND_TRUTH
    ensemble = args.ensemble if kind == "teacher" else None
    return {
        "student": args.student, "stem": args.stem, "input_resize": input_resize(args.input_resize, args.student),
        "dataset": dataset, "image_size": size, "loss_type": args.loss_type,
        "ce_weight": _or(args.ce_weight, 0.1) if ground_truth else None,
        "temperature": _or(args.temperature, 20.0) if soft_max else None,
        # Released: un-mixed (EXPERIMENTS.md, choice 11). Plain hard labels have nothing else to learn from, so both classes count.
        "gt_target": None if soft_max else args.gt_target or ("mixed" if kind == "hard" else "unmixed"),
        "ensemble": ensemble, "teachers": None if ensemble is None else args.teachers[: 1 if ensemble == "single" else None],
        "epochs": args.epochs, "batch_size": plan.batch_size,
        "gradient_accumulation_steps": rules.accumulation_steps(args.gradient_accumulation_steps, args.student),
        "micro_batches": args.micro_batches, "precision": args.precision, "compile": args.compile,
        "min_scale_crops": plan.min_area, "mix_type": plan.mix, "mix_alpha": plan.alpha, "flip_prob": plan.flip,
        "randaugment": None if args.randaugment == "none" else args.randaugment, "shuffle_patches": args.shuffle_patches,
        "bn_momentum": args.bn_momentum, "optimizer": args.optimizer,
        "lr": _or(rules.learning_rate(args.lr, args.student), of_optimizer["lr"]),
        "weight_decay": _or(args.weight_decay, of_optimizer["weight_decay"]), "weight_decay_on": args.weight_decay_on,
        "momentum": _or(args.momentum, 0.9) if args.optimizer == "sgd" else None,
        "lr_schedule": args.lr_schedule, "zeta": _or(args.zeta, 2.5) if args.lr_schedule.startswith("ssrs") else None,
        "ema": args.ema, "eval_every": args.eval_every, "eval_from": args.eval_from, "seed": args.seed,
    }


def _or(value, default):
    return default if value is None else value


def input_resize(text, student):
    """Side in pixels from "64" or "NAME=64", or None."""
    if text is None:
        return None
    name, _, side = text.rpartition("=")
    if name not in ("", student):
        raise UserError(f"--input-resize {text}: the student is {student}. Give --input-resize {side}.")
    if not side.isdigit() or int(side) == 0:
        raise UserError(f"--input-resize {text}: expected a side in pixels, such as 64.")
    return int(side)


def changed(args, settings):
    """Names of the options in which a run departs from its preset, apart from those that every protocol leaves open."""
    open_to_all = {"student", "stem", "input_resize", "dataset", "image_size", "seed"}
    return sorted((args.changed & set(settings)) - open_to_all)


def protocol(args):
    """Word for the student's folder: soft or hard with the paper's own protocol, else the preset's name."""
    if args.preset != "prism":
        return args.preset
    return "hard" if label_kind(args) == "hard" else "soft"


def unread(args, has_batch_norm):
    """{option: what makes it unread beside the others, or None}. has_batch_norm: of the student."""
    hard, loss, schedule = args.loss_type == "ce", f"--loss-type {args.loss_type}", f"--lr-schedule {args.lr_schedule}"
    not_teacher = loss if hard else None if args.labels == "teacher" else f"--labels {args.labels}"
    return {
        "ce_weight": None if args.loss_type in WITH_GROUND_TRUTH else loss,
        "temperature": None if args.loss_type in WITH_TEMPERATURE else loss,
        "gt_target": loss if args.loss_type in WITH_TEMPERATURE else None,
        "momentum": None if args.optimizer == "sgd" else f"--optimizer {args.optimizer}",
        "zeta": None if args.lr_schedule.startswith("ssrs") else schedule,
        "labels": loss if hard else None,
        "fkd_path": loss if hard else "--labels teacher" if args.labels == "teacher" else None,
        "teachers": not_teacher, "ensemble": not_teacher,
        "teacher_weights": loss if hard else "--labels stored" if args.labels == "stored" else None,
        "bn_momentum": None if has_batch_norm else f"--student {args.student}: it has no BatchNorm",
        "image_size": "training: test images take the size of the distilled ones",
    }
