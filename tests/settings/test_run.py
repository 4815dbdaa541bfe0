"""What the settings of a run say of its batch, and which batch a network with BatchNorm refuses."""

import pytest

from accelmlf.errors import ConfigError
from accelmlf.settings.run import batch_in_words, least_batch_size, require_trainable_batch


def test_a_batch_is_said_in_the_same_words_from_numbers_and_from_their_texts() -> None:
    assert batch_in_words(64, 2) == batch_in_words("64", "2") == "batch 64 x 2"
    assert batch_in_words(2, 64) != batch_in_words(64, 2)


def test_batch_normalisation_refuses_one_picture_and_nothing_else_does() -> None:
    with pytest.raises(ConfigError) as caught:
        require_trainable_batch("resnet50", 1, has_batch_norm=True)
    rule = "the BatchNorm of resnet50 cannot normalise over one picture"
    assert str(caught.value) == f"batch_size=1: {rule}. Use 2 or more"
    require_trainable_batch("resnet50", 2, has_batch_norm=True)
    require_trainable_batch("vit", 1, has_batch_norm=False)
    for has_batch_norm in (False, True):
        require_trainable_batch("any", least_batch_size(has_batch_norm), has_batch_norm)


def test_the_refusal_names_the_setting_that_was_typed() -> None:
    with pytest.raises(ConfigError, match=r"^batch_sizes=1,8: "):
        require_trainable_batch("resnet50", 1, has_batch_norm=True, name="batch_sizes", given="1,8")
