"""What number formats do to labels and to students, on digits.        python -m benchmarks.label_formats [--teacher-weights FOLDER]

The same images are labelled once in each format. Beside float32: the error of the labels, and the student's top-1 over seeds.
int8 symmetric is not one of our formats: steps of max|z| / 127 around 0, beside which int8 has its offset.
"""

import statistics

import torch

from benchmarks import digits, measure
from benchmarks.relabel import errors_table, label_errors
from data.distilled import DistilledImages
from data.labels import LabelStore
from recover import data_synthesis
from relabel import generate_soft_label
from reproduce.quickstart import TEACHERS
from utils.errors import run_entry
from utils.files import read_json
from validate import train_fkd

FORMATS = {"fp32": ("fp32",), "fp16": ("fp16",), "int8": ("int8",), "topk 5": ("topk", "--label-top-k", 5),
           "topk 3": ("topk", "--label-top-k", 3)}


class SymmetricInt8:
    """z ~ scale q, scale = max|z| / 127 over a row."""

    def encode(self, logits):
        scale = logits.abs().amax(1, keepdim=True) / 127
        return {"logits": (logits / scale).round(), "scale": scale}

    def decode(self, stored):
        return stored["logits"] * stored["scale"]


def main(argv=None):
    args = digits.get_args_parser("label_formats", "Compare number formats of labels on digits.", "of the student").parse_args(argv)
    device, steps, teachers, run = digits.start(args, 1 + len(FORMATS) * (1 + args.seeds))
    out = args.output_dir
    run = ["--output-dir", out, *run]
    steps.run("recover", data_synthesis, "--dataset", "digits", "--teacher-weights", teachers, "--bn-teachers", *TEACHERS,
              "--ipc-end", args.ipc, "--units-per-step", args.ipc, "--iteration", args.iteration, *run)
    top1 = {name: [] for name in FORMATS}
    for name, words in FORMATS.items():
        labels = out / f"labels_{name.replace(' ', '')}"
        steps.run(f"relabel, {name}", generate_soft_label, "--teachers", *TEACHERS, "--teacher-weights", teachers, "--epochs",
                  args.epochs, "--fkd-path", labels, "--label-format", *words, *run)
        for seed in range(args.seeds):
            student = f"{labels.name}_seed{seed}"
            steps.run(f"validate, {name}, seed {seed}", train_fkd, "--student", "resnet18", "--epochs", args.epochs, "--seed", seed,
                      "--student-name", student, "--fkd-path", labels, *run)
            top1[name].append(read_json(out / "students" / student / "result.json", "validate")["top1"])
    errors = stored_errors(out, args.epochs)
    print("\n" + errors_table(errors))
    mean = {name: statistics.mean(values) for name, values in top1.items()}
    rows = [[name, *(f"{v:.1f}" for v in values), f"{mean[name]:.2f}", f"{mean[name] - mean['fp32']:+.2f}"]
            for name, values in top1.items()]
    print("\n" + measure.table(["student's top-1, %", *(f"seed {seed}" for seed in range(args.seeds)), "mean", "change"], rows))
    measure.save(args, "label_formats", device, {"errors": errors, "top1": top1})


def stored_errors(out, epochs):
    """label_errors over all labels of the float32 folder, which the other formats round."""
    images = DistilledImages(out / "images")
    stores = {name: LabelStore(out / f"labels_{name.replace(' ', '')}", images) for name in FORMATS}
    labels = [stores["fp32"].epoch(epoch) for epoch in range(epochs)]
    logits = torch.cat([epoch.batch(batch) for epoch in labels for batch in range(stores["fp32"].plan_options.batches)])
    formats = {name: store.number_format for name, store in stores.items()}
    return label_errors(logits, {"int8 symmetric": SymmetricInt8(), **formats})


if __name__ == "__main__":
    run_entry(main)
