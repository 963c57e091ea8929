"""Loss curves: means by hand, and figures of records such as recover writes."""

import pytest

from report import loss_curves
from report.figures import main
from utils.errors import UserError
from utils.files import write_json

UNITS = [(5, [{"step": 0, "ce": 2.0, "bn a": 8.0}, {"step": 4, "ce": 4.0, "bn a": 4.0}]),
         (3, [{"step": 0, "ce": 6.0, "bn b": 1.0}, {"step": 1, "ce": 0.0, "bn b": 2.0},
              {"step": 2, "ce": 2.0, "bn b": 3.0}])]


def run_folder(run, units):
    for number, (steps, terms) in enumerate(units):
        write_json(run / f"units/slice{number:05d}_chunk000.json",
                   {"steps": steps, "terms": terms})
    return run


def test_a_curve_per_term_and_unit():
    curves = loss_curves.curves(UNITS)
    assert curves == {"ce": [((0, 100), (2, 4)), ((0, 50, 100), (6, 0, 2))],
                      "bn a": [((0, 100), (8, 4))], "bn b": [((0, 50, 100), (1, 2, 3))]}
    # Teachers that change from step to step have gaps.
    rows = [{"step": 0, "ce": 1.0, "bn a": 3.0}, {"step": 1, "ce": 2.0, "bn b": 4.0},
            {"step": 2, "ce": 2.0, "bn a": 5.0}]
    assert loss_curves.curves([(3, rows)])["bn a"] == [((0, 100), (3, 5))]


def test_a_mean_over_units_by_hand():
    places, means = loss_curves.mean_curve(loss_curves.curves(UNITS)["ce"])
    assert places.tolist() == list(range(101))
    assert means[[0, 25, 50, 75, 100]] == pytest.approx([4, 2.75, 1.5, 2.25, 3])
    places, means = loss_curves.mean_curve([((0, 100), (0, 100)), ((20, 60), (1, 1))])
    assert (places[0], places[-1]) == (20, 60)
    assert means[[0, -1]] == pytest.approx([10.5, 30.5])


def test_a_teacher_looks_alike_in_all_sets():
    figure = loss_curves.draw({"one": UNITS[:1], "both": UNITS})
    above, other_above, below, other_below = figure.axes
    assert [axes.get_title() for axes in (above, other_above)] == [
        "one: 1 unit of 5 steps", "both: 2 units of 3 to 5 steps"]
    looks = [{line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines}
             for axes in (below, other_below)]
    assert set(looks[0]) == {"a"}
    assert set(looks[1]) == {"a", "b"}
    assert looks[0]["a"] == looks[1]["a"] != looks[1]["b"]
    assert list(below.lines[0].get_ydata()[[0, -1]]) == [8, 4]
    assert len(above.lines) == 1
    assert len(other_above.lines) == 3  # two units and their mean


def test_the_entry_notes_few_steps_and_names_a_set_without_terms(tmp_path, capsys):
    run = run_folder(tmp_path / "run", UNITS)
    argv = ["losses", "--output", str(tmp_path / "l.svg"), "--runs", f"PRISM={run}"]
    main(argv)
    assert "note: PRISM keeps 3 steps of a unit; recover --log-every 10 keeps more" in (
        capsys.readouterr().out)
    assert (tmp_path / "l.svg").read_bytes().startswith(b"<?xml")
    for terms in ([], [{"step": 0, "distance": 3.0}]):  # copies of real images; DAP's
        other = run_folder(tmp_path / f"other{len(terms)}", [(0, terms)])
        with pytest.raises(UserError, match="real: no loss terms in .*leave this set out"):
            main([*argv, f"real={other}"])
