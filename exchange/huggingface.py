"""Hugging Face datasets in and out, with a dataset card.

    python -m exchange.huggingface export --output-dir results/prism_r18_ipc10 --folder hf
    python -m exchange.huggingface push --folder hf --name USER/NAME
    python -m exchange.huggingface import --name hf:USER/NAME --output-dir results/theirs

A stage that is given hf:USER/NAME as its --train-dir needs no import (data.hugging_face).
"""

import os
import shutil
from collections import Counter

from exchange.options import HuggingFaceExport, HuggingFaceImport, HuggingFacePush, parse
from utils.errors import UserError, run_entry

_SHARD_BYTES = 400_000_000  # of images in one parquet file


def main(argv=None):
    command, o = parse("exchange.huggingface", {
        "export": HuggingFaceExport, "import": HuggingFaceImport, "push": HuggingFacePush}, argv)
    if command == "export":
        export(o)
    elif command == "import":
        import_(o.source.name, o.target.output_dir, o.source.classes)
    else:
        push(o.upload.folder, o.upload.name, o.upload.private, os.environ.get("HF_TOKEN"))


# Out

def export(o):
    """Write the images as parquet or class folders, beside images.json and the card README.md.

    o: exchange.options.HuggingFaceExport. Raises UserError where class names are not known.
    """
    from data.opening import open_distilled
    from data.run_folder import check_apart, read_manifest
    from exchange.card import card
    from utils.files import whole_folder

    images = open_distilled(o.images.train_dir or o.images.output_dir / "images")
    classes = class_names(images, o.target.classes)
    path = images.folder.parent / "images.json"
    manifest = read_manifest(path, "recover") if path.exists() else {}
    check_apart("--folder", o.target.folder, images.folder)
    write = write_parquet if o.target.layout == "parquet" else write_folders
    with whole_folder("--folder", o.target.folder) as temporary:
        write(images, classes, temporary)
        text = card(images, classes, manifest, o.target)
        (temporary / "README.md").write_text(text, encoding="utf-8")
        if manifest:
            shutil.copyfile(path, temporary / "images.json")
    print(f"export: {len(images)} images and their card are in {o.target.folder}")


def class_names(images, given):
    """The names of an ImageSet's classes in head order. given: --classes, or None."""
    names = list(given) if given else images.known_classes
    if names is None:
        raise UserError(f"{images.folder}: the class folders are only numbered, so the names of "
                        "the classes are not known. Give --classes.")
    if len(names) != len(images.classes):
        raise UserError(f"--classes: found {len(names)} names, {images.folder} has "
                        f"{len(images.classes)} classes. Give a name for each, in their order.")
    return names


def write_parquet(images, classes, folder):
    """data/train-00000-of-00001.parquet ...: columns image (the files as they are) and label."""
    from data.hugging_face import library
    from utils.progress import progress_bar

    datasets, paths = library(), images.paths
    features = datasets.Features({"image": datasets.Image(),
                                  "label": datasets.ClassLabel(names=classes)})
    shards, size = [[]], 0
    for i, path in enumerate(paths):
        size += path.stat().st_size
        if size > _SHARD_BYTES and shards[-1]:
            shards, size = [*shards, []], path.stat().st_size
        shards[-1].append(i)

    (folder / "data").mkdir()
    datasets.disable_progress_bars()
    with progress_bar(len(paths), "export", " images") as bar:
        for number, shard in enumerate(shards):
            columns = {"image": [{"bytes": paths[i].read_bytes(), "path": paths[i].name}
                                 for i in shard], "label": images.labels[shard].tolist()}
            datasets.Dataset.from_dict(columns, features=features).to_parquet(
                folder / f"data/train-{number:05d}-of-{len(shards):05d}.parquet")
            bar.update(len(shard))


def write_folders(images, classes, folder):
    """train/CLASS/..., which the library reads as an imagefolder: folders are the class names."""
    from data.hugging_face import folder_names
    from exchange.folders import copy_files

    names = folder_names(classes)
    copy_files({f"train/{names[label]}/{path.name}": path for label, path
                in zip(images.labels.tolist(), images.paths, strict=True)}, folder, "export")
    if names != classes:
        print("note: names of class folders are sorted by readers, or hold no /; these are "
              f"{names[0]}, {names[1] if names[1:] else ''} ... here. Layout parquet keeps names.")


def push(folder, name, private, token):
    """Upload an exported folder to the hub, with the user's own token. Nothing keeps the token.

    Raises UserError without a token or a card, and for what the hub answers.
    """
    from huggingface_hub import HfApi

    if not token:
        raise UserError("push needs your own token of the hub, found none in the environment "
                        "variable HF_TOKEN. Set it for this command alone; it is not stored.")
    if not (folder / "README.md").is_file():
        raise UserError(f"{folder}: has no README.md. Give a folder that export made.")
    try:
        api = HfApi(token=token)
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder)
    except Exception as error:  # many kinds, of several libraries
        answer = (str(error).strip() or type(error).__name__).replace(token, "HF_TOKEN")
        raise UserError(f"{name}: the hub did not take it ({answer.splitlines()[0]}). Is the name "
                        "USER/NAME, and may the token write?") from None
    print(f"push: {folder} is hf:{name}")


# In

def import_(name, run, classes=None):
    """Write the images of a dataset to RUN/images by our names, and images.json.

    name: hf:USER/NAME[@REVISION], or a folder. classes: what the training data calls the classes,
    in the dataset's order, None for the dataset's names. Without these, the images.json of a set
    that this project exported comes back as it was. Raises UserError for a class without an image
    and for another number of names.
    """
    from data.hugging_face import PREFIX, images_json, load_split
    from data.names import digits, image_name
    from data.run_folder import versions
    from utils import options
    from utils.files import whole_folder, write_bytes, write_json
    from utils.progress import progress_bar

    name = name if name.startswith(PREFIX) else str(options.path(name))
    if (run / "images.json").exists():
        raise UserError(f"--output-dir: found images.json in {run}, expected a new run folder. "
                        "Choose another one.")
    rows = load_split(name, "train")
    if classes is not None and len(classes) != len(rows.classes):
        raise UserError(f"--classes: found {len(classes)} names, {name} has {len(rows.classes)} "
                        f"classes ({', '.join(rows.classes[:3])}, ...). Give a name for each, in "
                        "this order.")
    counts = [0] * len(rows.classes)
    most = max(Counter(rows.dataset[rows.label]).values(), default=1)
    class_digits, id_digits = digits(len(counts)), digits(most)
    with (whole_folder("--output-dir", run / "images") as temporary,
          progress_bar(len(rows), "import", " images") as bar):
        for label, data, suffix in rows:
            name_of_image = image_name(label, counts[label], class_digits, id_digits)
            path = temporary / f"{name_of_image}{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            counts[label] += 1
            bar.update(1)
        if 0 in counts:
            raise UserError(f"{name}: has no image of the class {rows.classes[counts.index(0)]}. "
                            "A distilled set needs images of every class.")
        manifest = None if classes else images_json(name, rows.classes)
        if manifest is not None:
            write_bytes(run / "images.json", manifest)
        elif classes or not rows.numbered:  # else the classes are known by their numbers alone
            write_json(run / "images.json", {
                "method": None, "source": name, "options": {"dataset": "imagefolder"},
                "identity": {"classes": list(classes or rows.classes)}, "id_digits": id_digits,
                "versions": versions()})
    print(f"import: {len(rows)} images of {len(counts)} classes are in {run / 'images'}")


if __name__ == "__main__":
    run_entry(main)
