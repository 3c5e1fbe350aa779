"""HDF5 objects: headers, groups and the trees of their links."""

from collections.abc import Iterator

from cnnjax.pretrained.hdf5_bytes import UNDEFINED, Fields, Window, checksum
from cnnjax.pretrained.hdf5_messages import read_link, read_text, refuse_link
from cnnjax.pretrained.tensors import MAX_NAME, WeightsError

SHAPE, LINK_INFO, TYPE, LAYOUT, LINK, FILTERS, ATTRIBUTE = 0x01, 0x02, 0x03, 0x08, 0x06, 0x0B, 0x0C
EXTERNAL_FILES, CONTINUATION, TABLE, ATTRIBUTE_INFO = 0x07, 0x10, 0x11, 0x15
_SHARED = 2  # flag: the message is a reference to another one
_MOST_IN_HEADER = 2**22
_NEWER = "groups or attributes in HDF5's newer dense form are not read; save the file again with h5py's defaults."

Message = tuple[int, bytes]


def read_header(window: Window, address: int) -> list[Message]:
    """Return the messages in an object's header: number of the kind, and content.

    Args:
      window: The file.
      address: Of the object.
    Raises:
      WeightsError: If it is damaged, or says that its content is in another file.
    """
    newer = window.take(address, 4, "an object header") == b"OHDR"
    messages = _version_2(window, address) if newer else _version_1(window, address)
    for kind, data in messages:
        if kind == EXTERNAL_FILES:
            raise WeightsError("an HDF5 dataset with its values in another file is not read.")
        if kind in (LINK_INFO, ATTRIBUTE_INFO):
            _refuse_dense(kind, data)
    return messages


def read_links(window: Window, messages: list[Message]) -> dict[str, int] | None:
    """Return a group's links, name to address; None if the object is no group.

    Args:
      window: The file.
      messages: The object's.
    """
    kinds = {kind for kind, _ in messages}
    if not kinds & {TABLE, LINK_INFO, LINK}:
        return None
    found: dict[str, int] = {}
    for name, address in _links(window, messages):
        if not name or "/" in name or name in (".", "..") or len(name) > MAX_NAME:
            raise WeightsError(f"damaged HDF5: {name[:80]!r} is no name in a group.")
        if name in found:
            raise WeightsError(f"damaged HDF5: {name!r} is twice in one group.")
        found[name] = address
    if TABLE in kinds and list(found) != sorted(found, key=str.encode):  # HDF5 looks names up by halving
        raise WeightsError("damaged HDF5: the names in a group are out of order.")
    return found


def _links(window: Window, messages: list[Message]) -> Iterator[tuple[str, int]]:
    for kind, data in messages:
        if kind == LINK:
            yield read_link(data)
        elif kind == TABLE:
            tree, heap = Fields(data, "a symbol table").numbers(8, 8)
            names = _local_heap(window, heap)
            for node in tree_leaves(window, tree, key=8, kind=0):
                yield from _symbols(window, node[1], names)


def _version_1(window: Window, address: int) -> list[Message]:
    fields = window.fields(address, 16, "an object header")
    version, _, count, _, size, _ = fields.numbers(1, 1, 2, 4, 4, 4)
    if version != 1:
        raise WeightsError(f"damaged HDF5: no object header at byte {address:,}.")
    messages: list[Message] = []
    blocks, budget = [(address + 16, size)], _MOST_IN_HEADER
    while blocks and len(messages) < count:
        begin, size = blocks.pop(0)
        budget -= size
        if budget < 0:
            raise WeightsError("damaged HDF5: an object header of more than 4 MiB.")
        fields = window.fields(begin, size, "an object header")
        while fields.left >= 8 and len(messages) < count:
            kind, length, flags, _ = fields.numbers(2, 2, 1, 3)
            _add(messages, blocks, kind, flags, fields.raw(length))
    if len(messages) != count:
        raise WeightsError(f"damaged HDF5: an object header with {len(messages)} of its {count} messages.")
    return messages


