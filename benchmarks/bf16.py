"""Whether recover in bfloat16 comes to the same end, on digits.        python -m benchmarks.bf16 [--teacher-weights FOLDER]

For every seed images are made in fp32 and in bf16, labelled in fp32, and a student is trained on either: the loss of the last step,
averaged over slices, and the student's top-1.
"""

import statistics
from pathlib import Path

from benchmarks import digits, measure
from recover import data_synthesis
from relabel import generate_soft_label
from reproduce.quickstart import TEACHERS
from utils import precision
from utils.errors import run_entry
from utils.files import read_json
from validate import train_fkd


def main(argv=None):
    args = digits.get_args_parser("bf16", "Compare recover in bf16 and fp32 on digits.",
                                  "of images, labels and student together").parse_args(argv)
    device, steps, teachers, run = digits.start(args, 3 * 2 * args.seeds)
    out = args.output_dir
    found = {name: {"loss": [], "top1": []} for name in precision.PRECISIONS}
    for seed in range(args.seeds):
        for name in precision.PRECISIONS:
            folder = out / f"{name}_seed{seed}"
            steps.run(f"recover, {name}, seed {seed}", data_synthesis, "--dataset", "digits", "--teacher-weights", teachers,
                      "--bn-teachers", *TEACHERS, "--ipc-end", args.ipc, "--units-per-step", args.ipc,
                      "--iteration", args.iteration, "--precision", name, "--seed", seed, "--output-dir", folder, *run)
            steps.run(f"relabel, {name}, seed {seed}", generate_soft_label, "--teachers", *TEACHERS, "--teacher-weights", teachers,
                      "--epochs", args.epochs, "--fkd-seed", seed, "--output-dir", folder, *run)
            steps.run(f"validate, {name}, seed {seed}", train_fkd, "--student", "resnet18", "--epochs", args.epochs, "--seed", seed,
                      "--student-name", "student", "--output-dir", folder, *run)
            found[name]["loss"].append(final_loss(folder))
            found[name]["top1"].append(read_json(folder / "students" / "student" / "result.json", "validate")["top1"])
    fp32, bf16 = found["fp32"], found["bf16"]
    change = [b / a - 1 for a, b in zip(fp32["loss"], bf16["loss"], strict=True)]
    rows = [[f"seed {seed}", *(f"{found[name]['loss'][seed]:.4f}" for name in found), f"{100 * change[seed]:+.2f} %",
             *(f"{found[name]['top1'][seed]:.1f}" for name in found)] for seed in range(args.seeds)]
    rows.append(["mean", *(f"{statistics.mean(found[name]['loss']):.4f}" for name in found),
                 f"{100 * statistics.mean(change):+.2f} %", *(f"{statistics.mean(found[name]['top1']):.1f}" for name in found)])
    if args.seeds > 1:
        rows.append(["std over seeds", *["-"] * 3, *(f"{statistics.stdev(found[name]['top1']):.1f}" for name in found)])
    print("\n" + measure.table(["last step", "loss fp32", "loss bf16", "change", "top-1 fp32", "top-1 bf16"], rows))
    measure.save(args, "bf16", device, found)


def final_loss(folder):
    """Mean over a run's units of CE + r_bn / m * sum of BN terms at the last step (paper Eq. 4, released mean)."""
    r_bn = read_json(Path(folder, "images.json"), "recover")["options"]["r_bn"]
    losses = []
    for path in sorted(Path(folder, "units").glob("*.json")):
        record = read_json(path, "recover")
        last = record["terms"][-1]
        alignment = sum(value for name, value in last.items() if name.startswith("bn "))
        losses.append(last["ce"] + r_bn / len(record["bn_teachers"]) * alignment)
    return statistics.mean(losses)


if __name__ == "__main__":
    run_entry(main)
