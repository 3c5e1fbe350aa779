"""Files that torch.save writes since 1.6: a zip archive with a pickle and one member for each storage."""

import io
import pathlib
from collections.abc import Callable

from cnnjax.pretrained.pickles import MAX_PICKLE, read_pickle
from cnnjax.pretrained.tensors import SourceFile, WeightsError
from cnnjax.pretrained.torch_objects import Storage, storage_of
from cnnjax.pretrained.torch_state import make_source
from cnnjax.pretrained.zip_files import Member


def open_torch_zip(path: pathlib.Path, members: dict[str, Member]) -> SourceFile:
    """Return the tensors of an archive of torch.

    Args:
      path: The archive.
      members: What is in it.
    Raises:
      WeightsError: If it is damaged or more than tensors.
    """
    roots = [name.removesuffix("data.pkl") for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1 or roots[0].count("/") > 1:
        raise WeightsError("it is a zip archive, but neither of torch (one data.pkl) nor of Keras (model.weights.h5).")
    root = roots[0]
    if f"{root}constants.pkl" in members:
        raise WeightsError("it is a TorchScript program, which would have to be run; save its state_dict instead.")
    if f"{root}byteorder" in members and members[f"{root}byteorder"].size < 10:
        order = members[f"{root}byteorder"].read()
        if order != b"little":
            raise WeightsError(f"expected numbers in little-endian order, they are in {order!r}.")
    pickle = members[f"{root}data.pkl"]
    if pickle.size > MAX_PICKLE:
        raise WeightsError(f"expected a description of at most {MAX_PICKLE} bytes, it has {pickle.size}.")
    content = read_pickle(io.BytesIO(pickle.read()), storage_of)
    checked: set[str] = set()
    unpacked: dict[str, bytes] = {}  # the last one only

    def locate(storage: Storage) -> tuple[int, Callable[[int, int], bytes]]:
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise WeightsError(f"the numbers of storage {storage.key[:40]!r} are missing.")
        return member.size, lambda offset, count: _read(member, offset, count, checked, unpacked)

    return make_source(path, content, locate)


def _read(member: Member, offset: int, count: int, checked: set[str], unpacked: dict[str, bytes]) -> bytes:
    """Return some of a member's bytes; its checksum is compared the first time."""
    if member.deflated:
        if member.name not in unpacked:
            unpacked.clear()
            unpacked[member.name] = member.read()
        return unpacked[member.name][offset : offset + count]
    if member.name not in checked:
        member.check()
        checked.add(member.name)
    with member.archive.open("rb") as file:
        file.seek(member.offset + offset)
        piece = file.read(count)
    if len(piece) != count:
        raise WeightsError("it is shorter than when it was opened.")
    return piece
