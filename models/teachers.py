"""Teachers: frozen networks in eval mode, whose heads know the classes of the data.

Weights are published ones, or a folder's.
"""

import argparse
import os
import urllib.error
from pathlib import Path

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torchvision import models as torchvision_models

from data.names import is_numbered, numbers_advice
from models import networks
from utils import options
from utils.checkpoint import first_line, read_header
from utils.distributed import first_on_node
from utils.errors import UserError

_SUFFIXES = (".safetensors", ".pth", ".pt")


def load_teachers(names, weights, classes, device, image_size=None, head="classes",
                  numbered=False):
    """{name: Network}, each loaded once, frozen, in eval mode, on device.

    names: torchvision's or "timm/NAME"; a repeated name counts once.
    weights: the name of torchvision weights such as "IMAGENET1K_V1", or "DEFAULT" for torchvision's
    best (timm's networks then come with timm's weights); or a folder that holds NAME.safetensors,
    .pth or .pt (timm_NAME for timm/NAME).
    classes: class names of the data in head order. A head that knows its class names (those of
    models.pretrain do; ImageNet heads are known by wnid) is fitted to them. None where only
    features are taken: then any head will do.
    image_size: side in pixels of the images they will see, checked if given: networks must be able
    to take it, and files of models.pretrain must have been trained at it.
    head, numbered: see fit_head.
    Under torchrun every rank calls this with the same names: local rank 0 fetches first.
    Raises UserError for an unknown name, missing weights and classes that do not fit.
    """
    folder = weights_folder(weights)
    teachers = {}
    for name in dict.fromkeys(names):
        networks.check_name(name)
        if folder:
            network = _from_folder(name, folder, image_size)
        elif name.startswith("timm/"):
            network = _from_timm(name, image_size)
        else:
            network = _from_torchvision(name, weights)

        if classes is not None:
            network = fit_head(network, classes, head, numbered)
        if image_size is not None:
            check_trained_size(network, image_size)
            networks.check_image_size(network, image_size)
        teachers[name] = network.requires_grad_(False).eval().to(device)
    return teachers


def weights_folder(weights):
    """The folder that --teacher-weights names, or None for the name of published weights.

    A relative path is relative to the caller's folder.
    """
    try:
        folder = options.path(str(weights))
    except (argparse.ArgumentTypeError, RuntimeError) as error:  # "~nobody/weights"
        raise UserError(f"--teacher-weights {str(weights)!r}: {error}. Give a folder of teacher "
                        "weights, or a weights name such as IMAGENET1K_V1.") from None
    if folder.is_dir():
        return folder
    if isinstance(weights, Path) or os.sep in str(weights) or str(weights).startswith((".", "~")):
        raise UserError(f"{folder}: no such folder of teacher weights. Train teachers with python "
                        "-m models.pretrain, or give a weights name such as IMAGENET1K_V1.")
    return None


def trained_size(names, weights):
    """Side in pixels of the images that the teachers in a folder were trained on, or None.

    names, weights: as for load_teachers. The files of models.pretrain say it; other files, networks
    without a file and published weights do not. Raises UserError where two of them differ.
    """
    folder, first = weights_folder(weights), None
    for name in dict.fromkeys(names) if folder else ():
        path = _file(name, folder)
        if path is None or path.suffix != ".safetensors":
            continue
        spec = read_header(path).get("network")
        size = spec.get("image_size") if isinstance(spec, dict) else None
        if not isinstance(size, int):
            continue
        first = first or (path, size)
        if size != first[1]:
            raise UserError(f"{path} was trained on images of {size} px, {first[0]} on images of "
                            f"{first[1]} px. Choose teachers of one size.")
    return first and first[1]


def check_trained_size(network, size):
    """Raise UserError for a network whose file says that its training images had another size."""
    if network.image_size not in (None, size):
        raise UserError(f"{network.name}: was trained on images of {network.image_size} px, found "
                        f"{size} px. Make the images at its size (recover --image-size "
                        f"{network.image_size}), or choose teachers trained at {size} px.")


def _file(name, folder):
    """The file of a network's weights in a folder, or None."""
    paths = (folder / (networks.file_stem(name) + suffix) for suffix in _SUFFIXES)
    return next((path for path in paths if path.exists()), None)


def _from_folder(name, folder, image_size):
    path = _file(name, folder)
    if path is not None:
        return networks.load_network(path, name, image_size)[0]
    present = sorted(p.name for p in folder.iterdir() if p.suffix in _SUFFIXES)
    contents = f"found {', '.join(present)}" if present else "it holds no weights"
    raise UserError(f"{folder}: no {networks.file_stem(name)}.safetensors (or .pth); {contents}. "
                    f"Train it with python -m models.pretrain --teachers {name}.")