def _version_2(window: Window, address: int) -> list[Message]:
    head = window.fields(address, 6, "an object header")
    _, version, flags = head.numbers(4, 1, 1)
    if version != 2:
        raise WeightsError(f"damaged HDF5: an object header of version {version}.")
    before = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = window.fields(address + before, width, "an object header").number(width)
    messages: list[Message] = []
    blocks, budget, start = [(address, before + width + size + 4)], _MOST_IN_HEADER, before + width
    while blocks:
        begin, size = blocks.pop(0)
        budget -= size
        if budget < 0 or size < start + 4:
            raise WeightsError("damaged HDF5: an object header of an impossible size.")
        data = window.take(begin, size, "an object header")
        window.work(size // 8)
        if checksum(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise WeightsError(f"damaged HDF5: the checksum of the object header at byte {begin:,} is wrong.")
        fields = Fields(data[:-4], "an object header")
        fields.raw(start)
        if begin != address and data[:4] != b"OCHK":
            raise WeightsError("damaged HDF5: an object header is not continued where it says.")
        while fields.left >= 4 + (2 if flags & 4 else 0):
            kind, length, bits = fields.numbers(1, 2, 1)
            fields.raw(2 if flags & 4 else 0)
            _add(messages, blocks, kind, bits, fields.raw(length))
        start = 4
    return messages


def _add(messages: list[Message], blocks: list[tuple[int, int]], kind: int, flags: int, data: bytes) -> None:
    if flags & _SHARED and kind in (SHAPE, TYPE, LAYOUT, FILTERS):
        raise WeightsError("HDF5 types and shapes kept apart from their datasets are not read.")
    if kind == CONTINUATION:
        offset, size = Fields(data, "an object header").numbers(8, 8)
        blocks.append((offset, size))
    # An attribute whose own type is kept apart is not one of Keras's.
    messages.append((kind, data if not flags & _SHARED else b"\0"))


def _refuse_dense(kind: int, data: bytes) -> None:
    fields = Fields(data, "a header's table of links")
    _, flags = fields.numbers(1, 1)
    if flags & 1:
        fields.raw(8 if kind == LINK_INFO else 2)
    if fields.number(8) != UNDEFINED:
        raise WeightsError(_NEWER)


def _local_heap(window: Window, address: int) -> bytes:
    fields = window.fields(address, 32, "a group's names")
    fields.expect(b"HEAP\0\0\0\0")
    size, _, begin = fields.numbers(8, 8, 8)
    return window.take(begin, size, "a group's names")


def tree_leaves(window: Window, address: int, *, key: int, kind: int) -> Iterator[tuple[bytes, int]]:
    """Yield the keys and addresses in the leaves of a version 1 B-tree, in order.

    Args:
      window: The file.
      address: Of the root.
      key: Bytes of a key.
      kind: 0 for links, 1 for chunks.
    """
    seen: set[int] = set()
    nodes: list[tuple[int, int | None]] = [(address, None)]
    while nodes:
        address, level = nodes.pop()
        if address in seen:
            raise WeightsError("damaged HDF5: a tree that leads back into itself.")
        seen.add(address)
        head = window.fields(address, 24, "a tree")
        head.expect(b"TREE")
        node_kind, node_level, count, _, _ = head.numbers(1, 1, 2, 8, 8)
        if node_kind != kind or (level is not None and node_level != level - 1):
            raise WeightsError("damaged HDF5: a tree with a node of the wrong kind or level.")
        fields = window.fields(address + 24, count * (key + 8) + key, "a tree")
        entries = [(fields.raw(key), fields.number(8)) for _ in range(count)]
        if node_level == 0:
            yield from entries
        else:
            nodes += [(child, node_level) for _, child in reversed(entries)]


def _symbols(window: Window, address: int, names: bytes) -> Iterator[tuple[str, int]]:
    head = window.fields(address, 8, "a group's links")
    head.expect(b"SNOD\x01\0")
    count = head.number(2)
    fields = window.fields(address + 8, 40 * count, "a group's links")
    for _ in range(count):
        place, header, cached, _ = fields.numbers(8, 8, 4, 4)
        fields.raw(16)
        if place >= len(names):
            raise WeightsError("damaged HDF5: a link's name lies outside of its group's names.")
        name = read_text(names[place : place + MAX_NAME + 1])
        if cached == 2 or header == UNDEFINED:
            refuse_link(name, external=False)
        yield name, header
