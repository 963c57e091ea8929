"""What a network says that images show: its answers, a table of them and a picture with them."""

import math
from dataclasses import asdict, dataclass

from PIL import Image, ImageDraw, ImageFont

from data.images import fitting, to_pil
from data.names import class_words
from models.networks import check_name, head_labels
from models.teachers import head_classes, load_teachers
from report.sets import choose_classes, class_names, open_sets, outputs
from report.start_grid import column
from report.verdicts import sampling_error
from utils import distributed
from utils.files import read_json, write_bytes, write_json, written_whole
from utils.progress import progress_bar

RIGHT, WRONG = (0, 114, 178), (213, 94, 0)  # blue and vermilion, which everybody tells apart
LEAST_SIDE = 192  # of an image in the picture, in pixels
GAP, FRAME, LINE, MARGIN, FONT = 10, 5, 28, 130, 22  # likewise


@dataclass(frozen=True)
class Answer:
    """What a network says about an image.

    image: "CLASS FOLDER/FILE". wanted: the image's class in words. said: the class of the largest
    logit, with its probability. right: whether they are one class. in_top5: whether the image's
    class has one of the five largest logits.
    """

    image: str
    wanted: str
    said: str
    probability: float
    right: bool
    in_top5: bool


def verify(options):
    """Ask the verifier about all images, draw some, write .json and .md. options: Verify."""
    sets, names, network, device = open_with_verifier(options)
    labels = choose_classes(options.classes.classes, names, len(names))
    slices, output = options.slices.slices, options.sets.output
    shown = {(name, number): column(name, images, labels, number)
             for number in slices for name, images in sets.items()}

    words = [class_words(name) for name in head_classes(network) or names]
    answered = ask(sets, words, network, device)
    rows = [Row(row_words(name, number, answered[name], slices),
                [to_pil(sets[name].image(i)) for i in indices],
                [answered[name][i] for i in indices])
            for (name, number), indices in shown.items()]
    title = f"{network.name} sees, among {len(words)} classes:"
    draw(rows, [class_words(names[label]) for label in labels], title, options.columns.columns,
         output)

    guides = {name: guides_of(run) for name, run in options.sets.runs}
    text = f"{table(answered, guides)}\n\n{explanation(network.name, len(words), guides)}"
    write_json(output.with_suffix(".json"), content(network.name, len(words), answered, guides))
    write_bytes(output.with_suffix(".md"), f"{text}\n\n![pictures]({output.name})\n".encode())
    print(f"{text}\n\nverify: {output}")


def ask(sets, words, network, device):
    """{set: Answers about all its images}. words: of the network's outputs."""
    answered = {}
    with progress_bar(sum(map(len, sets.values())), "verify", " images", leave=False) as bar:
        for name, images in sets.items():
            logits = outputs(images, range(len(images)), network, device, bar)
            answered[name] = answers(logits, head_labels(network, images.labels), words,
                                     images.names)
    return answered


def open_with_verifier(options):
    """(sets, class names, network with its whole head, device). options: Verify."""
    distributed.set_threads(options.run.threads)
    device, name = distributed.choose_device(options.run.device), options.verifier.verifier
    check_name(name)

    sets = open_sets(dict(options.sets.runs), options.run.workers)
    names, size = class_names(sets), next(iter(sets.values())).image_size
    networks = load_teachers([name], options.weights.teacher_weights, names, device, size, "full")
    return sets, names, networks[name], device


def guides_of(run):
    """Names of the networks that guided some image of a run; [] where its records do not say."""
    records = (read_json(path, "recover") for path in sorted((run / "units").glob("*.json")))
    return sorted({name for record in records for name in record.get("weights", {})})


# Numbers

def answers(logits, labels, words, images):
    """The Answers to logits [n, C].

    labels: int64 [n], index into the C outputs. words: of the C outputs. images: n names.
    """
    probabilities, largest = logits.softmax(1), logits.topk(min(5, logits.shape[1])).indices
    return [Answer(image, words[label], words[top[0]], float(row[top[0]]), top[0] == label,
                   label in top)
            for image, label, top, row in zip(images, labels.tolist(), largest.tolist(),
                                              probabilities, strict=True)]


def share(hits):
    """(p, its sampling error) in per cent of a share p of images."""
    percent = 100 * sum(hits) / len(hits)
    return percent, sampling_error(percent, len(hits))


def score(answered):
    """Top-1 and top-5 of a set's Answers in per cent, with standard errors, as plain values."""
    top1, error1 = share([answer.right for answer in answered])
    top5, error5 = share([answer.in_top5 for answer in answered])
    return {"images": len(answered), "top1": top1, "top1_error": error1, "top5": top5,
            "top5_error": error5}


