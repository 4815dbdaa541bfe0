"""What a person sees while a run goes on: a bar per epoch on a terminal, plain lines elsewhere, a table at the end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from accelmlf.data.batches import Batch
from accelmlf.machine.presence import MissingCores
from accelmlf.measure.cost import Cost
from accelmlf.measure.records import EpochMetrics, RunSummary
from accelmlf.run.workload import Workload
from accelmlf.settings.run import RunConfig, batch_in_words
from accelmlf.techniques.stack import Skipped
from accelmlf.text import counted, say


class Console:
    """Progress of one run on standard output (the bar on standard error, where tqdm draws it).

    `quiet`: nothing at all, for a run that is part of something larger.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.started_s = time.perf_counter()
        self.num_images = self.num_epochs = 0
        self.missing_cores = MissingCores()
        self.bar: tqdm[Any] = tqdm(disable=True)

    def opening(self, config: RunConfig, skipped: Sequence[Skipped]) -> None:
        """What is about to run, and what of it this device cannot do."""
        self.num_epochs = config.epochs
        batch = batch_in_words(config.batch_size, config.accumulation_steps)
        self.say(
            f"{config.model} on {config.dataset} ({config.pipeline}), {config.arm}: techniques {config.techniques}, "
            f"{batch} steps, {counted(config.epochs, 'epoch')} on {config.device}"
        )
        for technique in skipped:
            self.say(f"left out: {technique.label} ({technique.reason})")

    def ready(self, work: Workload, sizes: dict[str, int], setup_s: float, warmup_s: float) -> None:
        """Set-up and warm-up are over; the clock of training begins."""
        self.num_images, self.started_s = sizes["train"], time.perf_counter()
        batches, steps = len(work.train.plan), work.accumulation_steps
        if steps > batches:
            self.say(f"note: accumulation_steps={steps} is more than an epoch's {batches} batches: one step per epoch")
        counts = ", ".join(f"{count:,} {name}" for name, count in sizes.items())
        self.say(f"pictures: {counts}; set-up {setup_s:.1f} s, warm-up {warmup_s:.1f} s")
        self.bar = self._bar(1, "")

    def watch(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, counted as the host hands them over. The bar was drawn off the clock."""
        del epoch
        for batch in batches:
            yield batch
            self.bar.update(len(batch.labels))

    def epoch(self, epoch: EpochMetrics) -> None:
        """One line for a finished epoch, and the bar of the next."""
        self.bar.close()
        cost, quality = epoch.cost, epoch.quality
        left_s = (time.perf_counter() - self.started_s) / epoch.epoch * (self.num_epochs - epoch.epoch)
        self.say(
            f"epoch {epoch.epoch:>{len(str(self.num_epochs))}}/{self.num_epochs}  loss {epoch.train_loss:.4f}  "
            f"validation accuracy {quality.accuracy:.4f} F1 {quality.f1_macro:.4f}  "
            f"{cost.train_s:.2f} s ({phase_shares(cost.phases_s, cost.train_s)})  "
            f"{cost.images_per_s:,.0f} images/s  left {tqdm.format_interval(left_s)}"
        )
        if note := self.missing_cores.note(f"epoch {epoch.epoch}", cost.presence):
            self.say(note)
        if epoch.epoch < self.num_epochs:
            self.bar = self._bar(epoch.epoch + 1, f"loss {epoch.train_loss:.4f}")

    def _bar(self, epoch: int, last_loss: str) -> "tqdm[Any]":
        return tqdm(
            desc=f"epoch {epoch}/{self.num_epochs}",
            total=self.num_images,
            unit=" images",
            unit_scale=True,
            leave=False,
            disable=self.quiet or None,
            postfix=last_loss,
            dynamic_ncols=True,
        )

    def say(self, text: str) -> None:
        if not self.quiet:
            say(text)

    def stop(self) -> None:
        """Take the bar away, whatever ended the run."""
        self.bar.close()

    def closing(self, summary: RunSummary, url: str | None) -> None:
        """The final table, and where the charts are."""
        total, target = summary.total, f"{summary.target_accuracy:g} on validation"
        reached = f"after {summary.time_to_accuracy_s:.1f} s of training" if summary.reached_target else "not reached"
        rows: dict[str, str] = {}
        if summary.test is not None:
            rows |= {
                "test accuracy": f"{summary.test.accuracy:.4f}",
                "test F1 (macro)": f"{summary.test.f1_macro:.4f}",
            }
        rows |= {
            "best validation accuracy": f"{summary.best_eval_accuracy:.4f}",
            f"target {target}": reached,
            "training": f"{summary.total_train_s:.1f} s, median epoch {summary.median_epoch_s:.2f} s",
            "where it went": phase_shares(total.phases_s, summary.total_train_s),
            "set-up, warm-up, everything": f"{summary.setup_s:.1f} s, {summary.warmup_s:.1f} s, {summary.wall_s:.1f} s",
            "peak memory": peak_memory(total),
        }
        if total.gpu_joules is not None:
            rows["GPU energy"] = f"{total.gpu_joules / 1e3:.2f} kJ"
        width = max(map(len, rows))
        self.say("\n".join(["", *(f"  {name:<{width}}  {value}" for name, value in rows.items()), ""]))
        if url is not None:
            self.say(f"charts (scripts/ui serves them): {url}")
        if (reason := summary.total.unexplained) is not None:
            self.say(f"note: {reason}: unfit for claims")


def phase_shares(phases_s: Mapping[str, float], total_s: float) -> str:
    """`forward 31 %, backward 60 %, ...` in the order of a step."""
    return ", ".join(f"{phase.replace('_', ' ')} {seconds / total_s:.0%}" for phase, seconds in phases_s.items())


def peak_memory(cost: Cost) -> str:
    """GPU first where there is one; what was not measured is left out."""
    peaks = {"GPU": cost.gpu_peak_allocated_mib, "host": cost.host_peak_mib}
    return ", ".join(f"{where} {mib:,.0f} MiB" for where, mib in peaks.items() if mib is not None)
