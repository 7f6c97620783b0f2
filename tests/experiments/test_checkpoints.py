import errno
import io
import os
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import granet_lab as gl
from granet_lab import datasets, models
from granet_lab.experiments import checkpoints
from granet_lab.experiments.files import DamagedFile
from granet_lab.training import loop

DIGITS = datasets.load("digits")
SMALL = gl.recipes.digits(model="mlp", epochs=4, milestones=(2,), train_size=200)

KINDS = {
    "dense mlp": SMALL,
    "sparse mlp": replace(SMALL, method=gl.methods.static(0.9)),
    "dense convnet": replace(SMALL, model="convnet"),
    "sparse convnet": replace(SMALL, model="convnet", method=gl.methods.static(0.9)),
    "no momentum": replace(SMALL, momentum=0.0),
}
every_kind = pytest.mark.parametrize("recipe", KINDS.values(), ids=KINDS)


def fresh(recipe=SMALL):
    return loop.new_state(recipe, DIGITS)


def trained(recipe=SMALL, epochs=2):
    state = fresh(recipe)
    for _ in loop.fit(state, recipe, DIGITS, epochs):
        pass
    return state


def contents(state):
    """Copies of all that a state holds."""
    named = {f"model {name}": t.clone() for name, t in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            named[f"{key} of {name}"] = value.clone()
    named |= {f"mask of {name}": mask.clone() for name, mask in state.masks.items()}
    return named, (state.epoch, state.step)


def assert_same(state, expected):
    (found, place), (tensors, expected_place) = contents(state), expected
    assert place == expected_place
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of a checkpoint of SMALL, and a path to put changed ones."""
    path = tmp_path_factory.mktemp("checkpoint") / "0002.safetensors"
    checkpoints.write(path, trained())
    return path, path.read_bytes()


@every_kind
def test_a_state_is_read_as_it_was_written_bit_for_bit(tmp_path, recipe):
    state = trained(recipe)
    checkpoints.write(tmp_path / "a", state)
    found = fresh(recipe)
    assert checkpoints.read(tmp_path / "a", found) is found
    assert_same(found, contents(state))


@every_kind
def test_training_goes_on_from_what_was_read_bit_for_bit(tmp_path, recipe):
    checkpoints.write(tmp_path / "a", trained(recipe, 2))
    state = checkpoints.read(tmp_path / "a", fresh(recipe))
    for _ in loop.fit(state, recipe, DIGITS, 4):
        pass
    assert_same(state, contents(trained(recipe, 4)))


def test_the_untrained_network_can_be_written_too(tmp_path):
    state = fresh(KINDS["sparse convnet"])
    checkpoints.write(tmp_path / "a", state)
    assert_same(checkpoints.read(tmp_path / "a", trained(KINDS["sparse convnet"])), contents(state))


def test_masks_that_changed_after_initialisation_are_read(tmp_path):
    state = trained(SMALL)
    state.masks = gl.prune(loop.context(state, SMALL, DIGITS), gl.Pruning(rate=0.7))
    state.masks.apply_(state.model, state.optimizer)
    checkpoints.write(tmp_path / "a", state)
    found = checkpoints.read(tmp_path / "a", fresh())
    assert found.masks.sparsity == pytest.approx(0.7, abs=1e-4)
    assert_same(found, contents(state))


def test_masks_that_someone_holds_do_not_change_when_others_are_read(tmp_path):
    checkpoints.write(tmp_path / "a", fresh(KINDS["sparse mlp"]))
    state = fresh()
    held = state.masks
    checkpoints.read(tmp_path / "a", state)
    assert state.masks.sparsity == pytest.approx(0.9, abs=1e-4)
    assert held == gl.Masks.dense(state.model)


def test_weights_and_momentum_stay_channels_last_in_memory(tmp_path):
    recipe = KINDS["dense convnet"]
    checkpoints.write(tmp_path / "a", trained(recipe))
    state = checkpoints.read(tmp_path / "a", fresh(recipe))
    kernels = [p for p in state.model.parameters() if p.ndim == 4]
    assert len(kernels) == 3
    for kernel in kernels:
        momentum = state.optimizer.state[kernel]["momentum_buffer"]
        assert kernel.is_contiguous(memory_format=torch.channels_last)
        assert momentum.is_contiguous(memory_format=torch.channels_last)


def test_batch_norms_running_statistics_are_in_the_file(tmp_path):
    recipe = KINDS["dense convnet"]
    checkpoints.write(tmp_path / "a", trained(recipe))
    buffers = dict(checkpoints.read(tmp_path / "a", fresh(recipe)).model.named_buffers())
    counts = [value.item() for name, value in buffers.items() if name.endswith("tracked")]
    assert counts == [2 * 200 // 50] * 3


def test_writing_changes_nothing(tmp_path):
    state = trained()
    before = contents(state)
    checkpoints.write(tmp_path / "a", state)
    assert_same(state, before)
    assert all(parameter.requires_grad for parameter in state.model.parameters())


def test_reading_leaves_a_network_that_can_be_trained(written):
    path, content = written
    path.write_bytes(content)
    state = checkpoints.read(path, fresh())
    assert all(parameter.requires_grad for parameter in state.model.parameters())


@every_kind
def test_the_size_told_beforehand_is_that_of_the_file_to_within_its_header(tmp_path, recipe):
    state = fresh(recipe)
    checkpoints.write(tmp_path / "a", state)
    header = (tmp_path / "a").stat().st_size - checkpoints.size(state)
    assert 0 < header < 4096


def test_a_network_with_tied_weights_can_be_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(models.MODELS, "_entries", dict(models.MODELS._entries))

    @gl.model
    def tied(input_shape, classes):
        first, second = nn.Linear(64, 64), nn.Linear(64, 64)
        second.weight = first.weight
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, classes))

    recipe = replace(SMALL, model="tied")
    state = trained(recipe)
    checkpoints.write(tmp_path / "a", state)
    assert_same(checkpoints.read(tmp_path / "a", fresh(recipe)), contents(state))


def test_a_missing_checkpoint_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*0003\.safetensors"):
        checkpoints.read(tmp_path / "0003.safetensors", fresh())


def assert_damaged(path, content, state):
    """The content is refused by name, and the state stays as it was."""
    before = contents(state)
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="is damaged") as error:
        checkpoints.read(path, state)
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert_same(state, before)


def positions(content, n):
    """Some places all over the file, more of them in its header."""
    header = 8 + int.from_bytes(content[:8], "little")
    size = len(content)
    in_header = range(9, header, header // n)
    in_tensors = range(header, size, (size - header) // n)
    return [*range(9), *in_header, *in_tensors, size - 1]


def test_a_checkpoint_cut_off_anywhere_is_damaged(written):
    path, content = written
    state = fresh()
    for length in positions(content, 25):
        assert_damaged(path, content[:length], state)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_changed_byte_anywhere_is_damage(written, flip):
    path, content = written
    state = fresh()
    for position in positions(content, 25):
        changed = bytearray(content)
        changed[position] ^= flip
        assert_damaged(path, changed, state)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"epoch":"2"', b'"epoch":"3"'), (b'"step":"8"', b'"step":"9"'), (b'"epoch":', b'"ep0ch":')],
    ids=["epoch", "step", "no epoch"],
)
def test_a_changed_place_in_the_run_is_damage(written, old, new):
    path, content = written
    assert content.count(old) == 1
    assert_damaged(path, content.replace(old, new), fresh())


def test_an_extended_checkpoint_is_damaged(written):
    path, content = written
    assert_damaged(path, content + b"\0", fresh())


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"not a checkpoint at all, just text"], ids=len
)
def test_what_is_no_checkpoint_is_damaged(written, content):
    assert_damaged(written[0], content, fresh())


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_its_place_is_damaged_and_not_loaded(tmp_path):
    traps = {}
    for name, save in (("pickle", pickle.dumps), ("torch", _torch_bytes)):
        traps[name] = tmp_path / name
        assert_damaged(tmp_path / "a.safetensors", save(Bomb(traps[name])), fresh())
    assert not any(trap.exists() for trap in traps.values())


def _torch_bytes(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "recipe",
    [replace(SMALL, model="convnet"), replace(SMALL, momentum=0.0)],
    ids=["another model", "no momentum"],
)
def test_the_checkpoint_of_another_network_is_refused(tmp_path, written, recipe):
    path, content = written
    assert_damaged(path, content, fresh(recipe))
    checkpoints.write(tmp_path / "a", fresh(recipe))
    assert_damaged(path, (tmp_path / "a").read_bytes(), fresh())


def test_a_write_that_fails_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    state = trained()
    checkpoints.write(tmp_path / "a", state)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.files.os, "fsync", full)
    with pytest.raises(OSError, match=f"cannot write to {tmp_path}: No space"):
        checkpoints.write(tmp_path / "a", trained(SMALL, 4))
    assert_same(checkpoints.read(tmp_path / "a", fresh()), contents(state))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
