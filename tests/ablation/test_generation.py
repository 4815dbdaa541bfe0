"""One generation: which arms are held at once, what their rounds are joined to, and whose failure ends what."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from accelmlf.ablation import generation
from accelmlf.ablation.generation import (
    TooManyAtOnceError,
    Turns,
    groups_of,
    joined,
    own_failure,
    take_turns,
)
from accelmlf.ablation.rounds import Generation
from accelmlf.errors import (
    AccelmlfError,
    ConfigError,
    DataError,
    DeviceError,
    DivergedError,
    MemoryExhaustedError,
    ProcessKilledError,
    TrackingError,
)
from accelmlf.measure.cost import Cost
from accelmlf.settings.recipes import resolve
from accelmlf.settings.run import RunConfig
from tests.many_runs.makers import serving

ARMS = ("baseline", "baseline again", "amp:bf16", "workers:2")
SECONDS = dict(zip(ARMS, (0.010, 0.010, 0.008, 0.012), strict=True))

# --- which arms at once ---


@pytest.mark.parametrize(
    ("fits", "groups"),
    [
        (9, [ARMS]),
        (4, [ARMS]),
        (3, [(ARMS[0], other) for other in ARMS[1:]]),
        (2, [(ARMS[0], other) for other in ARMS[1:]]),
        (1, [(arm,) for arm in ARMS]),
    ],
)
def test_arms_are_held_all_at_once_or_each_beside_the_first_or_each_alone(
    fits: int, groups: list[tuple[str, ...]]
) -> None:
    assert groups_of(ARMS, fits) == groups
    assert all(len(group) <= max(fits, 1) for group in groups)


def test_one_arm_is_one_group() -> None:
    assert groups_of(ARMS[:1], 1) == groups_of(ARMS[:1], 5) == [ARMS[:1]]


# --- joined ---


def measured(arms: Sequence[str], *, machine: float = 1.0, rounds: int = 6) -> tuple[tuple[str, ...], Generation]:
    """Rounds of some arms without any noise; `machine`: how much slower it was meanwhile."""
    seconds = [[machine * SECONDS[arm] for arm in arms]] * rounds
    return tuple(arms), Generation.of(np.array(seconds))


def against_first(found: dict[str, float]) -> dict[str, float]:
    return {arm: value - found[ARMS[0]] for arm, value in found.items()}


EXPECTED = {arm: math.log(seconds / SECONDS[ARMS[0]]) for arm, seconds in SECONDS.items()}


def test_arms_that_were_held_together_are_what_their_rounds_say() -> None:
    assert against_first(joined([measured(ARMS)], ARMS[0])) == pytest.approx(EXPECTED)


def test_pairs_beside_the_first_give_the_same_as_all_at_once_whatever_the_machine_did_in_between() -> None:
    pairs = groups_of(ARMS, 2)
    slower = [measured(pair, machine=1 + 0.2 * number) for number, pair in enumerate(pairs)]
    assert against_first(joined(slower, ARMS[0])) == pytest.approx(EXPECTED)
    alone = [measured(group, machine=1 + 0.2 * number) for number, group in enumerate(groups_of(ARMS, 1))]
    assert against_first(joined(alone, ARMS[0])) != pytest.approx(EXPECTED, abs=0.05)  # the control


def test_each_alone_gives_the_same_where_the_machine_was_steady() -> None:
    alone = [measured(group) for group in groups_of(ARMS, 1)]
    assert against_first(joined(alone, ARMS[0])) == pytest.approx(EXPECTED)


def test_without_the_first_arm_the_others_are_what_they_are() -> None:
    found = joined([measured(ARMS[1:3]), ((), Generation.of(np.empty((0, 0))))], ARMS[0])
    assert found["amp:bf16"] - found["baseline again"] == pytest.approx(EXPECTED["amp:bf16"])
    assert found.keys() == set(ARMS[1:3])


# --- failures ---

DIVERGED = DivergedError("learning_rate", "1", "the loss is not finite", "Use a smaller one")


@pytest.mark.parametrize(
    "error",
    [
        DIVERGED,
        MemoryExhaustedError("x", 1, "a", "b"),
        AccelmlfError("x", 1, "a", "b"),
        DeviceError("amp", 1, "a", "b"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_failure_of_one_arm_says_nothing_of_the_others(error: AccelmlfError) -> None:
    assert own_failure(error) is error


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("x", 1, "a", "b"),
        DataError("x", 1, "a", "b"),
        DeviceError("device", 1, "a", "b"),
        TrackingError("x", 1, "a", "b"),
        ProcessKilledError("process", 1, "a", "b"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_that_every_arm_would_share_ends_the_generation(error: AccelmlfError) -> None:
    with pytest.raises(type(error)) as caught:
        own_failure(error)
    assert caught.value is error


def turns_of(rounds: list[dict[str, float]], *failed: str) -> Turns:
    """Turns whose stretches of ten pictures took so many seconds."""
    ready: dict[str, Any] = dict.fromkeys({arm: None for turn in rounds for arm in turn})
    costs = [{arm: Cost(seconds, {}, 10) for arm, seconds in turn.items()} for turn in rounds]
    return Turns(ready, list(costs), dict.fromkeys(failed, DIVERGED))


def test_an_arm_that_failed_is_in_no_result_and_changes_that_of_no_other() -> None:
    whole = [{"a": 1.0, "b": 2.0, "c": 4.0}, {"b": 2.2, "a": 1.1, "c": 4.4}]
    arms, found = turns_of(whole).reduced()
    assert arms == ("a", "b", "c")
    assert np.exp(found.locations - found.locations[0]) == pytest.approx([1.0, 2.0, 4.0])
    fewer, other = turns_of([whole[0], {"b": 2.2, "a": 1.1}], "c").reduced()
    assert fewer == ("a", "b")
    assert np.exp(other.locations - other.locations[0]) == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("rounds", [[], [{"a": 1.0}], [{"a": 1.0}, {}]], ids=["at its start", "at once", "later"])
def test_a_generation_in_which_every_arm_fails_says_nothing_and_is_no_error(rounds: list[dict[str, float]]) -> None:
    arms, found = turns_of(rounds, "a").reduced()
    assert (arms, found.locations.tolist(), found.round_variance, found.clipped) == ((), [], 0.0, 0.0)
    assert joined([(arms, found)], "a") == {}


# --- real processes ---

BATCH = 8
SMALL: dict[str, Any] = {"model": "vit", "device": "cpu", "batch_size": BATCH, "train_images": 250, "epochs": 2}
WILD = 1e30


@pytest.fixture(scope="module")
def server(store_uri: str) -> Iterator[None]:
    with serving(store_uri):
        yield


def configs_of(**arms: dict[str, Any]) -> dict[str, RunConfig]:
    return {arm: resolve({**SMALL, **settings}) for arm, settings in arms.items()}


class Asking:
    """Who is asked how many rounds there shall be, and who watches."""

    def __init__(self, rounds: int) -> None:
        self.rounds, self.asked, self.watched = rounds, list[tuple[float, float]](), list[tuple[int, int]]()

    def num_rounds(self, start_s: float, round_s: float) -> int:
        self.asked.append((start_s, round_s))
        return self.rounds

    def watch(self, turns: Turns, wanted: int) -> None:
        self.watched.append((len(turns.rounds), wanted))


def take(
    configs: dict[str, RunConfig],
    asking: Asking,
    seed: int = 0,
    long_s: Callable[[Turns], float] | None = None,
    **steps: int,
) -> Turns:
    how = random.Random(seed), asking.num_rounds, asking.watch
    return take_turns(configs, "random", steps, *how, long_s=long_s or (lambda _: 0.0))


@pytest.mark.slow
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("seconds", [0.0, 0.4])
def test_after_the_last_round_each_arm_trains_alone_for_as_long_as_is_asked(seconds: float) -> None:
    seen: list[int] = []

    def long_s(turns: Turns) -> float:
        seen.append(len(turns.rounds))
        return seconds

    turns = take(configs_of(a={}, b={}), Asking(3), long_s=long_s, a=1, b=2)
    assert seen == [3] and len(turns.rounds) == 3
    assert turns.long_blocks.keys() == (set("ab") if seconds else set())
    assert all(0 < cost.train_s < 4 * seconds and cost.images > 16 for cost in turns.long_blocks.values())


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_every_arm_trains_a_stretch_in_every_round_in_an_order_of_its_own() -> None:
    asking = Asking(6)
    turns = take(configs_of(a={}, b={}, c={"batch_size": 16}), asking, a=1, b=2, c=1)
    assert not turns.failed
    assert [len(turn) for turn in turns.rounds] == [3] * 6
    assert len({tuple(turn) for turn in turns.rounds}) > 1
    assert {arm: {turn[arm].images for turn in turns.rounds} for arm in "abc"} == {"a": {8}, "b": {16}, "c": {16}}
    assert {arm: ready.steps for arm, ready in turns.ready.items()} == {"a": 1, "b": 2, "c": 1}
    ((start_s, round_s),) = asking.asked
    assert start_s == turns.start_s > 0 and 0 < round_s < turns.rounds_s
    assert asking.watched == [(number, 6) for number in range(1, 7)]


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_an_arm_that_fails_in_a_stretch_leaves_and_the_others_go_on() -> None:
    turns = take(configs_of(a={}, wild={"learning_rate": WILD}), Asking(4), a=1, wild=1)
    assert isinstance(turns.failed["wild"], DivergedError)
    assert [("a" in turn) for turn in turns.rounds] == [True] * 4
    assert "wild" in turns.ready and "wild" not in turns.rounds[-1]
    assert turns.reduced()[0] == ("a",)


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_an_arm_that_fails_before_it_is_warm_has_no_round_at_all() -> None:
    # Without a number of steps it trains to find one, and so fails at its start.
    turns = take(configs_of(a={}, wild={"learning_rate": WILD}), Asking(2), a=1)
    assert isinstance(turns.failed["wild"], DivergedError)
    assert turns.ready.keys() == {"a"}
    assert Counter(arm for turn in turns.rounds for arm in turn) == {"a": 2}


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_failure_that_all_would_share_ends_it_all() -> None:
    missing = {"dataset": "folder", "data_dir": "nowhere"}
    with pytest.raises(DataError, match="nowhere"):
        take(configs_of(a=missing, b=missing), Asking(2))


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_more_arms_than_memory_holds_are_refused_after_the_first_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    configs, asking = configs_of(a={}, b={}, c={}), Asking(1)
    monkeypatch.setattr(generation, "MEMORY_SHARE", 0.0)
    with pytest.raises(TooManyAtOnceError) as caught:
        take(configs, asking)
    assert (caught.value.fits, asking.asked) == (1, [])
    assert len(take({"a": configs["a"]}, asking).rounds) == 1  # one alone is always held
