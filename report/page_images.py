"""The page's section of images: for each class where they started, and what they became."""

import io

from PIL import Image

from data.images import to_pil
from data.names import class_words
from report.document import Card, Cards, Picture, Section, Text
from report.sets import of_class
from report.start_grid import StartImages

LARGEST_SHOWN = 96  # side of a shown image in pixels


def images_section(page):
    """The first images of some classes: where they started, and what they became."""
    count = page.options.file.images_shown
    starts = {name: _starts(run, page.options.reals.train_dir) for name, run in page.runs.items()}
    cards = tuple(class_card(page, starts, label, count) for label in page.shown)

    shown = "all classes" if len(page.shown) == len(page.names) else (
        f"{len(page.shown)} of {len(page.names)} classes")
    words = f"The first images of {shown}, up to {count} of each set."
    if any(words == "start" or words.startswith("start of") for card in cards
           for words, _ in card.rows):
        words += " A row \"start\" shows the real images that the sets below it started from."
    else:
        words += (" Start images could not be found again; those that are files are looked for in "
                  "--train-dir.")
    return Section("Images", (Text(words), Cards(cards)))


def _starts(run, train_dir):
    """The StartImages of a run; None where its images are real ones as they are."""
    if run.is_real:
        return None
    return StartImages(run.folder, run.images.image_size, train_dir)


def class_card(page, starts, label, count):
    """The Card of a class: a row of images per set, below the row that they started from.

    Sets that started from the same images share that row. starts: {set: StartImages, or None}.
    """
    rows, seen = [], set()
    title = class_words(page.names[label])
    for position, (name, run) in enumerate(page.runs.items()):
        indices = list(of_class(run.images, label).values())[:count]
        paths = [f"images/{run.images.names[index]}" for index in indices]
        known = starts[name]
        origins = tuple(known.origins.get(path) for path in paths) if known else ()
        if known and origins not in seen:
            images = [known.image(path) for path in paths]
            if images and all(image is not None for image in images):
                words = "start" if not seen else f"start of {name}"
                rows.append((words, _strip(images, f"class{label:03d}_start{position}",
                                           f"Start images of {name}, class {title}")))
                seen.add(origins)
        images = [run.images.image(index) for index in indices]
        rows.append((name, _strip(images, f"class{label:03d}_set{position}",
                                  f"{name}: {len(images)} images of class {title}")))
    return Card(title, tuple(rows))


def _strip(images, stem, alt):
    """Images uint8 [3, S, S] side by side as a Picture; large ones are reduced and made a JPEG."""
    pictures = [to_pil(image) for image in images]
    side, small = min(pictures[0].width, LARGEST_SHOWN), pictures[0].width <= LARGEST_SHOWN
    strip = Image.new("RGB", (side * len(pictures), side))
    for i, picture in enumerate(pictures):
        strip.paste(picture if small else picture.resize((side, side), Image.Resampling.LANCZOS),
                    (i * side, 0))
    data = io.BytesIO()
    strip.save(data, "PNG" if small else "JPEG", quality=88, optimize=True)
    return Picture(f"{stem}.{'png' if small else 'jpg'}", data.getvalue(), alt, pixels=side < 64)
