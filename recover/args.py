"""Options of recover. Defaults are the paper's, with the decisions of EXPERIMENTS.md where paper and released code differ."""

from utils import datasets, options

POOL = ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet"]


def get_args_parser():
    parser = options.Parser(prog="recover.data_synthesis", description="Optimise synthetic images (stage 1 of PRISM).")
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=datasets.NAMES, default="imagefolder", help="digits needs no folder")
    data.add_argument("--train-dir", type=options.path, help="real training images: one folder per class, or where CIFAR lies")
    data.add_argument("--image-size", type=options.positive_int, help="side in pixels (default: 224, or 32 for CIFAR and digits)")
    data.add_argument("--start", choices=["real", "random", "noise"], default="real",
                      help="real: slice i starts from the i-th file of each class, sorted by name; random: from a random real "
                           "image of the class, each used once; noise: N(0,1) (SRe2L)")
    data.add_argument("--allow-short-classes", action="store_true",
                      help="leave a class out of the slices it has no image for, instead of refusing")
    data.add_argument("--image-format", choices=["auto", "jpg", "png"], default="auto",
                      help="auto: jpg as in the paper, png below 64 px where JPEG's loss shows in BatchNorm statistics")

    method = parser.add_argument_group("method")
    method.add_argument("--primary-teacher", default="resnet18", metavar="NAME",
                        help="logit teacher phi and first BN teacher theta_1; torchvision name or timm/NAME")
    method.add_argument("--bn-teachers", nargs="*", default=POOL, metavar="NAME",
                        help="pool of extra BN teachers; the primary is left out of it (paper 4.4, released code)")
    method.add_argument("--bn-slots", type=options.count, default=3,
                        help="extra BN teachers at most, drawn once per slice; 0: single teacher, as SRe2L")
    method.add_argument("--bn-slot-prob", type=options.fraction, default=0.5, help="probability that a slot is filled")
    method.add_argument("--teacher-weights", default="IMAGENET1K_V1",
                        help="name of published torchvision weights, or a folder of NAME.safetensors / NAME.pth")
    method.add_argument("--min-teacher-accuracy", type=options.weight, default=None, metavar="PERCENT",
                        help="stop if the primary teacher gets fewer of the real starting images right; 0: do not measure "
                             "(default: a tenth of the way from chance to 100)")
    method.add_argument("--r-bn", type=options.weight, default=0.01, help="weight of the BN term (mean over BN teachers)")
    method.add_argument("--first-bn-multiplier", type=options.weight, default=10.0,
                        help="factor on the first BN layer (released code)")
    method.add_argument("--tv-l2", type=options.weight, default=0.0, help="weight of SRe2L's total-variation prior")
    method.add_argument("--l2-scale", type=options.weight, default=0.0, help="weight of SRe2L's L2 prior")

    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--ipc-start", type=options.count, default=0, help="first IPC slice")
    optimisation.add_argument("--ipc-end", type=options.positive_int, default=10, help="one past the last IPC slice")
    optimisation.add_argument("--batch-size", type=options.positive_int, default=100, help="classes in a unit of work")
    optimisation.add_argument("--iteration", type=options.count, default=4000,
                              help="steps of the longest slices; 0 saves the start images as they are (a real subset)")
    optimisation.add_argument("--steps", choices=["varied", "constant"], default="varied",
                              help="varied: iteration * (1 - (slice mod 8)/8) (paper Table 3b); constant: SRe2L")
    optimisation.add_argument("--lr", type=options.positive_float, default=0.05, help="Adam, cosine to 0 (SRe2L: 0.25)")
    optimisation.add_argument("--min-scale-crops", type=options.positive_fraction, default=0.08, help="least area of a crop")
    optimisation.add_argument("--flip-prob", type=options.fraction, default=None,
                              help="probability of mirroring (default: 0.5, or 0 for digits)")
    optimisation.add_argument("--jitter", type=options.count, default=None,
                              help="largest roll in pixels (default: 32 at 224 px, in proportion)")
    optimisation.add_argument("--units-per-step", type=options.positive_int, default=1, metavar="N",
                              help="units that share a forward, each with its own statistics, crops and optimiser; fills a "
                                   "large GPU. May change the last bits of the result")

    run = options.add_run_arguments(parser)
    run.add_argument("--output-dir", type=options.path, required=True, help="run folder, shared by the three stages")
    run.add_argument("--seed", type=options.count, default=0, help="of the images: start, teacher draws, augmentation")
    run.add_argument("--log-every", type=options.positive_int, default=100, help="steps between lines of loss terms")
    run.add_argument("--checkpoint-every", type=options.positive_int, default=500,
                     help="steps between checkpoints of unfinished units")
    return parser