def content(verifier, classes, answered, guides):
    """What the JSON file says. answered: {set: Answers}. guides: {set: names of networks}."""
    return {"verifier": verifier, "classes": classes, "sets": {
        name: {**score(given), "guided_by": guides[name], "answers": list(map(asdict, given))}
        for name, given in answered.items()}}


# Words

def table(answered, guides):
    """The scores of {set: Answers} as a Markdown table."""
    lines = ["| set | guided by | images | top-1 | top-5 |", "|---|---|---|---|---|"]
    for name, given in answered.items():
        s = score(given)
        lines.append(f"| {name} | {', '.join(guides[name]) or 'not known'} | {s['images']} | "
                     f"{s['top1']:.1f} ± {s['top1_error']:.1f} | "
                     f"{s['top5']:.1f} ± {s['top5_error']:.1f} |")
    return "\n".join(lines)


def explanation(verifier, classes, guides):
    """What the table's numbers are, and whether the verifier is independent of the images."""
    text = (f"Top-1 and top-5 in % of {verifier} among its {classes} classes, with the standard "
            "error sqrt(p (1 - p) / n) of a share p of n images, which says nothing at 0 and 100.")
    guided = [name for name, networks in guides.items() if verifier in networks]
    if guided:
        text += (f" It guided the images of {' and '.join(guided)}, so its answers about them are "
                 "no evidence.")
    return text


def row_words(name, number, answered, numbers):
    """Lines of text beside a row of a set's images; numbers: the slices that are shown."""
    right = sum(answer.right for answer in answered)
    return [name if len(numbers) == 1 else f"{name} {number}", f"{right} of {len(answered)}",
            "right"]


# The picture

@dataclass(frozen=True)
class Row:
    """A row of the picture. words: lines of text beside it. pictures: PIL images of one size.
    answers: about each of them."""

    words: list
    pictures: list
    answers: list


def draw(rows, columns, title, width, path):
    """Write a picture with the Answer below each image, as PNG or JPEG.

    rows: list of Row. columns: words above the images of each class. width: how many classes are
    side by side; the others follow below. A blue frame and the word right, or a vermilion one and
    the word wrong, say what the answer is. Text is cut where it does not fit.
    """
    picture = rows[0].pictures[0]
    side = picture.width * max(1, math.ceil(LEAST_SIDE / picture.width))
    cell, row_height = side + 2 * FRAME + GAP, side + 2 * FRAME + 2 * LINE + GAP
    bands = [range(start, min(start + width, len(columns)))
             for start in range(0, len(columns), width)]
    size = (MARGIN + len(bands[0]) * cell,
            LINE + GAP + len(bands) * (LINE + len(rows) * row_height + GAP))
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    pen.font = ImageFont.load_default(FONT)
    pen.text((GAP, 4), fitting(title, size[0] - 2 * GAP, pen), fill="black")

    y = LINE + GAP
    for band in bands:
        for place, c in enumerate(band):
            pen.text((MARGIN + place * cell, y), fitting(columns[c], side, pen), fill="black")
        y += LINE
        for row in rows:
            _draw_row(canvas, pen, row, band, y, side)
            y += row_height
        y += GAP
    with written_whole(path) as temporary:
        canvas.save(temporary, "PNG" if path.suffix == ".png" else "JPEG", quality=90)


def _draw_row(canvas, pen, row, band, y, side):
    """Draw the images number `band` of a Row, y pixels from the top, each `side` pixels wide."""
    for i, line in enumerate(row.words):
        pen.text((GAP, y + FRAME + i * LINE), fitting(line, MARGIN - 2 * GAP, pen), fill="black")
    for place, c in enumerate(band):
        x, answer = MARGIN + place * (side + 2 * FRAME + GAP), row.answers[c]
        colour = RIGHT if answer.right else WRONG
        pen.rectangle((x, y, x + side + 2 * FRAME - 1, y + side + 2 * FRAME - 1), fill=colour)
        picture = row.pictures[c].resize((side, side), Image.Resampling.NEAREST)
        canvas.paste(picture, (x + FRAME, y + FRAME))
        below = y + side + 2 * FRAME
        pen.text((x, below), fitting(answer.said, side, pen), fill=colour)
        verdict = f"{'right' if answer.right else 'wrong'}, {100 * answer.probability:.0f} %"
        pen.text((x, below + LINE - 4), verdict, fill=colour)
