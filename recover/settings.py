"""From parsed options to settings: everything that changes pixels, with what depends on the data filled in."""

from recover.args import get_args_parser
from recover.presets import PRESETS
from recover.synthesize import Recipe
from recover.teacher_pool import TeacherLaw, without_primary
from utils.errors import UserError

RANKED = ("medium", "mosaic")
_RECIPE = ("lr", "r_bn", "bn_terms", "bn_normalise", "without_bn", "min_scale_crops", "crop_schedule", "crop_milestone",
           "flip_prob", "jitter", "density", "density_temperature", "tv_l2", "l2_scale", "seed")
_LAW = ("decoupling", "logit_teacher", "selection", "drawn_per", "bn_law", "bn_slots", "bn_slot_prob", "bn_count", "theta1", "seed")
_AS_GIVEN = (*_RECIPE, *_LAW, "start", "start_flip", "ranker", "mosaic_candidates", "mosaic_crops", "mosaic_grid",
             "allow_short_classes", "primary_teacher", "first_bn_multiplier", "match", "statistics_ema", "class_statistics",
             "class_patches", "statistics_images", "batch_size", "batch_layout", "early_late", "iteration", "steps",
             "units_per_step", "precision", "compile")

_OF_SYNTHESIS = ("primary_teacher", *_LAW[:-1], "bn_teachers", "first_bn_multiplier", "match", "statistics_ema", "class_statistics",
                 "class_patches", "statistics_images", "statistics_dir", *_RECIPE[:-1], "steps", "verifier", "units_per_step",
                 "precision", "compile")


def check(args):
    """Raise UserError for options that contradict one another."""
    if args.ipc_start >= args.ipc_end:
        raise UserError(f"--ipc-start {args.ipc_start} --ipc-end {args.ipc_end}: no slice in between. Raise --ipc-end.")
    by_class = args.batch_layout == "class"
    if by_class and args.ipc_start:
        raise UserError(f"--ipc-start {args.ipc_start}: with --batch-layout class there are no slices to begin at. Leave it out.")
    if by_class and args.steps == "varied":
        raise UserError("--batch-layout class: a batch holds several slices, found --steps varied. Give --steps constant.")
    if by_class and args.drawn_per == "image":
        raise UserError("--batch-layout class: a batch shares its teachers, found --drawn-per image. Give --drawn-per slice.")
    if args.early_late and not by_class:
        raise UserError(f"--early-late {args.early_late} lets the images of a class join one after the other, found --batch-layout "
                        "slice, which puts them into different batches. Give --batch-layout class.")
    if args.density and not by_class:
        raise UserError(f"--density {args.density:g} compares images of one class, found --batch-layout slice, whose batches hold "
                        "one of each. Give --batch-layout class.")
    if args.statistics_ema == 1:
        raise UserError("--statistics-ema 1 would forget every batch: found 1, expected less. G-VBSM has 0.4, EDC 0.8.")
    if args.start_dir is not None and args.start not in ("real", "random", "drawn"):
        raise UserError(f"--start {args.start} does not read --start-dir {args.start_dir}. Give --start real, random or drawn, or "
                        "leave --start-dir out.")
    if args.preset == "edc" and args.start_dir is None and "start" not in args.given:
        raise UserError("--preset edc starts from RDED's images, found no --start-dir. Make them with --preset rded in another "
                        "--output-dir and give its images folder, or choose another --start.")


def unread(args):
    """{option: why nothing reads it beside the others, or None}."""
    if args.iteration == 0:  # the start as it is: no net guides it
        return {**_unread_of_start(args), **dict.fromkeys(_OF_SYNTHESIS, "--iteration 0")}
    multi, slots, matched = args.decoupling == "multi", args.bn_law == "slots", args.match == "convolution"
    in_turn, alone = args.selection == "in-turn", args.decoupling == "single" and args.logit_teacher == "primary"
    of_law = f"--decoupling {args.decoupling}" if not multi else f"--bn-law {args.bn_law}"
    not_matched = None if matched else f"--match {args.match}"
    turns = "--selection in-turn" if in_turn else None
    fixed = "--decoupling single" if alone and not in_turn else None  # nothing is drawn
    measured = None if matched or args.without_bn == "calibrated" else f"--without-bn {args.without_bn}"
    return {
        **_unread_of_start(args),
        "bn_law": None if multi else of_law, "bn_terms": None if multi else of_law,
        "bn_slots": None if multi and slots else of_law, "bn_slot_prob": None if multi and slots else of_law,
        "bn_count": None if multi and not slots else of_law, "theta1": None if multi and not slots else of_law,
        "bn_teachers": fixed, "selection": fixed, "drawn_per": turns or fixed, "logit_teacher": turns,
        "without_bn": f"--match {args.match}" if matched else None,
        "statistics_ema": not_matched, "class_statistics": not_matched,
        "class_patches": not_matched or (None if args.class_statistics else "--class-statistics 0"),
        "statistics_images": measured, "statistics_dir": measured,
        "density_temperature": None if args.density else "--density 0",
        "crop_milestone": "--crop-schedule constant" if args.crop_schedule == "constant" else None,
    }


def _unread_of_start(args):
    """unread, for what images start from."""
    start = f"--start {args.start}"
    endless = args.start in ("noise", "drawn", "mosaic")
    return {
        "ranker": None if args.start in RANKED else start, "start_flip": start if args.start == "noise" else None,
        **{name: None if args.start == "mosaic" else start for name in ("mosaic_candidates", "mosaic_crops", "mosaic_grid")},
        "allow_short_classes": start if endless else None,
    }


def resolve(args, real):
    """The options that change pixels: None where nothing reads one, defaults that depend on the data filled in."""
    size = real.image_size
    idle = {name for name, why in unread(args).items() if why is not None}
    whole = args.batch_layout == "class" or args.start == "mosaic"  # more images per class would change those there are
    settings = {
        **{name: getattr(args, name) for name in _AS_GIVEN}, "dataset": args.dataset, "image_size": size,
        "image_format": args.image_format if args.image_format != "auto" else "png" if size < 64 else "jpg",
        "ranker": args.ranker or args.primary_teacher, "ipc": args.ipc_end if whole else None,
        "flip_prob": (0.5 if real.flips else 0.0) if args.flip_prob is None else args.flip_prob,
        "jitter": 32 * size // 224 if args.jitter is None else args.jitter,
    }
    settings = {name: None if name in idle else value for name, value in settings.items()}
    settings["bn_teachers"] = [] if "bn_teachers" in idle else without_primary(args.bn_teachers, args.primary_teacher)
    return settings


def changed(args, settings, real):
    """Names of the options in which a run departs from its preset, apart from those that every method leaves open."""
    plain = resolve(get_args_parser().parse_args(["--preset", args.preset, "--output-dir", str(args.output_dir)]), real)
    open_to_all = {"dataset", "image_size", "image_format", "allow_short_classes", "units_per_step", "compile", "seed"}
    differs = {name for name in args.changed & set(settings) if settings[name] is not None and settings[name] != plain[name]}
    weights = {"teacher_weights"} & args.changed & set(PRESETS[args.preset])  # DELT names its weights
    return sorted((differs | weights) - open_to_all)


def make_recipe(settings):
    """What the optimisation reads of the settings."""
    return Recipe(**{name: settings[name] for name in _RECIPE if settings[name] is not None})


def make_law(settings):
    """What the teacher draws read of the settings."""
    return TeacherLaw(settings["primary_teacher"], tuple(settings["bn_teachers"]),
                      **{name: settings[name] for name in _LAW if settings[name] is not None})
