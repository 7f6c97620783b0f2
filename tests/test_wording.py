import pytest

from granet_lab.wording import counted


@pytest.mark.parametrize(("n", "text"), [(0, "0 trials"), (1, "1 trial"), (12, "12 trials")])
def test_one_is_singular(n, text):
    assert counted(n, "trial") == text
