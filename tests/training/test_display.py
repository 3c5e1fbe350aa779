import io
import re
import resource
import signal
import sys
import types

import jax
import numpy as np
import optax
import pytest
from tensorboardX.proto import event_pb2

from cnnjax.errors import CnnjaxError
from cnnjax.training import Callback, Progress, TensorBoard, create_state, fit, make_schedule
from tests.training.nets import LinearNet, random_batch

NET, SGD = LinearNet(), optax.sgd(0.1)
BATCHES = [random_batch(seed) for seed in range(3)]


def run(callbacks, epochs=2, resume=None):
    state = create_state(NET, SGD, (6, 5, 2), key=jax.random.key(0))
    return fit(state, BATCHES, BATCHES[:1], epochs=epochs, callbacks=callbacks, progress=False, resume=resume)


def test_plain_lines_when_no_terminal_reads():
    text = io.StringIO()
    _, history = run([Progress(text)])
    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"epoch 2/2 step 6: loss {history[-1]['train_loss']:.4f} accuracy ")
    assert f"val {history[-1]['val_loss']:.4f} {history[-1]['val_accuracy']:.2%}" in lines[1]
    assert "(compiling)" in lines[0]
    assert "(compiling)" not in lines[1]
    assert "images/s" in lines[1]
    assert lines[0].endswith("left")
    assert "\x1b" not in text.getvalue()


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Patient(Callback):
    def on_step(self, loop):
        jax.block_until_ready(loop.state)  # what is drawn waits for no step, so each is done before it is asked


def test_a_terminal_sees_the_epoch_under_way(monkeypatch):
    monkeypatch.setattr("cnnjax.training.progress._REDRAW", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")

    text = Terminal()
    run([Patient(), Progress(text, epoch_steps=3)])
    shown = text.getvalue()
    assert "epoch 1/2 step 2/3: loss " in shown
    assert "epoch 2/2 step 3/3: loss " in shown
    assert "epoch 2/2 step 6: loss" in shown
    assert shown.index("epoch 1/2: compiling ...") < shown.index("epoch 1/2 step 1/3: loss ")


@pytest.mark.parametrize("width", [80, 40])
def test_what_is_drawn_fits_the_terminal(monkeypatch, width):
    monkeypatch.setattr("cnnjax.training.progress._REDRAW", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    text = Terminal()
    run([Patient(), Progress(text, epoch_steps=3)], epochs=3)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= width
    assert any("step 2/3: loss 1." in line or "step 2/3: loss 2." in line for line in lines)
    assert any(line.startswith("epoch 3/3 step 9: loss") for line in lines)
    assert any(set(line.strip()) <= set("━╸╺") and line.strip() for line in lines)  # rich's bar
    whole = "epoch 2/3 step 2/3: loss" in text.getvalue() and re.search(
        r"step 2/3: .*, val \d.*%, .*left", "\n".join(lines)
    )
    assert bool(whole) == (width == 80)  # in a narrow one what matters less is left out


def test_a_notebooks_cell_is_drawn_anew(monkeypatch, capsys):
    """IPython's own `display` and `HTML` are called as it documents them."""
    drawn = []
    handle = types.SimpleNamespace(update=drawn.append)
    display = types.ModuleType("IPython.display")
    display.HTML = str
    display.display = lambda html, display_id: handle
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("cnnjax.training.progress._REDRAW", 0.0)
    run([Patient(), Progress(epoch_steps=3)])
    assert capsys.readouterr().out == ""
    assert "epoch 1/2: compiling ..." in drawn[0]
    assert any('<progress value="2" max="3"' in html and "epoch 1/2 step 2/3: loss" in html for html in drawn)
    assert [line.split(": loss")[0] for line in drawn[-1].split("<code>")[1:]] == [
        "epoch 1/2 step 3",
        "epoch 2/2 step 6",
    ]


def test_fit_shows_progress_by_default(capsys):
    fit(create_state(NET, SGD, (6, 5, 2), key=jax.random.key(0)), BATCHES, epochs=1)
    assert capsys.readouterr().out.startswith("epoch 1/1 step 3: loss ")


def events(path):
    """Yield the events of a file, read with the protocol's own record layout."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        yield event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
        at += size + 16


def test_tensorboard_holds_scalars_and_a_histogram_for_each_array(tmp_path):
    rate = make_schedule("cosine", 0.1, 6)
    _, history = run([TensorBoard(tmp_path, learning_rate=rate)])
    (path,) = tmp_path.iterdir()
    found = {(value.tag, event.step): value for event in events(path) for value in event.summary.value}
    scalars = {key: v.simple_value for key, v in found.items() if v.WhichOneof("value") == "simple_value"}
    for row in history:
        for tag, name in (("loss/train", "train_loss"), ("loss/val", "val_loss"), ("accuracy/val", "val_accuracy")):
            np.testing.assert_allclose(scalars[tag, row["step"]], row[name], rtol=1e-6)
    np.testing.assert_allclose(scalars["learning_rate", 3], rate(3), rtol=1e-6)
    histograms = {tag for (tag, _), v in found.items() if v.WhichOneof("value") == "histo"}
    assert histograms == {"params/Dense_0/kernel", "params/Dense_0/bias"}
    assert found["params/Dense_0/kernel", 6].histo.num == 6 * 5 * 2 * 4


def test_tensorboard_drops_what_a_killed_run_wrote_too_much(tmp_path):
    class Keep(Callback):
        def on_epoch(self, loop):
            if loop.epoch == 1:
                self.saved = loop.state_dict(), loop.arrays()

    keep = Keep()
    run([keep, TensorBoard(tmp_path)])
    state = create_state(NET, SGD, (6, 5, 2), key=jax.random.key(0)).replace(step=np.int32(3))
    before = set(tmp_path.iterdir())
    fit(state, BATCHES, epochs=2, callbacks=[keep, TensorBoard(tmp_path)], progress=False, resume=keep.saved)
    (added,) = set(tmp_path.iterdir()) - before
    starts = [e.step for e in events(added) if e.session_log.status == event_pb2.SessionLog.START]
    assert starts == [4]  # readers drop what earlier files hold from this step on


def test_tensorboard_on_a_full_disk_is_one_line_and_no_hang(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(CnnjaxError, match=r"cannot write TensorBoard files in .*: File too large\."):
            run([TensorBoard(tmp_path)], epochs=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
