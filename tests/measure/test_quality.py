import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score

from accelmlf.measure.quality import Quality


def quality(labels: npt.ArrayLike, predictions: npt.ArrayLike, num_classes: int, loss: float = 1.0) -> Quality:
    return Quality(loss, np.array(labels, np.int64), np.array(predictions, np.int64), num_classes)


def random_quality(count: int, num_classes: int, seed: int) -> Quality:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, count)
    wrong = generator.random(count) < 0.4
    return quality(labels, np.where(wrong, generator.integers(0, num_classes, count), labels), num_classes)


def f1_by_hand(found: Quality) -> float:
    scores = []
    for number in range(found.num_classes):
        hits = int(((found.labels == number) & (found.predictions == number)).sum())
        named = int((found.labels == number).sum()) + int((found.predictions == number).sum())
        scores.append(2 * hits / named if named else 0.0)
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("count", "num_classes"), [(1, 2), (7, 3), (1000, 10), (50, 100)])
def test_accuracy_f1_and_confusion_are_those_of_scikit_learn(count: int, num_classes: int) -> None:
    for seed in range(5):
        found, classes = random_quality(count, num_classes, seed), range(num_classes)
        pair = (found.labels, found.predictions)
        expected = f1_score(*pair, labels=classes, average="macro", zero_division=0)
        assert found.accuracy == pytest.approx(accuracy_score(*pair), abs=1e-12)
        assert found.f1_macro == pytest.approx(expected, abs=1e-12)
        assert found.f1_macro == pytest.approx(f1_by_hand(found), abs=1e-12)
        assert np.array_equal(found.confusion(), confusion_matrix(*pair, labels=classes))
        assert found.confusion().shape == (num_classes, num_classes)


def test_known_predictions_have_their_known_figures() -> None:
    found = quality([0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 0, 2], 3)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.f1_macro == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert found.confusion().tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 1]]


def test_a_class_that_is_neither_there_nor_predicted_counts_0() -> None:
    assert quality([0, 1], [0, 1], 2).f1_macro == 1
    assert quality([0, 1], [0, 1], 4).f1_macro == 0.5
    assert quality([0, 1], [0, 1], 4).accuracy == 1


@pytest.mark.parametrize(("prediction", "accuracy", "f1"), [(1, 1.0, 0.5), (0, 0.0, 0.0)])
def test_one_picture_is_enough(prediction: int, accuracy: float, f1: float) -> None:
    found = quality([1], [prediction], 2)
    assert (found.accuracy, found.f1_macro) == (accuracy, f1)


def test_f1_is_of_the_whole_set_and_not_a_mean_over_batches() -> None:
    whole = random_quality(60, 5, seed=0)
    batches = [
        Quality(1.0, whole.labels[start : start + 7], whole.predictions[start : start + 7], 5)
        for start in range(0, 60, 7)
    ]
    assert np.mean([batch.f1_macro for batch in batches]) != pytest.approx(whole.f1_macro, abs=0.01)


def test_the_report_names_every_class_even_one_without_pictures() -> None:
    found = quality([0, 0, 1], [0, 1, 1], 3)
    report = found.report(("cat", "dog", "fish"))
    expected = classification_report(
        [0, 0, 1], [0, 1, 1], labels=range(3), target_names=["cat", "dog", "fish"], output_dict=True, zero_division=0
    )
    assert report == expected
    assert report["fish"]["support"] == 0
    assert report["macro avg"]["f1-score"] == pytest.approx(found.f1_macro)


@pytest.mark.parametrize(("loss", "finite"), [(0.0, True), (math.nan, False), (math.inf, False), (-math.inf, False)])
def test_a_loss_that_is_no_finite_number_is_known(loss: float, finite: bool) -> None:
    assert quality([0], [0], 2, loss).is_finite is finite
