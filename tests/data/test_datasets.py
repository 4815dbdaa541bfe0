import errno
import os
import pickle
import shutil
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from accelmlf.data import datasets as data
from accelmlf.data import pictures
from accelmlf.data.datasets import DATASETS, cifar, fetched_once, stratified
from accelmlf.data.splits import Splits, load_splits
from accelmlf.errors import ConfigError, DataError, DiskError
from tests.data.makers import (
    PICTURES_PER_BATCH,
    UNREACHABLE,
    header_of_png,
    make_cifar,
    md5,
    pixels,
    random_image,
    serve,
    write_folder,
)

KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
EVERY_KIND = pytest.mark.parametrize("name", KINDS)


def load(dataset: str, data_dir: Path, **options: Any) -> Splits:
    usual: dict[str, Any] = {"image_size": 16, "validation": "split", "train_images": None, "in_memory": True}
    return load_splits(dataset, str(data_dir), **(usual | options))


def counts(labels: torch.Tensor) -> list[int]:
    return labels.bincount().tolist()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests call is on this machine."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def use_kind(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a class of torchvision's the one that a row of DATASETS reads."""
    return lambda name, kind: monkeypatch.setitem(DATASETS, name, cifar(kind))


# digits


def test_the_digits_are_1078_for_training_359_for_validation_and_360_for_test(tmp_path: Path) -> None:
    splits = load("digits", tmp_path)
    assert splits.sizes() == {"train": 1078, "validation": 359, "test": 360}
    assert splits.class_names == tuple("0123456789")
    assert splits.num_classes == 10
    assert list(tmp_path.iterdir()) == []


def test_the_digits_are_grey_8_by_8_and_use_the_whole_range(tmp_path: Path) -> None:
    held = load("digits", tmp_path).train.in_memory().pictures
    assert (held.shape[1:], held.dtype) == ((3, 8, 8), torch.uint8)
    assert (int(held.min()), int(held.max())) == (0, 255)
    assert torch.equal(held[:, 0], held[:, 2])


