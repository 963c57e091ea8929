"""Networks by name, torchvision's ("resnet18") and timm's ("timm/NAME"), for any class count; saved with what they are."""

import copy
import difflib
import hashlib
import json
import math
import warnings
from collections import OrderedDict
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as torchvision_models

from data import images
from models.stems import make_small
from utils import checkpoint
from utils.errors import UserError
from utils.seeding import seeded

STEMS = ("imagenet", "small")
_TIMM = "timm/"
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "teacher", "student_state_dict")


class Network(nn.Module):
    """A classifier that takes images in ImageNet's mean and std, whatever its own preprocessing is.

    net: the plain torchvision or timm module; its state dict is what is stored.
    name, num_classes, stem, input_resize, image_size: as given to `build`. mean, std: what net itself expects.
    classes: class names in head order, or None when not known.
    """

    def __init__(self, net, name, num_classes, stem="imagenet", input_resize=None, image_size=None, classes=None,
                 mean=images.MEAN, std=images.STD):
        super().__init__()
        self.net, self.name, self.num_classes, self.stem = net, name, num_classes, stem
        self.input_resize, self.image_size = input_resize, image_size
        self.classes = None if classes is None else list(classes)
        self.mean, self.std = tuple(mean), tuple(std)
        ours, theirs = (torch.tensor(v).view(2, 3, 1, 1) for v in ([images.MEAN, images.STD], [self.mean, self.std]))
        self.converts = self.mean != images.MEAN or self.std != images.STD
        self.register_buffer("_scale", ours[1] / theirs[1], persistent=False)
        self.register_buffer("_shift", (ours[0] - theirs[0]) / theirs[1], persistent=False)
        # Measured on 2 cores at 32 px: forward and backward 3.5 times as fast in nets with depthwise convolutions, ResNets
        # equal, AlexNet a little slower. State dicts are stored in the ordinary layout.
        self.channels_last = any(isinstance(m, nn.BatchNorm2d) or (isinstance(m, nn.Conv2d) and m.groups > 1)
                                 for m in net.modules())
        if self.channels_last:
            self.net.to(memory_format=torch.channels_last)

    def forward(self, x):
        """x: float [n, 3, H, W], normalised with ImageNet's mean and std. Returns logits [n, num_classes]."""
        if self.converts:
            x = x * self._scale + self._shift
        if self.input_resize is not None and tuple(x.shape[2:]) != (self.input_resize, self.input_resize):
            x = F.interpolate(x, size=(self.input_resize, self.input_resize), mode="bilinear", align_corners=False)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.net(x)

    def features(self, x):
        """Penultimate features [n, D]: the input of the layer that makes the logits, averaged over space if it has any."""
        return self.features_and_logits(x)[0]

    def features_and_logits(self, x):
        """features(x) and forward(x) of one pass."""
        found = []
        hook = head(self).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            logits = self(x)
        finally:
            hook.remove()
        features = found[-1]
        return (features.mean((2, 3)) if features.dim() == 4 else features.flatten(1)), logits

    def spec(self):
        """What build needs to make this network again, as plain values."""
        return {"name": self.name, "num_classes": self.num_classes, "stem": self.stem, "input_resize": self.input_resize,
                "image_size": self.image_size, "classes": self.classes, "mean": list(self.mean), "std": list(self.std)}


def build(name, num_classes, stem="imagenet", input_resize=None, seed=None, image_size=None):
    """A network with random weights.

    name: torchvision's, or "timm/NAME". stem: "imagenet" as published, or "small": first convolution 3x3 (ResNets) with
    stride 1, no max-pool. input_resize: side in pixels that inputs are resized to inside the network (bilinear).
    image_size: side of the images in pixels, for nets that are built for one size (vision transformers); others ignore it.
    seed: key for utils.seeding.seeded during initialisation, a tuple, or None for the global generators.
    Raises UserError for an unknown name, a stem that the net does not have, a size the net cannot be built for.
    """
    if seed is None:
        net = _construct(name, num_classes, input_resize or image_size)
        return wrap(net, name, num_classes, stem, input_resize, image_size)
    with seeded(*seed):
        return build(name, num_classes, stem, input_resize, None, image_size)


def wrap(net, name, num_classes, stem, input_resize, image_size, **known):
    """A Network around a plain module, with the stem asked for. known: classes, mean, std where they are known."""
    if stem not in STEMS:
        raise UserError(f"stem {stem!r}: expected one of {', '.join(STEMS)}.")
    if stem == "small":
        make_small(net, name)
    if name.startswith(_TIMM) and "mean" not in known:
        known.update(mean=net.pretrained_cfg["mean"], std=net.pretrained_cfg["std"])
    return Network(net, name, num_classes, stem, input_resize, image_size, **known)


