"""The lab's data: what is read, how it is scaled, and that a wrong file is refused in one sentence.

No test needs a network or the official files: each makes its own small IDX files.
"""

import gzip
import hashlib
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from npnorm.arguments import Array
from npnorm.lab import data
from npnorm.lab.data import DataError, MissingPackage

TRAIN, TEST = 30, 12
NAMES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx(array: Array) -> bytes:
    magic = 2048 + array.ndim
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes()


def contents() -> dict[str, bytes]:
    """The four files, plain."""
    rng = np.random.default_rng(0)
    arrays: list[Array] = []
    for count in (TRAIN, TEST):
        arrays += [rng.integers(256, size=(count, 28, 28)), np.arange(count) % 10]
    return dict(zip(NAMES, map(idx, arrays), strict=True))


def write(directory: Path, files: dict[str, bytes], compress: bool = True) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        if compress:
            (directory / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "plain"])
def test_mnist_is_read(tmp_path: Path, compress: bool) -> None:
    files = contents()
    mnist = data.load_mnist(write(tmp_path, files, compress))
    assert (mnist.name, mnist.features, mnist.classes) == ("mnist", 784, 10)
    pixels = {name: np.frombuffer(files[name][16:], np.uint8).reshape(-1, 784) for name in NAMES[::2]}
    train = pixels[NAMES[0]].astype(np.float64)
    for got, name in ((mnist.train_images, NAMES[0]), (mnist.test_images, NAMES[2])):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, (pixels[name] - train.mean()) / train.std(), rtol=0, atol=1e-6)
    assert mnist.train_labels.tolist() == [i % 10 for i in range(TRAIN)]
    assert mnist.test_labels.tolist() == [i % 10 for i in range(TEST)]


def test_compression_is_known_by_content_not_by_name(tmp_path: Path) -> None:
    write(tmp_path, contents())
    for path in tmp_path.glob("*.gz"):
        path.rename(path.with_suffix(""))
    assert len(data.load_mnist(tmp_path).train_labels) == TRAIN


def test_digits_come_with_scikit_learn() -> None:
    digits = data.load_digits()
    assert (digits.name, digits.features) == ("digits", 64)
    assert (len(digits.train_labels), len(digits.test_labels)) == (1297, 500)
    assert digits.train_images.dtype == np.float32
    assert abs(float(digits.train_images.mean(dtype=np.float64))) < 1e-6
    assert float(digits.train_images.std(dtype=np.float64)) == pytest.approx(1, abs=1e-6)
    assert set(digits.train_labels) == set(digits.test_labels) == set(range(10))


