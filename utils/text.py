"""What strangers named, in a form that is safe to print."""


def printable(text):
    """The text with every character that does not print, but newline and tab, as an escape.

    A class folder may be called anything, also a sequence that clears the terminal.
    """
    return "".join(char if char.isprintable() or char in "\n\t" else
                   char.encode("unicode_escape").decode() for char in str(text))