def test_the_parts_of_the_digits_are_stratified_and_share_no_index(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    splits = load("digits", tmp_path)
    original = load_digits()
    parts = (splits.train, splits.validation, splits.test)
    shares = np.bincount(original.target) / len(original.target)
    for part in parts:
        assert np.abs(np.array(counts(part.labels)) - shares * len(part)).max() < 2
    stored = torch.cat([part.in_memory().pictures[:, 0].flatten(1) for part in parts]).numpy()
    expected = np.rint(original.data * (255 / 16)).astype(np.uint8)
    assert sorted(map(bytes, stored)) == sorted(map(bytes, expected))


def test_the_split_is_the_same_every_time_and_the_digest_says_so(tmp_path: Path) -> None:
    first, second = load("digits", tmp_path), load("digits", tmp_path)
    assert torch.equal(first.validation.in_memory().pictures, second.validation.in_memory().pictures)
    assert first.digest == second.digest
    fewer = load("digits", tmp_path, train_images=1000)
    assert fewer.digest != first.digest
    assert load("digits", tmp_path, validation="test").digest not in (first.digest, fewer.digest)


# what every data set has in common


def test_train_images_limits_training_and_validation_together_and_leaves_the_test_set(tmp_path: Path) -> None:
    splits = load("digits", tmp_path, train_images=400)
    assert splits.sizes() == {"train": 300, "validation": 100, "test": 360}
    assert min(counts(splits.train.labels)) >= 27
    assert load("digits", tmp_path, train_images=1437).digest == load("digits", tmp_path).digest


@pytest.mark.parametrize(
    ("number", "words"), [(1438, "the set has 1437"), (9, "cannot be drawn"), (2, "cannot be drawn")]
)
def test_train_images_that_cannot_be_had_are_refused(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(DataError, match=f"train_images={number}: .*{words}"):
        load("digits", tmp_path, train_images=number)


def test_validation_on_the_test_set_cuts_nothing_from_training(tmp_path: Path) -> None:
    splits = load("digits", tmp_path, validation="test")
    assert splits.sizes() == {"train": 1437, "validation": 360, "test": 360}
    assert splits.validation is splits.test


def test_an_unknown_data_set_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean cifar10"):
        load("cifar-10", tmp_path)


def test_a_stratified_choice_has_the_classes_in_proportion_and_loses_no_picture() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    chosen, rest = stratified(labels, 20, "validation")
    assert counts(labels[chosen]) == [12, 6, 2]
    assert sorted([*chosen, *rest]) == list(range(100))
    assert [*chosen] == sorted(chosen) != list(range(20))


# a folder of one's own


def test_a_folder_may_mix_sizes_shapes_colours_and_formats(tmp_path: Path) -> None:
    write_folder(tmp_path, sides=(9, 20, 33), suffixes=(".png", ".jpg", ".JPEG", ".bmp"))
    random_image(40, 10).convert("L").save(tmp_path / "train" / "cat" / "000.png")
    random_image(10, 40).quantize(8).save(tmp_path / "test" / "dog" / "000.png")
    splits = load("folder", tmp_path)
    assert splits.sizes() == {"train": 36, "validation": 4, "test": 8}
    assert splits.class_names == ("cat", "dog")
    assert splits.train.in_memory().pictures.shape == (36, 3, 16, 16)
    assert counts(splits.train.labels) == [18, 18]


def test_classes_are_numbered_by_name_and_hidden_files_are_not_seen(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("b", "a", "C"))
    (tmp_path / "train" / "a" / ".notes").write_text("x")
    (tmp_path / "train" / ".cache").mkdir()
    splits = load("folder", tmp_path, validation="test")
    assert splits.class_names == ("C", "a", "b")
    assert torch.equal(splits.train.picture(40), pixels(random_image(16, seed=0)))
    assert splits.train.labels[40] == 2


@pytest.mark.parametrize("sides", [(20,), (9, 5, 12), (9, 20)], ids=str)
def test_a_stream_holds_nothing_and_gives_the_same_pictures(tmp_path: Path, sides: tuple[int, ...]) -> None:
    write_folder(tmp_path, sides=sides)
    held, streamed = load("folder", tmp_path), load("folder", tmp_path, in_memory=False)
    assert held.train.bytes_to_load() == 0 < streamed.train.bytes_to_load()
    seen = torch.stack([streamed.train.picture(n) for n in range(len(streamed.train))])
    assert torch.equal(seen, held.train.in_memory().pictures)
    assert not torch.equal(seen, held.train.in_memory().pictures.flip(0))


def test_a_stream_has_read_the_headers_before_loader_processes_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path)
    splits = load("folder", tmp_path, in_memory=False)
    monkeypatch.setattr(pictures, "shorter_side", None)
    for part in (splits.train, splits.validation, splits.test):
        assert part.picture(0).shape == (3, 16, 16)
    with pytest.raises(TypeError):
        load("folder", tmp_path, in_memory=False)


@pytest.mark.parametrize("dataset", [name for name in DATASETS if name != "cifar100"])  # made as cifar10 is
def test_the_digest_is_the_same_in_both_pipelines_and_at_every_image_size(
    tmp_path: Path, use_kind: Any, dataset: str
) -> None:
    write_folder(tmp_path, sides=(9, 20))
    use_kind("cifar10", make_cifar(CIFAR10, tmp_path))
    ways = [(16, True), (16, False), (8, True), (64, True), (64, False)]
    splits = [load(dataset, tmp_path, image_size=size, in_memory=in_memory) for size, in_memory in ways]
    assert len({each.digest for each in splits}) == 1
    stored_side = splits[-1].train.picture(0).shape[-1]
    assert splits[0].train.picture(0).shape[-1] == min(stored_side, 16)  # the control: they differ in what they hold
    assert load(dataset, tmp_path, validation="test").digest != splits[0].digest


def test_a_pixel_changes_the_digest_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, suffixes=(".bmp",))
    before, again = load("folder", tmp_path).digest, load("folder", tmp_path).digest
    path = tmp_path / "test" / "dog" / "000.bmp"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert again == before
    assert load("folder", tmp_path).digest != before


def no_train(root: Path) -> None:
    shutil.rmtree(root / "train")


def no_test(root: Path) -> None:
    shutil.rmtree(root / "test")


def one_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "cat")


def other_classes(root: Path) -> None:
    (root / "test" / "cat").rename(root / "test" / "bird")


def empty_class(root: Path) -> None:
    (root / "train" / "fish").mkdir()


def a_text_file(root: Path) -> None:
    (root / "train" / "dog" / "notes.txt").write_text("x")


def a_file_without_suffix(root: Path) -> None:
    a_text_file(root)
    (root / "train" / "dog" / "README").write_text("x")


def a_deeper_folder(root: Path) -> None:
    (root / "train" / "dog" / "more").mkdir()


def a_broken_picture(root: Path) -> None:
    (root / "train" / "dog" / "007.png").write_bytes(b"broken")


def a_folder_called_picture(root: Path) -> None:
    (root / "test" / "dog" / "trap.png").mkdir()


