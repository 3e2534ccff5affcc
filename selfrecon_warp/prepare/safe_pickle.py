"""Pickles of arrays and plain containers, read without calling anything they name.

Estimators store results with ``pickle``, ``joblib`` or ``numpy.save`` of a dictionary, all of which are programs for
the pickle machine. Here that machine runs with stand-ins: what a file names is looked up in a short list, every entry
of which only records what it is given, and arrays are built from the recorded bytes afterwards. Anything off the list
is refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import pickle  # only its parser, behind an allow-list
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from selfrecon_warp.errors import PrepareError

_DTYPE = re.compile(r"[<>|=]?([biufcSU])(\d+)|\?")
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_DEEPEST = 200
_LARGEST = 1 << 33  # bytes that compressed content may grow to


def read_pickle(path: Path) -> Any:
    """Read a pickle or a joblib file, compressed or not.

    Args:
        path: ``.pkl``, ``.joblib`` and the like.

    Returns:
        Nested dictionaries, lists and tuples of NumPy arrays, numbers, strings, bytes, sets and ``None``; torch tensors
        come as arrays.

    Raises:
        PrepareError: Missing, damaged, or it asks for anything but arrays and plain containers.
    """
    return _reading(path, lambda data: _load(io.BytesIO(_decompressed(data))))


def read_numpy(path: Path) -> Any:
    """Read an ``.npy`` or ``.npz`` file whose arrays may hold pickled dictionaries.

    Returns:
        The array or object of an ``.npy`` file; of an ``.npz`` file, a dictionary of them by name. An object array
        without axes comes as the object in it.

    Raises:
        PrepareError: Missing, damaged, or it asks for anything but arrays and plain containers.
    """

    def read(data: bytes) -> Any:
        if not data.startswith(b"PK"):
            return _read_npy(io.BytesIO(data))
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if sum(member.file_size for member in members) > _LARGEST:
                raise ValueError("it would unpack to more than 8 GB")
            return {member.filename[:-4]: _read_npy(io.BytesIO(archive.read(member))) for member in members}

    return _reading(path, read)


def _reading(path: Path, read: Callable[[bytes], Any]) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PrepareError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return read(data)
    except _Refused as error:
        raise PrepareError(
            f"{path}: refused: {error}; a file of body parameters needs only arrays. Do not trust it, or convert it to "
            ".npz yourself"
        ) from error
    except Exception as error:  # a hostile or damaged file can raise anything
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PrepareError(f"{path} is damaged or of another kind ({reason}); write it again") from error


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """The file asks for something that is not on the list."""


def _decompressed(data: bytes) -> bytes:
    """Content of a file that joblib compressed, recognised by its first bytes."""
    if data[:1] == b"\x78" and data[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
        machine = zlib.decompressobj()
        content = machine.decompress(data, _LARGEST)
        if machine.unconsumed_tail:
            raise ValueError("it would unpack to more than 8 GB")
        return content
    openers: tuple[tuple[bytes, Callable[[io.BytesIO], Any]], ...] = (
        (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
        (b"BZh", bz2.BZ2File),
        (b"\xfd7zXZ", lzma.LZMAFile),
        (b"\x5d\x00", lzma.LZMAFile),
    )
    for start, opener in openers:
        if data.startswith(start):
            with opener(io.BytesIO(data)) as stream:
                content = stream.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise ValueError("it would unpack to more than 8 GB")
            return bytes(content)
    if data.startswith(b"\x04\x22\x4d\x18"):
        raise ValueError("it is compressed with LZ4; save it with zlib or without compression")
    return data


def _load(stream: BinaryIO) -> Any:
    return _resolved(_Machine(stream, encoding="latin1").load(), {}, 0)


def _read_npy(stream: BinaryIO) -> Any:
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if not dtype.hasobject:
        return _array(stream.read(), dtype, shape, fortran)
    stored = _load(stream)
    if isinstance(stored, np.ndarray) and stored.dtype == object and stored.ndim == 0:
        return stored[()]
    return stored


# ---- what stands for the objects a file may name --------------------------------------------------------------------


class _Marker:
    """Stands for a class that is only ever named, never called."""


class _Dtype:
    """``numpy.dtype``: its code is checked when it is used, and it accepts nothing but a byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.order = ""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
            raise _Refused("it holds an array with fields, of which body parameters have none")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        """The data type; ``object`` only for arrays that list their items one by one."""
        if self.code in ("O", "O8", "O4"):
            return np.dtype(object)
        match = _DTYPE.fullmatch(str(self.code))
        if match is None or (match[1] in _SIZES and int(match[2]) not in _SIZES[match[1]]):
            raise _Refused(f"it holds an array of {str(self.code)[:40]!r}")
        kind = np.dtype(str(self.code))
        if self.order in (">", "<"):
            kind = kind.newbyteorder(">" if self.order == ">" else "<")
        return kind


