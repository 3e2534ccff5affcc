"""Body model files: every published layout reads alike, and no pickle is ever executed."""

import io
import json
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import scipy.sparse

from selfrecon_warp.errors import BodyModelError
from selfrecon_warp.model.body_file import REQUIRED, read_body_arrays


def write_byte_string(pickler, data):
    """As Python 2 did."""
    pickler.write(b"T" + struct.pack("<i", len(data)) + data)
    pickler.memoize(data)


def dump_python_two(content) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle._Pickler(buffer, 2)
    pickler.dispatch = pickler.dispatch | {bytes: write_byte_string}
    pickler.dump(content)
    renamed = buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    return renamed.replace(b"scipy.sparse._csc", b"scipy.sparse.csc")


@pytest.fixture
def chumpy(monkeypatch):
    """Classes that pickle under chumpy's names, with chumpy's state."""
    modules = {}
    for module, name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select")):
        kind = type(name, (), {"__module__": module})
        modules[name] = kind
        fake = types.ModuleType(module)
        setattr(fake, name, kind)
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))

    def make(name, **state):
        result = modules[name]()
        result.__dict__.update(state)
        return result

    return make


def require_equal(path, expected):
    arrays = read_body_arrays(path)
    assert set(arrays) == set(REQUIRED)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
        assert array.dtype == (np.int64 if name in ("kintree_table", "f") else np.float32)


def test_npz(tmp_path, tiny_arrays):
    np.savez(tmp_path / "a.npz", **tiny_arrays, license="anything else is ignored")
    require_equal(tmp_path / "a.npz", tiny_arrays)


def test_json(tmp_path, tiny_arrays):
    content = {name: array.tolist() for name, array in tiny_arrays.items()}
    (tmp_path / "a.txt").write_text(json.dumps(content | {"cocoplus_regressor": []}))
    require_equal(tmp_path / "a.txt", tiny_arrays)


def test_vertices_first_regressor_and_unsigned_root(tmp_path, tiny_arrays):
    tree = tiny_arrays["kintree_table"].astype(np.uint32)
    assert tree[0, 0] == 2**32 - 1
    np.savez(tmp_path / "a.npz", **(tiny_arrays | {"J_regressor": tiny_arrays["J_regressor"].T, "kintree_table": tree}))
    require_equal(tmp_path / "a.npz", tiny_arrays)


@pytest.mark.parametrize("dump", [pickle.dumps, lambda content: pickle.dumps(content, 2), dump_python_two])
@pytest.mark.parametrize("transposed", [False, True])
def test_official_pickle(tmp_path, tiny_arrays, chumpy, dump, transposed):
    regressor = tiny_arrays["J_regressor"].astype(np.float64)
    shapedirs = tiny_arrays["shapedirs"].astype(np.float64)
    wide = np.concatenate((shapedirs.reshape(-1, 10), np.zeros((120, 5))), 1)
    chosen = (np.arange(120)[:, None] * 15 + np.arange(10)).ravel()
    content = tiny_arrays | {
        "v_template": chumpy("Ch", x=tiny_arrays["v_template"].astype(np.float64), _dirty_vars=set()),
        "shapedirs": chumpy("Select", a=chumpy("Ch", x=wide), idxs=chosen, preferred_shape=(40, 3, 10)),
        "posedirs": np.asfortranarray(tiny_arrays["posedirs"]),
        "J_regressor": scipy.sparse.csc_matrix(regressor.T if transposed else regressor),
        "bs_type": "lrotmin",
        "scale": np.float64(1.0),
    }
    del content["v_template"].__dict__["_dirty_vars"]
    (tmp_path / "a.pkl").write_bytes(dump(content))
    require_equal(tmp_path / "a.pkl", tiny_arrays)


