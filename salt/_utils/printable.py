"""
Text for a terminal, and nothing that one obeys: others choose names of files, and what programs say.

Loaded by Salt (``__utils__``), by ``bootstrap/converge``, and by path by the controller. Needs nothing but Python.
"""

import io


def escape(text, keep=""):
    """
    ``text`` with each character that a terminal obeys, that ends a line or reverses what is read, as its
    escape, but those of ``keep``.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )


class Printable(io.TextIOWrapper):
    """A stream of text to a terminal or file, of which only newlines are obeyed."""

    def write(self, text):
        super().write(escape(text, "\n"))
        return len(text)

    def write_obeyed(self, text):
        """What is to be obeyed, too."""
        super().write(text)
