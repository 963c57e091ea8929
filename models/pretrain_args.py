"""Options of teacher training ("squeeze"): one value for all nets, other values for single nets."""

import argparse
from dataclasses import dataclass

from data import datasets
from utils import options
from utils.errors import UserError

# torchvision's ResNet reference for folders; short one-cycle recipes for small images. pad: pixels of shift, at 32 px.
RECIPES = {
    "imagefolder": {"epochs": 90, "batch_size": 256, "lr": 0.1, "weight_decay": 1e-4, "warmup": 0.05},
    "cifar10": {"epochs": 30, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "warmup": 0.2, "pad": 4},
    "cifar100": {"epochs": 30, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "warmup": 0.2, "pad": 4},
    "digits": {"epochs": 10, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4, "warmup": 0.2, "pad": 2},
}
# What single nets need on the digits, measured: 95 % and more with every seed tried, in the least time.
# AlexNet as torchvision initialises it stands still at first (no BatchNorm, signal shrinks layer by layer); EfficientNet's head
# starts with logits that are far too large for ten classes.
NET_RECIPES = {
    ("digits", "resnet18"): {"epochs": 5},
    ("digits", "mobilenet_v2"): {"epochs": 8},
    ("digits", "efficientnet_b0"): {"epochs": 10, "dropout": 0.0, "init": "he"},
    ("digits", "shufflenet_v2_x0_5"): {"epochs": 16},
    ("digits", "alexnet"): {"epochs": 4, "lr": 0.06, "dropout": 0.0, "clip_norm": 1.0, "init": "he", "input_resize": 64},
}


