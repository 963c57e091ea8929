"""Digits through the stages, for benchmarks of what number formats do to results."""

from benchmarks import measure
from models import pretrain
from reproduce.quickstart import TEACHERS
from reproduce.steps import ROOT, Steps
from utils import options


def get_args_parser(prog, description, seeds):
    """Options of a benchmark on digits. seeds: what they are of, in words."""
    parser = options.Parser(prog=f"benchmarks.{prog}", description=description)
    parser.add_argument("--seeds", type=options.positive_int, default=3, help=seeds)
    parser.add_argument("--ipc", type=options.positive_int, default=10)
    parser.add_argument("--iteration", type=options.positive_int, default=100, help="steps of the longest slices")
    parser.add_argument("--epochs", type=options.positive_int, default=50, help="of labels and students")
    parser.add_argument("--teacher-weights", type=options.path, help="folder of digits teachers (default: they are trained first)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--threads", type=options.positive_int, default=None, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--output-dir", type=options.path, default=ROOT / "results" / prog, help="run folders")
    parser.add_argument("--output", type=options.path, help=f"JSON file (default: results/benchmarks/{prog}_DEVICE.json)")
    return parser


def start(args, count):
    """(device, Steps, folder of teachers, options that every stage gets). count: steps beside the teachers', which are trained here
    unless their folder was given."""
    device = measure.start(args)
    run = ["--device", device.type, *([] if args.threads is None else ["--threads", args.threads])]
    steps = Steps(count + (args.teacher_weights is None), args.output_dir / "timings.json")
    teachers = args.teacher_weights or args.output_dir / "teachers"
    if args.teacher_weights is None:
        steps.run("squeeze", pretrain, "--dataset", "digits", "--teachers", *TEACHERS, "--output-dir", teachers, *run)
    return device, steps, teachers, run
