import math
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import granet_lab as gl
from granet_lab import datasets, models
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.training import loop
from granet_lab.training.evaluation import evaluate
from granet_lab.training.loop import Diverged, context, epoch_batches, fit, new_state

DIGITS = datasets.load("digits")
SPARSE = gl.methods.static(0.9)
# A step of the large ones takes as long as an epoch of the others.
SMALL, LARGE = ("convnet", "mlp", "resnet20"), ("resnet50", "vgg19")
small_models = pytest.mark.parametrize("name", SMALL)
COLUMNS = ["epoch", "lr", "train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc"]
COLUMNS += ["sparsity", "pruned", "regrown", "survival", "exploration", "layers", "flops"]
COLUMNS += ["seconds"]


@pytest.fixture
def registered(monkeypatch):
    """Registers models and datasets for the length of a test."""
    for registry in (models.MODELS, datasets.DATASETS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture
def dropout(registered):
    """A recipe whose network draws random numbers while it trains."""

    @gl.model
    def dropout_net(input_shape, classes):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, classes)
        )

    return gl.recipes.digits(model="dropout_net", epochs=4, milestones=(2,), train_size=200)


def train(recipe, until=4, state=None, lr=None, images=DIGITS):
    state = new_state(recipe, images) if state is None else state
    rows = list(fit(state, recipe, images, until, lr))
    return state, rows


def tensors(state):
    named = {name: t.clone() for name, t in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            named[f"{key} of {name}"] = value.clone()
    return named | {f"mask of {name}": mask for name, mask in state.masks.items()}


def same(one, other):
    found, expected = tensors(one), tensors(other)
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in found)


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def log_softmax(scores):
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def test_each_epoch_is_a_row(recipe):
    _, rows = train(recipe)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    for row in rows:
        assert list(row) == COLUMNS
        numbers = [value for name, value in row.items() if name != "layers"]
        assert all(isinstance(value, int | float) for value in [*numbers, *row["layers"].values()])
        assert row["sparsity"] == 0
        assert row["seconds"] > 0
        assert all(0 <= row[f"{split}_acc"] <= 100 for split in ("train", "val", "test"))


def test_every_network_is_small_or_large():
    assert {*SMALL, *LARGE} == set(models.MODELS)


@small_models
def test_the_loss_falls_and_the_network_learns(name):
    _, rows = train(gl.recipes.digits(model=name, epochs=4, milestones=()))
    losses = [row["train_loss"] for row in rows]
    assert losses[-1] < losses[0] / 2
    assert rows[-1]["test_acc"] > 80


def test_epochs_and_steps_are_counted(recipe):
    state, _ = train(recipe)
    assert (state.epoch, state.step) == (4, 4 * 200 // 50)


def test_a_state_that_stands_there_already_is_not_trained(recipe):
    state, _ = train(recipe)
    before = tensors(state)
    assert train(recipe, 4, state)[1] == []
    assert tensors(state).keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in tensors(state).items())


def test_a_fixed_learning_rate_takes_the_schedules_place(recipe):
    _, rows = train(recipe, lr=0.03)
    assert [row["lr"] for row in rows] == [0.03] * 4


def test_a_fixed_learning_rate_equal_to_the_schedule_gives_the_same_network(recipe):
    constant = replace(recipe, milestones=())
    assert same(train(recipe, lr=0.1)[0], train(constant)[0])


