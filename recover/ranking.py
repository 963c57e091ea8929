"""A network looks at all real images once and chooses what starts medium and mosaic start from.

Its choices are in selection/ of the run folder: selection.json says how they were made,
class00000.json ... what was chosen of each class.
"""

from concurrent.futures import ThreadPoolExecutor

import torch

from data import run_folder
from data.images import normalise
from models.evaluate import eval_mode
from models.networks import fingerprint, head_labels
from recover import mosaics
from recover.medium import medium_order
from recover.unit_files import RESTART
from utils import distributed
from utils.files import read_json, write_json
from utils.progress import progress_bar
from utils.seeding import stream

BATCH = 250  # images or crops in one forward
_DECODED = 1000  # images held at once


def check(options, real):
    """Raise UserError for mosaics whose grid does not fit, or that a class has too few images for.

    options: recover.options.Options. real: ImageSet of the training images.
    """
    start = options.start
    if start.start == "mosaic":
        mosaics.cell_side(real.image_size, start.mosaic_grid)
        for name, images in zip(real.classes, real.by_class, strict=True):
            mosaics.check_candidates(name, len(images), start.mosaic_candidates,
                                     options.optimisation.ipc_end, start.mosaic_grid)


def settle_selection(options, real, network, device):
    """Choose the start images of all classes, once; those of an earlier start are kept.

    options: recover.options.Options after `resolve`, with start medium or mosaic. real: ImageSet of
    the training images. network: the ranker, fitted to real.classes. Under torchrun every
    rank must call this: classes are shared out, then the ranks wait for one another. Raises
    UserError when the folder holds choices of other options.
    """
    start, run = options.start, options.run.output_dir
    is_medium = start.start == "medium"
    run_folder.settle_manifest(run / "selection/selection.json",
                               _description(options, real, network), RESTART)

    labels = [label for label in distributed.my_share(range(len(real.classes)))
              if not _path(run, label).exists()]
    counts = [len(real.by_class[label]) for label in labels]
    total = sum(counts if is_medium else (min(n, start.mosaic_candidates) for n in counts))

    bar = progress_bar(total, f"choose {start.start}", " images")
    with eval_mode(network), torch.no_grad(), bar:
        for label in labels:
            if _path(run, label).exists():  # another job may have chosen meanwhile
                continue
            if is_medium:
                choice = _medium(real, label, network, device, bar)
            else:
                choice = _mosaic(real, label, network, options, device, bar)
            write_json(_path(run, label), {"class": real.classes[label], **choice})
    distributed.barrier()


def _description(options, real, network):
    """Content of selection.json: what the choices depend on."""
    start = options.start
    identity = {"ranker_weights": fingerprint(network), "classes": real.classes,
                "train_images": real.contents_hash()}
    if start.start == "mosaic":
        identity.update(
            mosaic_candidates=start.mosaic_candidates, mosaic_crops=start.mosaic_crops,
            mosaic_grid=start.mosaic_grid, ipc=options.optimisation.ipc_end, seed=options.run.seed)
    return {"options": {"start": start.start, "ranker": start.ranker,
                        "image_size": real.image_size},
            "identity": identity, "versions": run_folder.versions()}


def _path(run, label):
    return run / f"selection/class{label:05d}.json"


def _read(run, label):
    return read_json(_path(run, label), "recover with --start medium or mosaic")


def _file_name(real, index):
    """What an image is called inside its class."""
    return real.names[index].rpartition("/")[2]


# DELT's order

def medium_index(run, label, ipc_id):
    """Index of the training image that slice ipc_id of a class starts from, by DELT's order."""
    return list(_read(run, label)["order"].values())[ipc_id]


def _medium(real, label, network, device, progress):
    """{"order": {file: index into the training images}}, nearest the median first."""
    indices, output = real.by_class[label], int(head_labels(network, torch.tensor(label)))
    probabilities = []
    for part in indices.split(_DECODED):
        for pixels in real.pixels(part, progress).split(BATCH):
            # In float32 all images that the ranker is sure of would be exactly 1. Values stay on
            # the device, so that a GPU goes on while the next images are decoded.
            logits = network(normalise(pixels.to(device)))
            probabilities.append(logits.double().softmax(1)[:, output])

    ordered = indices[medium_order(torch.cat(probabilities).cpu())].tolist()
    return {"order": {_file_name(real, index): index for index in ordered}}


# RDED's mosaics

def mosaic_image(run, real, label, ipc_id, ipc):
    """Mosaic number ipc_id of ipc of a class.

    Returns uint8 [3, S, S], and words that say which images it is made of (rows and columns of the
    crop in each).
    """
    choice = _read(run, label)
    grid = choice["grid"]
    crops = [choice["crops"][rank] for rank in mosaics.ranks_of(ipc_id, ipc, grid)]

    side = mosaics.cell_side(real.image_size, grid)
    cells = [mosaics.cut(real.picture(crop["index"]), crop["box"], side) for crop in crops]
    origins = [_origin(real, crop["index"], *crop["box"]) for crop in crops]
    return mosaics.compose(torch.stack(cells), grid), "mosaic of " + "; ".join(origins)


def _origin(real, index, top, left, height, width):
    rows, columns = f"{top}-{top + height - 1}", f"{left}-{left + width - 1}"
    return f"{real.origin(index)} rows {rows} columns {columns}"


def _mosaic(real, label, network, options, device, progress):
    """{"grid", "crops": [{"file", "index", "box", "score"}, ...]}, the best crop first."""
    start, ipc, seed = options.start, options.optimisation.ipc_end, options.run.seed
    indices, side = real.by_class[label], mosaics.cell_side(real.image_size, start.mosaic_grid)

    def cut_crops(place):
        picture = real.picture(int(indices[place]))
        boxes = mosaics.draw_boxes(picture, start.mosaic_crops,
                                   stream(seed, "mosaic", label, place))
        crops = torch.stack([mosaics.cut(picture, box, side) for box in boxes])
        progress.update(1)
        return boxes.tolist(), crops

    places = mosaics.draw_candidates(len(indices), start.mosaic_candidates,
                                     stream(seed, "mosaic", label)).tolist()
    with ThreadPoolExecutor(real.workers) as pool:
        boxes, crops = zip(*pool.map(cut_crops, places), strict=True)

    values, output = [], int(head_labels(network, torch.tensor(label)))
    for part in torch.cat(crops).split(BATCH):
        logits = network(mosaics.centred(part.to(device), real.image_size))
        values.append(mosaics.scores(logits, torch.full((len(part),), output, device=device)))
    values = torch.cat(values).cpu().view(len(places), -1)

    best = mosaics.choose(values, ipc * start.mosaic_grid**2)
    chosen = []
    for candidate, crop in zip(*(t.tolist() for t in best), strict=True):
        index = int(indices[places[candidate]])
        chosen.append({"file": _file_name(real, index), "index": index,
                       "box": boxes[candidate][crop], "score": float(values[candidate, crop])})
    return {"grid": start.mosaic_grid, "crops": chosen}
