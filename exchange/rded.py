"""RDED's folders in and out: 00000/class00000_id00000.jpg, beside our new000/class000_id000.jpg.

    python -m exchange.rded export --output-dir results/prism_r18_ipc10 --folder theirs
    python -m exchange.rded import --output-dir results/rded --folder theirs

Files are copied as they are. RDED's loader insists on five digits, ours takes three or more.
"""

import re

from exchange.options import RdedExport, RdedImport, parse
from utils.errors import UserError, run_entry

_FOLDER = re.compile(r"\d{5}")
_FILE = re.compile(r"class(\d{5})_id(\d{5})\.(\w+)")


def main(argv=None):
    command, o = parse("exchange.rded", {"export": RdedExport, "import": RdedImport}, argv)
    if command == "export":
        export(o.images.train_dir or o.images.output_dir / "images", o.target.folder)
    else:
        import_(o.source.folder, o.target.output_dir, o.source.classes)


def export(images, folder):
    """Copy a folder of class folders to RDED's names; numbers in our names are kept.

    Raises UserError for more classes or images of a class than five digits can number.
    """
    from data.class_folders import class_folders, image_numbers
    from data.opening import open_distilled
    from data.run_folder import check_apart
    from exchange.folders import copy_files
    from utils.files import whole_folder

    open_distilled(images)  # says what is wrong with the set as a whole
    check_apart("--folder", folder, images)
    targets = {}
    for label, files in enumerate(class_folders(images).values()):
        for number, path in zip(image_numbers(files), files, strict=True):
            name = f"class{label:05d}_id{number:05d}{path.suffix}"
            targets[f"{label:05d}/{name}"] = path
            if label > 99_999 or number > 99_999:
                raise UserError(f"{path}: RDED numbers classes and images from 0 to 99999, this "
                                f"would be class {label}, image {number}. Export fewer.")
    with whole_folder("--folder", folder) as temporary:
        copy_files(targets, temporary, "export")
    others = {path.suffix for path in targets.values()} - {".jpg"}
    if others:
        print(f"note: these images are {', '.join(sorted(others))}, RDED's own are .jpg.")
    print(f"export: {len(targets)} images are in {folder}")


def import_(folder, run, classes=None):
    """Copy RDED's images to RUN/images by our names.

    classes: their names in order, None where they are unknown. Raises UserError for other names
    than RDED's.
    """
    from data.class_folders import class_folders
    from data.names import digits, image_name
    from data.run_folder import check_apart, settle_manifest, versions
    from exchange.folders import copy_files
    from utils.files import whole_folder

    folders = class_folders(folder)
    check_apart("--output-dir", run, folder)
    _check(folder, folders)
    largest = max(int(_FILE.fullmatch(path.name)[2]) for files in folders.values()
                  for path in files)
    class_digits, id_digits, targets = digits(len(folders)), digits(largest + 1), {}
    for name, files in folders.items():
        for path in files:
            _, number, suffix = _FILE.fullmatch(path.name).groups()
            target = image_name(int(name), int(number), class_digits, id_digits)
            targets[f"{target}.{suffix}"] = path

    if classes is not None and len(classes) != len(folders):
        raise UserError(f"--classes: found {len(classes)} names, {folder} has {len(folders)} "
                        "classes. Give a name for each, in their order.")
    with whole_folder("--output-dir", run / "images") as temporary:
        copy_files(targets, temporary, "import")
        if classes is not None:  # without names the classes are known by their numbers alone
            settle_manifest(run / "images.json", {
                "method": "rded", "options": {"dataset": "imagefolder"},
                "identity": {"classes": list(classes)}, "id_digits": id_digits,
                "versions": versions()}, "Choose another --output-dir.")
    print(f"import: {len(targets)} images are in {run / 'images'}")


def _check(folder, folders):
    """Raise UserError unless folders and files have RDED's names. folders: {name: files}."""
    for place, (name, files) in enumerate(folders.items()):
        if not _FOLDER.fullmatch(name) or int(name) != place:
            raise UserError(f"{folder}: found the folder {name}, expected {place:05d}. RDED's "
                            "folders are numbered without gaps in five digits.")
        for path in files:
            match = _FILE.fullmatch(path.name)
            if not match or match[1] != name:
                raise UserError(f"{path}: expected a name such as class{name}_id00000.jpg, as RDED "
                                "writes it. Images of other tools need no import: give their "
                                "folder as --train-dir.")


if __name__ == "__main__":
    run_entry(main)
