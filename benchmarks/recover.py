"""Recover's step beside the plain arithmetic and beside its floor.

    python -m benchmarks.recover [--compile] [--precision bf16]

One whole step (augmentation, gradient, Adam, clamp) is timed on random images, with teachers of
random weights, in these variants:

    reference   the released arithmetic as it stands, in float32
    eager       recover's step
    compiled    the same with --compile
    floor       the same with BatchNorm folded into the convolutions and no statistics; each network
                is eager or compiled, whichever is faster

It is timed for every set of teachers that the released law can draw, and averaged with their
probabilities; and for all teachers at once.
"""

from benchmarks import cell, measure
from recover.presets import POOL
from utils.errors import run_entry


def get_args_parser():
    parser = measure.timing_parser("recover", "Time recover's step.", batch_size=100)
    parser.add_argument("--primary-teacher", default="resnet18", metavar="NAME")
    parser.add_argument("--bn-teachers", nargs="*", default=POOL, metavar="NAME",
                        help="pool of extra BN teachers")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    from benchmarks.recover_steps import measured  # needs PyTorch, unlike --help

    device = measure.start(args)
    figures = measured(args, device)

    print_steps(figures["seconds"])
    rate = figures["image_steps_per_second"]
    hours = cell.counts()["image-steps"] / rate / 3600
    print(f"\n{'compiled' if args.compile else 'eager'}: {rate:.3g} image-steps/s over the law, "
          f"{hours:.3g} hours for IPC 10 on ImageNet-1K", flush=True)
    megabytes = {teachers: {variant: count / 1e6 for variant, count in row.items()}
                 for teachers, row in figures["memory"]["bytes"].items()}
    ratio = "all / largest alone"
    measure.print_table("peak memory, MB", {**megabytes, ratio: figures["memory"][ratio]})
    measure.save(args, "recover", device, figures)


def print_steps(seconds):
    """Print the seconds of whole steps, {set of teachers: {variant: seconds}}, and their ratios."""
    rows = {}
    for teachers, row in seconds.items():
        rows[teachers] = {
            **{f"{name}, ms": 1e3 * value for name, value in row.items()},
            **{f"{name} / floor": value / row["floor"] for name, value in row.items()
               if name not in ("reference", "floor")},
            **{f"reference / {name}": row["reference"] / value for name, value in row.items()
               if name != "reference"}}
    measure.print_table("whole step", rows)


if __name__ == "__main__":
    run_entry(main)
