"""How wide a map is: a fitted Gaussian, and the stretch that holds a share of its mass."""

from dataclasses import dataclass

import numpy as np

_STEPS = 200
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class GaussianFit:
    """Hold `amplitude * exp(-(y - cy)² / (2 sy²) - (x - cx)² / (2 sx²))`.

    Args:
      amplitude: Its height.
      centre: `(cy, cx)`, in pixels.
      sigma: `(sy, sx)`, in pixels.
      r_squared: Share of the map's variance that it explains.
    """

    amplitude: float
    centre: tuple[float, float]
    sigma: tuple[float, float]
    r_squared: float

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return its values at places that broadcast."""
        (cy, cx), (sy, sx) = self.centre, self.sigma
        return self.amplitude * np.exp(-(((rows - cy) / sy) ** 2) / 2 - ((columns - cx) / sx) ** 2 / 2)


def fit_gaussian(heat: np.ndarray) -> GaussianFit:
    """Fit a Gaussian with axes along the image's to a map, by least squares over its pixels.

    Args:
      heat: A map `[H, W]` with one hill, as `measure` returns it.
    Returns:
      The Gaussian and how well it fits.
    Raises:
      ValueError: If the map is not one of at least 2 x 2 finite pixels, or is the same everywhere.
    Example:
      >>> rows, columns = np.mgrid[:41, :31]
      >>> fit = fit_gaussian(np.exp(-((rows - 20) ** 2) / 18 - (columns - 14) ** 2 / 32))
      >>> [round(float(s), 6) for s in fit.sigma], round(float(fit.r_squared), 6)
      ([3.0, 4.0], 1.0)
    """
    heat = np.asarray(heat, float)
    if heat.ndim != 2 or min(heat.shape) < 2 or not np.isfinite(heat).all() or np.ptp(heat) == 0:
        raise ValueError(
            f"fit_gaussian: expected a map of at least 2x2 finite pixels with a hill, got shape {heat.shape}. "
            "Measure a unit that reads more than one pixel."
        )
    scale = float(np.abs(heat).max())
    rows, columns = np.mgrid[: heat.shape[0], : heat.shape[1]]
    parameters, error, damping = _moments(heat / scale), np.inf, 1e-3
    for _ in range(_STEPS):
        residual, jacobian = _residual(parameters, heat / scale, rows, columns)
        error = residual @ residual
        normal = jacobian.T @ jacobian
        step = np.linalg.solve(
            normal + damping * (np.diag(np.diag(normal)) + 1e-12 * np.eye(5)), -jacobian.T @ residual
        )
        trial = parameters + np.clip(step, -5, 5)
        new = _residual(trial, heat / scale, rows, columns)[0]
        if new @ new <= error:
            settled = error - new @ new <= _TOLERANCE * error
            parameters, damping = trial, damping / 4
            if settled:
                break
        else:
            damping *= 4
    residual = _residual(parameters, heat / scale, rows, columns)[0]
    variance = np.sum((heat / scale - np.mean(heat / scale)) ** 2)
    height, cy, cx, ly, lx = (float(p) for p in parameters)
    sigma = float(np.exp(ly)), float(np.exp(lx))
    return GaussianFit(height * scale, (cy, cx), sigma, float(1 - residual @ residual / variance))


def _moments(heat: np.ndarray) -> np.ndarray:
    mass = np.abs(heat)
    guess = [float(mass.max())]
    spreads = []
    for axis in (0, 1):
        weights = mass.sum(1 - axis)
        places = np.arange(len(weights))
        mean = np.average(places, weights=weights)
        guess.append(float(mean))
        spreads.append(0.5 * np.log(max(np.average((places - mean) ** 2, weights=weights), 0.05)))
    return np.array(guess + spreads)


def _residual(parameters, heat, rows, columns) -> tuple[np.ndarray, np.ndarray]:
    height, cy, cx, ly, lx = parameters
    v, u = (rows - cy) / np.exp(ly), (columns - cx) / np.exp(lx)
    shape = np.exp(-(v**2 + u**2) / 2)
    hill = height * shape
    slopes = [shape, hill * v / np.exp(ly), hill * u / np.exp(lx), hill * v**2, hill * u**2]
    return (hill - heat).ravel(), np.stack([slope.ravel() for slope in slopes], 1)


def effective_size(heat: np.ndarray, share: float = 0.9545) -> tuple[float, float]:
    """Return the height and width of the middle stretch that holds a share of a map's mass along each axis.

    Of a Gaussian, 0.6827 is two standard deviations wide and 0.9545 four.

    Args:
      heat: A map `[H, W]`, as `measure` returns it.
      share: Part of the mass, between 0 and 1.
    Returns:
      Pixels along each axis, fractions interpolated.
    Raises:
      ValueError: If the share is not between 0 and 1, or the map is not one of finite pixels some of which are not 0.
    Example:
      >>> effective_size(np.ones((10, 20)), share=0.5)
      (5.0, 10.0)
    """
    if not 0 < share < 1:
        raise ValueError(f"effective_size: expected a share between 0 and 1, got {share}. Give 0.95 for 95 %.")
    heat = np.abs(np.asarray(heat, float))
    if heat.ndim != 2 or not np.isfinite(heat).all() or not heat.any():
        what = "pixels that are not finite" if not np.isfinite(heat).all() else "zeros alone" if heat.ndim == 2 else ""
        raise ValueError(
            f"effective_size: expected a map [H, W] of finite pixels with some mass, got shape {heat.shape}"
            f"{' with ' if what else ''}{what}. Measure a unit that reads the image."
        )
    sizes = []
    for axis in (0, 1):
        below = np.concatenate([[0], np.cumsum(heat.sum(1 - axis))])
        low, high = (
            np.interp(part * below[-1], below, np.arange(len(below))) for part in (0.5 - share / 2, 0.5 + share / 2)
        )
        sizes.append(float(high - low))
    return sizes[0], sizes[1]
