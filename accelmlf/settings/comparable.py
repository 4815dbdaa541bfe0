"""Which settings may differ between runs that are compared, and by which a run departs from its recipe."""

from collections.abc import Mapping
from typing import Any

from accelmlf.settings.recipes import resolve

VARIES = ("seed", "save_model", "data_dir", "device")
"""Settings that may differ between runs that are compared; the kind of device is part of the machine."""
PART_OF_A_STUDY = ("seed", "tuned")
"""Settings by which runs may differ and still be compared, and from which all runs of one study go out."""
FOLLOWS = ("arm", "tuned", "effective_batch_size")
"""Settings that follow from others."""


def departures(texts: Mapping[str, str]) -> list[str]:
    """Settings of a run that are not its recipe's. Techniques and batch are an arm's own; the rate follows the batch.

    Raises:
        ConfigError: a model or data set that this version does not know.
    """
    row: dict[str, Any] = {name: texts[name] for name in ("model", "dataset")}
    batch = {name: int(texts[name]) for name in ("batch_size", "accumulation_steps")}
    weights = resolve(row).weights
    # Weights that are not the recipe's own have a row of their own, and are the departure.
    own = {} if texts["weights"] == weights else {"weights": texts["weights"]}
    recipe = resolve({**row, **batch, **own}).as_texts() | {"weights": weights}
    left = (*VARIES, *FOLLOWS, "techniques", *batch)
    return [name for name in {**recipe, **texts} if name not in left and texts.get(name) != recipe.get(name)]
