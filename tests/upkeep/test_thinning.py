import pytest

import granet_lab as gl
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.upkeep.thinning import thin
from granet_lab.upkeep.verification import verify


@pytest.fixture
def trials(recipe):
    return gl.grid(recipe, epoch=[1, 2], rate=0.5, recovery_epochs=1)


@pytest.fixture
def table(lab, trials):
    return lab.measure(trials, workers=1, stack=1, progress=False)


@pytest.mark.parametrize(
    ("how", "gone"),
    [
        ({"every": 1}, ()),
        ({"every": 2}, (1, 3)),
        ({"every": 3}, (1, 2)),
        ({"every": 100}, (1, 2, 3)),
        ({"unneeded": True}, (3,)),
        ({"every": 2, "unneeded": True}, (1, 3)),
    ],
)
def test_it_says_what_goes_and_takes_that_away_and_nothing_else(lab, recipe, table, how, gone):
    run = lab.run(recipe)
    sizes = {epoch: run.checkpoint_path(epoch).stat().st_size for epoch in run.checkpoints}
    (one,) = thin(lab, **how)
    assert (one.run.path, one.epochs) == (run.path, gone)
    assert one.kept == tuple(epoch for epoch in range(5) if epoch not in gone)
    assert one.bytes == sum(sizes[epoch] for epoch in gone)
    assert run.checkpoints == [0, 1, 2, 3, 4]
    one.take()
    assert run.checkpoints == list(one.kept)
    assert list(verify(lab.path)) == []


def test_what_is_needed_by_a_trial_of_a_criterion_that_is_not_known_here_stays(lab, recipe, define):
    def mine(context):
        return {name: weight.abs() for name, weight in context.weights().items()}

    define(CRITERIA, mine)
    lab.measure(gl.grid(recipe, epoch=2, rate=0.5, criterion="mine"), workers=1, progress=False)
    CRITERIA._entries.pop("mine")
    (one,) = thin(lab, unneeded=True)
    assert one.epochs == (1, 3)


def test_what_was_taken_away_is_reached_again_bit_for_bit(lab, recipe, trials, table):
    (one,) = thin(lab, every=100)
    one.take()
    for path in lab.path.glob("*/trials/*.json"):
        path.unlink()
    again = lab.measure(trials, workers=1, stack=1, progress=False)
    assert again.drop(columns="seconds").equals(table.drop(columns="seconds"))
    assert lab.run(recipe).checkpoints == [0, 4]


def test_a_run_on_its_way_keeps_all(lab, recipe):
    run = lab.train(recipe, progress=False)
    history = run.path / "history.jsonl"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:4]))
    assert thin(lab, every=100) == []


@pytest.mark.parametrize(
    ("how", "why"), [({}, "every n-th epoch"), ({"every": 0}, "every must be at least 1")]
)
def test_nothing_is_thinned_without_being_told_how(lab, how, why):
    with pytest.raises(ValueError, match=why):
        thin(lab, **how)
