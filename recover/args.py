"""Options of recover. Defaults are the paper's, with the decisions of EXPERIMENTS.md where paper and released code differ."""

from data import datasets
from recover.presets import POOL, PRESETS
from recover.priors.convolution import CLASS_PATCHES
from utils import options, precision, schedules


def get_args_parser():
    parser = options.Parser(prog="recover.data_synthesis", description="Optimise synthetic images (stage 1 of PRISM).")
    _add_data(parser.add_argument_group("data"))
    method = parser.add_argument_group("method")
    parser.add_preset(method, PRESETS, "defaults of another method of the field; every option can still be given")
    _add_teachers(method)
    _add_terms(parser.add_argument_group("loss"))
    _add_optimisation(parser.add_argument_group("optimisation"))
    run = options.add_run_arguments(parser)
    precision.add_arguments(run)
    run.add_argument("--output-dir", type=options.path, required=True, help="run folder, shared by the three stages")
    options.add_shard_argument(run)
    run.add_argument("--seed", type=options.count, default=0, help="of the images: start, teacher draws, augmentation")
    run.add_argument("--log-every", type=options.positive_int, default=100, help="steps between lines of loss terms")
    run.add_argument("--verifier", metavar="NAME",
                     help="a net whose accuracy on the images is printed beside the loss terms (SRe2L); changes no pixel "
                          "(default: none)")
    run.add_argument("--checkpoint-every", type=options.positive_int, default=500,
                     help="steps between checkpoints of unfinished units")
    return parser


def _add_data(data):
    data.add_argument("--dataset", choices=datasets.NAMES, default="imagefolder", help="digits needs no folder")
    data.add_argument("--train-dir", type=options.path, help="real training images: one folder per class, or where CIFAR lies")
    data.add_argument("--image-size", type=options.positive_int, help="side in pixels (default: 224, or 32 for CIFAR and digits)")
    data.add_argument("--start", choices=["real", "random", "drawn", "medium", "mosaic", "noise"], default="real",
                      help="real: slice i starts from the i-th file of each class, sorted by name; random: from a random real "
                           "image of the class, each used once; drawn: likewise, drawn anew for every image; medium: images of "
                           "middle difficulty first (DELT); mosaic: the best crops of four images (RDED); noise: N(0,1) (SRe2L)")
    data.add_argument("--start-dir", type=options.path,
                      help="start real, random or drawn from these images instead, one folder per class: another method's, say")
    data.add_argument("--start-flip", type=options.fraction, default=0.0,
                      help="probability that a start image is mirrored (EDC: 0.5)")
    data.add_argument("--ranker", metavar="NAME",
                      help="net that ranks images for --start medium and mosaic (default: the primary teacher)")
    data.add_argument("--mosaic-candidates", type=options.positive_int, default=300, help="random images per class (RDED)")
    data.add_argument("--mosaic-crops", type=options.positive_int, default=5, help="crops of each, the best counts (RDED)")
    data.add_argument("--mosaic-grid", type=options.positive_int, default=2, help="crops along a side of the image (RDED)")
    data.add_argument("--allow-short-classes", action="store_true",
                      help="leave a class out of the slices it has no image for, instead of refusing")
    data.add_argument("--image-format", choices=["auto", "jpg", "png"], default="auto",
                      help="auto: jpg as in the paper, png below 64 px where JPEG's loss shows in BatchNorm statistics")


def _add_teachers(method):
    method.add_argument("--primary-teacher", default="resnet18", metavar="NAME",
                        help="logit teacher phi and first BN teacher theta_1; torchvision name or timm/NAME")
    method.add_argument("--bn-teachers", nargs="*", default=POOL, metavar="NAME",
                        help="pool of extra BN teachers; the primary is left out of it (paper 4.4, released code)")
    method.add_argument("--decoupling", choices=["multi", "dual", "single"], default="multi",
                        help="multi: several BN teachers; dual: one, another net than the logit teacher; single: the logit teacher "
                             "does both (paper 3.1, SRe2L)")
    method.add_argument("--logit-teacher", choices=["primary", "drawn"], default="primary",
                        help="drawn: uniformly from the primary and the pool (paper 3.3)")
    method.add_argument("--selection", choices=["pre", "intra", "in-turn"], default="pre",
                        help="pre: teachers are drawn once, before distillation; intra: again at every step (paper 3.3); in-turn: "
                             "step n uses net n mod K of primary and pool for both terms (G-VBSM; needs --decoupling single)")
    method.add_argument("--drawn-per", choices=["slice", "image"], default="slice",
                        help="slice: one draw for a slice (released code); image: every image has its own, and those of a slice "
                             "that drew alike share batches (the paper's words)")
    method.add_argument("--bn-law", choices=["slots", "uniform", "exact"], default="slots",
                        help="of multi: slots filled by chance (released code); uniform over the non-empty subsets of at most "
                             "--bn-count nets (paper 3.2); exactly --bn-count nets (paper Table 2)")
    method.add_argument("--bn-slots", type=options.count, default=3, help="of slots: extra BN teachers at most, beside theta_1")
    method.add_argument("--bn-slot-prob", type=options.fraction, default=0.5, help="of slots: probability that a slot is filled")
    method.add_argument("--bn-count", type=options.positive_int, default=4,
                        help="of uniform: at most so many BN teachers; of exact: so many")
    method.add_argument("--theta1", choices=["forced", "free"], default="forced",
                        help="of uniform and exact: whether the logit teacher is always a BN teacher (paper Table 3d) or drawn as "
                             "any other")
    method.add_argument("--teacher-weights", default="IMAGENET1K_V1",
                        help="name of published torchvision weights, or a folder of NAME.safetensors / NAME.pth")
    method.add_argument("--min-teacher-accuracy", type=options.weight, default=None, metavar="PERCENT",
                        help="stop if a logit teacher gets fewer of the real images right; 0: do not measure "
                             "(default: a tenth of the way from chance to 100)")


