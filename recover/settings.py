"""From parsed options to settings: everything that changes pixels, with what depends on the data filled in."""

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
             "units_per_step")


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
    if args.start_dir is not None and args.start not in ("real", "random", "drawn"):
        raise UserError(f"--start {args.start} does not read --start-dir {args.start_dir}. Give --start real, random or drawn, or "
                        "leave --start-dir out.")
    if args.preset == "edc" and args.start_dir is None and "start" not in args.given:
        raise UserError("--preset edc starts from RDED's images, found no --start-dir. Make them with --preset rded in another "
                        "--output-dir and give its images folder, or choose another --start.")


def unread(args):
    """{option: why nothing reads it beside the others, or None}."""
    multi, slots, matched = args.decoupling == "multi", args.bn_law == "slots", args.match == "convolution"
    in_turn, fixed = args.selection == "in-turn", args.decoupling == "single" and args.logit_teacher == "primary"
    of_law = f"--decoupling {args.decoupling}" if not multi else f"--bn-law {args.bn_law}"
    mosaic, ranked = args.start == "mosaic", args.start in RANKED
    not_matched = None if matched else f"--match {args.match}"
    turns = "--selection in-turn" if in_turn else None
    return {
        "bn_law": None if multi else of_law, "bn_terms": None if multi else of_law,
        "bn_slots": None if multi and slots else of_law, "bn_slot_prob": None if multi and slots else of_law,
        "bn_count": None if multi and not slots else of_law, "theta1": None if multi and not slots else of_law,
        "bn_teachers": "--decoupling single" if fixed and not in_turn else None,
        "logit_teacher": turns, "drawn_per": turns,
        "without_bn": f"--match {args.match}" if matched else None,
        "statistics_ema": not_matched, "class_statistics": not_matched,
        "class_patches": not_matched or (None if args.class_statistics else "--class-statistics 0"),
        "statistics_images": None if matched or args.without_bn == "calibrated" else f"--without-bn {args.without_bn}",
        "statistics_dir": None if matched or args.without_bn == "calibrated" else f"--without-bn {args.without_bn}",
        "density_temperature": None if args.density else "--density 0",
        "ranker": None if ranked else f"--start {args.start}",
        **{name: None if mosaic else f"--start {args.start}" for name in ("mosaic_candidates", "mosaic_crops", "mosaic_grid")},
        "start_flip": "--start noise" if args.start == "noise" else None,
        "crop_milestone": "--crop-schedule constant" if args.crop_schedule == "constant" else None,
    }


def resolve(args, real):
    """The options that change pixels: None where nothing reads one, defaults that depend on the data filled in."""
    size = real.image_size
    idle = {name for name, why in unread(args).items() if why is not None}
    settings = {name: None if name in idle else getattr(args, name) for name in _AS_GIVEN}
    pool = [] if "bn_teachers" in idle else without_primary(args.bn_teachers, args.primary_teacher)
    whole = args.batch_layout == "class" or args.start == "mosaic"  # more images per class would change those there are
    image_format = args.image_format if args.image_format != "auto" else "png" if size < 64 else "jpg"
    return {
        **settings, "dataset": args.dataset, "image_size": size, "image_format": image_format, "bn_teachers": pool,
        "ranker": None if "ranker" in idle else args.ranker or args.primary_teacher, "ipc": args.ipc_end if whole else None,
        "flip_prob": (0.5 if real.flips else 0.0) if args.flip_prob is None else args.flip_prob,
        "jitter": 32 * size // 224 if args.jitter is None else args.jitter,
    }


def changed(args, settings):
    """Names of the options in which a run departs from its preset, apart from those that every method leaves open."""
    open_to_all = {"dataset", "image_size", "image_format", "allow_short_classes", "units_per_step", "seed"}
    return sorted((args.changed & set(settings)) - open_to_all)


def make_recipe(settings):
    """What the optimisation reads of the settings."""
    return Recipe(**{name: settings[name] for name in _RECIPE if settings[name] is not None})


def make_law(settings):
    """What the teacher draws read of the settings."""
    return TeacherLaw(settings["primary_teacher"], tuple(settings["bn_teachers"]),
                      **{name: settings[name] for name in _LAW if settings[name] is not None})
