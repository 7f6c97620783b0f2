import pytest

import granet_lab as gl
from granet_lab.experiments import checkpoints, files, trainings

SPARSE = {"dense": (), "granet": (0.8,)}


@pytest.fixture
def meanwhile(monkeypatch):
    """As on a GPU: the next epoch is trained while the last one is written down."""
    monkeypatch.setattr(trainings, "_meanwhile", lambda device: True)


def contents(lab):
    """Everything that a run consists of, seconds left out."""
    found = {}
    for path in lab.path.glob("*/checkpoints/*"):
        found[path.name] = checkpoints._digest(*checkpoints._verified(path))
    for path in lab.path.glob("*/recipe.json"):
        recipe = files.read_json(path)
        found[path.parent.name] = recipe
    (one,) = lab.recipes()
    return found, lab.run(one).history.drop(columns="seconds").to_csv()


@pytest.mark.parametrize("kept", [None, [2], [0, 4]])
@pytest.mark.parametrize("method", ["dense", "granet"])
def test_what_is_written_meanwhile_is_the_same(lab, tmp_path, request, method, kept):
    recipe = gl.recipes.digits(
        model="mlp",
        epochs=4,
        milestones=(2,),
        train_size=200,
        method=gl.methods.METHODS[method](*SPARSE[method]),
    )
    lab.train(recipe, kept, progress=False)
    request.getfixturevalue("meanwhile")
    other = gl.Lab(tmp_path / "other", device="cpu")
    other.train(recipe, kept, progress=False)
    assert contents(other) == contents(lab)


def test_stopped_in_between_it_goes_on_as_ever(lab, tmp_path, recipe, meanwhile):
    other = gl.Lab(tmp_path / "other", device="cpu")
    lab.train(recipe, progress=False)
    for _ in trainings.train(other.run(recipe)):
        break
    for _, _ in zip(range(2), trainings.train(other.run(recipe)), strict=False):
        pass
    other.train(recipe, progress=False)
    assert contents(other) == contents(lab)


def test_what_could_not_be_written_is_an_error(lab, recipe, meanwhile, monkeypatch):
    write = files.write

    def full(path, *rest, **how):
        if path.name == "0002.safetensors":
            raise OSError("cannot write to it: No space left on device")
        write(path, *rest, **how)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(OSError, match="No space left"):
            lab.train(recipe, progress=False)
    run = lab.train(recipe, progress=False)
    assert run.checkpoints == [0, 1, 2, 3, 4]


def test_every_step_is_a_pulse(lab, recipe):
    beats = []
    one = trainings.Training(lab.run(recipe), pulse=lambda: beats.append(1))
    for _ in trainings.train_alone(one):
        pass
    assert len(beats) == recipe.epochs * (200 // recipe.batch_size)
