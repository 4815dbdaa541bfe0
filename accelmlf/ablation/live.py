"""What a person sees while rounds go on: what each factor is worth by now, and how much time is left."""

import math
import statistics
import sys
import time

from tqdm import tqdm

from accelmlf.ablation.anytime import anytime_interval
from accelmlf.ablation.designs import Contrast, Design
from accelmlf.ablation.generation import Turns
from accelmlf.ablation.settings import AblateConfig
from accelmlf.machine.presence import MissingCores, total_presence
from accelmlf.many_runs.comparison import Interval, as_ratio
from accelmlf.many_runs.console import TELL_EVERY_S
from accelmlf.text import say


class LiveView:
    """On a terminal a line per factor that is drawn again after each round; elsewhere a line a minute."""

    def __init__(self, design: Design, number: int, ablate: AblateConfig) -> None:
        self.design, self.number, self.ablate = design, number, ablate
        self.is_terminal, self.num_lines = sys.stdout.isatty(), 0
        self.told_s, self.missing_cores = time.monotonic(), MissingCores()

    def round_ended(self, turns: Turns, wanted: int) -> None:
        """After each round of the generation."""
        for arm in turns.rounds[-1]:
            # Together, since one stretch may be shorter than what is worth a note.
            presence = total_presence([turn[arm].presence for turn in turns.rounds if arm in turn])
            if note := self.missing_cores.note(f"{arm} in this generation", presence):
                self.close()
                say(note)
        left_s = turns.rounds_s / len(turns.rounds) * (wanted - len(turns.rounds))
        state = f"generation {self.number}, round {len(turns.rounds)} of {wanted}, left {tqdm.format_interval(left_s)}"
        if self.is_terminal:
            texts = [f"  {contrast.name}  {text}" for contrast, text in self.texts(turns)]
            self.draw([f"{state}; of these processes alone:", *texts])
        elif time.monotonic() - self.told_s >= TELL_EVERY_S:
            say(state)
            self.told_s = time.monotonic()

    def texts(self, turns: Turns) -> list[tuple[Contrast, str]]:
        """Of each contrast what these processes say, by an interval that may be looked at after every round."""
        found = []
        for contrast in self.design.contrasts:
            values = [
                sum(w * math.log(turn[arm].train_s / turn[arm].images) for arm, w in contrast.weights.items())
                for turn in turns.rounds
                if all(arm in turn for arm in contrast.weights)
            ]
            limits = anytime_interval(values, len(self.design.contrasts))
            if values:
                low, high = limits or (None, None)
                known = Interval(statistics.median(values), low, high, len(values))
                found.append((contrast, f"{'' if limits else 'about '}{as_ratio(known)}"))
        return found

    def draw(self, lines: list[str]) -> None:
        self.close()
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        self.num_lines = len(lines)

    def close(self) -> None:
        """Take away what is drawn."""
        if self.num_lines:
            sys.stdout.write(f"\x1b[{self.num_lines}A\x1b[J")
            self.num_lines = 0
