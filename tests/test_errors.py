import errno
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from accelmlf import errors
from accelmlf.errors import AccelmlfError, DiskError, Interrupted, MemoryExhaustedError, one_line, recognise

EXIT_CODES = {
    "AccelmlfError": 70,
    "ConfigError": 2,
    "DataError": 3,
    "DeviceError": 5,
    "DivergedError": 6,
    "MemoryExhaustedError": 7,
    "StudyError": 8,
    "TrackingError": 8,
    "DiskError": 9,
    "ProcessKilledError": 70,
}
KINDS: list[type[AccelmlfError]] = [AccelmlfError, *AccelmlfError.__subclasses__()]
TOO_MANY_BYTES = 2**55


def test_the_table_of_exit_codes_names_every_error() -> None:
    assert {kind.__name__: kind.exit_code for kind in KINDS} == EXIT_CODES


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_the_way_between_processes(kind: type[AccelmlfError]) -> None:
    arrived = pickle.loads(pickle.dumps(kind("epochs", 0, "too few", "Use 1")))
    assert type(arrived) is kind
    assert str(arrived) == "epochs=0: too few. Use 1"
    assert (arrived.setting, arrived.value, arrived.rule, arrived.remedy) == ("epochs", 0, "too few", "Use 1")


def test_an_error_is_one_line_with_one_full_stop_after_the_rule() -> None:
    assert str(AccelmlfError("a", "b", "first\n  second.", "Third")) == "a=b: first second. Third"


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_has_the_exit_code_that_shells_give_it(number: int, code: int, name: str) -> None:
    assert Interrupted(number).exit_code == code
    assert name in str(Interrupted(number))
    assert not isinstance(Interrupted(number), Exception)


@pytest.mark.parametrize("secret", ["user:hidden@", "user:hid@den@", "hidden@"])
def test_credentials_in_a_url_are_not_shown(secret: str) -> None:
    shown = one_line(f"cannot reach http://{secret}host.example/path/x@y, nor host.example")
    assert shown == "cannot reach http://***@host.example/path/x@y, nor host.example"


def test_a_long_text_is_cut_and_a_short_one_is_not() -> None:
    assert one_line("x" * 20, limit=20) == "x" * 20
    assert one_line("x" * 21, limit=20) == "x" * 19 + "…"


def test_memory_that_torch_cannot_get_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(TOO_MANY_BYTES, dtype=torch.uint8)
    known = recognise(caught.value, batch_size=64)
    assert isinstance(known, MemoryExhaustedError)
    assert known.outcome == "out_of_memory"
    assert "batch_size=64" in str(known)
    assert "accumulation_steps" in known.remedy


def test_memory_that_numpy_cannot_get_is_recognised() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(TOO_MANY_BYTES, dtype=np.uint8)
    assert isinstance(recognise(caught.value, batch_size=64), MemoryExhaustedError)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "batch_size"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "leave resident out"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "batch_size"),
        (
            "Caught AcceleratorError in pin memory thread for device 0.\nCUDA error: out of memory",
            "leave pin_memory out",
        ),
        ("CUDA error: out of memory, in cudaHostAlloc", "leave pin_memory out"),
        ("unable to write to file </torch_1>: No space left on device (28)", "/dev/shm"),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "workers"),
    ],
)
def test_the_words_of_memory_running_out_lead_to_their_remedy(text: str, remedy: str) -> None:
    known = recognise(RuntimeError(text), batch_size=8)
    assert isinstance(known, MemoryExhaustedError)
    assert remedy in known.remedy


def test_a_loader_process_that_hangs_is_recognised() -> None:
    known = recognise(RuntimeError("DataLoader timed out after 300.0 seconds"), batch_size=8)
    assert type(known) is AccelmlfError
    assert (known.exit_code, known.outcome) == (70, "failed")
    assert "leave workers out" in known.remedy


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_full_disk_is_recognised() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Path("/dev/full").write_text("x")
    assert isinstance(recognise(caught.value, batch_size=8), DiskError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_is_named(number: int) -> None:
    known = recognise(OSError(number, os.strerror(number), "place/file"), batch_size=8)
    assert isinstance(known, DiskError)
    assert known.value == "place/file"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        RuntimeError("Caught ValueError in pin memory thread for device 0."),
        OSError(errno.ENOENT, "no such file"),
        errors.DataError("a", 1, "b", "c"),
    ],
)
def test_any_other_error_comes_back_as_it_is(error: Exception) -> None:
    assert recognise(error, batch_size=8) is error