class _Stored:
    """An array as pickles store one: an empty one that is then given shape, type and content."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        kind = dtype.numpy()
        if kind.hasobject:
            self.value = _object_array(list(content), shape)
        else:
            data = content.encode("latin1") if isinstance(content, str) else bytes(content)
            self.value = _array(data, kind, shape, bool(fortran))


class _Wrapper:
    """``joblib``'s place holder: the array's bytes follow in the stream, see :class:`_Machine`."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def read(self, machine: _Machine) -> np.ndarray:
        """The array behind the place holder, read from where the stream stands."""
        dtype, shape = self.state["dtype"].numpy(), self.state["shape"]
        if dtype.hasobject:
            stored = _load(machine.stream)
            return stored if isinstance(stored, np.ndarray) else _object_array([stored], ())
        if self.state.get("numpy_array_alignment_bytes") is not None:
            machine.stream.read(machine.stream.read(1)[0])
        content = machine.stream.read(_count(shape) * dtype.itemsize)
        return _array(content, dtype, shape, self.state.get("order") == "F")


class _Storage:
    """A torch storage; its bytes are torch's own format, which torch reads without running code."""

    def __init__(self, content: bytes) -> None:
        import torch

        self.torch = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """``torch._utils._rebuild_tensor_v2``: bounds are checked by torch."""
    import torch

    if not isinstance(storage, _Storage):
        raise _Refused("it builds a tensor from something that is no storage")
    empty = torch.empty(0, dtype=storage.torch.dtype)
    return np.array(empty.set_(storage.torch, offset, tuple(size), tuple(stride)).detach().numpy())


def _scalar(dtype: Any, content: bytes | str = b"") -> Any:
    """``numpy.core.multiarray.scalar``."""
    data = content.encode("latin1") if isinstance(content, str) else content
    return _array(data, dtype.numpy(), (), False)[()]


def _from_buffer(content: Any, dtype: Any, shape: Any, order: str = "C", *_: Any) -> np.ndarray:
    """``numpy._core.numeric._frombuffer`` of pickle protocol 5."""
    return _array(bytes(content), dtype.numpy(), shape, order == "F")


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """``_codecs.encode`` as Python 3 uses it to store bytes in old protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"it asks for the codec {encoding}")
    return text.encode("latin1")


class _Dictionary(dict[Any, Any]):
    """``defaultdict`` and ``OrderedDict`` without a factory, from pairs as old protocols store them."""

    def __init__(self, pairs: Any = None, *_: Any) -> None:
        super().__init__(pairs if isinstance(pairs, list) else ())

    def __setstate__(self, _: Any) -> None:
        """Attributes of a subclass carry nothing that is needed."""


def _new_wrapper(kind: Any, *_: Any) -> _Wrapper:
    """``copyreg._reconstructor``, which old protocols use for joblib's place holders."""
    if kind is not _Wrapper:
        raise _Refused("it rebuilds an object that is no array")
    return _Wrapper()


