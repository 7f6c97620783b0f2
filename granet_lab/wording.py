"""Words that several places say alike."""


def counted(n: int, what: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
