"""Why a factor helps or does not: sentences derived from the measured phases, by a few rules that print their numbers.

Source of the bound on what can be won: Amdahl 1967.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelmlf.ablation.designs import Contrast
from accelmlf.ablation.effects import SECONDS_PER_PICTURE, Measured
from accelmlf.ablation.factors import Factor, factor_of
from accelmlf.many_runs.comparison import MIN_REPEATS, Interval, t_interval
from accelmlf.many_runs.pooled import simultaneous
from accelmlf.measure.cost import PHASES
from accelmlf.text import counted

LITTLE, MOST = 0.02, 0.5
"""Up to the first share of an epoch a phase has nothing to win; above the second, what it could win is no limit."""
NOTICEABLE = 0.02
"""From this share of an epoch on a change elsewhere is told."""
EPOCH, EPOCHS_TO_ACCURACY = "mean_epoch_s", "epochs_to_accuracy"
LOADING = {"data_wait", "transfer"}


@dataclass(frozen=True)
class Evidence:
    """What a contrast's blocks say about one figure or a sum of them: its means without and with, and the change."""

    without: float
    within: float
    change: Interval

    @property
    def is_shown(self) -> bool:
        """Whether the change is more than noise. Less than three blocks cannot tell."""
        low, high = self.change.low, self.change.high
        if low is None or high is None or self.change.count < MIN_REPEATS:
            return False
        return low > 0 or high < 0

    @property
    def in_words(self) -> str:
        """`2.51 s became 1.28 s (-1.23 [-1.40, -1.06] s)`."""
        digits = self.change.digits
        return f"{self.without:.{digits}f} s became {self.within:.{digits}f} s ({self.change.as_difference('s')})"


@dataclass(frozen=True)
class Case:
    """A contrast with all that its rules look at."""

    contrast: Contrast
    measured: Measured
    accumulation_steps: int
    """Of the arms with accumulation."""
    pipeline: str
    device: str = "cpu"
    comparisons: int = 1
    """How many contrasts are looked at."""

    @property
    def confidence(self) -> float:
        """Of each interval: any of the phases of any contrast could have made a sentence."""
        return simultaneous(self.comparisons * len(PHASES))

    @property
    def has_bound(self) -> bool:
        """Whether what the factor could win is at most what the phases take that it acts on.

        On a GPU a blocking copy keeps the host from running ahead, and what the device then waits for stands in other
        phases: loading bounds nothing there.
        """
        return not (self.device.startswith("cuda") and set(self.acts_on) <= LOADING)

    @property
    def acts_on(self) -> tuple[str, ...]:
        """The phases that its one factor is meant to shorten; none for several factors together."""
        return () if self.factor is None else self.factor.acts_on

    @property
    def factor(self) -> Factor | None:
        """Its one factor; None where it has several."""
        return factor_of(self.contrast.factors[0]) if len(self.contrast.factors) == 1 else None

    @property
    def left_at_best(self) -> float:
        """Of the phases that the factor acts on, the share that is left if it does all it can."""
        return 0.0 if self.factor is None else self.factor.left_at_best(self.accumulation_steps)

    def evidence(self, *metrics: str) -> Evidence | None:
        """Over the blocks in which every arm has run; None where there is none, or the figure was not captured."""
        weights = self.contrast.weights
        runs = {arm: self.measured.get(arm, {}) for arm in weights}
        in_all = set.intersection(*(set(blocks) for blocks in runs.values()))
        blocks = sorted(b for b in in_all if all(m in runs[arm][b] for arm in runs for m in metrics))
        if not blocks or not metrics:
            return None
        total = {arm: [sum(runs[arm][b][m] for m in metrics) for b in blocks] for arm in runs}
        sides = [
            [
                statistics.fmean(values, [abs(weights[arm]) for arm in side])
                for values in zip(*(total[arm] for arm in side), strict=True)
            ]
            for side in (self.contrast.without, self.contrast.within)
        ]
        without, within = sides
        change = t_interval([b - a for a, b in zip(without, within, strict=True)], confidence=self.confidence)
        return Evidence(statistics.fmean(without), statistics.fmean(within), change)

    def seconds(self, phases: Sequence[str]) -> Evidence | None:
        """Seconds per epoch of some phases together, those of them that were measured."""
        known = {name for blocks in self.measured.values() for figures in blocks.values() for name in figures}
        return self.evidence(*(name for phase in phases if (name := f"mean_{phase}_s") in known))


