"""Text that came from outside, made safe to show."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    r"""The text with everything that is no printable character written as an escape, as ``\x1b``.

    Neither a terminal's control sequences nor characters that reorder or hide others get through, nor line
    ends that would make a second line of it; those in `keep` do.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()
