from html.parser import HTMLParser

from report import document
from report.document import (
    Bullets,
    Card,
    Cards,
    Code,
    Document,
    Fold,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
)

HOSTILE = "</title><script>alert(1)</script> \"'`*|_[x](javascript:1)\n# \x1b[2J"
PICTURE = Picture("p.png", b"\x89PNG", HOSTILE, HOSTILE)
PAGE = Document(HOSTILE, (HOSTILE,), (
    Section(HOSTILE, (Text(HOSTILE), Bullets((HOSTILE,)), Table((HOSTILE,), ((HOSTILE, HOSTILE),)),
                      Pictures((PICTURE,)), Cards((Card(HOSTILE, ((HOSTILE, PICTURE),)),)),
                      Code((HOSTILE,)), Fold(HOSTILE, (Text(HOSTILE),)))),
    Section("empty", ())))


class Tags(HTMLParser):
    """The tags and attributes of a text, and its sources of pictures."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_whatever_a_stranger_named_is_text_in_html():
    page = Tags(document.as_html(PAGE))
    assert page.open == []
    assert "script" not in page.tags
    assert page.attributes <= {"alt", "src", "class", "id", "href", "lang", "name", "content",
                               "charset", "http-equiv", "scope", "tabindex", "aria-label"}
    assert "\x1b" not in document.as_html(PAGE)


def test_the_html_names_no_other_file_and_no_server():
    text = document.as_html(PAGE)
    assert "http://" not in text
    assert "https://" not in text
    assert 'src="data:image/png;base64,iVBORw==' in text
    assert "default-src 'none'; img-src data:" in text


def test_whatever_a_stranger_named_is_text_in_markdown():
    text = document.as_markdown(PAGE, "files")
    outside = text.replace("```\n" + HOSTILE.replace("\x1b", r"\x1b") + "\n```", "")
    assert "<script" not in outside
    assert "\x1b" not in text
    assert not [line for line in outside.splitlines() if line.startswith("# ") and line != (
        outside.splitlines()[0])]
    assert r"\[x\](javascript" in text
    assert text.count("](files/p.png)") == 2


def test_a_table_in_both_texts():
    table = Table(("top-1", "A"), (("soft", "1 < 2"),), frozenset({(0, 1)}))
    assert document.markdown_table(table) == (
        "| top-1 | A |\n|---|---|\n| soft | **1 &lt; 2** |")
    assert document.as_text(table).endswith("| soft | **1 < 2** |")
    html = document.as_html(Document("t", (), (Section("s", (table,)),)))
    assert '<tr><th scope="row">soft</th><td class=best>1 &lt; 2</td></tr>' in html


def test_code_may_hold_fences():
    text = document.as_markdown(Document("t", (), (Section("s", (Code(("a ``` b",)),)),)), "f")
    assert "\n````\na ``` b\n````\n" in text


def test_sections_without_blocks_are_left_out():
    assert "empty" not in document.as_html(PAGE)
    assert "empty" not in document.as_markdown(PAGE, "files")


def test_all_pictures_are_found():
    assert document.pictures_of(PAGE) == [PICTURE, PICTURE]
    assert document.pictures_of(Document("t", (), (Section("s", (
        Fold("f", (Pictures((PICTURE,)),)),)),))) == [PICTURE]


def test_markdown_finds_pictures_in_a_folder_of_any_name():
    page = Document("t", (), (Section("s", (Pictures((Picture("p.png", b"", "a"),)),)),))
    text = document.as_markdown(page, "my page (1)_files")
    assert "![a](my%20page%20%281%29_files/p.png)" in text
