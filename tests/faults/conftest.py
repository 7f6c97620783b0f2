import pytest
from sweeping import asked, numbers

import granet_lab as gl


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The table of a sweep that nothing has happened to."""
    lab = gl.Lab(tmp_path_factory.mktemp("undisturbed"), device="cpu")
    return numbers(lab.measure(asked(), workers=1, progress=False))


@pytest.fixture
def same(undisturbed):
    """Whether a store, asked again, gives that table bit for bit, and holds nothing damaged."""

    def same(path):
        from granet_lab.upkeep.verification import DAMAGED, ORPHANED, verify

        table = gl.Lab(path, device="cpu").measure(asked(), workers=1, progress=False)
        bad = [found for found in verify(path) if found.kind in (DAMAGED, ORPHANED)]
        assert not bad, bad
        return numbers(table).equals(undisturbed)

    return same
