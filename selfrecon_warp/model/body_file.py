"""Body model files: SMPL-format .npz, official .pkl and reference .txt, read without ever executing a pickle."""

from __future__ import annotations

import io
import json
import pickle  # only its parser, behind an allow-list
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from selfrecon_warp.errors import BodyModelError

REQUIRED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
JOINT_COUNT = 24


def read_body_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read and normalise the arrays of one body model file.

    Args:
        path: ``.npz``, SMPL's ``.pkl`` or the reference's ``.txt`` (JSON).

    Returns:
        v_template ``[V, 3]``, shapedirs ``[V, 3, K]``, posedirs ``[V, 3, 207]``, J_regressor ``[24, V]`` and weights
        ``[V, 24]`` as float32; kintree_table ``[2, 24]`` and f ``[F, 3]`` as int64, the root's parent being -1.

    Raises:
        BodyModelError: The file is missing, damaged or incomplete, or its pickle asks for anything but plain arrays.
    """
    readers = {".npz": _read_npz, ".pkl": _read_pickle, ".txt": _read_json, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise BodyModelError(f"{path}: body models are read from {', '.join(readers)} files")
    if not path.is_file():
        raise BodyModelError(f"{path} does not exist; give a body model file or a folder of SMPL files")
    raw = readers[path.suffix.lower()](path)
    missing = [name for name in REQUIRED if name not in raw]
    if missing:
        raise BodyModelError(f"{path} lacks {', '.join(missing)}; an SMPL-format model holds {', '.join(REQUIRED)}")
    try:
        arrays = {name: _plain(raw[name]) for name in REQUIRED}
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise BodyModelError(f"{path}: an array cannot be read: {error}") from error
    return _normalise(path, arrays)


def _normalise(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Check shapes and values, turn the joint regressor joints-first, set the root's parent to -1."""
    vertex_count = arrays["v_template"].shape[0] if arrays["v_template"].ndim else 0
    if arrays["J_regressor"].shape == (vertex_count, JOINT_COUNT):
        arrays["J_regressor"] = arrays["J_regressor"].T
    shape_count = arrays["shapedirs"].shape[-1] if arrays["shapedirs"].ndim else 0
    expected = {
        "v_template": (vertex_count, 3),
        "shapedirs": (vertex_count, 3, shape_count),
        "posedirs": (vertex_count, 3, 9 * (JOINT_COUNT - 1)),
        "J_regressor": (JOINT_COUNT, vertex_count),
        "weights": (vertex_count, JOINT_COUNT),
        "kintree_table": (2, JOINT_COUNT),
        "f": (arrays["f"].shape[0] if arrays["f"].ndim else 0, 3),
    }
    integers = ("kintree_table", "f")
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape or 0 in shape:
            raise BodyModelError(f"{path}: {name} must have shape {shape} (24-joint SMPL format), got {array.shape}")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise BodyModelError(f"{path}: {name} must hold finite numbers, got {array.dtype}")
        arrays[name] = np.ascontiguousarray(array, dtype=np.int64 if name in integers else np.float32)
    parents = arrays["kintree_table"][0].copy()
    parents[0] = -1
    if (parents[1:] < 0).any() or (parents[1:] >= np.arange(1, JOINT_COUNT)).any():
        raise BodyModelError(f"{path}: kintree_table must list every joint's parent before the joint, got {parents}")
    arrays["kintree_table"] = np.stack((parents, np.arange(JOINT_COUNT)))
    if arrays["f"].min() < 0 or arrays["f"].max() >= vertex_count:
        raise BodyModelError(f"{path}: f must index the {vertex_count} vertices, got up to {arrays['f'].max()}")
    return arrays


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in REQUIRED}
    except Exception as error:  # zip, zlib and I/O errors of a damaged archive have no common base
        raise BodyModelError(f"{path} is damaged, holds Python objects or is no .npz file: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("the top level is no object")
        return {name: np.asarray(content[name]) for name in REQUIRED if name in content}
    except ValueError as error:
        raise BodyModelError(f"{path} is no JSON body model: {error}") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        content = _BodyUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except BodyModelError as error:
        raise BodyModelError(f"{path}: {error}") from error
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise BodyModelError(f"{path} is damaged or no SMPL pickle: {error}") from error
    if not isinstance(content, dict):
        raise BodyModelError(f"{path} is no SMPL pickle: it holds {type(content).__name__}, not a dictionary")
    return content


class _Recorded:
    """Stands for an object of a library that is never imported; keeps its state alone."""

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    def array(self) -> np.ndarray:
        raise TypeError(f"{type(self).__name__[1:]} objects are not arrays")


class _Chumpy(_Recorded):
    """``chumpy.ch.Ch``: its array is ``x``."""

    def array(self) -> np.ndarray:
        return _plain(self.state["x"])


class _ChumpySelect(_Recorded):
    """``chumpy.reordering.Select``: flat entries ``idxs`` of ``a`` in ``preferred_shape``."""

    def array(self) -> np.ndarray:
        taken = _plain(self.state["a"]).ravel()[_plain(self.state["idxs"]).astype(np.int64).ravel()]
        shape = self.state.get("preferred_shape")
        return taken if shape is None else taken.reshape([int(size) for size in shape])


class _SparseColumns(_Recorded):
    """``scipy.sparse`` matrices in compressed column form, of any SciPy version."""

    def array(self) -> np.ndarray:
        shape = self.state.get("_shape", self.state.get("shape"))
        parts = tuple(_plain(self.state[name]) for name in ("data", "indices", "indptr"))
        matrix = scipy.sparse.csc_matrix(parts, shape=shape)
        matrix.check_format(full_check=True)
        return np.asarray(matrix.todense())


def _plain(value: Any) -> np.ndarray:
    """The array behind a recorded object, or the value as an array."""
    if isinstance(value, _Recorded):
        try:
            return value.array()
        except (KeyError, AttributeError) as error:
            raise ValueError(f"{type(value).__name__[1:]} without {error}") from error
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError("an array of Python objects")
    return array


def _reconstruct_object(kind: type, base: type, state: Any) -> Any:
    """``copyreg._reconstructor`` for recorded objects only."""
    if not (isinstance(kind, type) and issubclass(kind, _Recorded)) or base is not object or state is not None:
        raise BodyModelError("refused: it rebuilds an object that is no array")
    return kind()


def _reconstruct_array(*_: Any) -> np.ndarray:
    """``numpy.core.multiarray._reconstruct``: an empty array that the next opcode fills."""
    return np.ndarray((0,), np.uint8)


def _scalar(dtype: np.dtype[Any], content: bytes | str = b"") -> Any:
    """``numpy.core.multiarray.scalar``."""
    data = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(data, np.dtype(dtype), 1)[0]


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """``_codecs.encode`` as Python 3 uses it to store bytes in old protocols."""
    if encoding != "latin1":
        raise BodyModelError(f"refused: it asks for the codec {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"scipy.sparse.{module}", "csc_matrix"): _SparseColumns for module in ("csc", "_csc")},
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy", "Ch"): _Chumpy,
    ("chumpy.reordering", "Select"): _ChumpySelect,
    ("_codecs", "encode"): _latin1_bytes,
    **{(module, "_reconstructor"): _reconstruct_object for module in ("copy_reg", "copyreg")},
    **{(module, "object"): object for module in ("__builtin__", "builtins")},
}


class _BodyUnpickler(pickle.Unpickler):
    """Resolves nothing but plain arrays and inert stand-ins for chumpy and SciPy objects."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise BodyModelError(
                f"refused: the pickle asks for {module}.{name}, and a body model needs only arrays; "
                "do not trust this file, or convert it to .npz yourself"
            ) from None

    def persistent_load(self, _: Any) -> Any:
        raise BodyModelError("refused: the pickle refers to an object outside the file")