def _construct(name, num_classes, side):
    """The plain module. side: pixels of its input, used only by nets that are built for one size."""
    check_name(name)
    options = {"num_classes": num_classes}
    try:
        if name.startswith(_TIMM):
            if side is not None and built_for_one_size(name):
                options["img_size"] = side
            return timm.create_model(name.removeprefix(_TIMM), **options)
        if name in ("googlenet", "inception_v3"):  # their input conversion comes with published weights; always have it
            options.update(aux_logits=False, init_weights=True, transform_input=True)
        if side is not None and name.startswith("vit_"):
            options["image_size"] = side
        return torchvision_models.get_model(name, weights=None, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"{name}: cannot be built with {num_classes} classes for {side} px ({first_line(error)}). Choose another "
                        f"image size, or an input resize it was made for (--input-resize {name}=224).") from None


def built_for_one_size(name):
    """Whether a timm net takes images of one size only, fixed when it is built (vision transformers)."""
    config = timm.get_pretrained_cfg(name.removeprefix(_TIMM), allow_unregistered=True)
    return bool(config and config.fixed_input_size)


def names():
    """Names of torchvision's classifiers."""
    return torchvision_models.list_models(module=torchvision_models)


def check_name(name):
    """Raise UserError with the nearest names when no such network exists."""
    if name.startswith(_TIMM):
        wanted = name.removeprefix(_TIMM)
        if timm.is_model(wanted):
            return
        near = [_TIMM + n for n in difflib.get_close_matches(wanted, timm.list_models(), n=3, cutoff=0.5)]
    elif name in names():
        return
    else:
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        if timm.is_model(name):
            near.insert(0, _TIMM + name)
    raise UserError(f"{name}: no such network. " + (f"Did you mean {' or '.join(near)}?" if near else
                    "Give a torchvision name such as resnet18, or timm/NAME."))


def file_stem(name):
    """File name of a network without suffix: timm/NAME becomes timm_NAME."""
    return name.replace("/", "_")


def head(network):
    """The layer that makes the logits: the last Linear or Conv2d with num_classes outputs."""
    layers = [m for m in network.net.modules() if _outputs(m) == network.num_classes]
    if not layers:
        raise UserError(f"{network.name}: no layer with {network.num_classes} outputs, so no penultimate features.")
    return layers[-1]


def _outputs(module):
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None


def check_image_size(network, size):
    """Raise UserError when the network cannot take images of size x size pixels; suggests an input resize that works."""
    if _takes(network, size):
        return
    works = next((s for s in (64, 96, 128, 160, 192, 224, 256, 299, 384) if _takes(network, size, s)), None)
    advice = (f"Let it resize its input: --input-resize {network.name}={works} when it is trained."
              if works else "Choose another network.")
    raise UserError(f"{network.name}: cannot take images of {network.input_resize or size} px. {advice}")


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


