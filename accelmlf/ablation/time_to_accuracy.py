"""Time to accuracy from its parts: seconds per picture, which stretches measure, times the epochs to accuracy."""

from accelmlf.ablation.effects import Effect
from accelmlf.ablation.factors import factor_of


def time_in_words(speed: Effect, device: str) -> str:
    """What the speed of a contrast says of the time to accuracy.

    What only moves data leaves every bit of what is learned as it is on a CPU, and so the epochs, too.
    """
    if device == "cpu" and all(factor_of(label).keeps_bits for label in speed.contrast.factors):
        return f"the same epochs, to the bit, so {speed.in_words}"
    return "epochs not measured: measure=runs trains to the target"
