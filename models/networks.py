"""Networks by name, for any class count.

torchvision's ("resnet18"), timm's ("timm/NAME") and those of models.instance_norm ("convnet3").

A file of weights says which network it holds; other tools' state dicts are read as well.
"""

import copy
import difflib
import functools
import hashlib
import json
import warnings
from collections import OrderedDict
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as torchvision_models

from data import images
from models import instance_norm
from models.names import STEMS
from models.stems import make_small
from utils import checkpoint
from utils.errors import UserError
from utils.files import damaged
from utils.seeding import seeded

_TIMM = "timm/"
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "teacher", "student_state_dict")


class Network(nn.Module):
    """A classifier that takes images in ImageNet's mean and std, whatever its own are.

    net: the plain module of torchvision, timm or instance_norm; its state dict is what is stored.
    name, num_classes, stem, input_resize, image_size: as given to `build`.
    classes: class names in head order, or None where they are not known.
    mean, std: what net itself expects.
    columns: int64, the output of each class of the data, for a head that has more outputs than the
    data has classes (models.teachers.fit_head); None where the outputs are the data's classes.
    """

    def __init__(self, net, name, num_classes, stem="imagenet", input_resize=None,
                 image_size=None, classes=None, mean=images.MEAN, std=images.STD):
        super().__init__()
        self.net, self.name, self.num_classes, self.stem = net, name, num_classes, stem
        self.input_resize, self.image_size = input_resize, image_size
        self.classes = None if classes is None else list(classes)
        self.mean, self.std = tuple(mean), tuple(std)
        self.register_buffer("columns", None, persistent=False)

        self.converts = self.mean != images.MEAN or self.std != images.STD
        given_mean, given_std, own_mean, own_std = (
            torch.tensor(v).view(3, 1, 1) for v in (images.MEAN, images.STD, self.mean, self.std))
        self.register_buffer("_scale", given_std / own_std, persistent=False)
        self.register_buffer("_shift", (given_mean - own_mean) / own_std, persistent=False)

        # On 2 cores at 32 px networks with depthwise convolutions are 3.5 times as fast in this
        # layout, ResNets as fast, AlexNet a little slower.
        self.channels_last = any(
            isinstance(m, nn.BatchNorm2d) or (isinstance(m, nn.Conv2d) and m.groups > 1)
            for m in net.modules())
        if self.channels_last:
            self.net.to(memory_format=torch.channels_last)

    def forward(self, x):
        """Logits [n, num_classes] of float images [n, 3, H, W] in ImageNet's mean and std."""
        if self.converts:
            x = x * self._scale + self._shift
        side = self.input_resize
        if side is not None and tuple(x.shape[2:]) != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.net(x)

    def features(self, x):
        """Penultimate features [n, D]: the input of the head, averaged over space if it has any."""
        inputs = []
        hook = head(self).register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        try:
            self(x)
        finally:
            hook.remove()
        return inputs[-1].mean((2, 3)) if inputs[-1].dim() == 4 else inputs[-1].flatten(1)

    def spec(self):
        """What from_spec needs to make this network again, as plain values."""
        return {"name": self.name, "num_classes": self.num_classes, "stem": self.stem,
                "input_resize": self.input_resize, "image_size": self.image_size,
                "classes": self.classes, "mean": list(self.mean), "std": list(self.std)}


# Making a network

def build(name, num_classes, stem="imagenet", input_resize=None, seed=None, image_size=None):
    """A network with random weights.

    name: torchvision's, "timm/NAME", or one of instance_norm.NAMES. stem: "imagenet" as published,
    or "small": stride 1 in the first convolution (3x3 in ResNets) and no max-pool. input_resize:
    side in pixels that inputs are resized to inside the network (bilinear). image_size: side of the
    images in pixels, for networks that are built for one size (vision transformers, ConvNets).
    seed: key of utils.seeding.seeded during initialisation, or None for the global generators.
    Raises UserError for an unknown name, and for a stem or a size that the network cannot have.
    """
    if seed is None:
        net = _construct(name, num_classes, input_resize or image_size)
        return wrap(net, name, num_classes, stem, input_resize, image_size)
    with seeded(*seed):
        return build(name, num_classes, stem, input_resize, None, image_size)


def has_stem(name, stem, image_size=None):
    """Whether networks of this name can have a stem. Nothing is allocated."""
    try:
        with torch.device("meta"):
            build(name, 2, stem, image_size=image_size)
    except UserError:
        return False
    return True


def from_spec(spec):
    """A network with random weights from Network.spec()."""
    side = spec["input_resize"] or spec["image_size"]
    return wrap(_construct(spec["name"], spec["num_classes"], side), **spec)


def wrap(net, name, num_classes, stem, input_resize, image_size, **known):
    """A Network around a plain module, with this stem. known: classes, mean, std if known."""
    if stem not in STEMS:
        raise UserError(f"stem {stem!r}: expected one of {', '.join(STEMS)}.")
    if stem == "small":
        make_small(net, name)
    if name.startswith(_TIMM) and "mean" not in known:
        known.update(mean=net.pretrained_cfg["mean"], std=net.pretrained_cfg["std"])
    return Network(net, name, num_classes, stem, input_resize, image_size, **known)


