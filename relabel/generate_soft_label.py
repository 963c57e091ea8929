"""Stage 2: draw the plan of every epoch of this rank, label the views it makes, store both.

    python -m relabel.generate_soft_label --output-dir results/prism_r18_ipc10
"""

import sys
from pathlib import Path

if not __package__:  # started by its path, without -m: rooms are found from the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.run_folder import check_apart, settle_manifest, versions
from relabel.options import manifest_options, parse, resolve
from utils import distributed, options, report_to
from utils.errors import memory_advice, own_work_begins, run_entry, try_half
from utils.files import check_writable, remove_leftovers, write_json


def main(argv=None):
    o = parse(argv)
    advice = try_half("--batch-size", o.views.batch_size, "the student's batch becomes the same. "
                      "It changes the labels, so give another --fkd-path")
    with memory_advice(advice):
        labelling, epochs = prepare(o)
        own_work_begins()
        work(labelling, epochs)
    summarise(o, labelling.folder)


def prepare(o):
    """The Labelling, and the epochs that this process makes. labels.json is written or compared."""
    from data.labels import arithmetic_of, format_of
    from data.opening import open_distilled  # here and below: --help does not wait for PyTorch
    from models.ensemble import Ensemble
    from models.teachers import load_teachers
    from relabel.accuracy import samples
    from relabel.labelling import Labelling

    report_to.check(o.run.report_to)
    device = distributed.choose_device(o.run.device)
    threads = distributed.set_threads(o.run.threads)
    images = open_distilled(o.data.train_dir or o.data.output_dir / "images", o.run.workers)
    o = resolve(o, images)
    folder, kept = o.data.fkd_path, manifest_options(o, images)
    format_of(kept, len(images.classes))  # refuses a --label-top-k that does not fit
    check_apart("--output-dir or --fkd-path", folder, images.folder)
    real = open_real_images(o, images)
    print_options(o, images, device, threads)
    check_writable(folder)
    remove_leftovers(folder)

    teachers = load_teachers(kept["teachers"], o.teachers.teacher_weights, images.classes, device,
                             images.image_size, numbered=images.numbered)
    ensemble = Ensemble([teachers[name] for name in kept["teachers"]], kept["ensemble"],
                        arithmetic_of(kept))
    manifest = describe(o, images, teachers)
    labelling = Labelling(folder, images, ensemble, manifest, device)
    count = o.stored.epochs if o.stored.label_store == "files" else 0
    finished = labelling.finished(count)
    begins = len(finished) < count or not (folder / "labels.json").exists()
    if begins:
        labelling.print_sizes(o.stored.epochs, o.stored.label_store)
    labelling.check_space(len(finished), count)

    sets = samples(images, real) if begins and distributed.rank() == 0 else None
    stored = settle(labelling, manifest)
    if sets is not None:
        found = keep_accuracy(labelling, stored, teachers, o.teachers.teacher_weights, sets)
        log_accuracy(o.run.report_to, folder, found)

    # A share of all epochs, as other processes may have finished some meanwhile.
    mine = distributed.my_share(range(count), options.settle_shard(o.run.shard))
    return labelling, [epoch for epoch in mine if epoch not in finished]


def open_real_images(o, images):
    """ImageSet of the real test images that --val-dir names or scikit-learn has, or None."""
    from data.opening import open_test

    if o.data.val_dir is None and images.dataset != "digits":
        return None
    return open_test(images, o.data.val_dir, workers=o.run.workers)


def print_options(o, images, device, threads):
    """Print what will be done. o: resolved options."""
    shard = options.settle_shard(o.run.shard)
    options.print_options("relabel", {
        "preset": o.preset, "preset_changed": ", ".join(changed(o, images)) or "nothing",
        **options.shown(o), "images": images, "classes": len(images.classes),
        "shard": options.shard_words(shard), "device": device, "threads": threads})


def changed(o, images):
    """Names of the options that change the labels and differ from the preset."""
    return sorted(o.changed & set(manifest_options(o, images)))


def describe(o, images, teachers):
    """The content of labels.json. o: resolved options. teachers: {name: Network}."""
    from models.networks import fingerprint
    from models.teachers import weights_folder

    weights = weights_folder(o.teachers.teacher_weights) or o.teachers.teacher_weights
    hashes = {name: fingerprint(network) for name, network in teachers.items()}
    return {"preset": o.preset, "preset_changed": changed(o, images),
            "options": manifest_options(o, images), "store": o.stored.label_store,
            "asked": (0, o.stored.epochs if o.stored.label_store == "files" else 0),
            "teacher_weights": str(weights), "stem": teachers[o.teachers.teachers[0]].stem,
            "identity": {"images": images.identity, "teachers": hashes}, "versions": versions()}


def settle(labelling, manifest):
    """Write labels.json, or check that the one there says the same.

    Where the teachers' weights lie may change, because hashes tell the weights. So may the store,
    which changes no number. Returns what the file says.
    """
    from data.epoch_plan import draw_plan

    path = labelling.folder / "labels.json"
    if not path.exists():  # it ties the folder to these images: first see that they can be labelled
        plan = draw_plan(labelling.plan_options, 0)
        labelling.ensemble(labelling.views(plan, 0))
    stored = settle_manifest(path, manifest, "Give the same images, teachers and options again, or "
                             "choose another --fkd-path.")
    if stored["store"] == "none" and manifest["store"] == "files":
        stored = {**stored, "store": "files"}
        write_json(path, stored)
    return stored


def keep_accuracy(labelling, stored, teachers, weights, sets):
    """Measure and print the accuracy of the teachers, and note it in labels.json.

    stored: the content of labels.json. teachers: {name: Network}. sets: of relabel.accuracy.
    Returns what teacher_accuracy does.
    """
    from models.teachers import stated_accuracy
    from relabel.accuracy import teacher_accuracy

    stated = {name: stated_accuracy(name, weights) for name in teachers}
    found = teacher_accuracy(teachers, stated, sets, labelling.device)
    if stored.get("accuracy") != found:
        write_json(labelling.folder / "labels.json", {**stored, "accuracy": found})
    return found


def log_accuracy(kind, folder, found):
    """Log what keep_accuracy found, which is all that relabel has to show. kind: --report-to."""
    tracker = report_to.open_tracker(kind, folder)
    tracker.log(0, {f"top1 {name} {key}": score for name, scores in found.items()
                    for key, score in scores.items() if score is not None})
    tracker.close()


def work(labelling, epochs):
    """Label and write epochs, after a picture of the first batch and an estimate of the time."""
    labelling.preview()
    if epochs:
        labelling.print_estimate(epochs)
        labelling.run(epochs)


def summarise(o, folder):
    """Say where the labels lie."""
    if o.stored.label_store == "none":
        distributed.print0(f"relabel: the recipe is in {folder / 'labels.json'}; validate makes "
                           "the labels on the fly")
        return
    alone = distributed.place_of(options.settle_shard(o.run.shard))[1] == 1
    distributed.print0(f"relabel: {'done' if alone else 'this share is done'}; the labels are in "
                       f"{folder}")


if __name__ == "__main__":
    run_entry(main)
