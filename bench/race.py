"""Let libraries train side by side, each in a process of its own (bench/peers), in turns, so that none runs beside
another and what slows the machine slows them all."""

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.timing import LEAST, Calibration, Timing

PEERS = Path(__file__).resolve().parent / "peers"
_PAUSE = 0.1  # seconds: threads of the peer before may wait actively for a while
_PATIENCE = 3  # so many times its budget a peer trains at most, for want of quiet moments


@dataclass
class Peer:
    """One library in its own process, and what it has reported."""

    name: str
    process: subprocess.Popen
    errors: Any
    hello: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, float]] = field(default_factory=list)
    failure: str = ""

    def receive(self) -> dict[str, Any]:
        """Return the next record; a process that ended instead has failed."""
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().splitlines()
            self.failure = f"failed: {last[-1] if last else f'exit code {self.process.wait()}'}"
            return {}
        return json.loads(line)

    def turn(self) -> dict[str, Any]:
        """Let it train for a turn and return what it reports."""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # receive says why
        return self.receive()

    def timing(self, calibration: Calibration, kind: str, per: str | None = None) -> Timing:
        """Return what its turns report as `kind`, divided by what they report as `per`."""
        return calibration.timing((turn["sample"], turn[kind] / (turn[per] if per else 1)) for turn in self.turns)


def start(name: str, python: str, script: str, arguments: list[str], **environment: str) -> Peer:
    """Start a peer and wait until it is ready to train."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the peer
    process = subprocess.Popen(
        [python, str(PEERS / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, **environment},
    )
    peer = Peer(name, process, errors)
    peer.hello = peer.receive()
    peer.failure = peer.failure or (f"skipped: {peer.hello['skipped']}" if "skipped" in peer.hello else "")
    return peer


def same_nets(peers: list[Peer]) -> None:
    """Fail each peer whose net has not the first one's number of parameters: its time would say nothing."""
    running = [peer for peer in peers if not peer.failure]
    for peer in running[1:]:
        ours, theirs = running[0].hello["params"], peer.hello["params"]
        if theirs != ours:
            peer.failure = f"failed: its net has {theirs:,} parameters, {running[0].name}'s {ours:,}"


def stop_all(peers: list[Peer]) -> None:
    for peer in peers:
        peer.process.kill()
        peer.process.communicate()
        peer.errors.close()


def race(peers: list[Peer], *, least: int = LEAST, budget: float = 0.0) -> Calibration:
    """Let the peers train in turns, after one that is not measured.

    Args:
      peers: Those that take part; one that fails is left out from then on.
      least: Turns of each at the least.
      budget: Seconds of quiet turns of each; where the machine is busy, so many seconds three times over in all.
    Returns:
      How steady the machine was.
    """
    calibration = Calibration()
    for number in range(10_000):
        running = [peer for peer in peers if not peer.failure]
        spent = [sum(turn["turn_seconds"] for turn in peer.turns) for peer in running]
        quiet = [sum(t["turn_seconds"] for t in peer.turns if calibration.quiet(t["sample"])) for peer in running]
        if not running or (number > least and (min(quiet) >= budget or max(spent) >= _PATIENCE * budget)):
            break
        for peer in running[:: 1 if number % 2 else -1]:
            time.sleep(_PAUSE)
            sample = calibration.sample()
            start = time.perf_counter()
            record = peer.turn()
            if record and number:
                peer.turns.append({**record, "sample": sample, "turn_seconds": time.perf_counter() - start})
    time.sleep(_PAUSE)
    calibration.sample()
    return calibration
