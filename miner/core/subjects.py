"""How a sentence names the server that it is about."""

_NOUNS = frozenset({"gateway", "node", "server"})
"""What is called so is no name, and has an article."""


def subject(name: str) -> str:
    """The name at the beginning of a sentence."""
    return f"The {name}" if name in _NOUNS else name


def within(name: str) -> str:
    """The name in the middle of one."""
    return f"the {name}" if name in _NOUNS else name
