"""One file from one address: fetched beside its place, verified, then renamed into it."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from cnnjax.errors import CnnjaxError

Log = Callable[[str], None]

_CHUNK = 2**18
_SLOWEST = 50_000  # bytes a second; a transfer slower than that, on the whole, is given up


def fetch(url: str, path: Path, *, size: int, sha256: str, log: Log, timeout: float = 10.0) -> None:
    """Fetch a file whose size and sha256 are known."""
    part = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, part.open("wb") as file:
            digest, received = _copy(response, file, url, size, log, time.monotonic() + timeout + size / _SLOWEST)
        if received != size:
            raise CnnjaxError(f"{url}: expected {size:,} bytes, got {received:,}: truncated or replaced.")
        if digest != sha256:
            raise CnnjaxError(f"{url}: wrong content (sha256 {digest[:12]}..., expected {sha256[:12]}...).")
        part.replace(path)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise CnnjaxError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except OSError as error:  # no network, no such host, refused, timed out, reset; or the disk
        raise CnnjaxError(f"{url}: {_reason(error)}.") from error
    except (http.client.HTTPException, ValueError) as error:  # cut off, or not HTTP at all
        raise CnnjaxError(f"{url}: no usable answer ({str(error).strip() or type(error).__name__}).") from error
    finally:
        part.unlink(missing_ok=True)


def _copy(response, file, url: str, size: int, log: Log, deadline: float) -> tuple[str, int]:
    digest, received, said = hashlib.sha256(), 0, time.monotonic()
    while chunk := response.read1(_CHUNK):
        digest.update(chunk)
        file.write(chunk)
        received += len(chunk)
        now = time.monotonic()
        if received > size:
            raise CnnjaxError(f"{url}: expected {size:,} bytes, got more: not this file.")
        if now > deadline:
            raise CnnjaxError(f"{url}: too slow, {received:,} of {size:,} bytes so far.")
        if now - said >= 5:
            log(f"{url}: {received / 2**20:.0f} of {size / 2**20:.0f} MiB")
            said = now
    return digest.hexdigest(), received


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", error)  # URLError wraps what happened
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return str(getattr(reason, "strerror", None) or reason)