def test_rows_not_taken_are_not_trained(recipe):
    state = new_state(recipe, DIGITS)
    rows = list(islice(fit(state, recipe, DIGITS, 4), 2))
    assert [row["epoch"] for row in rows] == [1, 2]
    assert same(state, train(recipe, 2)[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_the_training_loss_is_the_smoothed_cross_entropy_of_the_batches(smoothing):
    recipe = gl.recipes.digits(
        model="mlp", epochs=1, milestones=(), train_size=200, label_smoothing=smoothing
    )
    state, (row,) = train(recipe, until=1, lr=0.0)
    images = DIGITS.train.first(200)
    with torch.no_grad():
        scores = state.model(DIGITS.normalise(images.images)).double().numpy()
    logs, labels = log_softmax(scores), images.labels.numpy()
    hit = logs[np.arange(200), labels]
    expected = -((1 - smoothing) * hit + smoothing * logs.mean(axis=1)).mean()
    assert row["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert row["train_acc"] == pytest.approx(100 * (scores.argmax(axis=1) == labels).mean())


@small_models
def test_losses_and_accuracies_are_those_of_an_independent_computation(name):
    recipe = gl.recipes.digits(model=name, epochs=1, milestones=(), train_size=200)
    state, (row,) = train(recipe, until=1)
    for split, images in (("val", DIGITS.validation), ("test", DIGITS.test)):
        pixels = images.images.numpy().astype(np.float64)
        inputs = torch.from_numpy((pixels - DIGITS.mean[0]) / DIGITS.std[0]).float()
        with torch.no_grad():
            scores = state.model.eval()(inputs).double().numpy()
        labels = images.labels.numpy()
        hits = scores.argmax(axis=1) == labels
        loss = -log_softmax(scores)[np.arange(len(labels)), labels].mean()
        assert row[f"{split}_acc"] == pytest.approx(100 * hits.mean())
        assert row[f"{split}_loss"] == pytest.approx(loss, rel=1e-4)


def test_training_twice_gives_the_same_bits(recipe):
    one, first = train(recipe)
    torch.rand(3)
    other, second = train(recipe)
    assert same(one, other)
    assert without_seconds(first) == without_seconds(second)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "convnet", "augment": "crop_flip"},
        {"momentum": 0.0},
        {"nesterov": True, "warmup_epochs": 3},
        {"method": SPARSE},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_four_epochs_are_two_and_then_two_more_bit_for_bit(recipe, changes):
    recipe = replace(recipe, **changes)
    whole, rows = train(recipe)
    state, first = train(recipe, 2)
    torch.rand(10)
    state, rest = train(recipe, 4, state)
    assert same(state, whole)
    assert without_seconds(first + rest) == without_seconds(rows)


CHANGES = {
    "model": "convnet",
    "batch_size": 25,
    "lr": 0.05,
    "milestones": (1,),
    "gamma": 0.5,
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 0.01,
    "warmup_epochs": 2,
    "label_smoothing": 0.1,
    "augment": "crop",
    "precision": "bf16",
    "train_size": 150,
    "method": gl.methods.static(0.5),
    "seed": 1,
    "norm_decay": False,
}
# Shown on their own below or, for epochs, by every other test here; image_size, with the folders
# that it is for, in test_folder.py.
ELSEWHERE = {"dataset", "epochs", "threads", "image_size"}


@pytest.mark.parametrize("field", CHANGES)
def test_no_option_of_the_recipe_is_ignored(recipe, field):
    one, other = (evaluate(train(r)[0], r, DIGITS) for r in (recipe, _changed(recipe, field)))
    assert one["test_loss"] != other["test_loss"]


def _changed(recipe, field):
    return replace(recipe, **{field: CHANGES[field]})


def test_every_option_of_the_recipe_is_looked_at():
    assert CHANGES.keys() | ELSEWHERE == {field.name for field in fields(gl.Recipe)}


@pytest.mark.parametrize("norm_decay", [True, False])
def test_without_norm_decay_biases_and_batchnorm_are_not_pulled_to_zero(norm_decay):
    recipe = gl.recipes.digits(weight_decay=0.5, momentum=0.0, norm_decay=norm_decay)
    state = new_state(recipe, DIGITS)
    with torch.no_grad():
        state.model.block1[1].bias.fill_(1.0)  # which is 0 at first
    before = {name: p.clone() for name, p in state.model.named_parameters()}
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step(lr=0.1)
    spared = {name for name, p in before.items() if p.ndim == 1}
    assert len(spared) == 2 * 3 + 1
    for name, parameter in state.model.named_parameters():
        kept = name in spared and not norm_decay
        torch.testing.assert_close(parameter, before[name] * (1 if kept else 0.95))


@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_each_augmentation_trains_another_network(recipe, name):
    others = {None, "crop", "crop_flip"} - {name}
    found = train(replace(recipe, augment=name), 1)[0]
    assert not any(same(found, train(replace(recipe, augment=o), 1)[0]) for o in others)


def test_the_recipes_threads_are_those_that_training_and_evaluation_run_on(registered):
    seen = set()

    class Watched(nn.Linear):
        def forward(self, images):
            seen.add((self.training, torch.get_num_threads()))
            return super().forward(images.flatten(1))

    @gl.model
    def watched(input_shape, classes):
        return Watched(64, classes)

    before = torch.get_num_threads()
    train(gl.recipes.digits(model="watched", train_size=50, threads=before + 1), 1)
    assert seen == {(True, before + 1), (False, before + 1)}


def test_the_number_of_threads_is_put_back(recipe):
    before = torch.get_num_threads()
    train(replace(recipe, threads=before + 1))
    assert torch.get_num_threads() == before


def test_the_number_of_threads_is_put_back_after_a_divergence(recipe):
    before = torch.get_num_threads()
    with pytest.raises(Diverged):
        train(replace(recipe, threads=before + 1, lr=1e9))
    assert torch.get_num_threads() == before


def test_torchs_own_generator_is_left_alone(dropout):
    before = torch.get_rng_state()
    train(dropout, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_is_reported_with_its_epoch(recipe):
    recipe = replace(recipe, lr=1e6)
    state, rows = new_state(recipe, DIGITS), []
    with pytest.raises(Diverged, match=r"^training diverged: the loss of epoch \d is") as error:
        rows.extend(fit(state, recipe, DIGITS, 4))
    assert f"epoch {state.epoch} is" in str(error.value)


def test_no_row_of_a_diverged_training_has_a_loss_that_is_not_finite(recipe):
    recipe, rows = replace(recipe, lr=3.0, momentum=0.99), []
    state = new_state(recipe, DIGITS)
    with pytest.raises(Diverged):
        rows.extend(fit(state, recipe, DIGITS, 200))
    assert len(rows) == state.epoch - 1
    assert all(math.isfinite(row["train_loss"]) for row in rows)


@small_models
@pytest.mark.parametrize("method", [SPARSE, gl.methods.static(0.5, "magnitude", "uniform")])
def test_masked_weights_are_exactly_zero_in_every_epoch(name, method):
    recipe = gl.recipes.digits(
        model=name, train_size=100, nesterov=True, weight_decay=0.01, method=method
    )
    state = new_state(recipe, DIGITS)
    weights = {n: state.model.get_parameter(n) for n in state.masks}
    zeros = sum(int((weights[n] == 0).sum()) for n in weights)
    assert zeros == round(method.initial_sparsity * state.masks.total)
    for row in fit(state, recipe, DIGITS, 3):
        assert row["sparsity"] == pytest.approx(method.initial_sparsity, abs=1e-4)
        for name_, mask in state.masks.items():
            assert not weights[name_][~mask].any()
            assert not state.optimizer.state[weights[name_]]["momentum_buffer"][~mask].any()
            assert weights[name_][mask].all()


@pytest.mark.parametrize("name", LARGE)
def test_a_step_of_a_large_network_moves_every_parameter_and_no_masked_weight(name):
    recipe = gl.recipes.digits(model=name, batch_size=4, train_size=4, epochs=1, method=SPARSE)
    few = replace(DIGITS, validation=DIGITS.validation.first(1), test=DIGITS.test.first(1))
    state = new_state(recipe, few)
    before = {name: p.clone() for name, p in state.model.named_parameters()}
    train(recipe, 1, state, images=few)
    for name_, parameter in state.model.named_parameters():
        moved = parameter != before[name_]
        assert moved.any(), name_
        if name_ in state.masks:
            assert not parameter[~state.masks[name_]].any()
            assert not moved[~state.masks[name_]].any()
    assert state.masks.active == round(0.1 * state.masks.total)


def test_a_sparse_network_keeps_its_mask(sparse_recipe):
    state = new_state(sparse_recipe, DIGITS)
    before = {name: mask.clone() for name, mask in state.masks.items()}
    train(sparse_recipe, 4, state)
    assert state.masks == gl.Masks(before)


def test_a_sparse_network_starts_as_the_dense_one_with_weights_taken_out(recipe):
    dense, sparse = (new_state(r, DIGITS) for r in (recipe, replace(recipe, method=SPARSE)))
    for name, mask in sparse.masks.items():
        expected = dense.model.get_parameter(name) * mask
        assert torch.equal(sparse.model.get_parameter(name), expected)


def test_dropout_is_the_same_for_the_same_seed_and_epoch(dropout):
    one, _ = train(dropout)
    torch.rand(10)
    assert same(train(dropout)[0], one)
    assert not same(train(replace(dropout, seed=1))[0], one)


def test_dropout_resumes_bit_for_bit(dropout):
    whole, _ = train(dropout)
    state, _ = train(dropout, 2)
    torch.rand(10)
    assert same(train(dropout, 4, state)[0], whole)


def test_dropout_draws_anew_in_every_epoch(registered):
    drawn = []

    class Watched(nn.Linear):
        def forward(self, images):
            if self.training:
                drawn.append(F.dropout(torch.ones(100)).tolist())
            return super().forward(images.flatten(1))

    @gl.model
    def watched(input_shape, classes):
        return Watched(64, classes)

    train(gl.recipes.digits(model="watched", train_size=100), 3)
    assert len({str(mask) for mask in drawn}) == 3 * 2


def test_another_dataset_trains_another_network(registered, recipe):
    @gl.dataset
    def mirrored():
        split = DIGITS.train
        return replace(DIGITS, train=gl.Split(split.images.flip(3), split.labels))

    other = replace(recipe, dataset="mirrored")
    assert not same(train(other, 1, images=datasets.load("mirrored"))[0], train(recipe, 1)[0])


def test_the_context_holds_the_first_batch_of_the_coming_epoch(recipe):
    for epoch in (0, 2):
        state, _ = train(recipe, epoch)
        ((inputs, targets),) = context(state, recipe, DIGITS).batches
        first = next(epoch_batches(recipe, DIGITS, epoch))
        assert torch.equal(inputs, first[0])
        assert torch.equal(targets, first[1])


def test_the_contexts_random_source_depends_on_seed_and_step_alone(recipe):
    def source(state, recipe):
        return context(state, recipe, DIGITS).generator.initial_seed()

    fresh, trained = new_state(recipe, DIGITS), train(recipe, 1)[0]
    assert source(fresh, recipe) == source(new_state(recipe, DIGITS), recipe)
    seeds = {source(fresh, recipe), source(trained, recipe), source(fresh, replace(recipe, seed=1))}
    assert len(seeds) == 3


def test_the_contexts_loss_is_that_of_the_recipe(recipe):
    state = new_state(recipe, DIGITS)
    scores, targets = torch.tensor([[2.0, 0, 0]]), torch.tensor([0])
    logs = torch.log_softmax(scores, 1)[0]
    for smoothing in (0.0, 0.6):
        loss_fn = context(state, replace(recipe, label_smoothing=smoothing), DIGITS).loss_fn
        expected = -(1 - smoothing) * logs[0] - smoothing * logs.mean()
        torch.testing.assert_close(loss_fn(scores, targets), expected)


def test_the_context_sees_the_network_and_its_masks(sparse_recipe):
    state = new_state(sparse_recipe, DIGITS)
    seen = context(state, sparse_recipe, DIGITS)
    assert seen.model is state.model
    assert seen.masks == state.masks


def test_a_network_with_a_frozen_layer_can_be_trained(registered):
    @gl.model
    def half_frozen(input_shape, classes):
        first = nn.Linear(64, 20).requires_grad_(False)
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(20, classes))

    recipe = gl.recipes.digits(model="half_frozen", train_size=100)
    before = new_state(recipe, DIGITS).model.state_dict()
    after = train(recipe, 1)[0].model.state_dict()
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["3.weight"], before["3.weight"])


@pytest.mark.parametrize(("asked", "count"), [(1, 1), (3, 3), (4, 4), (5, 4)])
def test_the_context_holds_as_many_batches_as_are_asked_for_and_the_epoch_has(recipe, asked, count):
    state, _ = train(recipe, 1)
    seen = context(state, recipe, DIGITS, asked).batches
    expected = list(epoch_batches(recipe, DIGITS, 1))
    assert len(expected) == 4
    assert len(seen) == count
    for (images, targets), (their_images, their_targets) in zip(seen, expected, strict=False):
        assert torch.equal(images, their_images)
        assert torch.equal(targets, their_targets)


@pytest.mark.parametrize(
    ("register", "count"),
    [(gl.criterion, 1), (gl.criterion(batches=3), 3), (gl.criterion(batches=9), 4)],
    ids=["by default", "three", "more than an epoch has"],
)
def test_the_criterion_of_the_initial_masks_sees_the_batches_that_it_registered(
    recipe, define, register, count
):
    seen = []

    def watching(context):
        seen.append(context.batches)
        return {name: weight.abs() for name, weight in context.weights().items()}

    define(CRITERIA, register(watching))
    method = gl.methods.static(0.5, criterion="watching", scope="global")
    state = new_state(replace(recipe, method=method), DIGITS)
    (shown,) = seen
    expected = list(islice(epoch_batches(recipe, DIGITS, 0), count))
    assert len(shown) == len(expected) == count
    for (images, _), (theirs, _) in zip(shown, expected, strict=True):
        assert torch.equal(images, theirs)
    assert state.masks.active == state.masks.total // 2


def means_and_variances(state):
    buffers = state.model.named_buffers()
    return {name: b.clone() for name, b in buffers if "running" in name}


def test_batchnorms_statistics_are_measured_on_the_batches_of_the_next_epoch():
    recipe = gl.recipes.digits(epochs=2, milestones=(), train_size=200)
    state, _ = train(recipe, 1)
    before, expected = tensors(state), train(recipe, 1)[0]
    loop.reestimate_batchnorm(state, recipe, DIGITS)
    after = tensors(state)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(means_and_variances(state))
    images = [batch for batch, _ in epoch_batches(recipe, DIGITS, 1)]
    outputs = [expected.model.block1[0](batch) for batch in images]
    mean = torch.stack([found.mean((0, 2, 3)) for found in outputs]).mean(0)
    variance = torch.stack([found.var((0, 2, 3)) for found in outputs]).mean(0)
    torch.testing.assert_close(after["block1.1.running_mean"], mean)
    torch.testing.assert_close(after["block1.1.running_var"], variance)
    assert (state.epoch, state.step) == (1, 4)


def test_batchnorm_is_measured_on_the_recipes_threads_and_they_are_put_back():
    recipe = gl.recipes.digits(epochs=1, milestones=(), train_size=50, threads=2)
    state, seen = new_state(recipe, DIGITS), []
    state.model.block1.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    loop.reestimate_batchnorm(state, recipe, DIGITS)
    assert seen == [2]
    assert torch.get_num_threads() == before


def test_without_batchnorm_there_is_nothing_to_measure_anew(recipe):
    state, _ = train(recipe, 1)
    before = tensors(state)
    loop.reestimate_batchnorm(state, recipe, DIGITS)
    assert all(torch.equal(value, before[name]) for name, value in tensors(state).items())
