"""Studies of accuracy, speed and labels, each run as a module: ``python -m benchmarks.speed``."""
