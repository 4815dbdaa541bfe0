"""What a person sees while rounds go on is what they say so far, and goes away again."""

import io
import math
import random
import sys

import pytest

from accelmlf.ablation.generation import Turns
from accelmlf.ablation.live import LiveView
from accelmlf.ablation.settings import AblateConfig
from accelmlf.measure.cost import Cost
from tests.ablation.test_result import asked

TIMES_AS_FAST = {"channels_last": 1.25, "amp:bf16": 1.0, "all": 1.25}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def turns_of(rounds: int) -> Turns:
    chance, turns = random.Random(1), Turns(rounds_s=2.0 * rounds)
    arms = [arm.name for arm in asked().as_design().arms]
    for _ in range(rounds):
        turns.rounds.append(
            {arm: Cost(math.exp(chance.gauss(0, 0.01)) / TIMES_AS_FAST.get(arm, 1.0), {}, 10) for arm in arms}
        )
    return turns


def texts_of(rounds: int) -> dict[str, str]:
    view = LiveView(asked().as_design(), 1, AblateConfig())
    return {contrast.name: text for contrast, text in view.texts(turns_of(rounds))}


def test_of_a_few_rounds_it_says_about_how_much_and_of_many_an_interval() -> None:
    few, many = texts_of(2), texts_of(30)
    assert few.keys() == many.keys() == TIMES_AS_FAST.keys()
    for name, true in TIMES_AS_FAST.items():
        assert float(few[name].removeprefix("about ").removesuffix("x")) == pytest.approx(true, rel=0.05)
        low, high = (float(text) for text in many[name].partition("[")[2].rstrip("]").split(", "))
        assert low < true < high


def test_a_terminal_has_a_line_per_factor_that_is_taken_away_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    view = LiveView(asked().as_design(), 3, AblateConfig())
    view.round_ended(turns_of(2), 5)
    drawn = terminal.getvalue()
    assert drawn.startswith("generation 3, round 2 of 5, left 00:06; of these processes alone:\n")
    assert all(f"  {name}  about " in drawn for name in TIMES_AS_FAST)
    view.close()
    assert terminal.getvalue() == f"{drawn}\x1b[4A\x1b[J"
    view.close()  # once is enough
    assert terminal.getvalue() == f"{drawn}\x1b[4A\x1b[J"


def test_elsewhere_nothing_is_drawn_again(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView(asked().as_design(), 3, AblateConfig())
    view.round_ended(turns_of(2), 5)
    assert capsys.readouterr().out == ""
    view.told_s -= 3600.0
    view.round_ended(turns_of(3), 5)
    assert capsys.readouterr().out == "generation 3, round 3 of 5, left 00:04\n"
