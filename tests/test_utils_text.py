import pytest

from utils import options
from utils.distributed import print0
from utils.errors import UserError, run_entry
from utils.progress import progress_bar, write_above
from utils.text import printable

CLEAR = "\x1b[2J"  # clears a terminal


@pytest.mark.parametrize(("text", "printed"), [
    (f"a{CLEAR}b", r"a\x1b[2Jb"), ("a\rb\x07", r"a\rb\x07"), ("\x9b2J", r"\x9b2J"),
    ("\u202egnp", r"\u202egnp"), ("\udcff", r"\udcff"), ("two\n\tlines", "two\n\tlines"),
    ("é ← 猫 \\x1b", "é ← 猫 \\x1b"), (3, "3")])
def test_what_does_not_print_is_escaped(text, printed):
    assert printable(text) == printed


def refuse(_):
    raise UserError(f"{CLEAR}: no such class.")


def bar(_):
    with progress_bar(2, CLEAR, "image") as shown:
        shown.update()
        shown.set_postfix_str(CLEAR)
        write_above(shown, CLEAR)


def test_everything_that_is_printed_is_escaped(capsys):
    with pytest.raises(SystemExit):
        run_entry(refuse)
    print0("class", CLEAR, 3)
    options.print_options("title", {"classes": (CLEAR, 2), "name": CLEAR})
    bar(None)
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert printed.err.startswith("error: \\x1b[2J: no such class.\n")
    assert "class \\x1b[2J 3\n" in printed.out
    assert printed.out.count("\\x1b[2J") == 4
    assert "\\x1b[2J:  50%" in printed.err
    assert "image/s, \\x1b[2J]" in printed.err
