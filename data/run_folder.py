"""The run folder and its records: written once, compared before anything is mixed.

results/NAME/
  images/        nothing but class folders of images
  images.json    what the images are: dataset, classes, every option that changes pixels
  units/         a record of every finished unit of recover, checkpoints of unfinished ones
  previews/      pictures of the first units
  frames/        where recover --frames asked for them: the images of the previews over the steps
  selection/     which real images or crops the images started from, where a network chose them
  labels/        epoch_000.safetensors ...     labels.json
  students/NAME/ last, best, state, metrics.jsonl, result.json, curve.png
  students/NAME.json             top-1 over the seeds of train_hard
"""

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path

from utils.errors import UserError
from utils.files import damaged, read_json, write_json

# Parts of an identity that are hashes of images, in words.
_IMAGES = {"train_images": "training images", "test_set": "test images",
           "start_images": "start images"}


def read_manifest(path, made_by):
    """read_json of a manifest: {"options": {...}, "identity": {...}, ...}."""
    content = read_json(path, made_by)
    for part in ("options", "identity"):
        if not isinstance(content.get(part, {}), dict):
            raise damaged(path, made_by, f"{part} is not an object")
    asked = content.get("asked", [0, 0])
    if not (isinstance(asked, list) and [type(number) for number in asked] == [int, int]):
        raise damaged(path, made_by, "asked is not a range of two numbers")
    return content


def settle_manifest(path, content, how_to_restart):
    """Write a manifest, or check that the one on disk says the same. Returns the one on disk.

    content["options"]: {name: value}, every option that changes the result.
    content["identity"]: likewise, for facts such as class names and hashes of weights.
    content["asked"]: (first, end) of the slices or epochs that were asked for, where there are
    such; the range on disk is widened to hold them.
    Raises UserError, which names the first option that differs and ends in how_to_restart.
    Other entries (versions) are only noted.
    """
    path = Path(path)
    content = json.loads(json.dumps(content))  # tuples become lists, as in the file
    if not path.exists():
        write_json(path, content)
        return content

    stored = read_manifest(path, "this command")
    for part in ("options", "identity"):
        before, now = stored.get(part, {}), content.get(part, {})
        for name in sorted(set(before) | set(now)):
            if before.get(name) != now.get(name):
                raise UserError(f"{path}: {_difference(name, before.get(name), now.get(name))}. "
                                f"{how_to_restart}")

    if "asked" in content:
        both = [content["asked"], stored.get("asked", content["asked"])]
        asked = [min(first for first, _ in both), max(end for _, end in both)]
        if asked != stored.get("asked"):
            stored = {**stored, "asked": asked}
            write_json(path, stored)
    return stored


def _difference(name, before, now):
    """What differs, in words."""
    if name in _IMAGES and before and now:
        return (f"was made with other {_IMAGES[name]} than those given now: their number, names or "
                f"contents differ ({name} was {str(before)[:12]}, is {str(now)[:12]})")
    return f"was made with {name} = {_short(before)}, now {name} = {_short(now)}"


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:60] + f"... ({len(text)} characters)"


def check_apart(option, folder, images):
    """Raise UserError where a folder to write in would be, or be in, a class folder of images.

    option: that gave the folder. images: the folder that holds the class folders, or None.
    """
    if images is not None:
        inner, outer = Path(folder).resolve(), Path(images).resolve()
        if outer in (inner, *inner.parents):
            raise UserError(f"{option}: found {folder}, expected a folder outside the images in "
                            f"{images}, where it would pass for a class. Choose another one.")


def manifest_hash(content):
    """Hex SHA-256 of the parts of a manifest that change numbers: options and identity."""
    parts = [content.get("options"), content.get("identity")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def versions():
    """Versions that a result is stored with."""
    import torch
    import torchvision

    return {"python": platform.python_version(), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "timm": metadata.version("timm")}