def replaced(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        write(directory, {name: change(contents()[name])})

    return apply


def raw(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """`change` the compressed file."""

    def apply(directory: Path) -> None:
        path = directory / f"{name}.gz"
        path.write_bytes(change(path.read_bytes()))

    return apply


IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = NAMES

REFUSALS = [
    ("missing", lambda d: (d / f"{LABELS}.gz").unlink(), rf"Expected {LABELS}\.gz or {LABELS} in .* but there is"),
    ("empty", replaced(IMAGES, lambda b: b""), r"Expected an IDX header of 16 bytes but got 0 in .*train-images"),
    ("zero-bytes", raw(IMAGES, lambda b: b""), r"Expected an IDX header of 16 bytes but got 0 in .*train-images"),
    ("short-header", replaced(LABELS, lambda b: b[:7]), "Expected an IDX header of 8 bytes but got 7"),
    (
        "labels-as-images",
        replaced(IMAGES, lambda b: contents()[LABELS]),
        r"images \(magic number 2051\) but got 2049 in",
    ),
    (
        "images-as-labels",
        replaced(LABELS, lambda b: contents()[IMAGES]),
        r"labels \(magic number 2049\) but got 2051 in",
    ),
    (
        "a-web-page",
        raw(TEST_IMAGES, lambda b: b"<!DOCTYPE html><html></html>"),
        r"magic number 2051\) but got 1008813135",
    ),
    (
        "truncated",
        replaced(IMAGES, lambda b: b[:-1]),
        r"Expected 23520 bytes of images \(sizes \(30, 28, 28\)\) but got 23519",
    ),
    (
        "too-long",
        replaced(TEST_LABELS, lambda b: b + b"\0"),
        r"Expected 12 bytes of labels \(sizes \(12,\)\) but got more in",
    ),
    ("no-images", replaced(IMAGES, lambda b: struct.pack(">4I", 2051, 0, 28, 28)), r"Expected images but got none"),
    (
        "size-lies",
        replaced(IMAGES, lambda b: b[:4] + b"\xff" * 12 + b[16:]),
        r"Expected 79228162458924105385300197375 bytes",
    ),
    (
        "transposed-size",
        replaced(IMAGES, lambda b: b[:8] + struct.pack(">2I", 14, 56) + b[16:]),
        "28 x 28 pixels but got 14 x 56",
    ),
    (
        "label-10",
        replaced(LABELS, lambda b: b[:-1] + b"\x0a"),
        r"Expected labels from 0 to 9 but got 10 in .*train-labels",
    ),
    (
        "too-few-labels",
        replaced(TEST_LABELS, lambda b: idx(np.arange(10))),
        "as many labels as images but got 10 in .* and 12 in",
    ),
    ("gzip-truncated", raw(IMAGES, lambda b: b[:-100]), r"train-images.* is not a whole gzip file"),
    ("gzip-checksum", raw(IMAGES, lambda b: b[:-8] + b"\0\0\0\0" + b[-4:]), r"train-images.* is not a whole gzip file"),
    ("gzip-garbage", raw(IMAGES, lambda b: b[:10] + b"\xff" * 50), r"train-images.* is not a whole gzip file"),
    (
        "blank",
        replaced(IMAGES, lambda b: b[:16] + bytes(len(b) - 16)),
        "training images that differ but got the same value",
    ),
]


@pytest.mark.parametrize(("damage", "message"), [pytest.param(d, m, id=name) for name, d, m in REFUSALS])
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write(tmp_path, contents())
    damage(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        data.load_mnist(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected --data-dir to be a directory but got .*nowhere"):
        data.load_mnist(tmp_path / "nowhere")


def test_the_official_files_and_no_others_are_fetched() -> None:
    """The SHA-256 sums of the files as their author published them, and as data set libraries pin them."""
    assert data.SHA256 == {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in data.MIRRORS)


class Web:
    """A downloader as pooch calls it, with files of its own: what is asked of it, and what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: frozenset[str] = frozenset()) -> None:
        self.files = {f"{name}.gz": gzip.compress(content, 1) for name, content in contents().items()}
        self.broken = broken  # mirrors that answer with something else
        self.asked: list[str] = []
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        monkeypatch.setattr(data, "SHA256", sums)

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        self.asked.append(url)
        mirror, name = url.rsplit("/", 1)
        wrong = b"<html>not here</html>"
        Path(output_file).write_bytes(wrong if f"{mirror}/" in self.broken else self.files[name])


def test_download_fetches_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(monkeypatch)
    data.download(tmp_path / "new", web)
    assert web.asked == [data.MIRRORS[0] + name for name in data.SHA256]
    assert len(data.load_mnist(tmp_path / "new").train_labels) == TRAIN
    data.download(tmp_path / "new", web)
    assert len(web.asked) == 4


def test_download_verifies_and_tries_the_next_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(monkeypatch, broken=frozenset(data.MIRRORS[:1]))
    data.download(tmp_path, web)
    assert web.asked[:2] == [mirror + next(iter(data.SHA256)) for mirror in data.MIRRORS[:2]]
    assert len(data.load_mnist(tmp_path).train_labels) == TRAIN


def test_download_of_wrong_files_is_refused_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(monkeypatch, broken=frozenset(data.MIRRORS))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz could not be downloaded") as caught:
        data.download(tmp_path, web)
    assert all(mirror in str(caught.value) for mirror in data.MIRRORS)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_download_without_a_connection_is_refused(tmp_path: Path) -> None:
    def offline(url: str, output_file: str, pooch: object) -> None:
        raise OSError("network unreachable")

    with pytest.raises(DataError, match=r"could not be downloaded .*: network unreachable"):
        data.download(tmp_path, offline)


def test_download_never_overwrites_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(monkeypatch)
    own = tmp_path / "t10k-labels-idx1-ubyte.gz"
    own.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz is there and is not the official file"):
        data.download(tmp_path, web)
    assert own.read_bytes() == b"mine"
    assert web.asked == []


@pytest.mark.parametrize(
    ("module", "package", "call"),
    [
        ("sklearn.datasets", "scikit-learn", lambda d: data.load_digits()),
        ("pooch", "pooch", data.download),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str, call: Callable[[Path], object]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    with pytest.raises(MissingPackage, match=f'needs {package}, .*pip install "{package}"') as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
