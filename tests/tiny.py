"""Tiny data that the tests make: image folders of JPEGs, teachers with random weights."""

import numpy as np
from PIL import Image


def image_folder(root, classes=("n01440764", "n01443537", "n01484850"), per_class=3, size=(80, 64), seed=0):
    """A folder of JPEGs per class: smooth random colours, so that JPEG keeps them. Returns root."""
    random = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            coarse.resize(size, Image.Resampling.BICUBIC).save(root / name / f"img_{i:03d}.JPEG", quality=92)
    return root


def distilled_folder(root, train, classes, per_class, size=32):
    """images/ and images.json of a run whose images are those of an image_folder, as recover --iteration 0 would keep them."""
    from utils.files import write_json

    for c, name in enumerate(classes):
        for i in range(per_class):
            image = root / f"images/new{c:03d}/class{c:03d}_id{i:03d}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.open(train / name / f"img_{i:03d}.JPEG").resize((size, size)).save(image)
    write_json(root / "images.json", {"options": {"dataset": "imagefolder", "seed": 0}, "identity": {"classes": list(classes)}})
    return root


def teacher_folder(root, names, classes, image_size=32, stem="imagenet", input_resize=None):
    """A folder of random-weight teachers for these class names. input_resize: {name: side}. Returns root."""
    from models.networks import build, save_network

    for name in names:
        network = build(name, len(classes), stem=stem, input_resize=(input_resize or {}).get(name), seed=("tiny", name))
        network.classes = list(classes)
        save_network(root / f"{name.replace('/', '_')}.safetensors", network, {"image_size": image_size})
    return root
