"""Options of relabel, with FKD's names. Defaults are the paper's, with the decisions of EXPERIMENTS.md where paper and
released code differ."""

from data.label_formats import FORMATS
from models.ensemble import RULES
from relabel.presets import PRESETS, TEACHERS
from utils import options, precision


def get_args_parser():
    parser = options.Parser(prog="relabel.generate_soft_label", description="Label the images by teachers (stage 2 of PRISM).")
    data = parser.add_argument_group("data")
    data.add_argument("--output-dir", type=options.path, required=True, help="run folder, shared by the three stages")
    data.add_argument("--train-dir", type=options.path,
                      help="distilled images, one folder per class, of any tool (default: OUTPUT_DIR/images)")
    data.add_argument("--fkd-path", type=options.path, help="where the labels go (default: OUTPUT_DIR/labels)")
    data.add_argument("--label-format", choices=FORMATS, default="fp16",
                      help="numbers that logits are stored as: fp16 as in the released code; int8 in 254 steps between the ends of "
                           "each row, half of the bytes; topk: the largest logits of each row in fp16, and the mean of the others")
    data.add_argument("--label-top-k", type=options.positive_int, metavar="K",
                      help="with --label-format topk: logits kept of each row, at most the number of classes; 4 bytes each")
    data.add_argument("--label-store", choices=["files", "none"], default="files",
                      help="none: write the recipe alone (labels.json); validate then makes the same numbers on the fly")

    method = parser.add_argument_group("method")
    parser.add_preset(method, PRESETS, "defaults of another method's labels; every option can still be given")
    method.add_argument("--teachers", nargs="+", default=TEACHERS, metavar="NAME",
                        help="the primary teacher first; torchvision names or timm/NAME")
    method.add_argument("--ensemble", choices=list(RULES), default="equal_energy",
                        help="how their logits become one label: equal_energy (released code for ResNet-18), primary_half "
                             "(released code for ResNet-50 and -101), mean (the paper's words), single (the primary alone)")
    method.add_argument("--teacher-weights", default="IMAGENET1K_V1",
                        help="name of published torchvision weights, or a folder of NAME.safetensors / NAME.pth")
    method.add_argument("--min-scale-crops", type=options.positive_fraction, default=0.25,
                        help="least area of a crop, as a part of the image")
    method.add_argument("--flip-prob", type=options.fraction,
                        help="probability of mirroring (default: 0.5, or 0 for digits)")
    method.add_argument("--mix-type", choices=["cutmix", "mixup", "none"], default="cutmix",
                        help="how two images of a batch are mixed, after normalising")
    method.add_argument("--mix-alpha", type=options.positive_float,
                        help="lambda ~ Beta(alpha, alpha) (default: 1 for cutmix, 0.8 for mixup)")

    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--epochs", type=options.positive_int, default=300, help="epochs of labels; more may be added later")
    optimisation.add_argument("--batch-size", type=options.positive_int, default=50,
                              help="images that are mixed and labelled together; the student's batch is the same")

    run = options.add_run_arguments(parser)
    precision.add_arguments(run)
    options.add_shard_argument(run)
    run.add_argument("--fkd-seed", type=options.count, default=42, help="of order, crops, flips and mixing")
    return parser
