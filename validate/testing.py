"""The real test images, decoded once for all tests of a student; --evaluate of a saved student."""

from data.class_folders import class_folders
from data.decoded_images import decoded
from data.names import is_numbered
from data.opening import open_distilled, open_real
from models.evaluate import accuracy, dataset_accuracy
from models.networks import check_image_size, load_network
from models.teachers import fit_head
from utils.distributed import print0
from utils.errors import UserError
from utils.progress import progress_bar
from validate.options import input_side


def cache_folder(data):
    """Where decoded test images are kept, or None. data: validate.options.Data."""
    if data.val_cache is None:
        return data.output_dir and data.output_dir.parent / ".cache"
    return None if data.val_cache == "none" else data.val_cache


def decoded_pixels(test, data):
    """All images of the test ImageSet: uint8 [N, 3, S, S] on the CPU (ImageNet at 224 px: 7.5 GB).

    Images that are files are mapped from a file of pixels that all runs share. Others lie in
    memory, and so do all where the default folder for that file cannot be written. Raises UserError
    where the folder that --val-cache names cannot be written.
    """
    folder = cache_folder(data)
    if folder is not None and test.paths is not None:
        try:
            return decoded(test, folder)
        except OSError as error:
            if data.val_cache is not None:
                raise UserError(f"--val-cache {folder}: cannot keep the decoded test images "
                                f"({error.strerror}). Choose another folder, or none.") from None
            print0(f"note: {folder} cannot keep the decoded test images ({error.strerror}): they "
                   "are decoded into memory. --val-cache names another folder.")
    with progress_bar(len(test), "decode test images", " images", leave=False) as bar:
        return test.pixels(range(len(test)), bar)


def evaluate(o, device):
    """--evaluate: print top-1 and top-5 of a saved student."""
    network, about = load_student(o)
    test = open_described(o, network, about)
    network = fit_head(network, test.classes)
    check_image_size(network, test.image_size)
    network.to(device)

    # Pixels that no folder keeps are used once, so they need not lie in memory together.
    if cache_folder(o.data) is None:
        result = dataset_accuracy(network, test, device, progress="test")
    else:
        result = accuracy(network, decoded_pixels(test, o.data), test.labels, device,
                          progress="test")
    print0(f"{o.testing.evaluate}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % of "
           f"{result['count']} test images ({network.name}, {test.image_size} px)")


def load_student(o):
    """(Network, about) of a file of ours, or of any state dict of the network --student."""
    file, size = o.testing.evaluate, o.data.image_size
    try:
        return load_network(file, image_size=size)
    except UserError:
        student = o.student
        return load_network(file, student.student, size, student.stem, input_side(student))


def open_described(o, network, about):
    """The test images, an ImageSet, as options, checkpoint or distilled images describe them."""
    folder = o.data.train_dir or (o.data.output_dir and o.data.output_dir / "images")
    images = open_distilled(folder, o.run.workers) if folder and folder.is_dir() else None
    dataset = o.data.dataset or about.get("dataset") or (images and images.dataset)
    size = o.data.image_size or about.get("image_size") or network.image_size
    if size is None and images is not None:
        size = images.image_size
    crop = o.data.crop if "crop" in o.given else about.get("crop") or "auto"
    classes = network.classes or (images and images.known_classes)
    if o.data.val_dir is not None and is_of_a_run(o.data.val_dir):
        return open_distilled(o.data.val_dir, o.run.workers, size)
    return open_real(dataset or "imagefolder", "test", o.data.val_dir, size, classes,
                     o.run.workers, crop)


def is_of_a_run(folder):
    """Whether a folder is the images folder of a run: images.json beside it names its classes."""
    return (folder.parent / "images.json").exists() and is_numbered(class_folders(folder))
