"""Teachers: frozen networks in eval mode, from published weights or a local folder, with the head the data needs."""

import os
import urllib.error
from pathlib import Path

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torchvision import models as torchvision_models

from data.datasets import is_numbered
from models import networks
from utils import options
from utils.distributed import first_on_node
from utils.errors import UserError

_SUFFIXES = (".safetensors", ".pth", ".pt")


def load_teachers(names, weights, classes, device, image_size=None):
    """{name: Network}, each loaded once, frozen, in eval mode, on device.

    names: torchvision's or "timm/NAME"; a repeated name counts once. weights: a torchvision weights name such as
    "IMAGENET1K_V1", or "DEFAULT" for torchvision's best (timm nets then come with timm's published weights), or a folder
    holding NAME.safetensors, .pth or .pt (timm_NAME for timm/NAME). classes: class names of the data in head order.
    image_size: side in pixels of the images they will see, checked here if given.
    The head follows the data: a head that knows its class names (ours do; published ImageNet heads are known by wnid) has
    its outputs picked and put in the order of `classes`. Under torchrun every rank must call this with the same names:
    local rank 0 fetches first. Raises UserError for an unknown name, missing weights, classes that do not fit.
    """
    folder = weights_folder(weights)
    teachers = {}
    for name in dict.fromkeys(names):
        networks.check_name(name)
        network = _from_folder(name, folder, image_size) if folder else _published(name, weights, image_size)
        network = fit_head(network, classes)
        if image_size is not None:
            networks.check_image_size(network, image_size)
        teachers[name] = network.requires_grad_(False).eval().to(device)
    return teachers


def weights_folder(weights):
    """The folder that --teacher-weights names (relative to the caller's folder), or None when it is a weights name."""
    folder = options.path(str(weights))
    if folder.is_dir():
        return folder
    if isinstance(weights, Path) or os.sep in str(weights) or str(weights).startswith((".", "~")):
        raise UserError(f"{folder}: no such folder of teacher weights. Train teachers with python -m models.pretrain, or give a "
                        "weights name such as IMAGENET1K_V1.")
    return None


def _from_folder(name, folder, image_size):
    for suffix in _SUFFIXES:
        path = folder / (networks.file_stem(name) + suffix)
        if path.exists():
            return networks.load_network(path, name, image_size)[0]
    found = sorted(p.name for p in folder.iterdir() if p.suffix in _SUFFIXES)
    raise UserError(f"{folder}: no {networks.file_stem(name)}.safetensors (or .pth); "
                    f"{'found ' + ', '.join(found) if found else 'it holds no weights'}. Train it with python -m models.pretrain "
                    f"--teachers {name}.")


def _published(name, weights, image_size):
    return _from_timm(name, image_size) if name.startswith("timm/") else _from_torchvision(name, weights)


def _from_torchvision(name, weights):
    published = torchvision_models.get_model_weights(name)
    available = {w.name: w for w in published}
    if weights == "DEFAULT" and available:  # torchvision's best: V2 for ResNet-50 and ResNet-101, V1 for ResNet-18 (DELT)
        weights = published.DEFAULT.name
    if weights not in available:
        raise UserError(f"{name}: torchvision has no weights {weights!r}; it has {', '.join(available) or 'none'}. A folder of "
                        "your own weights can be given instead.")
    entry = available[weights]
    with first_on_node():
        try:
            tensors = entry.get_state_dict(progress=True, check_hash=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            where = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
            raise UserError(f"{name}: {entry.url} could not be fetched ({error}). Fetch it elsewhere and put it at "
                            f"{where}.") from None
    network = networks.from_state(name, tensors, entry.url)
    networks.fill(network, tensors, entry.url)
    return network


def _from_timm(name, image_size):
    wanted = name.removeprefix("timm/")
    with first_on_node():
        try:
            extra = {"img_size": image_size} if image_size and networks.built_for_one_size(name) else {}
            net = timm.create_model(wanted, pretrained=True, **extra)
        except Exception as error:  # huggingface_hub raises its HTTP library's own kinds
            raise UserError(f"{name}: its published weights could not be fetched ({networks.first_line(error)}). Fetch them "
                            f"elsewhere, save them as {networks.file_stem(name)}.safetensors in a folder and give that folder "
                            "as --teacher-weights.") from None
    return networks.wrap(net, name, net.num_classes, "imagenet", None, image_size if extra else None)


def fit_head(network, classes):
    """The network with one output per name in `classes`, in that order.

    Names that the head does not know, or an unknown head with another number of outputs: UserError.
    """
    classes = list(classes)
    known = head_classes(network)
    if known == classes:
        network.classes = classes
        return network
    if known is not None and set(classes) <= set(known):
        return _pick(network, [known.index(name) for name in classes], classes)
    if len(classes) != network.num_classes:
        raise UserError(f"{network.name}: the teacher has {network.num_classes} classes, the data has {len(classes)}. Choose "
                        "teachers trained on this data (python -m models.pretrain), or name the class folders by wnid to use "
                        "an ImageNet head.")
    if network.classes is not None and not is_numbered(classes):
        strange = next(name for name in classes if name not in set(known))
        raise UserError(f"{network.name}: the teacher was trained on other classes: it does not know {strange!r} (it knows "
                        f"{', '.join(known[:3])}, ...). Choose teachers trained on this data.")
    return network  # a head without names, or data whose folders are only numbered: taken to be in the same order


def head_classes(network):
    """Class names of a head in order: stored ones; else wnids when the count is that of an ImageNet (timm's lists); else None."""
    if network.classes is not None:
        return network.classes
    subset = infer_imagenet_subset({"num_classes": network.num_classes})
    return list(ImageNetInfo(subset).label_names()) if subset else None


def _pick(network, columns, classes):
    state = network.net.state_dict()
    for key in networks.head_keys(network.name):
        if key in state:
            state[key] = state[key][columns]
    spec = {**network.spec(), "num_classes": len(columns), "classes": classes}
    picked = networks.from_spec(spec)
    networks.fill(picked, state, network.name)
    return picked
