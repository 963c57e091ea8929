"""How images change over the steps of recover: a strip of frames, and a GIF of all of them."""

import re

import torch

from data.images import decode, draw_grid, save_grid, to_tensor
from data.names import class_words
from report.sets import choose_classes, class_names, open_sets
from report.start_grid import FONT, column
from utils.errors import UserError
from utils.files import written_whole

STRIP = 11  # most frames side by side
SECONDS = 0.15  # of a frame in the GIF
REST = 1.5  # seconds of its first and its last one
_STEP = re.compile(r"step(\d+)\.png")


def course(options):
    """Draw the strip (.png) and the GIF of some images. options: Course."""
    runs = dict(options.sets.runs)
    sets = open_sets(runs, workers=1)
    names = class_names(sets)
    labels = choose_classes(options.classes.classes, names, len(names))
    slices, words = options.slices.slices, [class_words(names[label]) for label in labels]

    shown = [(name, number, column(name, images, labels, number))
             for number in slices for name, images in sets.items()]
    frames = [[read_frames(runs[name], sets[name], index) for index in indices]
              for name, _, indices in shown]
    steps = common_steps({name: row for (name, *_), row in zip(shown, frames, strict=True)})
    row_names = [name if len(slices) == 1 else f"{name} {number}" for name, number, _ in shown]

    output = options.sets.output
    draw_strip(frames, steps, row_names, words, output)
    draw_gif(frames, steps, row_names, words, output.with_suffix(".gif"))
    print(f"course: {len(steps)} frames in {output.with_suffix('.gif')}")


def read_frames(run, images, index):
    """{step: uint8 [3, S, S]} of an image, as recover --frames keeps it. run: the run folder."""
    path = images.paths[index]
    folder = run / "frames" / path.parent.name / path.stem
    found = {int(match[1]): file for file in folder.glob("*.png")
             if (match := _STEP.fullmatch(file.name))}
    if not found:
        raise UserError(f"{folder}: found no frames (step00000.png, ...), expected those of "
                        f"{path.name}. recover --frames 20 keeps them, for the classes and slices "
                        "in previews/, while the images are made; in another --output-dir where "
                        "they are finished.")
    return {step: to_tensor(decode(found[step])) for step in sorted(found)}


def common_steps(frames):
    """The steps of all frames. frames: {set: for every image {step: ...}}.

    Raises UserError where images have frames of different steps.
    """
    all_steps = {name: {tuple(image) for image in row} for name, row in frames.items()}
    first = next(iter(next(iter(all_steps.values()))))
    for name, steps in all_steps.items():
        for other in steps - {first}:
            raise UserError(f"{name}: has frames of the steps {_listed(other)}, others of "
                            f"{_listed(first)}. Give sets and slices with the same steps and "
                            "the same --frames.")
    return list(first)


def _listed(steps):
    return ", ".join(map(str, steps[:4])) + (", ..." if len(steps) > 4 else "")


def spread(steps, most):
    """At most `most` of some steps, evenly spaced, with the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def draw_strip(frames, steps, row_names, words, path):
    """Write a picture with a row per image and a column per step, as PNG.

    frames: for every row name a list over the classes of {step: uint8 [3, S, S]}. words: of the
    classes. Rows of one class are together.
    """
    shown = spread(steps, STRIP)
    rows, names = [], []
    for place, word in enumerate(words):
        for name, row in zip(row_names, frames, strict=True):
            rows.append(torch.stack([row[place][step] for step in shown]))
            names.append(word if len(row_names) == 1 else f"{name} {word}")
    save_grid(rows, path, names, [f"step {step}" for step in shown], font=FONT)


def draw_gif(frames, steps, row_names, words, path):
    """Write a GIF with a row per row name and a column per class, a frame per step."""
    pictures = [draw_grid([torch.stack([image[step] for image in row]) for row in frames],
                          row_names, words, font=FONT, corner=f"step {step}") for step in steps]
    seconds = [SECONDS] * len(pictures)
    seconds[0] = seconds[-1] = REST
    with written_whole(path) as temporary:
        pictures[0].save(temporary, "GIF", save_all=True, append_images=pictures[1:], loop=0,
                         duration=[round(1000 * time) for time in seconds])
