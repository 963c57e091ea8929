"""A page as plain values, and the two texts that it becomes: HTML in one file, and Markdown.

Blocks hold plain text. What strangers named (classes, files, sets) is escaped here, in one place.
"""

import base64
import html
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from utils.text import printable

KINDS = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}
NONE = "–"  # in a table, where there is nothing
STYLE = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    lines: tuple


@dataclass(frozen=True)
class Table:
    """Rows of strings; the first of each names its row. bold: (row, column) of cells that stand
    out. words: whether the cells are words, and not numbers."""

    header: tuple
    rows: tuple
    bold: frozenset = frozenset()
    words: bool = False


@dataclass(frozen=True)
class Picture:
    """name: of its file, of letters, digits, - and _. data: its bytes. alt: what it shows.
    pixels: whether it is enlarged without smoothing."""

    name: str
    data: bytes
    alt: str
    caption: str = ""
    pixels: bool = False


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side where there is room."""

    pictures: tuple


@dataclass(frozen=True)
class Card:
    """A title, and rows of words with a Picture."""

    title: str
    rows: tuple


@dataclass(frozen=True)
class Cards:
    """Cards side by side where there is room. In Markdown a table, a line per card."""

    cards: tuple


@dataclass(frozen=True)
class Code:
    """Commands, a line each."""

    lines: tuple


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when their title is chosen."""

    title: str
    blocks: tuple


@dataclass(frozen=True)
class Section:
    """A heading and its blocks."""

    title: str
    blocks: tuple


@dataclass(frozen=True)
class Document:
    """A page. facts: short words below the title."""

    title: str
    facts: tuple
    sections: tuple


# HTML

