"""Pickles give arrays and plain containers, or one message, and run nothing."""

import io
import pickle
import zlib
from collections import OrderedDict, defaultdict
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from estimator_files import Bomb, hostile_pickle

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.safe_pickle import read_numpy, read_pickle

CONTENT = {
    0: {
        "pose": np.random.default_rng(0).random((5, 72)).astype(np.float32),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "big end first": np.arange(3, dtype=">f4"),
        "half": np.ones(2, np.float16),
        "truth": np.array([True, False]),
        "text": np.array(["ab", "c"]),
        "none": np.zeros((0, 3)),
        "mixed": np.array([1, None, {"a": np.ones(3)}], dtype=object),
        "one": np.float32(3),
    },
    "list": [1, 2.5, 2**70, "x", None, (1, 2), {3}, b"ab", np.zeros((2, 2)), True],
}


def require_equal(found, expected):
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            require_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            require_equal(one, other)
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert found.shape == expected.shape
        require_equal(found.ravel().tolist(), expected.ravel().tolist())
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(protocol, tmp_path):
    content = defaultdict(dict, CONTENT) if protocol > 1 else CONTENT
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    require_equal(read_pickle(tmp_path / "a.pkl"), CONTENT)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 1), ("bz2", 1), ("xz", 1), ("lzma", 1)])
def test_joblib_of_every_protocol_and_compression(compress, protocol, tmp_path):
    joblib.dump(OrderedDict(CONTENT), tmp_path / "a.joblib", compress=compress, protocol=protocol)
    require_equal(read_pickle(tmp_path / "a.joblib"), CONTENT)


def test_objects_in_numpy_files(tmp_path):
    np.save(tmp_path / "a.npy", CONTENT)
    require_equal(read_numpy(tmp_path / "a.npy"), CONTENT)
    np.savez_compressed(tmp_path / "a.npz", results=CONTENT, plain=np.eye(3))
    require_equal(read_numpy(tmp_path / "a.npz"), {"results": CONTENT, "plain": np.eye(3)})


def test_torch_tensors_become_arrays(tmp_path):
    tensor = torch.arange(12.0).reshape(3, 4)
    stored = {"view": tensor[1:, ::2].T, "whole": torch.arange(3), "size": tensor.shape}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(stored))
    found = read_pickle(tmp_path / "a.pkl")
    require_equal(found, {"view": stored["view"].numpy(), "whole": np.arange(3), "size": (3, 4)})


def test_shared_and_circular_containers_end(tmp_path):
    inner: list = [1]
    content = {"a": inner, "b": inner}
    inner.append(content)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    found = read_pickle(tmp_path / "a.pkl")
    assert found["a"] is found["b"]
    assert found["a"][1] is found


def test_code_is_refused_and_never_run(tmp_path):
    target = tmp_path / "created"
    with pytest.raises(PrepareError, match="refused: the pickle asks for"):
        read_pickle(hostile_pickle(tmp_path / "a.pkl", target))
    joblib.dump({"x": np.ones(3), "y": Bomb(target)}, tmp_path / "b.pkl", compress=3)
    with pytest.raises(PrepareError, match="refused"):
        read_pickle(tmp_path / "b.pkl")
    np.save(tmp_path / "c.npy", np.array([Bomb(target)], dtype=object))
    with pytest.raises(PrepareError, match="refused"):
        read_numpy(tmp_path / "c.npy")
    np.savez(tmp_path / "d.npz", results=np.array({"a": Bomb(target)}, dtype=object))
    with pytest.raises(PrepareError, match="refused"):
        read_numpy(tmp_path / "d.npz")
    inner = io.BytesIO()
    torch.save({"a": Bomb(target)}, inner)
    storage = b"ctorch.storage\n_load_from_bytes\n" + pickle.dumps(inner.getvalue(), 3)[2:-1] + b"\x85R."
    (tmp_path / "e.pkl").write_bytes(b"\x80\x03" + storage)
    with pytest.raises(PrepareError, match="Weights only"):
        read_pickle(tmp_path / "e.pkl")
    assert not target.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # a call
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\ngetattr\n(I0\ntS'b'\ntR.",
        b"(S'true'\nios\nsystem\n.",  # an instance
        b"(cos\nsystem\nS'true'\no.",
        b"Pname\n.",  # an object outside the file
        b"\x82\x01.",  # a registered extension
        b"cnumpy\ndtype\n(S'O'\ntR(I3\nS'|'\n(S'a'\ntNNI-1\nI-1\nI63\ntb.",  # fields
        b"cbuiltins\nbytearray\n(I99999999999\ntR.",  # memory
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O'\ntRS'abcdefgh'\ntR.",  # a pointer
        b"cnumpy._core.numeric\n_frombuffer\n(S'abcdefgh'\ncnumpy\ndtype\n(S'O'\ntR(I1\ntS'C'\ntR.",
        b"ccopyreg\n_reconstructor\n(cnumpy\ndtype\ncbuiltins\nobject\nNtR.",
        b"cnumpy\nndarray\n(I9\ntR.",
        b"cnumpy\nndarray\n.",
    ],
)
def test_hostile_opcodes_end_in_one_message(opcodes, tmp_path):
    (tmp_path / "a.pkl").write_bytes(opcodes)
    with pytest.raises(PrepareError, match=r"a\.pkl"):
        read_pickle(tmp_path / "a.pkl")


def test_arrays_must_have_the_bytes_they_claim(tmp_path):
    joblib.dump(np.arange(100.0), tmp_path / "a.joblib")
    data = (tmp_path / "a.joblib").read_bytes()
    (tmp_path / "a.joblib").write_bytes(data[:-50])
    with pytest.raises(PrepareError, match="damaged"):
        read_pickle(tmp_path / "a.joblib")
    (tmp_path / "b.pkl").write_bytes(zlib.compress(b"no pickle at all"))
    with pytest.raises(PrepareError, match="damaged or of another kind"):
        read_pickle(tmp_path / "b.pkl")
    with pytest.raises(PrepareError, match="cannot be read"):
        read_pickle(tmp_path / "none.pkl")
    (tmp_path / "c.npy").write_bytes(b"nothing")
    with pytest.raises(PrepareError, match="damaged"):
        read_numpy(tmp_path / "c.npy")


def test_every_cut_of_a_pickle_is_refused(tmp_path):
    data = pickle.dumps({"a": np.arange(4.0), "b": [1, "x"]})
    file = tmp_path / "a.pkl"
    for length in range(len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(PrepareError):
            read_pickle(file)


def test_flipped_bytes_give_plain_values_or_a_refusal(tmp_path):
    """No byte of a pickle can be changed into something that is more than plain values."""
    data = bytearray(pickle.dumps({"a": np.arange(4.0), "b": [1, "x"]}, protocol=2))
    rng = np.random.default_rng(0)
    file = Path(tmp_path / "a.pkl")
    for _ in range(300):
        changed = bytearray(data)
        changed[int(rng.integers(len(data)))] = int(rng.integers(256))
        file.write_bytes(changed)
        try:
            found = read_pickle(file)
        except PrepareError:
            continue
        assert isinstance(found, dict | list | tuple | int | float | str | bytes | np.ndarray | set | None)