def fingerprint(network):
    """SHA-256 over the weights and what else decides the logits: stem, input resize, mean and std."""
    spec = {key: network.spec()[key] for key in ("name", "stem", "input_resize", "mean", "std")}
    text = json.dumps([spec, checkpoint.tensors_hash(network.net.state_dict())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_network(path, network, about):
    """Write weights, what the network is and `about` (accuracy, dataset, options ...) as one safetensors file."""
    checkpoint.save_tensors(path, network.net.state_dict(), {"network": network.spec(), "about": about})


def load_network(path, name=None, image_size=None, stem=None, input_resize=None):
    """Read (Network, about): a file of save_network, or anybody's state dict (.safetensors, .pth, .pt; weights only).

    name: which network it is. Needed for files that do not say it themselves; a file that says another name is refused.
    Their class count comes from the head's shape and a ResNet's stem from the first convolution's; other nets' small stems
    cannot be told from shapes. image_size, stem, input_resize: as in `build`, read for such files only.
    Raises UserError for a missing or damaged file, another network's weights, a class count that cannot be found.
    """
    path = Path(path)
    tensors, header = _read(path)
    if "network" in header:
        spec = _checked_spec(header["network"], tensors, path)
        if name is not None and spec["name"] != name:
            raise UserError(f"{path}: holds {spec['name']}, expected {name}. Rename the file or choose another.")
        network = from_spec(spec)
    else:
        if name is None:
            raise UserError(f"{path}: does not say which network it is. Name it, or save it with models.networks.save_network.")
        network = from_state(name, tensors, path, image_size, None, stem, input_resize)
    fill(network, tensors, path)
    return network, header.get("about", {})


_LARGEST_SIDE = 4096  # pixels that a file may ask its input to be resized to


def _checked_spec(spec, tensors, path):
    """A file's word on what its network is, before anything of that size is built. Raises UserError when it cannot be true."""
    side = {"type": (int, type(None)), "fits": lambda n: n is None or 0 < n <= _LARGEST_SIDE}
    numbers = {"type": list, "fits": lambda v: len(v) == 3 and all(isinstance(n, (int, float)) and math.isfinite(n) for n in v)}
    rules = {
        "name": {"type": str, "fits": bool}, "num_classes": {"type": int, "fits": lambda n: n > 0},
        "stem": {"type": str, "fits": bool}, "input_resize": side, "image_size": side, "mean": numbers,
        "std": {**numbers, "fits": lambda v: numbers["fits"](v) and min(v) > 0},
        "classes": {"type": (list, type(None)), "fits": lambda v: v is None or (len(v) == spec["num_classes"]
                                                                                and all(isinstance(c, str) for c in v))}}
    if not isinstance(spec, dict) or set(spec) != set(rules):
        raise UserError(f"{path}: does not say which network it is. Remove it and make it again.")
    for key, rule in rules.items():
        if not isinstance(spec[key], rule["type"]) or isinstance(spec[key], bool) or not rule["fits"](spec[key]):
            raise UserError(f"{path}: says {key} = {str(spec[key])[:60]}, which cannot be. Remove it and make it again.")
    check_name(spec["name"])
    heads = [tensors[key].shape[0] for key in head_keys(spec["name"]) if key in tensors and tensors[key].dim()]
    if not heads or set(heads) != {spec["num_classes"]}:
        raise UserError(f"{path}: says {spec['num_classes']} classes, its tensors have {heads[0] if heads else 'no head'}. Remove "
                        "it and make it again.")
    return spec


def from_spec(spec):
    """A network (random weights yet) from Network.spec()."""
    return wrap(_construct(spec["name"], spec["num_classes"], spec["input_resize"] or spec["image_size"]), **spec)


def _read(path):
    if path.suffix == ".safetensors":
        return checkpoint.load_tensors(path)
    if not path.exists():
        raise UserError(f"{path}: no such file.")
    state = checkpoint.load_pickled(path)
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path}: holds no state dict of tensors. Save model.state_dict() and give that file.")
    return {_bare(k): v for k, v in state.items()}, {}


def _bare(key):
    for prefix in ("module.", "_orig_mod."):  # left by DistributedDataParallel and torch.compile
        key = key.removeprefix(prefix)
    return key


def from_state(name, tensors, path, image_size=None, num_classes=None, stem=None, input_resize=None):
    """A network (random weights yet) whose class count and stem are read from the shapes of a state dict."""
    keys = [k for k in head_keys(name) if k in tensors]
    if not keys:
        raise UserError(f"{path}: is not a state dict of {name} (no {' or '.join(head_keys(name))}).")
    found = tensors[keys[-1]].shape[0] if num_classes is None else num_classes
    first = tensors.get("conv1.weight")
    small = first is not None and first.dim() == 4 and first.shape[1:] == (3, 3, 3) and "layer1.0.conv1.weight" in tensors
    return build(name, found, "small" if small else stem or "imagenet", input_resize, image_size=image_size)


def head_keys(name):
    """Keys of the state dict whose first dimension is the class count."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = (_construct(name, count, None).state_dict() for count in (7, 11))
    return [key for key in a if a[key].shape != b[key].shape]


def fill(network, tensors, path):
    """Copy a state dict into the network; auxiliary heads that only training uses are left out. path: for the errors."""
    own = network.net.state_dict()
    tensors = {k: v for k, v in tensors.items() if k in own or not k.lower().startswith("aux")}
    missing, surplus = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]  # absent in files of old PyTorch
    if missing or surplus:
        raise UserError(f"{path}: is not a state dict of {network.name} with stem {network.stem!r}: {len(missing)} tensors "
                        f"missing, {len(surplus)} not expected (the first is {(missing or surplus)[0]}).")
    for key, value in tensors.items():
        if value.shape != own[key].shape:
            raise UserError(f"{path}: {key} has shape {list(value.shape)}, {network.name} with stem {network.stem!r} needs "
                            f"{list(own[key].shape)}.")
    tensors = OrderedDict(tensors)
    tensors._metadata = own._metadata  # modules' versions, which no file of plain tensors keeps and MNASNet asks for
    network.net.load_state_dict(tensors, strict=False)


def first_line(error):
    """The first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
