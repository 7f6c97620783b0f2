import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from granet_lab.randomness import child, derive_seed, generator, seeded

WORDS = st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=4)


def test_a_seed_is_the_same_on_every_machine():
    assert derive_seed("batches", 0, 1) == 3145661483489093423


@given(WORDS)
def test_a_seed_has_63_bits(words):
    assert 0 <= derive_seed(*words) < 2**63


@given(WORDS, WORDS)
def test_different_words_give_different_seeds(one, other):
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


@pytest.mark.parametrize("other", [("a1", 2), ("a", "12"), ("a", 1, 2), ("a", 12, "")])
def test_words_are_not_run_together(other):
    assert derive_seed("a", 12) != derive_seed(*other)


def test_a_generator_depends_on_its_words_alone():
    first = torch.rand(5, generator=generator("noise", 3))
    torch.rand(7)
    assert torch.equal(first, torch.rand(5, generator=generator("noise", 3)))
    assert not torch.equal(first, torch.rand(5, generator=generator("noise", 4)))


def test_making_generators_leaves_torchs_own_one_alone():
    before = torch.get_rng_state()
    child(generator("noise"), "more noise")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_child_leaves_its_parent_alone():
    parent = generator("parent")
    before = parent.get_state()
    torch.rand(3, generator=child(parent, "noise"))
    assert torch.equal(parent.get_state(), before)


def test_a_child_follows_from_parent_and_purpose():
    seed = child(generator("parent"), "noise").initial_seed()
    assert seed == child(generator("parent"), "noise").initial_seed()
    assert seed != child(generator("parent"), "dropout").initial_seed()
    assert seed != child(generator("stranger"), "noise").initial_seed()


def test_a_child_follows_from_the_state_and_not_only_from_the_seed_of_its_parent():
    parent = generator("parent")
    before = child(parent, "noise").initial_seed()
    torch.rand(1, generator=parent)
    assert child(parent, "noise").initial_seed() != before


def test_numbers_in_a_seeded_block_depend_on_its_words_alone():
    with seeded("layers", 1):
        first = torch.rand(5)
    torch.rand(7)
    with seeded("layers", 1):
        again = torch.rand(5)
    with seeded("layers", 2):
        other = torch.rand(5)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_after_a_seeded_block_the_numbers_go_on_as_if_it_had_not_been():
    before = torch.get_rng_state()
    expected = torch.rand(5)
    torch.set_rng_state(before)
    with seeded("layers"):
        torch.rand(7)
    assert torch.equal(torch.rand(5), expected)


def test_an_error_in_a_seeded_block_puts_the_generator_back_too():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded("layers"):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_blocks_nest():
    with seeded("outer"):
        torch.rand(2)
        expected = torch.rand(3)
    with seeded("outer"):
        torch.rand(2)
        with seeded("inner"):
            torch.rand(9)
        assert torch.equal(torch.rand(3), expected)