def as_html(document):
    """The Document as one file that needs no other: style and pictures are inside."""
    sections = [section for section in document.sections if section.blocks]
    links = "".join(f'<a href="#{_anchor(s.title)}">{_html(s.title)}</a>' for s in sections)
    facts = "".join(f"<li>{_html(fact)}</li>" for fact in document.facts)
    body = "\n".join(_section_html(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_html(document.title)}</title>
<style>
{STYLE.read_text()}</style>
</head>
<body>
<header><h1>{_html(document.title)}</h1><ul class="facts">{facts}</ul></header>
<nav aria-label="Sections">{links}</nav>
<main>
{body}
</main>
</body>
</html>
"""


def _section_html(section):
    blocks = "\n".join(map(_block_html, section.blocks))
    return (f'<section id="{_anchor(section.title)}">\n<h2>{_html(section.title)}</h2>\n{blocks}\n'
            "</section>")


def _block_html(block):
    match block:
        case Text(text):
            return f"<p>{_html(text)}</p>"
        case Bullets(lines):
            return "<ul>" + "".join(f"<li>{_html(line)}</li>" for line in lines) + "</ul>"
        case Table():
            return _table_html(block)
        case Pictures(pictures):
            return '<div class="pictures">' + "".join(map(_figure_html, pictures)) + "</div>"
        case Cards(cards):
            return '<div class="cards">' + "".join(map(_card_html, cards)) + "</div>"
        case Code(lines):
            spans = "".join(f"<span>{_html(line)}\n</span>" for line in lines)
            return f"<pre><code>{spans}</code></pre>"
        case Fold(title, blocks):
            inside = "\n".join(map(_block_html, blocks))
            return f"<details><summary>{_html(title)}</summary>\n{inside}\n</details>"


def _table_html(table):
    head = "".join(f'<th scope="col">{_html(word)}</th>' for word in table.header)
    lines = []
    for r, (name, *cells) in enumerate(table.rows):
        values = "".join(f"<td{' class=best' if (r, c) in table.bold else ''}>{_html(cell)}</td>"
                         for c, cell in enumerate(cells, 1))
        lines.append(f'<tr><th scope="row">{_html(name)}</th>{values}</tr>')
    kind = " words" if table.words else ""
    body = "\n".join(lines)
    return (f'<div class="table{kind}" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>")


def _figure_html(picture):
    caption = f"<figcaption>{_html(picture.caption)}</figcaption>" if picture.caption else ""
    return f"<figure>{_image_html(picture)}{caption}</figure>"


def _card_html(card):
    rows = "".join(f"<div><dt>{_html(words)}</dt><dd>{_image_html(picture)}</dd></div>"
                   for words, picture in card.rows)
    return f"<article><h3>{_html(card.title)}</h3><dl>{rows}</dl></article>"


def _image_html(picture):
    kind = KINDS[Path(picture.name).suffix]
    data = base64.b64encode(picture.data).decode()
    pixels = ' class="pixels"' if picture.pixels else ""
    return f'<img{pixels} alt="{_html(picture.alt)}" src="data:{kind};base64,{data}">'


def _html(text):
    return html.escape(printable(text))


def _anchor(title):
    return re.sub(r"[^a-z0-9]+", "-", title.lower())


# Markdown

def as_markdown(document, folder):
    """The Document as Markdown. folder: name of the one beside it that holds the pictures."""
    parts = [f"# {_markdown(document.title)}", " · ".join(map(_markdown, document.facts))]
    for section in document.sections:
        if section.blocks:
            parts.append(f"## {_markdown(section.title)}")
            parts += [_block_markdown(block, folder) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block_markdown(block, folder):
    match block:
        case Text(text):
            return _markdown(text)
        case Bullets(lines):
            return "\n".join(f"- {_markdown(line)}" for line in lines)
        case Table():
            return markdown_table(block)
        case Pictures(pictures):
            return "\n\n".join(_figure_markdown(picture, folder) for picture in pictures)
        case Cards(cards):
            return _cards_markdown(cards, folder)
        case Code(lines):
            text = printable("\n".join(lines))
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case Fold(title, blocks):
            inside = "\n\n".join(_block_markdown(block, folder) for block in blocks)
            words = _html(title).replace("\n", " ")
            return f"<details><summary>{words}</summary>\n\n{inside}\n\n</details>"


def as_text(block):
    """A Table or Bullets for a terminal, as Markdown without escapes."""
    return re.sub(r"\\([\\`*_\[\]|#~])", r"\1", html.unescape(_block_markdown(block, "")))


def markdown_table(table):
    """A Table as Markdown."""
    rows = [[f"**{_markdown(cell)}**" if (r, c) in table.bold else _markdown(cell)
             for c, cell in enumerate(row)] for r, row in enumerate(table.rows)]
    return _lines(list(map(_markdown, table.header)), rows)


def _lines(header, rows):
    lines = [f"| {' | '.join(row)} |" for row in [header, *rows]]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def _figure_markdown(picture, folder):
    caption = f"\n\n{_markdown(picture.caption)}" if picture.caption else ""
    return _image_markdown(picture, folder) + caption


def _cards_markdown(cards, folder):
    names = list(dict.fromkeys(words for card in cards for words, _ in card.rows))
    rows = []
    for card in cards:
        images = {words: _image_markdown(picture, folder) for words, picture in card.rows}
        rows.append([_markdown(card.title), *(images.get(name, "") for name in names)])
    return _lines(["class", *map(_markdown, names)], rows)


def _image_markdown(picture, folder):
    return f"![{_markdown(picture.alt)}]({quote(folder)}/{picture.name})"


def _markdown(text):
    """Text that Markdown and the HTML in it show as it is."""
    text = html.escape(printable(text).replace("\n", " "), quote=False)
    return re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", text)


# Pictures

def pictures_of(document):
    """All Pictures of a Document."""
    return [picture for section in document.sections for block in section.blocks
            for picture in _pictures_in(block)]


def _pictures_in(block):
    match block:
        case Pictures(pictures):
            return pictures
        case Cards(cards):
            return [picture for card in cards for _, picture in card.rows]
        case Fold(_, blocks):
            return [picture for inner in blocks for picture in _pictures_in(inner)]
    return ()
