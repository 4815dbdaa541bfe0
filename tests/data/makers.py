"""Small real data to read: pictures, a folder of classes, and CIFAR archives in the format of the published ones."""

import hashlib
import io
import pickle
import struct
import tarfile
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

PICTURES_PER_BATCH = 40
UNREACHABLE = "http://127.0.0.1:9"
"""A port that nothing listens on."""


def random_image(width: int, height: int | None = None, *, seed: int = 0) -> Image.Image:
    """Noise in RGB: no two pixels or directions alike, so that a wrong geometry cannot go unseen."""
    shape = (height or width, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def pixels(image: Image.Image) -> torch.Tensor:
    """An RGB image as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def header_of_png(side: int) -> bytes:
    """A PNG up to where its pixels should begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + checked + b"\0\0\1\0IDAT"


def smooth_pictures(count: int, side: int) -> torch.Tensor:
    """Waves as uint8 [count, 3, side, side], different in every picture and channel: kind to interpolation."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [
        [np.sin(3 * x + 2 * y + n) * np.cos(4 * y - 2 * x + 0.5 * n + channel) for channel in range(3)]
        for n in range(count)
    ]
    return torch.from_numpy(np.rint(127.5 + 127.5 * np.array(waves)).astype(np.uint8))


def write_folder(
    root: Path,
    *,
    classes: Sequence[str] = ("cat", "dog"),
    train: int = 20,
    test: int = 4,
    sides: Sequence[int] = (16,),
    suffixes: Sequence[str] = (".png",),
) -> Path:
    """`train` and `test` pictures per class in the layout of dataset=folder; sides and suffixes take turns."""
    seed = 0
    for part, count in (("train", train), ("test", test)):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                path = root / part / name / f"{number:03}{suffixes[number % len(suffixes)]}"
                random_image(sides[number % len(sides)], seed=seed).save(path)
                seed += 1
    return root


def make_cifar(kind: type[CIFAR10], home: Path, *, replaced: Mapping[str, bytes] | None = None) -> type[CIFAR10]:
    """torchvision's class for a small archive of the published format, which is written to `home`.

    Its URL leads nowhere. The checksums are those of honest files; `replaced` puts other bytes into the archive
    under them.
    """
    many_labels = kind.meta["key"] == "fine_label_names"
    names = [f"class{number}" for number in range(20 if many_labels else 10)]
    files: dict[str, bytes] = {}
    for seed, (file_name, _) in enumerate([*kind.train_list, *kind.test_list]):
        pixels = np.random.default_rng(seed).integers(0, 256, (PICTURES_PER_BATCH, 3072), dtype=np.uint8)
        labels = [number % len(names) for number in range(PICTURES_PER_BATCH)]
        entry = {"data": pixels, "fine_labels" if many_labels else "labels": labels}
        files[file_name] = pickle.dumps(entry, protocol=2)
    files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: names}, protocol=2)

    def checked(listed: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[name, md5(files[name])] for name, _ in listed]

    home.mkdir(parents=True, exist_ok=True)
    archive = home / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in (files | dict(replaced or {})).items():
            member = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    members: dict[str, Any] = {
        "url": f"{UNREACHABLE}/{kind.filename}",
        "tgz_md5": md5(archive.read_bytes()),
        "train_list": checked(kind.train_list),
        "test_list": checked(kind.test_list),
        "meta": {**kind.meta, "md5": md5(files[kind.meta["filename"]])},
    }
    return type(f"Small{kind.__name__}", (kind,), members)


@contextmanager
def serve(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """The files of a folder over HTTP, with the headers by which a hub tells its files apart; the folder's URL."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def end_headers(self) -> None:
            self.send_header("ETag", f'"{md5(self.path.encode())}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            super().end_headers()

    with ThreadingHTTPServer((host, 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield f"http://{host}:{server.server_address[1]}"
        finally:
            server.shutdown()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
