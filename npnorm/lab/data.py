"""The digits that the lab trains on: scikit-learn's, or MNIST from its four IDX files.

Knows file formats and where the official files are; must not know networks. What is wrong with a file is said in one
sentence, as a `DataError`.

IDX (as described at the files' origin, https://yann.lecun.com/exdb/mnist/): big-endian 32-bit integers, first a magic
number (2051 for images, 2049 for labels), then the size of each dimension; after them one unsigned byte for each entry.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from npnorm.arguments import Array

CLASSES = 10
SIDE = 28  # rows and columns of an MNIST image
DIGITS_TEST = 500  # how many of scikit-learn's 1,797 digits are held back

IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049

SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


class DataError(Exception):
    """The data cannot be had or are not what they should be; its text is one sentence for the user."""


class MissingPackage(Exception):
    """An optional package is not installed; its text is one sentence for the user."""


@dataclass(frozen=True)
class Dataset:
    """Images as rows of standardized float32 pixels, and their labels."""

    name: str
    train_images: Array  # (samples, features)
    train_labels: Array  # (samples,) of ints from 0 to classes - 1
    test_images: Array
    test_labels: Array
    classes: int = CLASSES

    @property
    def features(self) -> int:
        return int(self.train_images.shape[1])


def require(module: str, package: str, purpose: str) -> Any:
    """The optional `module`, imported now."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f"{purpose} needs {package}, which cannot be imported ({error}); "
            f'pip install "{package}", or everything the lab uses with pip install "npnorm[lab]"'
        ) from None


def load_digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: the last 500 for the test, the others for training.

    The order is the package's, so that the split is the same wherever it is made.
    """
    digits = require("sklearn.datasets", "scikit-learn", "--data digits").load_digits()
    images, labels = digits.data, digits.target.astype(np.intp)
    train, test = images[:-DIGITS_TEST], images[-DIGITS_TEST:]
    return _dataset("digits", train, labels[:-DIGITS_TEST], test, labels[-DIGITS_TEST:])


def load_mnist(directory: Path) -> Dataset:
    """The digits of the four IDX files in `directory`, each gzip-compressed (`.gz`) or plain.

    Raises:
        DataError: a file is missing or unreadable, is no IDX file of the right kind, is truncated or too long, or has
            images of another size than 28 x 28, other labels than 0 to 9, or not one label for each image.
    """
    if not directory.is_dir():
        raise DataError(f"Expected --data-dir to be a directory but got {directory}")
    parts: list[Array] = []
    for split in ("train", "t10k"):
        images_path = _find(directory, f"{split}-images-idx3-ubyte")
        labels_path = _find(directory, f"{split}-labels-idx1-ubyte")
        images, labels = read_images(images_path), read_labels(labels_path)
        if len(images) != len(labels):
            raise DataError(
                f"Expected as many labels as images but got {len(labels)} in {labels_path} "
                f"and {len(images)} in {images_path}"
            )
        parts += [images.reshape(len(images), -1), labels.astype(np.intp)]
    return _dataset("mnist", *parts)


def read_images(path: Path) -> Array:
    """An IDX file of images as an array (count, 28, 28) of bytes."""
    images = _read_idx(path, IMAGES_MAGIC, "images", dimensions=3)
    if images.shape[1:] != (SIDE, SIDE):
        rows, columns = images.shape[1:]
        raise DataError(f"Expected images of {SIDE} x {SIDE} pixels but got {rows} x {columns} in {path}")
    return images


def read_labels(path: Path) -> Array:
    """An IDX file of labels as an array (count,) of bytes from 0 to 9."""
    labels = _read_idx(path, LABELS_MAGIC, "labels", dimensions=1)
    if labels.max() >= CLASSES:
        raise DataError(f"Expected labels from 0 to {CLASSES - 1} but got {labels.max()} in {path}")
    return labels


def download(directory: Path, downloader: Callable[..., None] | None = None) -> None:
    """Fetch the four official files into `directory`, each verified by its SHA-256; what is there already stays.

    `downloader(url, file, pooch)` writes what is at an address to a file; None means pooch's own, over HTTP.

    Raises:
        DataError: a file of that name is there and is another, or no mirror gave the right one.
    """
    pooch = require("pooch", "pooch", "--download")
    pooch.get_logger().setLevel("WARNING")  # it would announce each file on the terminal
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, sha256 in SHA256.items():
            path = directory / name
            if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise DataError(
                    f"{path} is there and is not the official file, and is not overwritten: "
                    "move it away, or leave out --download"
                )
    except OSError as error:
        raise DataError(f"The MNIST files cannot be kept in {directory}: {error}") from None
    for name, sha256 in SHA256.items():
        failures: list[str] = []
        for mirror in MIRRORS:
            try:
                pooch.retrieve(mirror + name, f"sha256:{sha256}", name, directory, downloader=downloader)
                break
            except (OSError, ValueError) as error:  # no connection; not the right SHA-256
                failures.append(f"{mirror}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        else:
            raise DataError(f"{name} could not be downloaded ({'; '.join(failures)})")


def _dataset(name: str, train: Array, train_labels: Array, test: Array, test_labels: Array) -> Dataset:
    """Pixels standardized by one mean and one deviation, those of all training pixels."""
    mean, deviation = train.mean(dtype=np.float64), train.std(dtype=np.float64)
    if deviation == 0:
        raise DataError("Expected training images that differ but got the same value in every pixel")
    images = [((split - mean) / deviation).astype(np.float32) for split in (train, test)]
    return Dataset(name, images[0], train_labels, images[1], test_labels)


def _find(directory: Path, name: str) -> Path:
    for path in (directory / f"{name}.gz", directory / name):
        if path.is_file():
            return path
    raise DataError(f"Expected {name}.gz or {name} in {directory} but there is neither (--download fetches them)")


def _read_idx(path: Path, magic: int, what: str, dimensions: int) -> Array:
    try:
        with path.open("rb") as plain:
            compressed = plain.read(2) == b"\x1f\x8b"  # gzip's own magic number, whatever the file is called
            plain.seek(0)
            if not compressed:
                return _parse_idx(plain, path, magic, what, dimensions)
            with gzip.open(plain) as stream:
                return _parse_idx(stream, path, magic, what, dimensions)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _parse_idx(stream: BinaryIO | gzip.GzipFile, path: Path, magic: int, what: str, dimensions: int) -> Array:
    length = 4 * (1 + dimensions)
    header = stream.read(length)
    if len(header) >= 4 and (got := int.from_bytes(header[:4], "big")) != magic:
        raise DataError(f"Expected an IDX file of {what} (magic number {magic}) but got {got} in {path}")
    if len(header) < length:
        raise DataError(f"Expected an IDX header of {length} bytes but got {len(header)} in {path}")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4")[1:])
    if 0 in shape:
        raise DataError(f"Expected {what} but got none (sizes {shape}) in {path}")
    expected = int(np.prod(shape, dtype=object))  # of Python ints: a wrong header may name more than 64 bits can
    chunks, size = [], 0
    while size <= expected and (chunk := stream.read(min(1 << 20, expected + 1 - size))):
        chunks.append(chunk)
        size += len(chunk)
    if size != expected:
        came = f"{size}" if size < expected else "more"
        raise DataError(f"Expected {expected} bytes of {what} (sizes {shape}) but got {came} in {path}")
    return np.frombuffer(b"".join(chunks), np.uint8).reshape(shape)
