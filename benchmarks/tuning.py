"""Try recipes on 15,000 validation images with three seeds: the notebook's and others.

Results: results/tuning.json, from which the table in tuning.md is written.

    python -m benchmarks.tuning [--workers 2]                  # all of RECIPES
    python -m benchmarks.tuning "CHANNELS=(16,96) EPOCHS=24"   # another one, not kept
"""

import ast
import math
from collections.abc import Sequence
from statistics import mean, variance

import fmnist_utils as fmnist
from benchmarks import exercises, results, runner
from benchmarks.notebook import FRAMEWORKS
from benchmarks.results import Run

# A recipe consists of settings, names of changes and perhaps a framework, else PyTorch.
RECIPES = [
    *("", "no-shift", "no-batch-normalization", "no-rate-decay"),
    *("MOMENTUM=0.0", "WEIGHT_DECAY=0.0", "DROPOUT=0.0", "glorot", "cosine", "tensorflow"),
]
WITHOUT = {
    "no-shift": [r"shift(?=\(images)|, training=True(?=\) / 255)"],
    "no-batch-normalization": exercises.NO_BATCH_NORMALIZATION,
    "no-rate-decay": [r"schedule\.step\(\)"],
}
AFTER = {
    "glorot": "[nn.init.xavier_uniform_(p) for p in model.parameters() if p.ndim > 1]",
    "flips": "shift = v2.Compose([v2.RandomHorizontalFlip(), shift])",
    "first-5x5": "model.layers[0] = nn.Conv2d(1, CHANNELS[0], 5, padding=2, bias=False)\n"
    "model.to(memory_format=torch.channels_last)\n"
    "optimizer, schedule = make_optimizer(model, steps=steps)",
    "cosine": "from torch.optim.lr_scheduler import CosineAnnealingLR\n"
    "schedule = CosineAnnealingLR(optimizer, steps)",
}


def tasks(recipe: str) -> list[runner.Task]:
    framework, without, after, settings = "pytorch", [], "", {"VALIDATION_SIZE": 15_000}
    for part in recipe.split():
        name, is_setting, value = part.partition("=")
        if is_setting:
            settings[name] = ast.literal_eval(value)
        elif name in FRAMEWORKS:
            framework = name
        elif name in AFTER:
            after += f"{AFTER[name]}\n"
        else:
            without += WITHOUT[name]
    seeds = [{**settings, "SEED": seed} for seed in range(3)]
    name, after = recipe or "the notebook", {"instantiate": after}
    return [runner.Task(name, framework, each, after, without) for each in seeds]


def table(runs: Sequence[Run] = ()) -> str:
    """Tabulate recipes in Markdown, the lowest loss first, and say what chance does."""
    wanted = [task for recipe in RECIPES for task in tasks(recipe)]
    runs = runs or runner.measured(results.committed("tuning"), wanted)
    groups = {run["name"]: [r for r in runs if r["name"] == run["name"]] for run in runs}
    losses = {name: [run["validation"]["loss"] for run in g] for name, g in groups.items()}
    rows = {name: groups[name] for name in sorted(groups, key=lambda name: mean(losses[name]))}
    pooled = math.sqrt(mean(map(variance, losses.values())))
    return (
        f"{results.table(rows, 'validation')}\n\nFrom seed to seed the loss has a standard "
        f"deviation of {pooled:.4f}, pooled over all rows."
    )


if __name__ == "__main__":
    parser = runner.parser(__doc__)
    parser.add_argument("recipe", nargs="*", help="such as EPOCHS=24")
    options = parser.parse_args()
    recipes = options.recipe or RECIPES
    runs = runner.run_all([task for recipe in recipes for task in tasks(recipe)], options)
    if not options.recipe:
        fmnist.write_json(results.RESULTS / "tuning.json", runs)
    print(table(runs))
