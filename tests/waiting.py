"""Waiting for what another thread or process does."""

import time


def until(condition, within):
    """Wait for something to come true; what it was then."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found