def initialisation(text):
    """own: as the library initialises the net. he: He et al. 2015 in all layers but the head, biases 0."""
    if text not in ("own", "he"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected own or he")
    return text


PER_NET = {"epochs": options.positive_int, "batch_size": options.positive_int, "lr": options.positive_float,
           "weight_decay": options.weight, "dropout": options.fraction, "clip_norm": options.positive_float, "init": initialisation}


@dataclass(frozen=True)
class Plan:
    """How one net is trained. pad: pixels of shift, for images in memory. None: no resize, the net's own dropout, no clipping."""

    name: str
    stem: str
    input_resize: int | None
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    dropout: float | None
    clip_norm: float | None
    init: str
    warmup: float
    pad: int | None
    seed: int


class _PerNet(argparse.Action):
    """NAME=VALUE ... gathered into a dict; a later value for the same net wins, so that "$@" of a script overrides it."""

    def __init__(self, *, kind, **settings):
        super().__init__(nargs="+", **settings)
        self.kind = kind

    def __call__(self, parser, namespace, values, option_string=None):
        gathered = dict(getattr(namespace, self.dest) or {})
        for text in values:
            name, sign, value = text.partition("=")
            if not (name and sign):
                parser.error(f"argument {option_string}: found {text!r}, expected NAME=VALUE such as alexnet=64")
            try:
                gathered[name] = self.kind(value)
            except argparse.ArgumentTypeError as error:
                parser.error(f"argument {option_string} for {name}: {error}")
        setattr(namespace, self.dest, gathered)


def get_args_parser():
    parser = options.Parser(prog="models.pretrain", description="Train teachers where no weights are published (squeeze).")
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=datasets.NAMES, default="imagefolder", help="digits needs no folder")
    data.add_argument("--train-dir", type=options.path, help="training images: one folder per class, or where CIFAR lies")
    data.add_argument("--val-dir", type=options.path, help="test images (CIFAR: default --train-dir)")
    data.add_argument("--image-size", type=options.positive_int, help="side in pixels (default: 224, or 32 for CIFAR and digits)")

    method = parser.add_argument_group("method")
    method.add_argument("--teachers", nargs="+", required=True, metavar="NAME", help="torchvision names or timm/NAME")
    method.add_argument("--stem", choices=["imagenet", "small"], default="imagenet",
                        help="small: first convolution with stride 1 and no max-pool, for small images")
    method.add_argument("--input-resize", action=_PerNet, kind=options.positive_int, metavar="NAME=PIXELS",
                        help="side that this net resizes its input to, kept in its checkpoint (alexnet needs 63 px)")

    optimisation = parser.add_argument_group("optimisation", "SGD, Nesterov momentum 0.9, warm-up then cosine to 0; every "
                                             "option has a twin that ends in -for and takes NAME=VALUE for single nets")
    by_dataset = ", ".join(f"{name} {recipe['epochs']}" for name, recipe in RECIPES.items())
    helps = {"epochs": f"default: {by_dataset}", "batch_size": "default: 256 for folders, 128 for CIFAR, 64 for digits",
             "lr": "highest learning rate (default: 0.1, digits 0.05; nets without BatchNorm a tenth of it, as torchvision's "
                   "reference)",
             "weight_decay": "default: 1e-4 for folders, else 5e-4",
             "dropout": "probability in the net's dropout layers while it trains (default: the architecture's own)",
             "clip_norm": "largest norm of the gradient (default: none)",
             "init": "own: as the library initialises the net; he: He et al. 2015 but for the head (default: own)"}
    for option, kind in PER_NET.items():
        flag = "--" + option.replace("_", "-")
        optimisation.add_argument(flag, type=kind, help=helps[option])
        optimisation.add_argument(flag + "-for", action=_PerNet, kind=kind, metavar="NAME=VALUE", help=argparse.SUPPRESS)
    optimisation.add_argument("--warmup", type=options.fraction, help="part of all steps in which the learning rate rises "
                                                                     "(default: 0.05 for folders, else 0.2)")

    run = options.add_run_arguments(parser)
    run.add_argument("--output-dir", type=options.path, required=True, help="folder of NAME.safetensors and NAME.json")
    options.add_shard_argument(run)
    run.add_argument("--seed", type=options.count, default=0, help="of initialisation, order and augmentation")
    run.add_argument("--min-accuracy", type=options.weight, default=0.0, metavar="PERCENT",
                     help="fail when a teacher's top-1 on the test images ends below this; 0: never")
    run.add_argument("--save-seconds", type=options.weight, default=60.0,
                     help="least seconds between saved states to go on from (at the end of an epoch)")
    return parser


def make_plans(args, image_size, has_batch_norm):
    """One Plan per teacher from the parsed options. has_batch_norm: function of a name."""
    recipe = RECIPES[args.dataset]
    teachers = list(dict.fromkeys(args.teachers))
    for dest in ("input_resize", *(f"{option}_for" for option in PER_NET)):
        strange = sorted(set(getattr(args, dest) or ()) - set(teachers))
        if strange:
            raise UserError(f"--{dest.replace('_', '-')} {strange[0]}=...: {strange[0]} is not among --teachers "
                            f"{' '.join(teachers)}.")
    return [Plan(name=name, stem=args.stem, seed=args.seed,
                 input_resize=(args.input_resize or {}).get(name, NET_RECIPES.get((args.dataset, name), {}).get("input_resize")),
                 warmup=recipe["warmup"] if args.warmup is None else args.warmup,
                 pad=round(recipe["pad"] * image_size / 32) if "pad" in recipe else None,
                 **{option: _value(args, option, name, has_batch_norm) for option in PER_NET}) for name in teachers]


def _value(args, option, name, has_batch_norm):
    """The value of an option for a net: given for this net, given for all, this net's recipe, the dataset's recipe."""
    own, recipe = NET_RECIPES.get((args.dataset, name), {}), {"init": "own", **RECIPES[args.dataset]}
    for value in ((getattr(args, f"{option}_for") or {}).get(name), getattr(args, option), own.get(option)):
        if value is not None:
            return value
    if option == "lr" and not has_batch_norm(name):
        return recipe["lr"] / 10
    return recipe.get(option)
