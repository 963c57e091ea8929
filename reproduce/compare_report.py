"""What reproduce.compare found: the scores of DD-Ranking, and the page about all sets."""

import csv

from report.document import NONE, Section, Table, Text
from report.options import Page
from report.page_content import write_page
from report.scores import augmentation_robust_score, label_robust_score
from report.verdicts import spread
from reproduce.compare import WHOLE
from reproduce.compare_plan import needs_labels
from utils import options
from utils.files import read_json, written_whole


def write(plan, o):
    """Write scores.csv, page.html and page.md into the comparison's folder. Returns the page."""
    out = o.run.output_dir
    lines = score_lines(plan, o)
    write_csv(lines, out / "scores.csv")

    folders, work = dict(plan.folders), {place.name: [place.work] for place in plan.places}
    for places in [*plan.random.values(), (plan.real,) if plan.real else ()]:
        made = [place for place in places if place.images.is_dir()]
        if made:
            folders[made[0].name] = made[0].work
            work[made[0].name] = [place.work for place in made]

    wanted = {"dataset": o.real.dataset, "train_dir": o.real.train_dir, "val_dir": o.real.val_dir,
              "device": o.run.device, "threads": o.run.threads}
    if o.labels.teachers and not any(map(needs_labels, o.students.protocol)):
        # No labels record a network for diversity.
        wanted |= {"network": o.labels.teachers[0], "teacher_weights": o.labels.teacher_weights}
    return write_page(folders, options.from_values(Page, wanted), out / "page.html", work,
                      [score_section(lines)])


# Scores

def score_lines(plan, o):
    """A dict per set, network and seed: LRS and ARS and what they are made of, None where unknown.

    Accuracies are fractions.
    """
    lines = []
    for place in plan.places:
        for network, _ in o.students.students:
            for random in plan.random[place.name]:
                lines.append(score_line(place, random, network, plan, o))
    return lines


def score_line(place, random, network, plan, o):
    """The scores of a set and a network for one seed. random: Place of the seed's random subset."""
    seed = random.seeds[0]
    of_set, of_random = ({protocol: accuracy(where, protocol, network, seed)
                          for protocol in ("soft", "hard", "plain")} for where in (place, random))
    real = None
    if plan.real is not None:
        real = accuracy(plan.real, "hard", network, seed)
    elif o.students.real_top1 != WHOLE and network == o.students.students[0][0]:
        real = o.students.real_top1 and o.students.real_top1 / 100

    lrs = _score(label_robust_score, real, of_set["hard"], of_set["soft"], of_random["soft"])
    ars = _score(augmentation_robust_score, of_set["hard"], of_random["hard"], of_set["plain"],
                 of_random["plain"])
    return {"set": place.name, "network": network, "seed": seed, "lrs": lrs, "ars": ars,
            "real_hard": real, **of_set, **{f"random_{name}": value
                                            for name, value in of_random.items()}}


def accuracy(place, protocol, network, seed):
    """Best top-1 of a student as a fraction, None where there is none."""
    from models.networks import file_stem

    path = place.work / f"students/{protocol}-{file_stem(network)}_seed{seed}/result.json"
    return read_json(path, "validate")["best"]["top1"] / 100 if path.exists() else None


def _score(function, *accuracies):
    return None if None in accuracies else function(*accuracies)


def write_csv(lines, path):
    """Write score_lines."""
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(lines[0])
        for line in lines:
            writer.writerow(["" if value is None else round(value, 5) if isinstance(value, float)
                             else value for value in line.values()])


def score_section(lines):
    """The Section of LRS and ARS: a line per score and network, a column per set."""
    names = list(dict.fromkeys(line["set"] for line in lines))
    networks = list(dict.fromkeys(line["network"] for line in lines))
    rows = []
    for score in ("lrs", "ars"):
        for network in networks:
            values = {name: [line[score] for line in lines if line["set"] == name
                             and line["network"] == network] for name in names}
            if any(None not in of_set for of_set in values.values()):
                rows.append((f"{score.upper()}, {network}", *map(_mean, values.values())))
    missing = [words for score, words in (
        ("lrs", "LRS needs the protocols soft and hard and --real-top1."),
        ("ars", "ARS needs the protocols hard and plain."))
        if all(line[score] is None for line in lines)]
    words = ("Scores of DD-Ranking from 0 to 1, with accuracies as fractions, mean over seeds. LRS "
             "asks what a set is worth without its soft labels and above a random real subset with "
             "them; ARS is 0.27 for a set that is as good as a random real subset with and without "
             "augmentation. What they are made of is in scores.csv.")
    table = (Table(("", *names), tuple(rows)), Text(words)) if rows else ()
    return Section("Scores", (*table, *(Text(text) for text in missing)))


def _mean(values):
    return NONE if None in values else spread(values, 3)
