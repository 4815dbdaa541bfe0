"""A run that is held warm in a process of its own and trains a stretch when it is its turn."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil
import torch

from accelmlf.machine import isolation
from accelmlf.machine.memory import free_host_memory_bytes
from accelmlf.measure.cost import Cost
from accelmlf.run.ceilings import WHOLE, Ceilings
from accelmlf.run.one_run import known_errors
from accelmlf.run.plan import settle
from accelmlf.run.stretches import WarmLoop
from accelmlf.run.warmup import warm_up
from accelmlf.run.workload import Workload, load_data, prepare
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.allocators import environment_of

REST_POLL_S, REST_AT_MOST_S = 0.05, 10.0


@dataclass(frozen=True)
class Ready:
    """What a run says of itself once it is warm."""

    steps: int
    """Optimizer steps of a stretch."""
    lead_in: int
    """Untimed steps before each."""
    images_per_epoch: int
    setup_s: float
    warmup_s: float
    memory_bytes: int
    """That it takes of what its device computes with, the machine's memory or the GPU's."""
    free_bytes: int
    """What is left of that."""


class WarmRun:
    """The near end of a run that is held warm: it uses no processor but while `stretch` waits for it."""

    def __init__(self, talk: isolation.Talk) -> None:
        self.talk = talk
        self.ready: Ready = talk.receive()

    def stretch(self, variant: str = WHOLE) -> Cost:
        """What the next stretch of training has cost, whole or without a part of its work (`ceilings.VARIANTS`).

        Raises:
            AccelmlfError: what ended the run.
        """
        return self.ask(variant)

    def long_block(self, seconds: float) -> Cost:
        """What training costs in the second half of so long a time alone.

        Raises:
            AccelmlfError: what ended the run.
        """
        return self.ask(seconds)

    def ask(self, what: str | float) -> Cost:
        self.talk.send(what)
        cost: Cost = self.talk.receive()
        return cost


@contextmanager
def warm_run(config: RunConfig, weights: str, steps: int | None = None, *, anew: bool = False) -> Iterator[WarmRun]:
    """A run in a process of its own, warmed up when the block begins, ended with it.

    `weights`: the first weights, as a path where they are those of a former run. `steps`: of a stretch; None: as many
    as the device needs for one. `anew`: without what earlier processes have kept, such as compiled code. The caller has
    the device for itself.

    Raises:
        AccelmlfError: settings, data or a device that cannot be used, or memory that does not hold it.
    """
    environment = environment_of(config.techniques)
    with isolation.process(_serve, config, weights, steps, anew, environment=environment) as talk:
        yield WarmRun(talk)


def _serve(connection: Connection, config: RunConfig, weights: str, steps: int | None, anew: bool) -> None:
    started_s, free_before = time.perf_counter(), free_host_memory_bytes()
    config, techniques, _ = settle(config)
    with known_errors(config), techniques.process_context(), techniques.made_anew() if anew else nullcontext():
        work = prepare(config, load_data(config), techniques, weights)
        prepared_s = time.perf_counter()
        warm_up(work)
        warm_s = time.perf_counter() - prepared_s
        loop = WarmLoop(work)
        steps = steps or loop.calibrate()
        gc.collect()
        gc.freeze()  # what is there stays there: no collection has to look at it
        if work.device.type == "cuda":
            free_bytes, taken = torch.cuda.mem_get_info(work.device)[0], torch.cuda.memory_reserved(work.device)
        else:
            free_bytes = free_host_memory_bytes()
            taken = max(free_before - free_bytes, psutil.Process().memory_info().rss // 2)
        rest(work)
        images = work.train.plan.num_pictures
        connection.send(Ready(steps, loop.lead_in, images, prepared_s - started_s, warm_s, taken, free_bytes))
        ceilings = None
        while True:
            try:
                asked: str | float = connection.recv()
            except (EOFError, OSError):  # nobody asks any more
                return
            if isinstance(asked, str) and asked != WHOLE and ceilings is None:
                ceilings = Ceilings(loop)
            if not isinstance(asked, str):
                cost = loop.train_for(asked, steps)
            else:
                cost = loop.train(steps).cost if ceilings is None else ceilings.train(asked, steps)
            rest(work)
            connection.send(cost)


def rest(work: Workload) -> None:
    """Wait until nothing of a run computes any more: not the device, and no loader process that fills its queue."""
    work.meter.clock.synchronize()
    loaders = psutil.Process().children(recursive=True)
    deadline_s, before = time.monotonic() + REST_AT_MOST_S, -1.0
    while loaders and time.monotonic() < deadline_s and (now := processor_s(loaders)) != before:
        before = now
        time.sleep(REST_POLL_S)


def processor_s(processes: Sequence[psutil.Process]) -> float:
    """The processor time that they have used so far."""
    seconds = 0.0
    for process in processes:
        with suppress(psutil.Error):  # it may have ended
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds
