"""How a message shows what does not come from the app's own code."""

from __future__ import annotations


def escaped(text: object) -> str:
    """Return *text* as one printable line; for text that does not come from the app's own code.

    A line break in a message would forge a line of the log, and an escape sequence would reach the
    terminal on which the log is read.
    """
    line = " ".join(str(text).split())
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in line
    )


def shown(value: object) -> str:
    """Return *value* as a message shows it: only its type if it may contain a password."""
    text = repr(value)
    if "@" in text or "://" in text:
        return f"a value of type {type(value).__name__!r}"
    return escaped(text)
