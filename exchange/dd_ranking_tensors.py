"""The tensors of DD-Ranking, from a run folder and to one."""

import torch

from data.epoch_plan import draw_plan
from data.images import MEAN, STD, save
from data.labels import LabelStore, epoch_file, format_of, plan_options, save_epoch
from data.names import MIXES, digits, image_name
from data.opening import open_distilled
from data.run_folder import manifest_hash, versions
from utils.checkpoint import load_state, save_state, tensors_hash
from utils.errors import UserError
from utils.files import check_space, whole_folder, write_json
from utils.progress import progress_bar

_SLACK = 0.05  # optimised pixels leave 0 to 1 a little
_LEAST = 1e-30  # probability whose logarithm a class without any gets


# Out

def export(o):
    """Write images and labels as tensors. o: exchange.options.DDRankingExport.

    Raises UserError where classes have unequally many images, and for labels of mixed views.
    """
    images = open_distilled(o.labels.train_dir or o.labels.output_dir / "images")
    counts = images.labels.bincount(minlength=len(images.classes))
    if counts.min() != counts.max():
        raise UserError(f"{images.folder}: classes have {int(counts.min())} to {int(counts.max())} "
                        "images, expected as many of each for DD-Ranking.")
    soft_labels = o.tensors.labels and mean_labels(
        LabelStore(o.labels.fkd_path or o.labels.output_dir / "labels", images))

    values = to_values(images.all_pixels, o.tensors)
    check_space("export", o.tensors.images.parent, values.nbytes, "Choose another --images.")
    save_state(o.tensors.images, values)
    print(f"export: images {list(values.shape)} are in {o.tensors.images}")
    if soft_labels is not None:
        if o.tensors.label_values == "probabilities":
            soft_labels = soft_labels.softmax(1)
        save_state(o.tensors.labels, soft_labels)
        print(f"export: labels {list(soft_labels.shape)} are in {o.tensors.labels}")


def mean_labels(store):
    """The mean logits of every image over its stored views: float32 [N, C].

    Raises UserError where views are mixed: their labels belong to two images.
    """
    if store.plan_options.mix != "none":
        raise UserError(f"{store.folder}: the labels are of views that are mixed from two images, "
                        "DD-Ranking has one label per image. Run relabel with --mix-type none into "
                        "another --fkd-path, for whole images with --augment none --flip-prob 0 "
                        "--epochs 1, or leave out --labels.")
    epochs = store.epochs
    if not epochs:
        raise UserError(f"{store.folder}: holds no epoch. Run relabel with --label-store files.")
    total = torch.zeros(store.plan_options.images, store.number_format.classes, dtype=torch.float64)
    with progress_bar(len(epochs), "labels", " epochs") as bar:
        for epoch in epochs:
            labels = store.epoch(epoch)
            total[labels.plan.order] += labels.logits(slice(None)).double()
            bar.update(1)
    return (total / len(epochs)).float()


def to_values(pixels, tensors):
    """uint8 [N, 3, H, W] -> what a file holds. tensors: exchange.options.Tensors."""
    if tensors.values == "bytes":
        return pixels
    values = pixels.float() / 255
    return values if tensors.values == "unit" else (values - _mean(tensors)) / _std(tensors)


def _mean(tensors):
    return torch.tensor(tensors.mean or MEAN).view(3, 1, 1)


def _std(tensors):
    return torch.tensor(tensors.std or STD).view(3, 1, 1)


# In

