"""Files of torch.save: what is read of them, what is refused, and that none runs."""

import collections
import os
import pathlib
import zipfile

import numpy as np
import pytest

from radiovae_jax.interop import torch_files, torch_pickle

torch = pytest.importorskip("torch")

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).bfloat16()}


class Callback(dict):
    """Lightning keys its callbacks by their classes, and keeps their objects."""

    class Nested:
        pass


class Evil:
    """Calls a function when it is loaded."""

    def __init__(self, function, *args):
        self.called = (function, args)

    def __reduce__(self):
        return self.called


BESIDE = {
    "callbacks": {Callback: {"best": np.float64(0.3)}, "x": Callback(a=[1])},
    "containers": [collections.defaultdict(list, {1: [2]}), collections.deque([1, 2])],
    "path": pathlib.PurePosixPath("a/b"),
    "array": np.arange(3),
    "set": {1, 2},
    "nested": [Callback.Nested, Callback.Nested()],
    "parameter": torch.nn.Parameter(torch.zeros(1)),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_beside_objects_of_any_class_are_read(
    tmp_path, capsys, zipped, protocol
):
    options = dict(_use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    torch.save({"state_dict": TENSORS} | BESIDE, tmp_path / "a.ckpt", **options)
    content = torch_pickle.load(tmp_path / "a.ckpt")
    assert content["state_dict"].keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert content["state_dict"][name].dtype == tensor.dtype
        assert torch.equal(content["state_dict"][name], tensor)
    assert content["parameter"].shape == (1,)
    kinds = {type(key).__name__ for key in content["callbacks"]}
    assert kinds == {"type", "str"}
    assert isinstance(content["callbacks"]["x"], torch_pickle.StandIn)
    assert not isinstance(content["callbacks"]["x"], dict)
    assert "left out what is no tensor" in capsys.readouterr().out


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_code_of_a_file_is_run(tmp_path, monkeypatch, zipped, protocol):
    mark = tmp_path / "ran"
    options = dict(_use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    for evil in (
        Evil(os.system, f"touch {mark}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(pathlib.Path.touch, mark),
        Evil(getattr, "", "join"),
        Evil(torch._utils._import_dotted_name, "antigravity"),
    ):
        torch.save({"state_dict": TENSORS, "evil": evil}, tmp_path / "a.pt", **options)
        content = torch_pickle.load(tmp_path / "a.pt")
        kind = content["evil"]
        kind = kind if isinstance(kind, type) else type(kind)  # getattr gives a class
        assert issubclass(kind, torch_pickle.StandIn)
        assert torch.equal(content["state_dict"]["b"], TENSORS["b"])
        assert not mark.exists()
    # The same files do run what they hold where everything is allowed.
    torch.save(Evil(os.system, f"touch {mark}"), tmp_path / "a.pt", **options)
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert mark.exists()


def test_what_a_pickle_finds_of_torch_cannot_be_changed_by_it(tmp_path):
    # GLOBAL, then BUILD with (None, {"__defaults__": (1,)}), which sets attributes.
    evil = b"\x80\x02ctorch._utils\n_rebuild_parameter\n(N}X\x0c\x00\x00\x00"
    evil += b"__defaults__K\x01\x85stb."
    torch.save(TENSORS, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, evil if name.endswith("data.pkl") else content)
    found = torch_pickle.load(tmp_path / "evil.pt")
    assert found.__defaults__ == (1,)
    assert torch._utils._rebuild_parameter.__defaults__ is None


def flip(path, offset_of: bytes):
    data = bytearray(path.read_bytes())
    data[data.index(offset_of) + 1] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_where_the_file_has_checksums(tmp_path):
    path = tmp_path / "a.pt"
    numbers = torch.arange(1.0, 9.0)
    torch.save({"a": numbers}, path)
    flip(path, numbers.numpy().tobytes())
    assert not torch.equal(torch.load(path)["a"], numbers)  # torch takes it
    with pytest.raises(
        ValueError, match=r"a.pt is damaged.*does not match its checksum"
    ):
        torch_pickle.load(path)


def test_files_without_checksums_are_still_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert not any(member.CRC for member in archive.infolist())
    assert torch_pickle.load(tmp_path / "a.pt").keys() == TENSORS.keys()


HUGE = (2**60).to_bytes(8, "little") + b'{"a":'
PROMISE = (
    b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.ckpt", b"", "a.ckpt is empty"),
        ("a.safetensors", b"", "a.safetensors is empty"),
        ("a.pt", b"hello world", "a.pt is damaged"),
        ("a.pt", b"PK\x03\x04" + bytes(99), "a.pt is damaged"),
        ("a.safetensors", HUGE, "a.safetensors is damaged"),
        ("a.safetensors", len(PROMISE).to_bytes(8, "little") + PROMISE, "is damaged"),
        ("a.safetensors", bytes([99]) + bytes(7) + b"[" * 99, "is damaged"),
    ],
)
def test_files_that_are_no_weights_end_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        torch_files.read(tmp_path / name, "auto")
    assert "\n" not in str(error.value)


def test_a_view_that_promises_more_than_memory_holds_is_refused(tmp_path):
    endless = torch.zeros(1).half().expand(2**20, 2**20)
    torch.save({"encoder.conv_in.weight": endless}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"conv_in.weight promises 4.1e.03 GiB"):
        torch_files.read(tmp_path / "a.pt", "auto")
