"""Training of one teacher: its first weights and its files."""

from dataclasses import asdict

import torch
from torch import nn

from data import run_folder
from models import networks
from models.teacher_epochs import TeacherEpochs
from utils.errors import UserError
from utils.files import write_json
from utils.seeding import seeded


def build_network(plan, images):
    """The untrained network of a plan, seeded by (seed, "squeeze", name, "init")."""
    key = (plan.seed, "squeeze", plan.name)
    network = networks.build(plan.name, len(images.classes), plan.stem, plan.input_resize,
                             (*key, "init"), images.image_size)
    if plan.init == "he":
        with seeded(*key, "he"):
            he_initialisation(network)
    network.classes = images.classes
    return network


def he_initialisation(network):
    """He et al. 2015 in every convolution and linear layer, with biases 0.

    The head is N(0, 0.01), so that it starts at chance.
    """
    head = networks.head(network)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if module is head:
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class TeacherTraining:
    """Training of the network of a plan on an ImageSet, kept in a folder.

    plan: a Plan. train: the training images. test_set: contents_hash of the test images. run:
    SqueezeRun. device: a torch.device.
    """

    def __init__(self, plan, train, test_set, run, device):
        self.plan, self.train, self.run, self.device = plan, train, run, device
        stem = run.output_dir / networks.file_stem(plan.name)
        self.weights, self.manifest, self.state = (
            stem.with_name(stem.name + suffix) for suffix in (".safetensors", ".json", ".state.pt"))
        self.options = {"dataset": train.dataset, "image_size": train.image_size,
                        "crop": train.crop, **asdict(plan)}
        self.content = {
            "options": self.options,
            "identity": {"classes": train.classes, "train_images": train.contents_hash(),
                         "test_set": test_set},
            "versions": {**run_folder.versions(), "threads": torch.get_num_threads(),
                         "device": device.type}}

    def finished(self):
        """{"top1", "top5", "count", "seconds"} of a finished network, or None.

        Raises UserError for a folder that was made with other options.
        """
        if not self.weights.exists() and not self.state.exists():
            self.manifest.unlink(missing_ok=True)  # nothing was kept, so options may change
        content = run_folder.settle_manifest(self.manifest, self.content,
                                             "Use the same options, or another --output-dir.")
        if not self.weights.exists():
            return None

        _, about = networks.load_network(self.weights, self.plan.name)
        if about.get("options") != self.options:
            raise UserError(f"{self.weights}: was not made by this command. Remove it, or choose "
                            "another --output-dir.")
        if "result" not in content:  # stopped between writing the two files
            content["result"] = {**about["accuracy"], "seconds": None}
            write_json(self.manifest, content)
        self.state.unlink(missing_ok=True)
        return content["result"]

    def train_and_keep(self, test):
        """Train, measure on the test images and save. Returns what `finished` does."""
        network = build_network(self.plan, self.train).to(self.device)
        accuracy, seconds = TeacherEpochs(self, network, test).run_all()

        networks.save_network(self.weights, network, {**self.content, "accuracy": accuracy})
        result = {**accuracy, "seconds": round(seconds, 1)}
        write_json(self.manifest, {**self.content, "result": result})
        self.state.unlink(missing_ok=True)
        return result