def import_(o):
    """Write a run folder from tensors. o: exchange.options.DDRankingImport.

    Raises UserError for tensors of another shape, type or range.
    """
    run, fixed = o.target.output_dir, o.fixed
    images = read_tensor(o.tensors.images, 4)
    soft_labels = o.tensors.labels and read_labels(o.tensors, len(images))
    classes = class_count(len(images), soft_labels, fixed)
    pixels = to_pixels(images, o.tensors)
    for name in ("images.json", "labels"):
        if (run / name).exists():
            raise UserError(f"--output-dir: found {name} in {run}, expected a new run folder. "
                            "Choose another one.")

    ipc = len(images) // classes
    class_digits, id_digits = digits(classes), digits(ipc)
    with (whole_folder("--output-dir", run / "images") as temporary,
          progress_bar(len(pixels), "import", " images") as bar):
        for i, image in enumerate(pixels):
            name = image_name(i // ipc, i % ipc, class_digits, id_digits)
            save(image, temporary / f"{name}.png")
            bar.update(1)
        if fixed.classes is not None:  # without names the classes are known by their numbers alone
            write_json(run / "images.json", {
                "method": None, "options": {"dataset": "imagefolder"},
                "identity": {"classes": list(fixed.classes)}, "id_digits": id_digits,
                "versions": versions()})
    print(f"import: {len(images)} images of {classes} classes are in {run / 'images'}")
    if soft_labels is not None:
        write_labels(run, soft_labels, fixed)


def read_tensor(path, dimensions):
    """The tensor in a file. Raises UserError for anything else, and never runs code."""
    tensor = load_state(path)
    if not isinstance(tensor, torch.Tensor) or tensor.ndim != dimensions or not tensor.numel():
        found = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise UserError(f"{path}: found {found}, expected a tensor of {dimensions} dimensions.")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise UserError(f"{path}: has numbers that are not finite.")
    return tensor.detach()


def read_labels(tensors, count):
    """Logits float32 [count, C] from the file of labels."""
    labels = read_tensor(tensors.labels, 2).float()
    if len(labels) != count:
        raise UserError(f"{tensors.labels}: has {len(labels)} labels, {tensors.images} has {count} "
                        "images. Expected one each.")
    if tensors.label_values == "logits":
        return labels
    if (labels < 0).any() or ((labels.sum(1) - 1).abs() > 0.01).any():
        raise UserError(f"{tensors.labels}: rows are no probabilities, which are 0 or more and sum "
                        "to 1. Are they logits? Then give --label-values logits.")
    return labels.clamp(min=_LEAST).log()


def class_count(images, soft_labels, fixed):
    """How many classes there are. Raises UserError where nothing says it or the images do not fit.
    """
    known = {"--labels": None if soft_labels is None else soft_labels.shape[1],
             "--classes": fixed.classes and len(fixed.classes),
             "--ipc": fixed.ipc and images // fixed.ipc}
    known = {name: number for name, number in known.items() if number is not None}
    if not known:
        raise UserError("how many classes are there? Give --ipc, --classes or --labels.")
    (first, classes), *others = known.items()
    for name, number in others:
        if number != classes:
            raise UserError(f"{first} says that there are {classes} classes, {name} that there are "
                            f"{number}. Which is right?")
    ipc = fixed.ipc or (images // classes if classes else 0)
    if classes < 1 or ipc * classes != images:
        raise UserError(f"--images: {images} images cannot be {classes} classes of as many images "
                        "each. Give the right --ipc or --classes.")
    return classes


def to_pixels(images, tensors):
    """What a file holds, [N, 3, H, H] -> uint8. tensors: exchange.options.Tensors."""
    path = tensors.images
    if images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise UserError(f"{path}: found images {list(images.shape[1:])}, expected squares in "
                        "colour, [3, H, H].")
    if tensors.values == "bytes":
        if images.dtype != torch.uint8:
            raise UserError(f"{path}: found {images.dtype}, expected torch.uint8 for --values "
                            "bytes. Give another --values.")
        return images
    if not images.is_floating_point():
        raise UserError(f"{path}: found {images.dtype}, expected floats for --values "
                        f"{tensors.values}. Give --values bytes for uint8.")
    unit = images.float()
    if tensors.values == "normalised":
        if unit.min() > -_SLACK and _mean(tensors).min() > 0:
            raise UserError(f"{path}: no value is below 0, as if no pixel were darker than --mean. "
                            "Are the values from 0 to 1? Then give --values unit.")
        unit = unit * _std(tensors) + _mean(tensors)
    inside = ((unit > -_SLACK) & (unit < 1 + _SLACK)).float().mean()
    if inside < 0.5:
        raise UserError(f"{path}: {100 * (1 - inside):.0f} % of the values are not from black to "
                        f"white with --values {tensors.values}. Give another --values, or the "
                        "--mean and --std that the images were normalised with.")
    return (unit * 255).round().clamp(0, 255).to(torch.uint8)


def write_labels(run, logits, fixed):
    """labels/: every epoch shows each image with its own label, unmixed. logits: [N, C]."""
    images = open_distilled(run / "images")
    options = {
        "teachers": [], "ensemble": None, "batch_size": fixed.batch_size,
        "augment": fixed.augment, "min_scale_crops": 0.25, "flip_prob": fixed.flip_prob,
        "mix_type": "none", "mix_alpha": MIXES["none"], "fkd_seed": fixed.fkd_seed,
        "label_format": "fp32", "label_top_k": None, "precision": None, "compile": None,
        "image_size": images.image_size,
        "source": f"DD-Ranking's labels, SHA-256 {tensors_hash({'labels': logits})}"}
    content = {"options": options, "store": "imported", "asked": (0, fixed.epochs),
               "teacher_weights": None, "stem": None, "versions": versions(),
               "identity": {"images": images.identity, "teachers": {}}}
    plan, number = plan_options(options, len(images)), format_of(options, logits.shape[1])
    with (whole_folder("--output-dir", run / "labels") as temporary,
          progress_bar(fixed.epochs, "labels", " epochs") as bar):
        write_json(temporary / "labels.json", content)
        for epoch in range(fixed.epochs):
            drawn = draw_plan(plan, epoch)
            save_epoch(epoch_file(temporary, epoch), epoch, drawn,
                       {"logits": logits[drawn.order]}, number, manifest_hash(content))
            bar.update(1)
    print(f"import: {fixed.epochs} epochs of labels are in {run / 'labels'}")