def _construct(name, num_classes, side):
    """The plain module. side: pixels of its input, for networks that are built for one size."""
    check_name(name)
    if name in instance_norm.NAMES:
        return instance_norm.construct(name, num_classes, side)
    options = {"num_classes": num_classes}
    try:
        if name.startswith(_TIMM):
            if side is not None and built_for_one_size(name):
                options["img_size"] = side
            return timm.create_model(name.removeprefix(_TIMM), **options)
        if name in ("googlenet", "inception_v3"):  # published weights need the input conversion
            options.update(aux_logits=False, init_weights=True, transform_input=True)
        if side is not None and name.startswith("vit_"):
            options["image_size"] = side
        return torchvision_models.get_model(name, weights=None, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"{name}: cannot be built with {num_classes} classes for {side} px "
                        f"({checkpoint.first_line(error)}). Choose another image size, or an input "
                        f"resize it was made for (--input-resize {name}=224).") from None


def built_for_one_size(name):
    """Whether a timm network takes images of one size only (vision transformers)."""
    config = timm.get_pretrained_cfg(name.removeprefix(_TIMM), allow_unregistered=True)
    return bool(config and config.fixed_input_size)


# Names and sizes

def check_name(name):
    """Raise UserError with the nearest names when no such network exists."""
    if name.startswith(_TIMM):
        wanted = name.removeprefix(_TIMM)
        if timm.is_model(wanted):
            return
        near = [_TIMM + n for n in _nearest(wanted, timm.list_models())]
    else:
        names = [*torchvision_models.list_models(module=torchvision_models), *instance_norm.NAMES]
        if name in names:
            return
        near = [_TIMM + name] * timm.is_model(name) + _nearest(name, names)
    advice = (f"Did you mean {' or '.join(near)}?" if near
              else "Give a torchvision name such as resnet18, or timm/NAME.")
    raise UserError(f"{name}: no such network. {advice}")


def _nearest(name, names):
    return difflib.get_close_matches(name, names, n=3, cutoff=0.5)


def file_stem(name):
    """File name of a network without suffix: timm/NAME becomes timm_NAME."""
    return name.replace("/", "_")


def check_image_size(network, size):
    """Raise UserError when the network cannot take images of size x size pixels."""
    if _takes(network, size):
        return
    sides = (64, 96, 128, 160, 192, 224, 256, 299, 384)
    side = next((s for s in sides if _takes(network, size, s)), None)
    advice = ("Choose another network." if side is None else "Let it resize its input: "
              f"--input-resize {network.name}={side} when it is trained.")
    raise UserError(f"{network.name}: cannot take images of {network.input_resize or size} px. "
                    f"{advice}")


