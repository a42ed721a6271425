"""Try a recipe on the validation images, and keep what came out in tuning.md.

Settings that are not named have the values of the fields of `Recipe`. The test images are never
read. Run it by, for instance,

    python benchmarks/tuning.py second_channels=128 pooling=3 epochs=20
"""

import ast
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results" / "tuning.json"
STUDY = REPOSITORY / "benchmarks" / "tuning.md"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network with two convolutions, and how to train it; the defaults are the starting point."""

    first_channels: int = 32
    second_channels: int = 64
    first_kernel: int = 3
    second_kernel: int = 3
    second_dilation: int = 1
    hidden: int = 512
    second_hidden: int = 0  # units of one more fully connected layer
    activation: str = "ReLU"  # a class of torch.nn
    batch_norm: bool = False  # after each pooling
    hidden_norm: bool = False  # batch normalization after the first fully connected layer
    pooling: int = 2  # size of the window; its step is 2
    dropout_maps: float = 0.0  # whole maps after the second convolution
    dropout_flat: float = 0.4  # single numbers, after flattening
    dropout_hidden: float = 0.4
    normalized: bool = False  # images with mean 0 and standard deviation 1
    flips: bool = True  # of half of the images, by chance
    shift: int = 0  # pixels, at most; the same for all images of a batch
    own_shift: int = 0  # pixels, at most; another one for each image
    erased_side: int = 0  # of the rectangle that is blackened; pixels, at most; one for the batch
    own_erased_side: int = 0  # the same, with another rectangle for each image
    mixup: float = 0.0  # both parameters of the beta distribution
    label_smoothing: float = 0.0
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 0.1
    warmup: float = 0.1
    weight_decay: float = 5e-4
    seed: int = 0
    validation_size: int = 5_000  # images that are held back


DEFAULTS = dataclasses.asdict(Recipe())


def build_network(recipe: Recipe) -> nn.Sequential:
    """Build the network with Glorot's initial weights."""
    activation = getattr(nn, recipe.activation)
    pooled = (28 - recipe.pooling) // 2 + 1
    pooled = (pooled - recipe.pooling) // 2 + 1
    layers = [
        nn.Conv2d(1, recipe.first_channels, recipe.first_kernel, padding="same"),
        nn.MaxPool2d(recipe.pooling, stride=2),
        nn.BatchNorm2d(recipe.first_channels) if recipe.batch_norm else nn.Identity(),
        activation(),
        nn.Conv2d(
            recipe.first_channels,
            recipe.second_channels,
            recipe.second_kernel,
            padding="same",
            dilation=recipe.second_dilation,
        ),
        nn.MaxPool2d(recipe.pooling, stride=2),
        nn.BatchNorm2d(recipe.second_channels) if recipe.batch_norm else nn.Identity(),
        activation(),
        nn.Dropout2d(recipe.dropout_maps) if recipe.dropout_maps else nn.Identity(),
        nn.Flatten(),
        nn.Dropout(recipe.dropout_flat) if recipe.dropout_flat else nn.Identity(),
        nn.Linear(recipe.second_channels * pooled**2, recipe.hidden),
        nn.BatchNorm1d(recipe.hidden) if recipe.hidden_norm else nn.Identity(),
        activation(),
        nn.Dropout(recipe.dropout_hidden) if recipe.dropout_hidden else nn.Identity(),
    ]
    if recipe.second_hidden:
        layers += [nn.Linear(recipe.hidden, recipe.second_hidden), activation()]
    layers.append(nn.Linear(recipe.second_hidden or recipe.hidden, 10))
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def shifted(images: torch.Tensor, pixels: int, black: float, draws: int) -> torch.Tensor:
    """Move the images by up to so many pixels; one draw for all of them, or one for each."""
    padded = functional.pad(images, [pixels] * 4, value=black)
    windows = padded.unfold(2, 28, 1).unfold(3, 28, 1)  # N, 1, top, left, 28, 28
    top, left = torch.randint(2 * pixels + 1, (2, draws))
    return windows[torch.arange(len(images)), :, top, left]


def own_rectangles(number: int, largest_side: int) -> torch.Tensor:
    """Draw a rectangle for each image; return where they are, number × 1 × 28 × 28."""
    sides = torch.randint(largest_side + 1, (2, number, 1))
    first = (torch.rand(2, number, 1) * (29 - sides)).int()
    position = torch.arange(28)
    rows, columns = (position >= first) & (position < first + sides)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def augmented(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mirror half of the images; shift them, and blacken a rectangle in the batch."""
    if recipe.flips:
        flipped = torch.rand(len(images), 1, 1, 1) < 0.5
        images = torch.where(flipped, images.flip(-1), images)
    black = images.min().item()  # not zero, when the images are normalized
    if recipe.shift:
        images = shifted(images, recipe.shift, black, draws=1)
    if recipe.own_shift:
        images = shifted(images, recipe.own_shift, black, draws=len(images))
    if recipe.erased_side:
        height, width = torch.randint(recipe.erased_side + 1, (2,)).tolist()
        top, left = torch.randint(29 - height, ()).item(), torch.randint(29 - width, ()).item()
        images[..., top : top + height, left : left + width] = black
    if recipe.own_erased_side:
        inside = own_rectangles(len(images), recipe.own_erased_side)
        images = torch.where(inside, black, images)
    return images.contiguous(memory_format=torch.channels_last)


def as_tensors(part: fmnist.Split, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and labels of a part of the data set."""
    images = torch.tensor(part.images)[:, None].float() / 255
    if recipe.normalized:
        images = (images - 0.286) / 0.353  # mean and standard deviation of the training images
    return images, torch.tensor(part.labels)


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Make the optimizer, with weight decay on the weights and none on the biases."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    return torch.optim.SGD(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": biases}],
        lr=recipe.learning_rate,
        momentum=0.9,
        nesterov=True,
        fused=True,
    )


