"""Tiny data that the tests make: image folders, run folders with labels, random teachers."""

import gzip
import json

import numpy as np
import torch
from PIL import Image

from data import labels
from data.epoch_plan import draw_plan
from data.opening import open_distilled
from data.run_folder import manifest_hash
from utils.files import write_json

WNIDS = ("n01440764", "n01443537", "n01484850")


def image_folder(root, classes=WNIDS, per_class=3, size=(80, 64), seed=0):
    """A folder of JPEGs per class: smooth random colours, so that JPEG keeps them. Returns root."""
    random = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            image = coarse.resize(size, Image.Resampling.BICUBIC)
            image.save(root / name / f"img_{i:03d}.JPEG", quality=92)
    return root


def fashion_files(folder, per_class=2, packed=False):
    """Idx files as Fashion-MNIST has them: `per_class` images of each class to train, one to test.

    Returns the pixels {split: uint8 [N, 28, 28]} and the labels {split: uint8 [N]}.
    """
    random, pixels, labels = np.random.default_rng(0), {}, {}
    folder.mkdir(parents=True, exist_ok=True)
    for split, part, count in (("train", "train", 10 * per_class), ("test", "t10k", 10)):
        pixels[split] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels[split] = random.permutation(count).astype(np.uint8) % 10
        for name, array in (("images-idx3", pixels[split]), ("labels-idx1", labels[split])):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
            with (gzip.open(folder / f"{part}-{name}-ubyte.gz", "wb") if packed else
                  open(folder / f"{part}-{name}-ubyte", "wb")) as file:
                file.write(header + array.tobytes())
    return pixels, labels


def distilled_folder(root, train, classes, per_class, size=32):
    """images/ and images.json of a run, as recover --iteration 0 keeps an image_folder's images."""
    for c, name in enumerate(classes):
        for i in range(per_class):
            image = root / f"images/new{c:03d}/class{c:03d}_id{i:03d}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            real = Image.open(train / name / f"img_{i:03d}.JPEG")
            real.resize((size, size)).save(image)
    write_json(root / "images.json", {"options": {"dataset": "imagefolder", "seed": 0},
                                      "identity": {"classes": list(classes)}})
    return root


def random_logits(plan_options, classes, epoch):
    """What label_folder stores: float32 [N, C]."""
    generator = torch.Generator().manual_seed(epoch)
    return torch.randn(plan_options.images, classes, generator=generator) * 8


def label_folder(run, epochs, store="files", **changed):
    """labels/ of a run folder that has images/, with random logits. Returns its LabelStore.

    changed: {name: value} of labels.json's options.
    """
    images = open_distilled(run / "images")
    options = {"teachers": ["resnet18"], "ensemble": "single", "fkd_seed": 42, "batch_size": 5,
               "min_scale_crops": 0.25, "flip_prob": 0.5, "mix_type": "cutmix", "mix_alpha": 1.0,
               "image_size": images.image_size, "label_format": "fp16", "label_top_k": None,
               "precision": "fp32", "compile": False, **changed}
    content = {"options": options, "store": store, "teacher_weights": "IMAGENET1K_V1",
               "identity": {"images": images.identity, "teachers": {"resnet18": "ab"}}}
    write_json(run / "labels/labels.json", content)

    plan_options = labels.plan_options(options, len(images))
    number_format = labels.format_of(options, len(images.classes))
    for epoch in range(epochs):
        logits = random_logits(plan_options, len(images.classes), epoch)
        labels.save_epoch(labels.epoch_file(run / "labels", epoch), epoch,
                          draw_plan(plan_options, epoch), number_format.encode(logits),
                          number_format, manifest_hash(content))
    return labels.LabelStore(run / "labels", images)


def teacher_folder(root, names, classes, image_size=32, stem="imagenet", input_resize=None):
    """A folder of random-weight teachers for these class names. Returns root.

    input_resize: {name: side}.
    """
    from models.networks import build, save_network

    for name in names:
        network = build(name, len(classes), stem=stem, input_resize=(input_resize or {}).get(name),
                        seed=("tiny", name))
        network.classes = list(classes)
        save_network(root / f"{name.replace('/', '_')}.safetensors", network,
                     {"image_size": image_size})
    return root


def finished_student(run, name, seed=0, top1=90.0, labels=None, **options):
    """students/NAME of a run as validate leaves it, without weights; two tests. Returns the path.

    labels: identity of soft labels; None for hard ones. options: of the student, beside these.
    """
    test = {"epoch": 1, "top1": top1, "top5": 100.0}
    folder = run / "students" / name
    write_json(folder / "result.json", {
        "preset": "prism", "preset_changed": ["epochs"], "best": test,
        "last": {**test, "top1": top1 - 1}, "test_images": 500, "seconds": 2.5, "device": "cpu",
        "options": {"student": "resnet18", "epochs": 2, "eval_every": 1, "seed": seed, **options},
        "identity": {"labels": labels}})
    lines = [{"epoch": 0, "top1": top1 / 2}, {"epoch": 1, "top1": top1, "loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
