"""What crosses the border between the processes: plain values, arrays of numbers, and a few of our own data classes.

Text in JSON, arrays as their bytes after it; nothing that could carry code. What comes is held against the types that
it must have, since whoever sends it may be anybody. Knows no pipe and no process.
"""

import json
import types
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from math import prod
from struct import Struct
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from reference.cases.case import Case
from reference.cases.scope import Scope
from reference.kinds import KINDS, Kind
from reference.subjects.discovery import Discovery
from reference.subjects.form import Form, Mode
from reference.subjects.observation import Finding, Observation
from reference.subjects.places import Place
from reference.subjects.spoken import Spoken

CLASSES: dict[str, Any] = {
    cls.__name__: cls for cls in (Case, Scope, Discovery, Finding, Observation, Form, Mode, Place, Spoken)
}
PREFIX = Struct("<QQ")  # the lengths of the text and of the arrays' bytes
STAGE = 600  # bytes of the text that says how far the child has come
LARGEST = 1 << 31  # bytes of one message

# taken now, so that a subject that changes these modules changes nothing here
_to_text = json.JSONEncoder(separators=(",", ":")).encode
_from_text = json.JSONDecoder().decode


class Garbled(Exception):
    """What came is no message, or not the one that was expected."""


def packed(value: Any) -> bytes:
    """A value as a message.

    Raises:
        TypeError: it holds something that does not cross the border.
    """
    arrays: list[bytes] = []
    text = _to_text(_plain(value, arrays)).encode()
    return b"".join([PREFIX.pack(len(text), sum(map(len, arrays))), text, *arrays])


def lengths(prefix: bytes | bytearray) -> tuple[int, int]:
    """How long a message's two parts are.

    Raises:
        Garbled: longer than any message is.
    """
    text, arrays = PREFIX.unpack(prefix)
    if text + arrays > LARGEST:
        raise Garbled(f"a message of {text + arrays} bytes")
    return text, arrays


def unpacked(text: bytes, arrays: bytearray, expected: Any) -> Any:
    """The value of a message, of the type that is expected.

    Raises:
        Garbled: it is no message, or its value is of another type.
    """
    try:
        value = _value(_from_text(text.decode()), arrays)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise Garbled(f"no message of ours ({type(error).__name__})") from None
    if not fits(value, expected):
        raise Garbled(f"{type(value).__name__} where {expected} was expected")
    return value


def _plain(value: Any, arrays: list[bytes]) -> Any:
    """A value in JSON's own types; arrays are put into `arrays`, and stand as dtype and shape."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [_plain(item, arrays) for item in value]
    if kind is tuple:
        return {"tuple": [_plain(item, arrays) for item in value]}
    if kind is frozenset:
        return {"set": [_plain(item, arrays) for item in sorted(value)]}
    if kind is dict or kind is types.MappingProxyType:
        return {"map": [[_plain(key, arrays), _plain(item, arrays)] for key, item in value.items()]}
    if kind is np.ndarray and value.dtype.kind in "biuf":
        value = value.astype(value.dtype.newbyteorder("="), copy=False)
        arrays.append(value.tobytes())
        return {"array": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    if kind is Kind:
        return {"kind": value.name}
    if kind in CLASSES.values():
        return {"is": kind.__name__, "of": [_plain(getattr(value, field.name), arrays) for field in fields(kind)]}
    raise TypeError(f"{kind.__name__} does not cross the border")


def _value(plain: Any, arrays: bytearray) -> Any:
    """The value that JSON's own types stand for; arrays are taken from the front of the bytes."""
    begin = 0

    def value(plain: Any) -> Any:
        nonlocal begin
        if isinstance(plain, list):
            return [value(item) for item in plain]
        if not isinstance(plain, dict):
            return plain
        if "tuple" in plain:
            return tuple(value(item) for item in plain["tuple"])
        if "set" in plain:
            return frozenset(value(item) for item in plain["set"])
        if "map" in plain:
            return {value(key): value(item) for key, item in plain["map"]}
        if "array" in plain:
            dtype, shape = np.dtype(plain["array"]), tuple(plain["shape"])
            if dtype.kind not in "biuf" or not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError(f"an array of {dtype} and shape {shape}")
            array = np.frombuffer(arrays, dtype, prod(shape), begin).reshape(shape)
            begin += array.nbytes
            return array
        if "kind" in plain:
            return KINDS[plain["kind"]]
        return CLASSES[plain["is"]](*(value(item) for item in plain["of"]))

    return value(plain)


def fits(value: Any, expected: Any) -> bool:
    """Whether a value is of an annotated type, as far down as the annotation goes."""
    origin, inner = get_origin(expected), get_args(expected)
    if expected is Any:
        return True
    if expected is None:
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is ...:
            return all(fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(fits, value, inner))
    if origin in (list, frozenset):
        return isinstance(value, origin) and all(fits(item, inner[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if origin is np.ndarray:
        return isinstance(value, np.ndarray)
    if expected in CLASSES.values():
        hints = _hints(expected)
        return type(value) is expected and all(fits(getattr(value, name), hint) for name, hint in hints.items())
    if expected is float:
        return type(value) in (float, int)
    return type(value) is expected


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}