FOLDER_FAULTS = {
    no_train: "there is no folder .*train",
    no_test: "there is no folder .*test",
    one_class: "train has 1 classes",
    other_classes: "do not have the same classes: bird, cat",
    empty_class: "fish is empty",
    a_text_file: r"dog holds 1 files that are no pictures \(\.txt\)",
    a_file_without_suffix: r"dog holds 2 files that are no pictures \(\.txt, no suffix\)",
    a_deeper_folder: r"dog holds 1 files that are no pictures \(no suffix\)",
    a_broken_picture: r"007\.png: the file cannot be read",
    a_folder_called_picture: r"trap\.png: the file cannot be read",
}


@pytest.mark.parametrize("spoil", FOLDER_FAULTS, ids=lambda spoil: spoil.__name__)
def test_a_fault_of_a_folder_is_said_in_one_line(tmp_path: Path, spoil: Any) -> None:
    write_folder(tmp_path)
    load("folder", tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=FOLDER_FAULTS[spoil]) as caught:
        load("folder", tmp_path)
    assert caught.value.setting == "data_dir"
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    load("folder", tmp_path)
    list_folder = Path.iterdir

    def refuse(path: Path) -> Any:  # the tests may run as root, whom no file mode keeps out
        if path.name == "dog":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return list_folder(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"train/dog cannot be read \(Permission denied\)"):
        load("folder", tmp_path)


def test_classes_too_small_for_a_validation_part_are_refused_and_do_without_one(tmp_path: Path) -> None:
    write_folder(tmp_path, train=1)
    with pytest.raises(DataError, match="validation=2: cannot be drawn from 2 pictures"):
        load("folder", tmp_path)
    assert load("folder", tmp_path, validation="test").sizes()["train"] == 2


