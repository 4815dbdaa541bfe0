"""One training run from Python, recorded in memory. From the project's folder: .venv/bin/python -m examples.one_run"""

from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker
from accelmlf.settings.recipes import resolve

if __name__ == "__main__":
    # The names are those of the command line; whatever is not given comes from the recipe of that model and data set.
    config = resolve({"model": "vit", "epochs": 3, "save_model": False})
    tracker = MemoryTracker()
    summary = one_run(config, tracker, quiet=True)
    for epoch in tracker.epochs:
        print(f"epoch {epoch.epoch}  loss {epoch.train_loss:.4f}  validation accuracy {epoch.quality.accuracy:.3f}")
    for name, value in summary.as_metrics().items():
        print(f"{name:<24} {value:.4g}")