def _add_terms(loss):
    loss.add_argument("--r-bn", type=options.weight, default=0.01, help="weight of the BN term")
    loss.add_argument("--bn-terms", choices=["mean", "sum"], default="mean",
                      help="of several BN teachers: mean (released code) or sum (paper Eq. 4)")
    loss.add_argument("--bn-normalise", choices=["none", "layers"], default="none",
                      help="layers: divide a net's term by its number of layers, so that deep nets do not outweigh others")
    loss.add_argument("--without-bn", choices=["counted", "left-out", "calibrated"], default="counted",
                      help="BN teachers without BatchNorm: counted as 0 in the mean (released code), left out of it, or aligned to "
                           "statistics measured on the training images (LayerNorm and GroupNorm nets, AlexNet)")
    loss.add_argument("--first-bn-multiplier", type=options.weight, default=10.0, help="factor on the first layer (released code)")
    loss.add_argument("--match", choices=["batchnorm", "convolution"], default="batchnorm",
                      help="layers whose statistics are matched; convolution: BatchNorm layers, convolutions and their patches "
                           "(G-VBSM)")
    loss.add_argument("--statistics-ema", type=options.fraction, default=0.0,
                      help="with --match convolution: weight of the past in the batch's statistics (G-VBSM 0.4, EDC 0.8)")
    loss.add_argument("--class-statistics", type=options.fraction, default=0.0,
                      help="with --match convolution: share of the distance to class statistics, the rest is to global ones "
                           "(EDC 0.5)")
    loss.add_argument("--class-patches", choices=list(CLASS_PATCHES), default="straight",
                      help="with class statistics: swapped matches patch means to variances and back, as EDC's code ran")
    loss.add_argument("--statistics-images", type=options.count, default=0, metavar="N",
                      help="training images that calibrated and convolution statistics are measured on, once; 0: all")
    loss.add_argument("--statistics-dir", type=options.path,
                      help="where measured statistics are kept (default: beside the teachers' weights)")
    loss.add_argument("--density", type=options.weight, default=0.0, help="weight of G-VBSM's density term over images of a class")
    loss.add_argument("--density-temperature", type=options.positive_float, default=4.0,
                      help="of the density term's target (G-VBSM)")
    loss.add_argument("--tv-l2", type=options.weight, default=0.0, help="weight of SRe2L's total-variation prior")
    loss.add_argument("--l2-scale", type=options.weight, default=0.0, help="weight of SRe2L's L2 prior")


def _add_optimisation(optimisation):
    optimisation.add_argument("--ipc-start", type=options.count, default=0, help="first IPC slice")
    optimisation.add_argument("--ipc-end", type=options.positive_int, default=10, help="one past the last IPC slice")
    optimisation.add_argument("--batch-size", type=options.positive_int, default=100, help="images in a unit of work")
    optimisation.add_argument("--batch-layout", choices=["slice", "class"], default="slice",
                              help="slice: a batch is one image each of consecutive classes (paper 3.4); class: all images of a "
                                   "class, then of the next (G-VBSM, EDC, DELT)")
    optimisation.add_argument("--early-late", type=options.count, default=0, metavar="GROUPS",
                              help="groups of a class's images that join one after the other (DELT: 8); 0: all from the first step")
    optimisation.add_argument("--iteration", type=options.count, default=4000,
                              help="steps of the longest slices; 0 saves the start images as they are (a real subset)")
    optimisation.add_argument("--steps", choices=["varied", "constant"], default="varied",
                              help="varied: iteration * (1 - (slice mod 8)/8) (paper Table 3b); constant: SRe2L")
    optimisation.add_argument("--lr", type=options.positive_float, default=0.05, help="Adam, cosine to 0 (SRe2L: 0.25)")
    optimisation.add_argument("--min-scale-crops", type=options.positive_fraction, default=0.08, help="least area of a crop")
    optimisation.add_argument("--crop-schedule", choices=sorted(schedules.CROP), default="constant",
                              help="least area over the steps, falling from 1 to --min-scale-crops (CDA: cosine; paper Table 3b)")
    optimisation.add_argument("--crop-milestone", type=options.positive_fraction, default=1.0,
                              help="part of the steps after which the least area is reached (CDA)")
    optimisation.add_argument("--flip-prob", type=options.fraction, default=None,
                              help="probability of mirroring (default: 0.5, or 0 for digits)")
    optimisation.add_argument("--jitter", type=options.count, default=None,
                              help="largest roll in pixels (default: 32 at 224 px, in proportion)")
    optimisation.add_argument("--units-per-step", type=options.positive_int, default=1, metavar="N",
                              help="units that share a forward, each with its own statistics, crops and optimiser; fills a "
                                   "large GPU. May change the last bits of the result")