def test_a_set_that_does_not_fit_is_refused_before_a_picture_is_decoded(tmp_path: Path) -> None:
    write_folder(tmp_path, train=1, test=1)
    large = tmp_path / "train" / "cat" / "000.png"
    large.write_bytes(header_of_png(9000))
    bytes_of_one = 3 * 9000**2
    for number in range(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // bytes_of_one):
        (large.parent / f"copy{number}.png").hardlink_to(large)
    with pytest.raises(DataError, match=r"pipeline=memory.*Use pipeline=stream"):
        load("folder", tmp_path, image_size=9000, validation="test")
    streamed = load("folder", tmp_path, image_size=9000, validation="test", in_memory=False)
    with pytest.raises(DataError, match=r"000\.png: the file cannot be read"):
        streamed.train.picture(0)


# CIFAR


@EVERY_KIND
def test_an_archive_in_its_folder_is_read_and_cut_into_parts(tmp_path: Path, use_kind: Any, name: str) -> None:
    kind = make_cifar(KINDS[name], tmp_path)
    use_kind(name, kind)
    splits = load(name, tmp_path, image_size=32)
    count = PICTURES_PER_BATCH * len(kind.train_list)
    held_out = max(count // 10, splits.num_classes)
    assert splits.sizes() == {"train": count - held_out, "validation": held_out, "test": PICTURES_PER_BATCH}
    assert splits.class_names == tuple(f"class{n}" for n in range(splits.num_classes))
    assert len(set(counts(splits.test.labels))) == 1


@EVERY_KIND
def test_the_pixels_are_those_of_the_archive_and_smaller_ones_are_reduced(
    tmp_path: Path, use_kind: Any, name: str
) -> None:
    kind = make_cifar(KINDS[name], tmp_path)
    use_kind(name, kind)
    test = load(name, tmp_path, image_size=64).test
    stored = pickle.loads((tmp_path / kind.base_folder / kind.test_list[0][0]).read_bytes())
    assert torch.equal(test.in_memory().pictures, torch.from_numpy(stored["data"]).view(-1, 3, 32, 32))
    small = load(name, tmp_path, image_size=8).test.in_memory().pictures
    assert small.shape == (PICTURES_PER_BATCH, 3, 8, 8)
    streamed = load(name, tmp_path, image_size=8, in_memory=False).test
    assert torch.equal(torch.stack([streamed.picture(n) for n in range(PICTURES_PER_BATCH)]), small)


def test_an_archive_is_fetched_into_a_folder_that_is_made_for_it(tmp_path: Path, use_kind: Any) -> None:
    kind = make_cifar(CIFAR10, tmp_path / "elsewhere")
    use_kind("cifar10", kind)
    with serve(tmp_path / "elsewhere") as url:
        kind.url = f"{url}/{kind.filename}"
        fetched = load("cifar10", tmp_path / "new" / "data").digest
    assert load("cifar10", tmp_path / "new" / "data").digest == fetched
    assert load("cifar10", tmp_path / "elsewhere").digest == fetched
    with pytest.raises(DataError, match="cannot be fetched"):
        load("cifar10", tmp_path / "newer")


def payload(path: Path) -> bytes:
    """A pickle that makes a file when it is read."""

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (path,)

    return pickle.dumps({"data": Evil(), "labels": []})


@pytest.mark.parametrize("file_name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_forged_file_is_refused_before_it_is_unpickled(tmp_path: Path, use_kind: Any, file_name: str) -> None:
    made = tmp_path / "made by the payload"
    kind = make_cifar(CIFAR10, tmp_path, replaced={file_name: payload(made)})
    use_kind("cifar10", kind)
    with pytest.raises(DataError, match="fails its checksum"):
        load("cifar10", tmp_path)
    assert not made.exists()
    pickle.loads((tmp_path / kind.base_folder / file_name).read_bytes())
    assert made.exists()


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_mended_from_the_archive_or_refused(tmp_path: Path, use_kind: Any) -> None:
    kind = make_cifar(CIFAR10, tmp_path)
    use_kind("cifar10", kind)
    digest = load("cifar10", tmp_path).digest
    flip_a_byte(tmp_path / kind.base_folder / "data_batch_3")
    assert load("cifar10", tmp_path).digest == digest
    flip_a_byte(tmp_path / kind.base_folder / "data_batch_3")
    (tmp_path / kind.filename).unlink()
    with pytest.raises(DataError, match=kind.tgz_md5):
        load("cifar10", tmp_path)


def test_a_wrong_archive_is_refused_with_both_checksums_and_not_replaced(tmp_path: Path, use_kind: Any) -> None:
    home, data_dir = tmp_path / "home", tmp_path / "data"
    kind = make_cifar(CIFAR10, home)
    use_kind("cifar10", kind)
    data_dir.mkdir()
    cut = (home / kind.filename).read_bytes()[:1000]
    archive = data_dir / kind.filename
    archive.write_bytes(cut)
    with serve(home) as url:
        kind.url = f"{url}/{kind.filename}"
        with pytest.raises(DataError, match=f"has the MD5 {md5(cut)}, not {kind.tgz_md5}"):
            load("cifar10", data_dir)
        assert archive.read_bytes() == cut
        assert not (data_dir / kind.base_folder).exists()
        archive.unlink()
        assert load("cifar10", data_dir).sizes()["test"] == PICTURES_PER_BATCH


def test_a_wrong_archive_from_the_network_leaves_nothing(tmp_path: Path, use_kind: Any) -> None:
    home, data_dir = tmp_path / "home", tmp_path / "data"
    kind = make_cifar(CIFAR10, home)
    use_kind("cifar10", kind)
    right = (home / kind.filename).read_bytes()
    (home / kind.filename).write_bytes(right[:1000])
    with serve(home) as url:
        kind.url = f"{url}/{kind.filename}"
        with pytest.raises(DataError, match=f"has the MD5 {md5(right[:1000])}, not {kind.tgz_md5}"):
            load("cifar10", data_dir)
        assert [path.name for path in data_dir.iterdir()] == [".lock"]
        (home / kind.filename).write_bytes(right)
        load("cifar10", data_dir)
    assert {path.name for path in data_dir.iterdir()} == {".lock", kind.filename, kind.base_folder}


@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")
def test_plain_http_is_for_this_machine_alone(tmp_path: Path, use_kind: Any) -> None:
    kind = make_cifar(CIFAR10, tmp_path / "home")
    use_kind("cifar10", kind)
    for host in ("127.0.0.2", "127.0.0.1"):
        with serve(tmp_path / "home", host) as url:
            kind.url = f"{url}/{kind.filename}"
            if host == "127.0.0.1":
                load("cifar10", tmp_path / "data")
            else:
                with pytest.raises(DataError, match=f"{url}/.* is not https"):
                    load("cifar10", tmp_path / "data")


def test_https_that_fails_is_not_tried_again_without(tmp_path: Path, use_kind: Any) -> None:
    kind = make_cifar(CIFAR10, tmp_path / "home")
    use_kind("cifar10", kind)
    with serve(tmp_path / "home") as url:
        kind.url = f"{url.replace('http:', 'https:')}/{kind.filename}"
        with pytest.raises(DataError, match="SSL"):
            load("cifar10", tmp_path / "data")
        kind.url = f"{url}/{kind.filename}"
        load("cifar10", tmp_path / "data")


@EVERY_KIND
def test_the_published_archives_come_over_https(name: str) -> None:
    assert KINDS[name].url.startswith("https://")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_full_disk_is_not_the_fault_of_the_data(tmp_path: Path, use_kind: Any) -> None:
    kind = make_cifar(CIFAR10, tmp_path / "home")
    use_kind("cifar10", kind)
    part = tmp_path / "data" / f"{kind.filename}.part"
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    with serve(tmp_path / "home") as url:
        kind.url = f"{url}/{kind.filename}"
        with pytest.raises(DiskError, match="No space left on device"):
            load("cifar10", part.parent)
        assert not part.is_symlink()
        load("cifar10", part.parent)


def test_a_folder_that_cannot_be_written_to_will_do_when_all_is_there(tmp_path: Path, use_kind: Any) -> None:
    kind = make_cifar(CIFAR10, tmp_path)
    use_kind("cifar10", kind)
    digest = load("cifar10", tmp_path).digest
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()  # root may write everywhere, but not to this
    assert load("cifar10", tmp_path).digest == digest
    flip_a_byte(tmp_path / kind.base_folder / "data_batch_3")
    with pytest.raises(DiskError, match="Choose a folder that can be written to"):
        load("cifar10", tmp_path)


@EVERY_KIND
@pytest.mark.parametrize("url", [f"{UNREACHABLE}/archive.tar.gz", "file:///nowhere/archive.tar.gz"])
def test_an_archive_out_of_reach_is_named_with_its_checksum_and_place(
    tmp_path: Path, use_kind: Any, name: str, url: str
) -> None:
    use_kind(name, type("Unreachable", (KINDS[name],), {"url": url}))
    started_s = time.monotonic()
    with pytest.raises(DataError) as caught:
        load(name, tmp_path / "data")
    assert time.monotonic() - started_s < 5
    for part in (url, KINDS[name].tgz_md5, str(tmp_path / "data"), "dataset=digits"):
        assert part in str(caught.value)


class Answer(socketserver.BaseRequestHandler):
    """A server that stops in the middle, in one of three ways."""

    def handle(self) -> None:
        self.request.recv(4096)
        way = self.server.way  # type: ignore[attr-defined]
        if way == "nonsense":
            self.request.sendall(b"this is not HTTP\r\n\r\n")
        else:
            self.request.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\nsome of it")
        if way == "stalls":
            self.server.stop.wait(5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["stalls", "breaks off", "nonsense"])
def test_a_download_that_ends_early_is_an_error_soon(
    tmp_path: Path, use_kind: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(data, "NETWORK_TIMEOUT_S", 0.3)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.way, server.stop = way, threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/{CIFAR10.filename}"
            use_kind("cifar10", type("Stopping", (CIFAR10,), {"url": url}))
            started_s = time.monotonic()
            with pytest.raises(DataError, match="cannot be fetched"):
                load("cifar10", tmp_path)
            assert time.monotonic() - started_s < 4
        finally:
            server.stop.set()  # type: ignore[attr-defined]
            server.shutdown()
            thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer where a queue is full")
def test_a_network_that_drops_packets_is_an_error_soon(
    tmp_path: Path, use_kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "NETWORK_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(3)]  # they fill the queue that nobody serves
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/{CIFAR10.filename}"
        use_kind("cifar10", type("Dropping", (CIFAR10,), {"url": url}))
        started_s = time.monotonic()
        with pytest.raises(DataError, match=r"cannot be fetched.*timed out"):
            load("cifar10", tmp_path)
        assert time.monotonic() - started_s < 4
        for each in waiting:
            each.close()


@EVERY_KIND
@pytest.mark.parametrize("inside", [False, True])
def test_a_data_dir_that_is_a_file_is_refused(tmp_path: Path, name: str, inside: bool) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(DataError, match=r"data_dir=.*a file, not a folder"):
        load(name, file / "deeper" if inside else file)


def test_one_at_a_time_fetches_into_a_folder(tmp_path: Path) -> None:
    entered = threading.Event()

    def enter(folder: Path) -> threading.Thread:
        def work() -> None:
            with fetched_once(folder):
                entered.set()

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    with fetched_once(tmp_path):
        second = enter(tmp_path)
        assert not entered.wait(0.2)
    second.join(5)
    assert entered.is_set()
    entered.clear()
    with fetched_once(tmp_path):
        enter(tmp_path / "another").join(5)
        assert entered.is_set()