def train(recipe: Recipe) -> dict[str, float]:
    """Train by a recipe; return the figures of the last epoch and the seconds it all took."""
    torch.manual_seed(recipe.seed)
    data = fmnist.load_fashion_mnist(REPOSITORY / "data", recipe.validation_size)
    images, labels = as_tensors(data.train, recipe)
    network = build_network(recipe)
    optimizer = make_optimizer(network, recipe)
    total = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    warmup = max(1, round(recipe.warmup * total))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            0.01 + 0.99 * step / warmup
            if step < warmup
            else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        ),
    )
    if recipe.mixup:
        mixing = torch.distributions.Beta(recipe.mixup, recipe.mixup)
    started = time.perf_counter()
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        correct = 0
        for rows in torch.randperm(len(images)).split(recipe.batch_size):
            batch = augmented(images[rows], recipe)
            if recipe.mixup:
                order, share = torch.randperm(len(rows)), mixing.sample()
                batch = share * batch + (1 - share) * batch[order]
            with torch.autocast("cpu", torch.bfloat16, enabled=fmnist.cpu_has_bfloat16()):
                logits = network(batch).float()
            loss = functional.cross_entropy(
                logits, labels[rows], label_smoothing=recipe.label_smoothing
            )
            if recipe.mixup:
                other_loss = functional.cross_entropy(logits, labels[rows][order])
                loss = share * loss + (1 - share) * other_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            correct += (logits.argmax(dim=1) == labels[rows]).sum().item()
        validation = validated(network, as_tensors(data.validation, recipe))
        print(f"epoch {epoch}: {correct / len(images):.2%} {validation}", flush=True)
    return {
        "accuracy": correct / len(images),
        **validation,
        "seconds": time.perf_counter() - started,
        "threads": torch.get_num_threads(),
    }


@torch.inference_mode()
def validated(network: nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    """Return accuracy, loss and expected calibration error on the validation images."""
    network.eval()
    images, labels = part
    logits = torch.cat([network(batch) for batch in images.split(1_000)])
    validation = fmnist.evaluate(labels.numpy(), logits.softmax(dim=1).numpy())
    return {
        "val_accuracy": validation.accuracy,
        "val_loss": validation.loss,
        "val_ece": validation.ece,
    }


def table(runs: list[dict]) -> str:
    """Tabulate the runs, the lowest validation loss first."""
    rows = []
    for run in sorted(runs, key=lambda run: run["val_loss"]):
        settings = " ".join(f"{name}={value}" for name, value in run["settings"].items())
        rows.append(
            [
                f"`{settings}`",
                f"{run['accuracy']:.2%}",
                f"{run['val_accuracy']:.2%}",
                f"{run['val_loss']:.4f}",
                f"{run['val_ece']:.2%}" if "val_ece" in run else "",  # older runs lack it
                f"{run['seconds'] / 60:.1f}",
                f"{run['threads']}",
            ]
        )
    header = [
        "`python benchmarks/tuning.py` …",
        "training accuracy",
        "validation accuracy",
        "validation loss",
        "ECE",
        "minutes",
        "threads",
    ]
    return fmnist.markdown_table(header, rows)


def tables(runs: list[dict]) -> str:
    """Tabulate the runs, those with other validation images apart: they cannot be compared."""
    sizes = [Recipe(**run["settings"]).validation_size for run in runs]
    return "\n\n".join(
        f"Trained on {60_000 - size:,} images, validated on {size:,}:\n\n"
        + table([run for run, its_size in zip(runs, sizes) if its_size == size])
        for size in sorted(set(sizes))
    )


def keep(settings: dict, outcome: dict[str, float]) -> None:
    """Add a run to the results, in place of an earlier one of the same settings."""
    runs = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    runs = [run for run in runs if run["settings"] != settings]
    runs.append({"settings": settings, **outcome})
    fmnist.write_json(RESULTS, runs)
    before, begin, rest = STUDY.read_text(encoding="utf-8").partition("<!-- runs -->\n")
    _, end, after = rest.partition("<!-- end of runs -->")
    text = f"{before}{begin}{tables(runs)}\n{end}{after}"
    fmnist.write_atomically(STUDY, text.encode())


def setting(argument: str) -> tuple[str, Any]:
    """Read NAME=VALUE.

    Raises
    ------
    ValueError
        If a recipe has no such setting, or one of another type.
    """
    name, _, text = argument.partition("=")
    if name not in DEFAULTS:
        raise ValueError(f"There is no setting {name!r}, only {', '.join(DEFAULTS)}.")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if type(value) is not type(DEFAULTS[name]):
        raise ValueError(f"{argument!r}: the value should be one such as {DEFAULTS[name]!r}.")
    return name, value


if __name__ == "__main__":
    try:
        settings = dict(setting(argument) for argument in sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    keep(settings, train(Recipe(**settings)))
