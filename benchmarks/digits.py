"""Digits through the stages, for benchmarks of what number formats do to results."""

from benchmarks import measure
from models import pretrain
from recover import data_synthesis
from relabel import generate_soft_label
from reproduce import ROOT
from reproduce.quickstart import DIGITS_TEACHERS as TEACHERS
from reproduce.steps import Steps
from utils import options
from utils.files import read_json
from validate import train_fkd


def get_args_parser(prog, description, seeds):
    """Options of a benchmark on digits. seeds: in words, what they are the seeds of."""
    parser = measure.basic_parser(prog, description)
    for name, default, text in (("--seeds", 3, seeds), ("--ipc", 10, "images per class"),
                                ("--iteration", 100, "steps of the longest slices"),
                                ("--epochs", 50, "of labels and students")):
        parser.add_argument(name, type=options.positive_int, default=default, help=text)
    parser.add_argument("--teacher-weights", type=options.path,
                        help="folder of digits teachers (default: they are trained first)")
    parser.add_argument("--output-dir", type=options.path, default=ROOT / "results" / prog,
                        help="where the run folders go")
    return parser


class Digits:
    """The stages, called one after the other on digits.

    args: of the parser above. total: number of calls, besides the training of teachers, which takes
    place here unless their folder was given.
    """

    def __init__(self, args, total):
        self.args, self.device = args, measure.start(args)
        threads = [] if args.threads is None else ["--threads", args.threads]
        self._run = ["--device", self.device.type, *threads]
        self.teachers = args.teacher_weights or args.output_dir / "teachers"
        trained = args.teacher_weights is None
        self._steps = Steps(total + trained, args.output_dir / "timings.json")
        if trained:
            self._steps.run("squeeze", pretrain, "--dataset", "digits", "--teachers", *TEACHERS,
                            "--output-dir", self.teachers, *self._run)

    def recover(self, title, folder, *more):
        """Make images in a run folder. more: further options, here and below."""
        args = self.args
        self._steps.run(f"recover{title}", data_synthesis, "--dataset", "digits",
                        "--teacher-weights", self.teachers, "--bn-teachers", *TEACHERS,
                        "--ipc-end", args.ipc, "--units-per-step", args.ipc,
                        "--iteration", args.iteration, "--output-dir", folder, *self._run, *more)

    def relabel(self, title, folder, *more):
        """Label the images of a run folder."""
        self._steps.run(f"relabel{title}", generate_soft_label, "--teachers", *TEACHERS,
                        "--teacher-weights", self.teachers, "--epochs", self.args.epochs,
                        "--output-dir", folder, *self._run, *more)

    def student(self, title, folder, name, seed, *more):
        """Train a student of this name. Returns its top-1 in per cent."""
        self._steps.run(f"validate{title}, seed {seed}", train_fkd, "--student", "resnet18",
                        "--epochs", self.args.epochs, "--seed", seed, "--student-name", name,
                        "--output-dir", folder, *self._run, *more)
        return read_json(folder / "students" / name / "result.json", "validate")["top1"]
