"""A net looks at every class's real images once and chooses what --start medium and mosaic start from.

Written to selection/ of the run folder: selection.json says how they were chosen, class00000.json ... what was chosen.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import torch

from data import run_folder
from data.images import normalise
from models.evaluate import eval_mode
from models.networks import fingerprint
from recover import mosaics
from recover.medium import medium_order
from recover.unit_files import RESTART
from utils import distributed
from utils.files import read_json, write_json
from utils.progress import progress_bar
from utils.seeding import stream

BATCH = 250  # images or crops in one forward
_DECODED = 1000  # images held at once
_MOSAIC = ("mosaic_candidates", "mosaic_crops", "mosaic_grid", "ipc", "seed")  # settings that decide mosaics only


def settle_selection(kind, run, real, labels, network, settings, device, workers):
    """Choose the start images of some classes, once; classes chosen by an earlier start are left as they are.

    kind: "medium" or "mosaic". run: the run folder. real: data.datasets.RealImages. labels: class indices. network: the ranker,
    whose head follows real.classes. settings: recover's, of which are read ranker and, for mosaics, seed, ipc and mosaic_*.
    Under torchrun every rank must call this: classes are shared out, then the ranks wait for one another. Raises UserError when
    a class has too few images, or when the folder holds choices of other settings (they would mix in one set of images).
    """
    check(kind, real, labels, settings)
    options = {"start": kind, "ranker": settings["ranker"], "image_size": real.image_size}  # compared first: start says the most
    identity = {"ranker_weights": fingerprint(network), "classes": real.classes, "train_images": real.fingerprint(),
                **({name: settings[name] for name in _MOSAIC} if kind == "mosaic" else {})}
    run_folder.settle_manifest(_folder(run) / "selection.json",
                               {"options": options, "identity": identity, "versions": run_folder.versions()}, RESTART)
    left = [int(label) for label in distributed.my_share(labels) if not _path(run, label).exists()]
    counts = [len(real.by_class[label]) for label in left]
    total = sum(counts if kind == "medium" else (min(n, settings["mosaic_candidates"]) for n in counts))
    with eval_mode(network), torch.no_grad(), progress_bar(total, f"choose {kind}", " images") as bar:
        for label in left:
            if kind == "medium":
                found = _medium(real, label, network, device, workers, bar)
            else:
                found = _mosaic(real, label, network, settings, device, workers, bar)
            write_json(_path(run, label), {"class": real.classes[label], **found})
    distributed.barrier()


def check(kind, real, labels, settings):
    """Raise UserError when mosaics cannot be cut from the images' side, or one of these classes has too few images for them."""
    if kind == "mosaic":
        mosaics.cell_side(real.image_size, settings["mosaic_grid"])
        for label in labels:
            mosaics.check_candidates(real.classes[label], len(real.by_class[label]), settings["mosaic_candidates"], settings["ipc"],
                                     settings["mosaic_grid"])


def medium_index(run, label, ipc_id):
    """Index into the training images of what slice ipc_id of a class starts from, by settle_selection("medium", ...)."""
    return list(_read(run, label)["order"].values())[ipc_id]


def mosaic_image(run, real, label, ipc_id, ipc):
    """Mosaic number ipc_id of ipc of a class, by settle_selection("mosaic", ...): uint8 [3, S, S], and words that say which
    images it is made of (rows and columns of the crop in each)."""
    found = _read(run, label)
    grid = found["grid"]
    parts = [found["crops"][rank] for rank in mosaics.ranks_of(ipc_id, ipc, grid)]
    side = mosaics.cell_side(real.image_size, grid)
    cells = torch.stack([mosaics.cut(real.image(part["index"]), part["box"], side) for part in parts])
    return mosaics.compose(cells, grid), "mosaic of " + "; ".join(_in_words(real, **part) for part in parts)


def _in_words(real, index, box, **_):
    top, left, height, width = box
    return f"{real.where(index)} rows {top}-{top + height - 1} columns {left}-{left + width - 1}"


def _medium(real, label, network, device, workers, bar):
    own = real.by_class[label]
    probabilities = []
    for start in range(0, len(own), _DECODED):
        for pixels in real.pixels(own[start : start + _DECODED], workers, bar).split(BATCH):
            # float64: in float32 all images that the ranker is sure of would be exactly 1. Kept on the device: a GPU goes on
            # while the next images are decoded.
            probabilities.append(network(normalise(pixels.to(device))).double().softmax(1)[:, label])
    order = medium_order(torch.cat(probabilities).cpu()).tolist()
    return {"order": {real.name(int(own[place])): int(own[place]) for place in order}}


def _mosaic(real, label, network, settings, device, workers, bar):
    own, size, grid = real.by_class[label], real.image_size, settings["mosaic_grid"]
    side = mosaics.cell_side(size, grid)

    def crops_of(place):
        image = real.image(int(own[place]))
        boxes = mosaics.draw_boxes(image, settings["mosaic_crops"], stream(settings["seed"], "mosaic", label, place))
        return boxes, torch.stack([mosaics.cut(image, box, side) for box in boxes])

    places = mosaics.draw_candidates(len(own), settings["mosaic_candidates"], stream(settings["seed"], "mosaic", label)).tolist()
    boxes, crops, values = [], [], []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for found, pixels in pool.map(crops_of, places):
            boxes.append(found)
            crops.append(pixels)
            bar.update(1)
    for part in torch.cat(crops).split(BATCH):
        logits = network(mosaics.centred(part.to(device), size))
        values.append(mosaics.scores(logits, torch.full((len(part),), label, device=device)))
    values = torch.cat(values).cpu().view(len(places), -1)
    chosen = []
    for i, crop in zip(*(t.tolist() for t in mosaics.choose(values, settings["ipc"] * grid**2)), strict=True):
        index = int(own[places[i]])
        chosen.append({"file": real.name(index), "index": index, "box": boxes[i][crop].tolist(), "score": float(values[i, crop])})
    return {"grid": grid, "crops": chosen}


def _folder(run):
    return run / "selection"


def _path(run, label):
    return _folder(run) / f"class{label:05d}.json"


def _read(run, label):
    path = _path(run, label)
    return _read_once(path, path.stat().st_mtime_ns if path.exists() else None)


@functools.lru_cache(maxsize=256)
def _read_once(path, _):  # a class's file is asked for once per image
    return read_json(path, "recover with --start medium or mosaic")
