"""What the laboratory's numbers say of the paper's orderings."""

from reproduce import lab_report, table2
from reproduce.laboratory import LABORATORIES

DIGITS, FASHION = LABORATORIES["digits"], LABORATORIES["fashion_mnist"]


def lab_lines(seeds=(0, 1, 2)):
    """Table 2's rows: real and multi4 are far above the others, which are nearly equal."""
    top1 = {"real": 90.0, "multi4": 70.0}
    return [{"row": cell.name, "seed": seed, "ipc": 10, "iteration": 100, "epochs": 50,
             "best_top1": top1.get(cell.name, 60.0) + seed + 0.1 * ((place * seed) % 3),
             "last_top1": top1.get(cell.name, 60.0) + seed - 1}
            for place, cell in enumerate(table2.TABLE.cells) for seed in seeds]


def test_rows_and_verdicts(tmp_path):
    lab_report.write_csv(lab_lines(), tmp_path / "digits_table2.csv")
    lines = lab_report.read_csv(tmp_path / "digits_table2.csv")
    assert lines == lab_lines()
    assert lab_report.sizes_words(lines) == (
        "IPC 10, 100 steps, 50 epochs, 3 seeds of images, labels and student")
    text = lab_report.markdown(DIGITS, "table2", lines)
    assert "| real data | 70 | 91.0 ± 0.6 | 90.0 ± 0.6 |" in text
    assert ("Of 10 orderings: 3 hold, 0 do not hold, 7 cannot be told (in 7 of these the "
            "difference is smaller than the paper's).") in text
    assert "| verdict | ordering | the paper | here | 95 % interval | p |\n" in text
    assert ("| holds | real data above 4 BN teachers, pre-distillation | +30.9 | +19.9 ± 0.1 | "
            "[+19.7, +20.1] | < 0.001 |") in text


def test_sizes_are_those_of_rows_that_have_them():
    """Real images took no step, and samples of a diffusion model say nothing of steps."""
    line = {"ipc": 10, "epochs": 50, "seed": 0}
    lines = [{**line, "iteration": steps} for steps in (0, 200, 800, None)]
    assert lab_report.sizes_words(lines) == (
        "IPC 10, 200 or 800 steps, 50 epochs, 1 seed of images, labels and student")
    assert lab_report.sizes_words(lines[:1]).startswith("IPC 10, 50 epochs, 1 seed of")


def test_one_seed_tells_nothing():
    text = lab_report.markdown(DIGITS, "table2", lab_lines(seeds=(0,)))
    assert "10 cannot be told (one seed tells nothing)." in text
    assert "| verdict | ordering | the paper | here |\n" in text
    assert "| real data | 70 | 90.0 | 89.0 |" in text


def test_claims_about_missing_rows_are_left_out():
    lines = [line for line in lab_lines() if line["row"] != "real"]
    text = lab_report.markdown(DIGITS, "table2", lines)
    assert "Of 9 orderings" in text
    assert "real data" not in text


def test_students_are_columns_and_judged_apart():
    """PRISM wins with soft labels; hard labels vary too much to tell."""
    top1 = {"prism soft": (60.0, 60.5, 60.4), "prism hard": (50.0, 70.0, 60.0),
            "sre2l soft": (50.0, 50.6, 50.7), "sre2l hard": (49.0, 30.0, 70.0)}
    lines = [{"row": row.replace(" ", "-real-0.05 "), "seed": seed, "ipc": 10, "iteration": 200,
              "epochs": 100, "best_top1": 99.0, "last_top1": value, "cosine": 0.9, "moved": None}
             for row, values in top1.items() for seed, value in enumerate(values)]
    text = lab_report.markdown(FASHION, "settings", lines)
    # Nothing moved, and the paper has no such rows: these columns are left out.
    assert "| images | soft labels | hard labels | cosine within a class |\n" in text
    assert "| PRISM from real images, lr 0.05 | 60.3 ± 0.2 | 60.0 ± 5.8 | 0.900 |\n" in text
    assert "Of 2 orderings: 1 hold, 0 do not hold, 1 cannot be told.\n" in text
    assert "| verdict | ordering | labels | here | 95 % interval | p |\n" in text
    assert ("| holds | PRISM from real images, lr 0.05 above SRe2L from real images, lr 0.05 | "
            "soft | +9.9 ± 0.1 | [+9.5, +10.2] | < 0.001 |") in text
    assert "| cannot be told | PRISM from real images, lr 0.05 above SRe2L" in text


def test_a_part_s_note_follows_its_table():
    lines = [{"row": "random hard", "seed": seed, "ipc": 10, "iteration": 200, "epochs": 300,
              "best_top1": 73.0, "last_top1": 73.0 + seed} for seed in (0, 1)]
    text = lab_report.markdown(FASHION, "methods", lines)
    assert text.index("73.5 ± 0.5") < text.index("random real images 73.8, herding 71.1")
    assert "The paper has no ordering of these rows." in text


def test_a_report_has_both_pictures_where_the_paper_has_numbers(tmp_path):
    hard = [{**line, "row": f"{line['row']} hard"} for line in lab_lines()]
    settings = [{**hard[0], "row": "prism-real-0.05 hard"}]
    for name, lines, pictures in (("table2", hard, ["lab.png", "orderings.png"]),
                                  ("settings", settings, ["lab.png"])):
        (tmp_path / name).mkdir()
        lab_report.write_report(FASHION, {name: lines}, tmp_path / name)
        assert sorted(path.name for path in (tmp_path / name).glob("*.png")) == pictures
        text = (tmp_path / name / "report.md").read_text()
        assert text.count("A row is above another one where a paired t-test") == 1
        assert [f"![]({picture})" in text for picture in pictures] == [True] * len(pictures)
