"""Whether recover in bfloat16 comes to the same end as in float32, on digits.

    python -m benchmarks.bf16 [--teacher-weights FOLDER]

For every seed images are made in fp32 and in bf16, labelled in fp32, and a student is trained on
either. Compared are the loss of the last step, averaged over units, and the student's top-1.
"""

import statistics

from benchmarks import digits, measure
from utils.errors import run_entry
from utils.files import read_json
from utils.precision import PRECISIONS


def main(argv=None):
    parser = digits.get_args_parser("bf16", "Compare recover in bf16 and fp32 on digits.",
                                    "of images, labels and student together")
    args = parser.parse_args(argv)
    stages = digits.Digits(args, total=3 * len(PRECISIONS) * args.seeds)
    figures = {name: {"loss": [], "top1": []} for name in PRECISIONS}
    for seed in range(args.seeds):
        for name in PRECISIONS:
            title, folder = f", {name}, seed {seed}", args.output_dir / f"{name}_seed{seed}"
            stages.recover(title, folder, "--precision", name, "--seed", seed)
            stages.relabel(title, folder, "--fkd-seed", seed)
            top1 = stages.student(f", {name}", folder, "student", seed)
            figures[name]["loss"].append(final_loss(folder))
            figures[name]["top1"].append(top1)

    measure.print_table("recover in", {name: {
        "loss of the last step": statistics.mean(figures[name]["loss"]),
        **{f"top-1, seed {seed}": value for seed, value in enumerate(figures[name]["top1"])},
        "mean top-1": statistics.mean(figures[name]["top1"])} for name in PRECISIONS})
    change = statistics.mean(bf16 / fp32 - 1 for fp32, bf16 in
                             zip(figures["fp32"]["loss"], figures["bf16"]["loss"], strict=True))
    print(f"\nloss in bf16 against fp32: {change:+.2%}, mean over seeds")
    measure.save(args, "bf16", stages.device, figures)


def final_loss(folder):
    """The mean over a run's units of the loss of the last step (paper Eq. 4).

    With m BN teachers it is CE + r_bn / m times the sum of the BN terms (released code).
    """
    r_bn = read_json(folder / "images.json", "recover")["options"]["r_bn"]
    losses = []
    for path in sorted((folder / "units").glob("*.json")):
        record = read_json(path, "recover")
        last = record["terms"][-1]
        alignment = sum(value for name, value in last.items() if name.startswith("bn "))
        losses.append(last["ce"] + r_bn / len(record["bn_teachers"]) * alignment)
    return statistics.mean(losses)


if __name__ == "__main__":
    run_entry(main)
