"""Everything that can end a run, with its exit code, its outcome and one line that says what would work."""

import errno
import re
import signal
import sys


class AccelmlfError(Exception):
    """`<setting>=<value>: <rule>. <what would work>`, on one line."""

    exit_code = 70
    outcome = "failed"

    def __init__(self, setting: str, value: object, rule: str, remedy: str) -> None:
        # All four go to Exception.args, so that the error survives the pickling between processes.
        super().__init__(setting, value, rule, remedy)
        self.setting, self.value, self.rule, self.remedy = setting, value, rule, remedy

    def __str__(self) -> str:
        return one_line(f"{self.setting}={self.value}: {self.rule.rstrip('.')}. {self.remedy}")


class ConfigError(AccelmlfError):
    """A setting that cannot be: its text, its range, or its combination with another."""

    exit_code = 2


class DataError(AccelmlfError):
    """Pictures or weights that are missing, broken or not what was said."""

    exit_code = 3


class DeviceError(AccelmlfError):
    """A device or a capability that this machine does not have."""

    exit_code = 5


class DivergedError(AccelmlfError):
    """The loss is no longer a finite number."""

    exit_code = 6
    outcome = "diverged"


class MemoryExhaustedError(AccelmlfError):
    """Device, host or shared memory ran out."""

    exit_code = 7
    outcome = "out_of_memory"


class TrackingError(AccelmlfError):
    """The tracking store did not take or give what it should."""

    exit_code = 8


class ProcessKilledError(AccelmlfError):
    """The process of a run was ended from outside, which says nothing about the run."""

    outcome = "interrupted"


class StudyError(AccelmlfError):
    """The storage of a search, or a study in it that is not the one that was meant."""

    exit_code = 8


class DiskError(AccelmlfError):
    """No space, or no right to write."""

    exit_code = 9


class Interrupted(BaseException):
    """A signal asked the process to end. Not an Exception, so that no handler along the way swallows it."""

    outcome = "interrupted"

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.args[0]).name}"


SMALLER_STEPS = "Use a smaller learning_rate, or amp:bf16 for amp:fp16"
SMALLER_BATCH = "use a smaller batch_size with more accumulation_steps"
MEMORY_SYMPTOMS = {  # patterns; the first that is found counts
    "unable to allocate shared memory": "use fewer workers (techniques=workers:1), or a larger /dev/shm",
    r"No space left on device \(28\)": "use fewer workers (techniques=workers:1), or a larger /dev/shm",
    "is killed by signal": "a loader process was killed, most often for memory: use fewer workers",
    "can't allocate memory": f"{SMALLER_BATCH}, or pipeline=stream",
    "cudaHostAlloc|pin memory.*out of memory": "leave pin_memory out",
    "out of memory|CUBLAS_STATUS_ALLOC_FAILED": f"{SMALLER_BATCH}, or leave resident out",
}
LOADER_STALLED = "DataLoader timed out"


COMPILER_ERRORS = ("BackendCompilerFailed", "InductorError", "InvalidCxxCompiler", "CppCompileError", "TritonMissing")


def recognise(error: Exception, batch_size: int) -> Exception:
    """The library's exception as one of ours where its meaning is known; any other comes back as it is."""
    if isinstance(error, AccelmlfError):
        return error
    text = str(error)
    if isinstance(error, MemoryError):
        text = "can't allocate memory"
    if isinstance(error, (RuntimeError, MemoryError)):
        for symptom, remedy in MEMORY_SYMPTOMS.items():
            if re.search(symptom, text, re.DOTALL):
                return MemoryExhaustedError("batch_size", batch_size, f"memory ran out ({text})", remedy)
    if LOADER_STALLED in text:
        remedy = "See whether data_dir answers, or leave workers out"
        return AccelmlfError("techniques", "workers", f"a loader process hangs ({text})", remedy)
    if type(error).__name__ in COMPILER_ERRORS:
        return DeviceError("techniques", "compile", f"the compiler failed ({text})", "Leave compile out")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return DiskError("path", error.filename or ".", text, "Free some space or choose a writable folder")
    return error


def broken_environment(error: ImportError) -> AccelmlfError:
    """What a package that cannot be imported means: a half-removed environment shows first like this."""
    remedy = "Run scripts/run again to repair .venv, or: pip install -r requirements.txt"
    return AccelmlfError("environment", sys.prefix, str(error), remedy)


def one_line(text: str, limit: int = 700) -> str:
    """`text` without line breaks and credentials, and not longer than `limit`."""
    text = " ".join(redact(text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def redact(text: str) -> str:
    """`text` without the user, the password or the token of any URL in it."""
    text = re.sub(r"//[^/\s]+@", "//***@", text)
    return re.sub(r"(?i)([?&][\w.-]*(?:token|key|pass|passwd|password|secret)=)[^&\s]+", r"\1***", text)
