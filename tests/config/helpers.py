"""Tables of cases in the tests of configurations."""

from __future__ import annotations


def read_table(text: str) -> list[str]:
    """Read the cases of a table; a line that begins with a space continues the one before."""
    return text.strip().replace("\n ", "").splitlines()