def _takes(network, size, input_resize=None):
    """Whether one image passes. Runs on the meta device: shapes only, no arithmetic."""
    probe = copy.deepcopy(network).to("meta").eval()
    if input_resize is not None:
        probe.input_resize = input_resize
    try:
        with torch.no_grad():
            probe(torch.zeros(1, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


# The head

def head(network):
    """The layer that makes the logits: the last Linear or Conv2d with num_classes outputs."""
    def outputs(module):
        if isinstance(module, nn.Linear):
            return module.out_features
        return module.out_channels if isinstance(module, nn.Conv2d) else None

    layers = [m for m in network.net.modules() if outputs(m) == network.num_classes]
    if not layers:
        raise UserError(f"{network.name}: no layer with {network.num_classes} outputs, so no "
                        "penultimate features.")
    return layers[-1]


def head_labels(network, labels):
    """Labels of the data as indices of a network's outputs: int64, on the network's device.

    A plain module, and a Network without columns, have the data's classes.
    """
    columns = getattr(network, "columns", None)
    return labels if columns is None else columns[labels]


def pick_outputs(network, columns):
    """The state dict of a network whose head keeps these outputs alone, in this order."""
    state = network.net.state_dict()
    for key in head_keys(network.name):
        if key in state:
            state[key] = state[key][columns]
    return state


@functools.cache
def head_keys(name):
    """Keys of the state dict whose first dimension is the class count."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = (_construct(name, count, None).state_dict() for count in (7, 11))
    return [key for key in a if a[key].shape != b[key].shape]


# Weights

def fingerprint(network):
    """SHA-256 over the weights and what else decides the logits: stem, resize, mean and std.

    Of the head only the outputs of the data's classes count, so it is the same for a full head and
    for one that is cut.
    """
    keys = ("name", "stem", "input_resize", "mean", "std")
    spec = {key: value for key, value in network.spec().items() if key in keys}
    columns = network.columns
    state = network.net.state_dict() if columns is None else pick_outputs(network, columns)
    text = json.dumps([spec, checkpoint.tensors_hash(state)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_network(path, network, about):
    """Write weights, what the network is and `about` (a dict) as one safetensors file."""
    content = {"network": network.spec(), "about": about}
    checkpoint.save_tensors(path, network.net.state_dict(), content)


def load_network(path, name=None, image_size=None, stem=None, input_resize=None):
    """Read (Network, about) from a file of save_network, or from anybody's state dict.

    path: .safetensors, .pth or .pt; of the latter two, nothing but weights is read.
    name: which network it is. Files that do not say so need it; a file that says another name is
    refused. image_size, stem, input_resize: as in `build`, for files that do not say them. Their
    class count is the head's, and a ResNet's stem that of its first convolution.
    Raises UserError for a missing or damaged file and for another network's weights.
    """
    path = Path(path)
    tensors, content = _read(path)
    if "network" not in content and name is None:
        raise UserError(f"{path}: does not say which network it is. Name it, or save it with "
                        "models.networks.save_network.")

    def untrained():
        if "network" in content:
            return _network_of(content["network"], path)
        return from_state(name, tensors, path, image_size, stem, input_resize)

    with torch.device("meta"):  # a forged class count takes no memory before it is refused
        network = untrained()
        if name not in (None, network.name):
            raise UserError(f"{path}: holds {network.name}, expected {name}. Rename the file or "
                            "choose another.")
        matching(network, tensors, path)
    network = untrained()
    fill(network, tensors, path)
    return network, content.get("about", {})


def _read(path):
    """({name: tensor}, content): content is what save_network wrote, {} for other tools' files."""
    if path.suffix == ".safetensors":
        return checkpoint.load_tensors(path)
    state = checkpoint.load_state(path)
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = state.values() if isinstance(state, dict) else ()
    if not tensors or not all(isinstance(t, torch.Tensor) for t in tensors):
        raise UserError(f"{path}: holds no state dict of tensors. Save model.state_dict() and give "
                        "that file.")
    _check_plain(state, path)
    # prefixes of DistributedDataParallel and torch.compile
    return {k.removeprefix("module.").removeprefix("_orig_mod."): v for k, v in state.items()}, {}


def _check_plain(state, path):
    """Raise UserError unless {key: tensor} of a file are parameters as load_state_dict takes them.

    A tensor that repeats its memory (strides of 0) would be far larger in a network than here.
    """
    room = path.stat().st_size
    for key, tensor in state.items():
        if not isinstance(key, str):
            raise UserError(f"{path}: a key of its state dict is {key!r}, expected names of "
                            "parameters. Save model.state_dict() and give that file.")
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not (
            tensor.is_quantized or tensor.is_nested or tensor.is_complex())
        if not plain:
            raise UserError(f"{path}: {key} is a sparse, quantised, nested, complex or meta "
                            "tensor, expected a plain one. Save the state dict of a network of "
                            "plain numbers.")
        if tensor.numel() * tensor.element_size() > room:
            raise UserError(f"{path}: {key} has shape {list(tensor.shape)}, more numbers than the "
                            "file holds. Save contiguous tensors.")


def _network_of(spec, path):
    """from_spec of what a file says."""
    try:
        return from_spec(spec)
    except (AttributeError, KeyError, RuntimeError, TypeError, UserError, ValueError) as error:
        raise damaged(path, "the command that wrote it", error) from None


def from_state(name, tensors, path, image_size=None, stem=None, input_resize=None):
    """A network with random weights whose class count and stem are those of a state dict.

    path: for the errors. stem: for networks other than ResNets, whose stem shows in no shape.
    """
    keys = head_keys(name)
    present = [key for key in keys if key in tensors]
    if not present:
        raise UserError(f"{path}: is not a state dict of {name} (no {' or '.join(keys)}).")
    if not tensors[present[-1]].dim():
        raise UserError(f"{path}: {present[-1]} is a single number, expected one per class.")
    num_classes = tensors[present[-1]].shape[0]

    first = tensors.get("conv1.weight")
    if first is not None and first.shape[1:] == (3, 3, 3) and "layer1.0.conv1.weight" in tensors:
        stem = "small"
    return build(name, num_classes, stem or "imagenet", input_resize, image_size=image_size)


def matching(network, tensors, path):
    """The tensors of a state dict that a network has, without auxiliary heads.

    Raises UserError, with `path`, for missing or other ones and for other shapes.
    """
    own = network.net.state_dict()
    tensors = {k: v for k, v in tensors.items() if k in own or not k.lower().startswith("aux")}
    missing, surplus = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]  # as in old PyTorch
    what = f"{network.name} with stem {network.stem!r}"
    if missing or surplus:
        raise UserError(f"{path}: is not a state dict of {what}: {len(missing)} tensors missing, "
                        f"{len(surplus)} not expected (the first is {(missing or surplus)[0]}).")
    for key, value in tensors.items():
        if value.shape != own[key].shape:
            raise UserError(f"{path}: {key} has shape {list(value.shape)}, {what} needs "
                            f"{list(own[key].shape)}.")
    return tensors


def fill(network, tensors, path):
    """Copy a state dict into the network. path: for the errors of `matching`."""
    tensors = OrderedDict(matching(network, tensors, path))
    # versions of modules, which MNASNet asks for
    tensors._metadata = network.net.state_dict()._metadata
    network.net.load_state_dict(tensors, strict=False)
