"""Try a recipe on 15,000 validation images with three seeds, and keep what came out.

Results: results/tuning.json, from which the table in tuning.md is written. For instance,

    python -m benchmarks.tuning                             # the notebook as it stands
    python -m benchmarks.tuning "CHANNELS=(16, 96)" EPOCHS=24
    python -m benchmarks.tuning no-shift                    # a name from CHANGES
    python -m benchmarks.tuning --each                      # each part of the recipe switched off
"""

import ast
import shlex
import sys
from typing import Any

import fmnist_utils as fmnist
from benchmarks import runner
from benchmarks.notebook import FRAMEWORKS

VALIDATION_SIZE = 15_000
# Parts of PyTorch's recipe switched off by code after the first cell with a tag, and by settings.
CHANGES = {
    "no-shift": {"instantiate": "augment = to_float"},
    "no-batch-normalization": {"parameters": "nn.BatchNorm1d = nn.BatchNorm2d = nn.Identity"},
    "no-glorot": {"parameters": "nn.init.xavier_uniform_ = lambda weights: weights"},
    "no-momentum": {"train": "optimizer.param_groups[0].update(momentum=0.0)"},
    "no-decay": {"train": "scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)"},
}
EACH = [*CHANGES, "DROPOUT=0.0", "WEIGHT_DECAY=0.0"]


def tasks(framework: str, arguments: list[str], seeds: list[int]) -> list[runner.Task]:
    """Return a recipe's runs; an argument is NAME=VALUE or a name from CHANGES."""
    settings: dict[str, Any] = {"VALIDATION_SIZE": VALIDATION_SIZE}
    after: dict[str, str] = {}
    for argument in arguments:
        name, is_setting, text = argument.partition("=")
        if is_setting:
            settings[name] = ast.literal_eval(text)
        elif name not in CHANGES:
            sys.exit(f"{name!r} is neither NAME=VALUE nor one of {', '.join(CHANGES)}.")
        elif after.keys() & CHANGES[name].keys():
            sys.exit(f"{name} changes a cell that another one changes, too: try one of them.")
        else:
            after |= CHANGES[name]
    title = f"{FRAMEWORKS[framework].name}, {' '.join(arguments) or 'unchanged'}"
    return [
        runner.Task(f"{title}, seed {seed}", framework, {**settings, "SEED": seed}, after)
        for seed in seeds
    ]


def changes_of(run: dict[str, Any]) -> list[str]:
    """Return the names in CHANGES of what a run put after the notebook's cells."""
    return [name for name, after in CHANGES.items() if after.items() <= run["after"].items()]


def kept() -> list[dict[str, Any]]:
    """Return the runs in results/tuning.json that the present code has made."""
    present = {key: runner.code_sha256(framework) for key, framework in FRAMEWORKS.items()}
    return [
        run
        for run in runner.committed("tuning")
        if run["code_sha256"] == present[run["framework"]]
        and run["after"].keys() == {tag for name in changes_of(run) for tag in CHANGES[name]}
    ]


def arguments_of(run: dict[str, Any]) -> str:
    """Return the arguments of this program that repeat a run's recipe."""
    framework = FRAMEWORKS[run["framework"]]
    usual = {**runner.default_settings(framework), "VALIDATION_SIZE": VALIDATION_SIZE}
    arguments = changes_of(run)
    for name, value in run["settings"].items():
        value = tuple(value) if isinstance(value, list) else value
        if name != "SEED" and value != usual[name]:
            arguments.append(f"{name}={value}")
    return shlex.join(arguments + ["--framework", framework.key] * (framework.key != "pytorch"))


def table() -> str:
    """Tabulate the recipes in Markdown, the lowest loss first."""
    recipes: dict[str, list[dict[str, Any]]] = {}
    for run in kept():
        arguments = arguments_of(run)
        recipes.setdefault(f"`{arguments}`" if arguments else "the notebook", []).append(run)
    by_loss = sorted(recipes.items(), key=lambda item: runner.means(item[1], "validation")["loss"])
    return runner.table(dict(by_loss), "validation") if recipes else runner.NOT_MEASURED


if __name__ == "__main__":
    parser = runner.parser(__doc__)
    parser.add_argument("recipe", nargs="*", metavar="NAME=VALUE", help="or one of CHANGES")
    parser.add_argument("--each", action="store_true", help="each part switched off in turn")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--framework", choices=list(FRAMEWORKS), default="pytorch")
    options = parser.parse_args()
    recipes = [[change] for change in EACH] if options.each else [options.recipe]
    wanted = [t for recipe in recipes for t in tasks(options.framework, recipe, options.seeds)]
    new = runner.run_all(wanted, options)
    print(f"{len(runner.committed('tuning')) - len(kept())} runs of older code are dropped")
    made = [(run["framework"], run["settings"], run["after"]) for run in new]
    others = [r for r in kept() if (r["framework"], r["settings"], r["after"]) not in made]
    fmnist.write_json(runner.RESULTS / "tuning.json", others + new)
    print(table())
