"""The published results that ours stand beside. Standard library only.

Source: Accelerating Neural Network Training: A Brief Review (arXiv 2312.10024), its tables and the logs of its code.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One model on one data set, as published. The GPU is recorded nowhere."""

    model: str
    dataset: str
    untuned_time: str
    untuned_accuracy: str
    tuned_time: str
    tuned_accuracy: str
    remark: str


CELLS = (
    Cell("resnet50", "cifar10", "86 min", "92 %", "46 min", "92 %", "one accuracy for both"),
    Cell(
        "resnet50",
        "cifar100",
        "85 min",
        "75.2 %",
        "18 min",
        "75.2 %",
        "one accuracy for both; the 18 min are of another machine",
    ),
    Cell("efficientnet_b0", "cifar10", "1.8 h", "96.45 %", "1 h", "95.93 %", "its logs say 1:42:12 and 1:11:49"),
    Cell(
        "efficientnet_b0", "cifar100", "1.7 h", "83.63 %", "1.1 h", "about 81 %", "train and test are swapped in print"
    ),
    Cell(
        "vit", "cifar10", "4.2 h", "97 %", "2 h", "97 %", "one accuracy for both; 4.2 h is estimated from 5 % of a run"
    ),
    Cell("vit", "cifar100", "6.2 h", "not given", "2.5 h", "84 % (training)", "under-trained: loss near 2.5"),
)
EPOCH_WORDS = {
    "split": "45,000-picture epochs",
    "test": "50,000-picture epochs, the test set watched, as the paper's CNNs",
}
"""What an epoch of ours is, by `validation`. The paper's ViT has 45,000 pictures, too."""
