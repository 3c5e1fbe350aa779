"""Read TensorBoard's event files back as TensorBoard reads them: one folder, its files in the order of their names."""

import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def read_events(path):
    """Give the events of one file, up to a record that a kill cut short.

    TFRecord: the length in eight bytes, four of checksum, the record, four of checksum.
    """
    content, place = path.read_bytes(), 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        if place + 16 + length > len(content):
            return
        yield Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length


def read_scalars(folder):
    """Return the points `(step, value)` of each scalar.

    The start of a session drops what was there from its step on, as TensorBoard does: it is what a process that was
    killed had written beyond its last checkpoint.
    """
    points = {}
    for path in sorted(folder.iterdir()):
        for event in read_events(path):
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                points = {tag: [p for p in found if p[0] < event.step] for tag, found in points.items()}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    points.setdefault(value.tag, []).append((event.step, value.simple_value))
    return points