def nothing_to_win(case: Case) -> str | None:
    """The phases that a factor acts on are a small part of the epoch."""
    acted, epoch = case.seconds(case.acts_on), case.evidence(EPOCH)
    if not case.has_bound or acted is None or epoch is None or acted.without / epoch.without > LITTLE:
        return None
    place, bound = _place(case, acted, epoch), _bound(case, acted, epoch)
    return f"{place}, so it has next to nothing to win there: at most {bound} from that alone"


def what_it_did(case: Case) -> str | None:
    """How the phases that a factor acts on have changed."""
    acted, epoch = case.seconds(case.acts_on), case.evidence(EPOCH)
    if acted is None or epoch is None or (case.has_bound and acted.without / epoch.without <= LITTLE):
        return None
    start = _place(case, acted, epoch)
    if case.left_at_best:
        start += f"; {case.accumulation_steps} micro-batches per step leave about 1/{case.accumulation_steps} of that"
    if case.has_bound and acted.without / epoch.without <= MOST:
        start += f", at most {_bound(case, acted, epoch)} from that alone"
    noise = "" if acted.is_shown else _unclear(case, acted)
    return f"{start}: {acted.in_words}{noise}"


def what_changed_elsewhere(case: Case) -> str | None:
    """Phases that a factor is not meant to act on, and that changed by more than noise."""
    epoch = case.evidence(EPOCH)
    if epoch is None:
        return None
    told = () if nothing_to_win(case) else case.acts_on
    others = {phase: case.seconds([phase]) for phase in PHASES if phase not in told}
    changed = {
        phase: found
        for phase, found in others.items()
        if found is not None and found.is_shown and abs(found.change.mean) >= NOTICEABLE * epoch.without
    }
    if not changed:
        return None
    start = "what changed" if set(changed) & set(case.acts_on) else "elsewhere"
    words = ", ".join(f"{_named([phase])}: {found.in_words}" for phase, found in changed.items())
    return f"{start}: {words}" if case.acts_on else words


def how_many_epochs(case: Case) -> str | None:
    """The time to accuracy is epochs times seconds; a factor that changes what is learned changes the first."""
    epochs = case.evidence(EPOCHS_TO_ACCURACY)
    runs = [case.measured.get(arm, {}) for arm in case.contrast.weights]
    is_missed = any(EPOCHS_TO_ACCURACY not in figures for blocks in runs for figures in blocks.values())
    is_missed = is_missed or len({frozenset(blocks) for blocks in runs}) > 1  # a run that failed is a miss, too
    if epochs is None or is_missed or abs(epochs.change.mean) < 0.05:
        return None
    noise = "" if epochs.is_shown else _unclear(case, epochs)
    return f"the target took {epochs.within:.1f} epochs instead of {epochs.without:.1f}{noise}"


RULES: tuple[Callable[[Case], str | None], ...] = (
    nothing_to_win,
    what_it_did,
    what_changed_elsewhere,
    how_many_epochs,
)


def why(case: Case) -> str:
    """What the rules find, as one sentence; empty where they find nothing. Interactions have no phases of their own."""
    if case.contrast.is_interaction:
        return ""
    found = [sentence for rule in RULES if (sentence := rule(case)) is not None]
    return "; ".join(found)


def _place(case: Case, acted: Evidence, epoch: Evidence) -> str:
    """Which phases a factor acts on, and how much of an epoch they are."""
    link = "together" if len(case.acts_on) > 1 else "which is"
    share = acted.without / epoch.without
    percent = f"{share:.1%}" if share < 0.01 else f"{share:.0%}"
    # What is said of loading holds for the pipeline that was measured.
    pipeline = f" with pipeline={case.pipeline}" if LOADING & set(case.acts_on) else ""
    return f"it acts on {_named(case.acts_on)}, {link} {percent} of an epoch without it{pipeline}"


def _bound(case: Case, acted: Evidence, epoch: Evidence) -> str:
    """What an epoch would win if the factor did all it can to the phases that it acts on."""
    return f"{epoch.without / (epoch.without - acted.without * (1 - case.left_at_best)):.2f}x as fast"


def _named(phases: Sequence[str]) -> str:
    words = ["the optimizer step" if phase == "optimizer" else phase.replace("_", " ") for phase in phases]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _unclear(case: Case, found: Evidence) -> str:
    count = found.change.count
    in_stretches = any(SECONDS_PER_PICTURE.metric in run for runs in case.measured.values() for run in runs.values())
    blocks = counted(count, "generation" if in_stretches else "repeat")
    if count < MIN_REPEATS:
        return f", which {blocks} {'are' if count > 1 else 'is'} too few to judge"
    return f", which {blocks} do not tell from no change"
