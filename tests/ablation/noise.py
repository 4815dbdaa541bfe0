"""The noise of machines, simulated: what stretches of the same work take that follow one another, as log seconds."""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from accelmlf.ablation.rounds import Seconds

Chance = np.random.Generator


@dataclass(frozen=True)
class Machine:
    """How steady a machine is, in log seconds of a stretch; times are in stretches."""

    jitter: float
    """Standard deviation, of every stretch anew."""
    drift: float
    """Standard deviation of what comes and goes by itself (Ornstein and Uhlenbeck)."""
    drift_takes: float
    spikes: float
    """Share of stretches in which something else was done, too: they only take longer."""
    spike: float
    """The mean of what that took (exponential)."""
    neighbour: float = 0.0
    """What a process beside it costs, which comes every 60 stretches and stays for 8."""


NOISY = Machine(0.04, 0.08, 60, 0.05, 0.4, neighbour=0.35)
CALM = Machine(0.01, 0.01, 200, 0.01, 0.1)
GPU = Machine(0.002, 0.004, 300, 0.01, 0.02)
MACHINES = {"noisy": NOISY, "calm": CALM, "like a GPU": GPU}


def noise_of(machine: Machine, count: int, chance: Chance) -> Seconds:
    """log seconds [count] of stretches one after the other."""
    keeps = np.exp(-1 / machine.drift_takes)
    moves = np.sqrt(1 - keeps**2) * chance.normal(size=count)
    moves[0] = chance.normal()
    drift = machine.drift * lfilter([1.0], [1.0, -keeps], moves)
    spikes = (chance.random(count) < machine.spikes) * chance.exponential(machine.spike, count)
    found: Seconds = drift + machine.jitter * chance.normal(size=count) + spikes
    at = 0
    while machine.neighbour and (at := at + chance.geometric(1 / 60)) < count:
        end = at + chance.geometric(1 / 8)
        found[at:end] += machine.neighbour
        at = end
    return found


def rounds_of(machine: Machine, rounds: int, arms: int, chance: Chance) -> Seconds:
    """log seconds [rounds, arms] of arms that are all alike, each round in an order of its own."""
    in_order = noise_of(machine, rounds * arms, chance).reshape(rounds, arms)
    places = chance.permuted(np.tile(np.arange(arms), (rounds, 1)), axis=1)
    found: Seconds = np.take_along_axis(in_order, places, axis=1)
    return found
