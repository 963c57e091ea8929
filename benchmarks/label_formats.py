"""What number formats do to labels and to students, on digits.

    python -m benchmarks.label_formats [--teacher-weights FOLDER]

The same images are labelled once in each format. Beside float32 stand the error of the labels and
the student's top-1 over seeds. "int8 symmetric" is no format of ours: its steps of max|z| / 127 lie
around 0, and comparing it with int8 shows what the offset of int8 is worth.
"""

import statistics

from benchmarks import digits, measure

# name: options of relabel
FORMATS = {"fp32": ("fp32",), "fp16": ("fp16",), "int8": ("int8",),
           "topk 5": ("topk", "--label-top-k", 5), "topk 3": ("topk", "--label-top-k", 3)}


def main(argv=None):
    parser = digits.get_args_parser(
        "label_formats", "Compare number formats of labels on digits.", "of the student")
    args = parser.parse_args(argv)
    stages = digits.Digits(args, total=1 + len(FORMATS) * (1 + args.seeds))
    run, top1 = args.output_dir, {}
    stages.recover("", run)
    for name, label_format in FORMATS.items():
        labels = labels_folder(run, name)
        stages.relabel(f", {name}", run, "--fkd-path", labels, "--label-format", *label_format)
        top1[name] = [stages.student(f", {name}", run, f"{labels.name}_seed{seed}", seed,
                                     "--fkd-path", labels) for seed in range(args.seeds)]

    errors = stored_errors(run, args.epochs)
    measure.print_table("labels against float32", errors)
    measure.print_table("student", {
        name: {**{f"top-1, seed {seed}": value for seed, value in enumerate(values)},
               "mean top-1": statistics.mean(values)} for name, values in top1.items()})
    measure.save(args, "label_formats", stages.device, {"errors": errors, "top1": top1})


def labels_folder(run, name):
    """Where the labels of a format lie."""
    return run / f"labels_{name.replace(' ', '')}"


def stored_errors(run, epochs):
    """label_errors of all labels that are stored in float32."""
    import torch  # here: --help does not wait for PyTorch

    from data.image_set import open_distilled
    from data.label_formats import through_format
    from data.labels import LabelStore

    images = open_distilled(run / "images")
    stores = {name: LabelStore(labels_folder(run, name), images) for name in FORMATS}
    everything = slice(0, len(images))
    logits = torch.cat([stores["fp32"].epoch(epoch).logits(everything) for epoch in range(epochs)])

    scale = logits.abs().amax(1, keepdim=True) / 127
    decoded = {"int8 symmetric": (logits / scale).round() * scale}
    for name, store in stores.items():
        decoded[name] = through_format(logits, store.number_format)
    return {name: label_errors(logits, other) for name, other in decoded.items()}


def label_errors(logits, decoded, temperature=20.0):
    """How far labels z' are off labels z, both float32 [B, C].

    relative: |z' - z| / |z| over all of them. kl: mean KL(softmax(z / T) || softmax(z' / T)).
    mse: mean (z' - z)^2. top1: share of the rows with the same largest class.
    """
    z, other = logits.double(), decoded.double()
    before, after = ((x / temperature).log_softmax(1) for x in (z, other))
    return {"relative": float((other - z).norm() / z.norm()),
            "kl": float((before.exp() * (before - after)).sum(1).mean()),
            "mse": float((other - z).square().mean()),
            "top1": float((other.argmax(1) == z.argmax(1)).float().mean())}


if __name__ == "__main__":
    measure.run(main)