def _path(*parts: str) -> str:
    """A path of ``pathlib`` as text."""
    return "/".join(parts).replace("//", "/")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Marker(),
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", lambda *_: _Stored()),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Wrapper,
    ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"): _Wrapper,
    ("torch.storage", "_load_from_bytes"): _Storage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("_codecs", "encode"): _latin1_bytes,
    **{(module, "_reconstructor"): _new_wrapper for module in ("copy_reg", "copyreg")},
    ("collections", "OrderedDict"): _Dictionary,
    ("collections", "defaultdict"): _Dictionary,
    **{("pathlib", name): _path for name in ("PosixPath", "PurePosixPath", "Path")},
    **{
        (module, name): stand_in
        for module in ("builtins", "__builtin__")
        for name, stand_in in (
            ("dict", _Marker()),
            ("list", _Marker()),
            ("object", _Marker()),
            ("set", lambda items=(): set(items)),
            ("frozenset", lambda items=(): frozenset(items)),
            ("bytearray", lambda *content: _bytes_like(*content)),
            ("bytes", lambda *content: _bytes_like(*content)),
            ("complex", lambda real=0.0, imaginary=0.0: complex(float(real), float(imaginary))),
            ("slice", lambda *_: None),
        )
    },
}


def _bytes_like(content: Any = b"", *_: Any) -> bytes:
    if isinstance(content, int):
        raise _Refused("it allocates memory")
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


class _Machine(pickle._Unpickler):  # the one in C cannot be told where arrays begin
    """The pickle machine, which finds stand-ins alone and lets joblib's arrays be read from between its opcodes."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self.stream = stream

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"the pickle asks for {module}.{name}") from None

    def persistent_load(self, _: Any) -> Any:
        """No object outside the file."""
        raise _Refused("the pickle refers to an object outside the file")

    def get_extension(self, _: int) -> None:
        """No registered extensions, whose table is shared with the rest of the process."""
        raise _Refused("the pickle asks for a registered extension")

    def load_build(self) -> None:
        """Give an object its state; a joblib place holder is replaced by its array at once."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Dtype | _Stored | _Wrapper | _Dictionary):
            raise _Refused(f"it sets the state of {type(target).__name__}")
        target.__setstate__(state)
        if isinstance(target, _Wrapper):
            self.stack[-1] = target.read(self)

    dispatch[pickle.BUILD[0]] = load_build


def _resolved(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """The same containers with arrays instead of what stood for them; ``seen`` keeps shared ones shared."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, _Stored):
        if value.value is None:
            raise ValueError("it holds an array without content")
        return _resolved(value.value, seen, depth)
    if isinstance(value, np.ndarray) and value.dtype == object:
        items = [_resolved(item, seen, depth + 1) for item in value.ravel().tolist()]
        return _object_array(items, value.shape)
    if isinstance(value, dict | list | tuple):
        if id(value) in seen:
            return seen[id(value)]
        if isinstance(value, tuple):
            return tuple(_resolved(item, seen, depth + 1) for item in value)
        result: Any = {} if isinstance(value, dict) else []
        seen[id(value)] = result
        if isinstance(value, dict):
            result.update({_key(key): _resolved(item, seen, depth + 1) for key, item in value.items()})
        else:
            result.extend(_resolved(item, seen, depth + 1) for item in value)
        return result
    if isinstance(value, _Marker | _Dtype | _Wrapper | _Storage) or callable(value):
        raise _Refused("it holds an object that is no array")
    return value


def _key(key: Any) -> Any:
    """Keys as plain Python values where they are NumPy's."""
    return key.item() if isinstance(key, np.generic) else key


def _count(shape: Any) -> int:
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"an array has the shape {str(shape)[:60]}")
    return math.prod(shape)


def _array(content: bytes, dtype: np.dtype[Any], shape: Any, fortran: bool) -> np.ndarray:
    """A new array from raw bytes, which must be exactly as many as it needs."""
    needed = _count(shape) * dtype.itemsize
    if dtype.hasobject or dtype.names is not None or len(content) != needed:
        raise ValueError(f"an array of shape {shape} and type {dtype} needs {needed} bytes, got {len(content)}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _object_array(items: list[Any], shape: Any) -> np.ndarray:
    if _count(shape) != len(items):
        raise ValueError(f"an array of shape {shape} lists {len(items)} items")
    flat = np.empty(len(items), object)
    for row, item in enumerate(items):
        flat[row] = item
    return flat.reshape(shape)
