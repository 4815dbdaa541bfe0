"""A device on a time of its own, for tests that read clocks."""

from dataclasses import dataclass, field


@dataclass
class FakeDevice:
    """A device that works through a queue on its own time; the host must wait for it before it reads the clock."""

    host_s: float = 100.0
    queue_ends_s: float = 100.0
    calls: list[str] = field(default_factory=list)

    def give(self, seconds: float) -> None:
        """Queue work; the host goes on at once."""
        self.queue_ends_s = max(self.queue_ends_s, self.host_s) + seconds

    def idle_host(self, seconds: float) -> None:
        """The host is busy with something of its own."""
        self.host_s += seconds

    def synchronize(self) -> None:
        self.calls.append("synchronize")
        self.host_s = max(self.host_s, self.queue_ends_s)

    def now_s(self) -> float:
        assert self.calls and self.calls[-1] == "synchronize", "a host stamp without a synchronisation before it"
        self.calls.append("now")
        return self.host_s

    def mark(self) -> float:
        self.calls.append("mark")
        return max(self.host_s, self.queue_ends_s)

    def seconds_between(self, start: float, end: float) -> float:
        return end - start


class TickingDevice(FakeDevice):
    """A device that takes a second from one mark to the next, whatever it is given."""

    def mark(self) -> float:
        self.give(1.0)
        return super().mark()
