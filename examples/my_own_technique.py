"""A technique of one's own: a class and a row. From the project's folder: .venv/bin/python -m examples.my_own_technique

It trains with it and without it, from the same seed, and shows that the learning curve stays the same.
"""

from collections.abc import Mapping
from typing import Any

from accelmlf.run.one_run import one_run
from accelmlf.run.tracker import MemoryTracker
from accelmlf.settings.recipes import resolve
from accelmlf.techniques.base import Technique
from accelmlf.techniques.catalogue import TECHNIQUES


class ForeachOptimizer(Technique):
    does = "the optimizer updates all parameters in a few calls instead of one by one"
    acts_on = ("optimizer",)
    replaces = ("fused_optimizer",)

    def optimizer_options(self) -> Mapping[str, Any]:
        return {"foreach": True}


# Hooks apply in the order of the table; for an option of the optimizer any place will do.
TECHNIQUES["foreach_optimizer"] = ForeachOptimizer


def train(techniques: str) -> MemoryTracker:
    """A short run with a comma list of techniques."""
    given = {"model": "vit", "epochs": 3, "train_images": 300, "save_model": False, "techniques": techniques}
    tracker = MemoryTracker()
    one_run(resolve(given), tracker, quiet=True)
    return tracker


if __name__ == "__main__":
    for techniques in ("none", "foreach_optimizer"):
        epochs = train(techniques).epochs
        losses = " ".join(f"{epoch.train_loss:.4f}" for epoch in epochs)
        optimizer_s = sum(epoch.cost.phases_s["optimizer"] for epoch in epochs)
        # Seconds of one run claim nothing: with its row in catalogue.py, `scripts/run -e ablate` says what it is worth.
        print(f"{techniques:<18} loss {losses}  optimizer {optimizer_s:.2f} s")