class Payload:
    """Unpickles into a call of the given function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, exec, open, getattr, __import__, np.load, np.fromfile])
def test_hostile_pickle_is_refused_and_not_run(tmp_path, tiny_arrays, function, protocol):
    marker = tmp_path / "executed"
    text = {
        os.system: f"touch {marker}",
        eval: f"open({str(marker)!r}, 'w')",
        exec: f"open({str(marker)!r}, 'w')",
    }.get(function, str(marker))
    arguments = (text, "w") if function in (open, getattr) else (text,)
    for hostile in (Payload(function, *arguments), tiny_arrays | {"extra": Payload(function, *arguments)}):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(hostile, protocol))
        with pytest.raises(BodyModelError, match=r"a\.pkl: refused: the pickle asks for .*do not trust this file"):
            read_body_arrays(tmp_path / "a.pkl")
        assert not marker.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cposix\nsystem\n(S'true'\ntR.",
        b"\x80\x02cnumpy\nndarray.__class__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x09ctypeslib\x93.",
        b"ccopyreg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.",
        b"Pan object elsewhere\n.",
        b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",
    ],
)
def test_crafted_streams_are_refused(tmp_path, stream):
    (tmp_path / "a.pkl").write_bytes(stream)
    with pytest.raises(BodyModelError, match=r"a\.pkl: refused"):
        read_body_arrays(tmp_path / "a.pkl")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-4]])
def test_damaged_pickles_are_named(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(BodyModelError, match=r"a\.pkl is (damaged or )?no SMPL pickle"):
        read_body_arrays(tmp_path / "a.pkl")


def test_sparse_indices_out_of_range_are_refused(tmp_path, tiny_arrays):
    matrix = scipy.sparse.csc_matrix(tiny_arrays["J_regressor"])
    matrix.indices[0] = 10_000
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(tiny_arrays | {"J_regressor": matrix}))
    with pytest.raises(BodyModelError, match=r"a\.pkl: an array cannot be read"):
        read_body_arrays(tmp_path / "a.pkl")


def test_pickled_arrays_of_objects_are_refused(tmp_path, tiny_arrays):
    np.savez(tmp_path / "a.npz", **(tiny_arrays | {"f": np.array([{}], dtype=object)}))
    with pytest.raises(BodyModelError, match=r"a\.npz is damaged, holds Python objects"):
        read_body_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((40, 23))}, r"weights must have shape \(40, 24\).*got \(40, 23\)"),
        ({"v_template": np.zeros((40, 2))}, r"v_template must have shape \(40, 3\)"),
        ({"posedirs": np.zeros((40, 3, 9))}, r"posedirs must have shape \(40, 3, 207\)"),
        ({"shapedirs": np.full((40, 3, 10), np.nan)}, "shapedirs must hold finite numbers"),
        ({"f": np.array([[0, 1, 40]])}, "f must index the 40 vertices, got up to 40"),
        ({"kintree_table": np.array([range(24), range(24)])}, "kintree_table must list every joint's parent before"),
        ({"v_template": np.float32(1)}, "v_template must have shape"),
    ],
)
def test_bad_arrays_are_named(tmp_path, tiny_arrays, changes, message):
    np.savez(tmp_path / "a.npz", **(tiny_arrays | changes))
    with pytest.raises(BodyModelError, match=message):
        read_body_arrays(tmp_path / "a.npz")


def test_missing_arrays_and_unknown_suffixes(tmp_path, tiny_arrays):
    del tiny_arrays["f"]
    np.savez(tmp_path / "a.npz", **tiny_arrays)
    with pytest.raises(BodyModelError, match="lacks f; an SMPL-format model holds"):
        read_body_arrays(tmp_path / "a.npz")
    with pytest.raises(BodyModelError, match="body models are read from"):
        read_body_arrays(tmp_path / "a.fbx")
    with pytest.raises(BodyModelError, match="does not exist"):
        read_body_arrays(tmp_path / "b.npz")
    (tmp_path / "a.txt").write_text("{")
    with pytest.raises(BodyModelError, match="no JSON body model"):
        read_body_arrays(tmp_path / "a.txt")