def _from_torchvision(name, weights):
    published = torchvision_models.get_model_weights(name)
    available = {w.name: w for w in published}
    if weights == "DEFAULT" and available:  # DELT: V1 of ResNet-18, V2 of ResNet-50 and ResNet-101
        weights = published.DEFAULT.name
    if weights not in available:
        raise UserError(f"{name}: torchvision has no weights {weights!r}; it has "
                        f"{', '.join(available) or 'none'}. A folder of your own weights can be "
                        "given instead.")

    entry = available[weights]
    with first_on_node():
        try:
            tensors = entry.get_state_dict(progress=True, check_hash=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            path = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
            raise UserError(f"{name}: {entry.url} could not be fetched ({error}). Fetch it "
                            f"elsewhere and put it at {path}.") from None
    network = networks.from_state(name, tensors, entry.url)
    networks.fill(network, tensors, entry.url)
    return network


def stated_accuracy(name, weights):
    """Top-1 in per cent on real test images that a teacher's weights come with, or None.

    models.pretrain keeps what it measured in the file, and torchvision lists its weights' accuracy
    on ImageNet-1K. name, weights: as for load_teachers, which has found them.
    """
    folder = weights_folder(weights)
    if not folder:
        if name.startswith("timm/"):
            return None
        entry = torchvision_models.get_model_weights(name)[weights]
        return entry.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")

    path = folder / f"{networks.file_stem(name)}.safetensors"
    try:
        return float(read_header(path)["about"]["accuracy"]["top1"]) if path.exists() else None
    except (KeyError, TypeError, ValueError):
        return None


def _from_timm(name, image_size):
    sized = image_size if image_size and networks.built_for_one_size(name) else None
    extra = {"img_size": sized} if sized else {}
    with first_on_node():
        try:
            net = timm.create_model(name.removeprefix("timm/"), pretrained=True, **extra)
        except Exception as error:  # huggingface_hub raises its HTTP library's own kinds
            raise UserError(f"{name}: its published weights could not be fetched "
                            f"({first_line(error)}). Fetch them elsewhere, save them as "
                            f"{networks.file_stem(name)}.safetensors in a folder and give that "
                            "folder as --teacher-weights.") from None
    return networks.wrap(net, name, net.num_classes, "imagenet", None, sized)


def fit_head(network, classes, head="classes", numbered=False):
    """The network with one output per name in `classes`, in that order.

    head: "full" keeps all outputs of a head that knows more classes than these, and network.columns
    says which of them are theirs; "classes" cuts the others off.
    numbered: whether the names are only numbers of folders, as new000 ... always are. Names that
    the head knows count first; a head without names, and data whose folders are only numbered, are
    taken to be in the same order. Raises UserError for names that the head does not know and for
    another number of outputs.
    """
    classes = list(classes)
    known = head_classes(network)
    if known == classes:
        network.classes = classes
        return network
    if known is not None and set(classes) <= set(known):
        columns = [known.index(name) for name in classes]
        if head == "full" and len(classes) < len(known):
            network.columns = torch.tensor(columns)
            return network
        picked = networks.from_spec({**network.spec(), "num_classes": len(columns),
                                     "classes": classes})
        networks.fill(picked, networks.pick_outputs(network, columns), network.name)
        return picked

    if len(classes) != network.num_classes:
        raise UserError(f"{network.name}: the teacher has {network.num_classes} classes, the data "
                        f"has {len(classes)}. Choose teachers trained on this data (python -m "
                        "models.pretrain), or name the class folders by wnid to use an ImageNet "
                        "head.")
    if network.classes is not None and not (numbered or is_numbered(classes)):
        strange = next(name for name in classes if name not in set(known))
        raise UserError(f"{network.name}: the teacher was trained on other classes: it does not "
                        f"know {strange!r} (it knows {', '.join(known[:3])}, ...). Choose teachers "
                        f"trained on this data.{numbers_advice(classes)}")
    return network


def head_classes(network):
    """Class names of a head in order, or None.

    They are the stored ones, or wnids where the count is that of an ImageNet (timm's lists).
    """
    if network.classes is not None:
        return network.classes
    subset = infer_imagenet_subset({"num_classes": network.num_classes})
    return list(ImageNetInfo(subset).label_names()) if subset else None
