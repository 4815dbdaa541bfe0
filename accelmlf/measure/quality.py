"""How good a model is on a whole set: never a mean over batches."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Quality:
    """Loss, predictions and labels (int64 [N]) of one set, and what follows from them."""

    loss: float
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    num_classes: int

    @property
    def accuracy(self) -> float:
        """Fraction of pictures whose class was predicted."""
        return float((self.labels == self.predictions).mean())

    @property
    def f1_macro(self) -> float:
        """Mean over all classes of F1; a class that is neither there nor predicted counts 0."""
        from sklearn.metrics import f1_score

        classes = range(self.num_classes)
        return float(f1_score(self.labels, self.predictions, labels=classes, average="macro", zero_division=0))

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss)

    def reaches(self, target_accuracy: float) -> bool:
        """Whether the accuracy is at least the target (a fraction)."""
        return self.accuracy >= target_accuracy

    def confusion(self) -> npt.NDArray[np.int64]:
        """Pictures [class, predicted class]."""
        from sklearn.metrics import confusion_matrix

        matrix: npt.NDArray[np.int64] = confusion_matrix(self.labels, self.predictions, labels=range(self.num_classes))
        return matrix

    def report(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """scikit-learn's classification report: precision, recall, F1 and support per class and averaged."""
        from sklearn.metrics import classification_report

        report: dict[str, Any] = classification_report(
            self.labels,
            self.predictions,
            labels=range(self.num_classes),
            target_names=class_names,
            output_dict=True,
            zero_division=0,
        )
        return report
