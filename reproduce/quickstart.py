"""Distil scikit-learn's digits end to end: PRISM beside SRe2L beside random real images.

    sh quickstart.sh [--fast]
"""

from dataclasses import dataclass

from reproduce import ROOT
from utils import options
from utils.errors import run_entry

# The primary teacher comes first.
TEACHERS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "alexnet")

# What recover is told for each set, beside the sizes below. SRe2L has one teacher, its learning
# rate and constant steps, and the same start images. A real subset is recover's start as it is.
SETS = {
    "PRISM": ("prism", ["--bn-teachers", *TEACHERS]),
    "SRe2L": ("sre2l", ["--preset", "sre2l", "--start", "real"]),
    "random real": ("random", ["--start", "random", "--iteration", "0"]),
}


@dataclass(frozen=True)
class Sizes:
    """How large the run is. squeeze: options of the teachers' training."""

    ipc: int = 10
    iteration: int = 100
    epochs: int = 50
    squeeze: tuple = ("--min-accuracy", "95")


FAST = Sizes(ipc=5, iteration=8, epochs=4, squeeze=("--epochs", "1"))


def get_args_parser():
    parser = options.Parser(prog="reproduce.quickstart",
                            description="Distil the embedded digits end to end.")
    parser.add_argument("--fast", action="store_true",
                        help="fewer images, steps and epochs, and no accuracy gates")
    parser.add_argument("--seeds", type=options.positive_int, default=1,
                        help="students per set and kind of label")
    parser.add_argument("--threads", type=options.thread_count, default=None,
                        help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--output-dir", type=options.path,
                        help="default: results/digits, or results/digits-fast")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    sizes = FAST if args.fast else Sizes()
    out = args.output_dir or ROOT / "results" / ("digits-fast" if args.fast else "digits")

    from report.digits_report import write_report  # needs PyTorch, which takes seconds to import

    seconds = run_stages(out, sizes, args)
    report = write_report(out, SETS, args.seeds, TEACHERS, seconds, sizes)
    print(f"\nReport: {report}", flush=True)


def run_stages(out, sizes, args):
    """Run the stages for all sets. Returns {step: {"seconds", "command"}}."""
    import torch

    from models import pretrain
    from recover import data_synthesis
    from relabel import generate_soft_label
    from reproduce.steps import Steps
    from utils.files import check_writable
    from validate import train_fkd

    check_writable(out)
    run = ["--device", "cpu", "--threads", args.threads or torch.get_num_threads()]
    total = 1 + 2 * len(SETS) + 2 * len(SETS) * args.seeds
    steps, teachers = Steps(total, out / "timings.json"), out / "teachers"

    steps.run("squeeze: train the teachers", pretrain, "--dataset", "digits",
              "--teachers", *TEACHERS, *sizes.squeeze, "--output-dir", teachers, *run)

    gate = ["--min-teacher-accuracy", "0"] if args.fast else []
    for name, (folder, recover_options) in SETS.items():
        steps.run(f"recover: {name}", data_synthesis, "--dataset", "digits",
                  "--teacher-weights", teachers, "--ipc-end", sizes.ipc,
                  "--units-per-step", sizes.ipc, "--iteration", sizes.iteration, *gate,
                  *recover_options, "--output-dir", out / folder, *run)

    for name, (folder, _) in SETS.items():
        steps.run(f"relabel: {name}", generate_soft_label, "--teachers", *TEACHERS,
                  "--teacher-weights", teachers, "--epochs", sizes.epochs,
                  "--output-dir", out / folder, *run)

    for name, (folder, _) in SETS.items():
        for seed in range(args.seeds):
            for kind, loss in (("soft", []), ("hard", ["--loss-type", "ce"])):
                steps.run(f"validate: {name}, {kind} labels, seed {seed}", train_fkd,
                          "--student", "resnet18", "--epochs", sizes.epochs, "--seed", seed,
                          "--output-dir", out / folder, *run, *loss,
                          "--student-name", f"{kind}_seed{seed}")
    return steps.timings.seconds


if __name__ == "__main__":
    run_entry(main)
