"""What laws over the tables run over."""

import pytest
import torch

from accelmlf.techniques.catalogue import TECHNIQUES

CPU = torch.device("cpu")


def devices_that_run(word: str) -> list[object]:
    """The CPU where it can, and a GPU, which only some machines have."""
    gpu = pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
    )
    return [gpu] if TECHNIQUES[word]("x", None, CPU).missing() else ["cpu", gpu]


CASES = [pytest.param(word, *getattr(d, "values", (d,)), marks=getattr(d, "marks", ()), id=f"{word}-{i}")
         for word in TECHNIQUES for i, d in enumerate(devices_that_run(word))]  # fmt: skip
