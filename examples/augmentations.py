"""Draw a contact sheet: what each augmentation makes of real images, one row a name.

The first column is the image as it is. Images are normalised before and brought back after, as in training.

Command:   python examples/augmentations.py --out augmentations.png
Expected:  16 rows of CIFAR-10, which is prepared first if it isn't yet; with --photographs, of the two that come with
           scikit-learn. A minute or two on two idle CPU cores, nearly all of it compilation.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from cnnjax.data import Batch, augment, load_dataset

NAMES = (
    "flip",
    "flip:alternating",
    "flip:vertical",
    "pad-crop:4",
    "pad-crop:4:reflect",
    "translate:4",
    "cutout:16",
    "random-resized-crop",
    "scale-jitter:40-64",
    "colour-jitter:0.4",
    "colour-jitter:0:0:0:0.5",
    "randaugment:1:9",
    "randaugment:2:15",
    "randaugment:3:30",
    "mixup:1.0",
    "cutmix:1.0",
)
SIDE = 32  # pixels of an image
ZOOM = 2  # pixels of the sheet for each of them
COLUMNS = 9  # images a row, the first as it is
LABEL = 170  # pixels of the sheet for a row's name


def photographs(count: int) -> np.ndarray:
    """Return uint8 parts of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo).reduce(8) for photo in load_sample_images().images]
    parts = [p.crop((x, 0, x + SIDE, SIDE)) for x in range(0, photos[0].width - SIDE, 4) for p in photos]
    return np.stack([np.asarray(part) for part in parts[:count]])


def row_of(name: str, images: np.ndarray, key: jax.Array) -> np.ndarray:
    """Return the first image and, after it, what the augmentation makes of it with other numbers of the epoch."""
    pixels = images / np.float32(255)
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    mixing = name.startswith(("mixup", "cutmix"))
    # Mixing needs different images in a batch; the others show what chance does to the same one in different epochs.
    shown = np.arange(COLUMNS) if mixing else np.zeros(COLUMNS, np.int32)
    batch = Batch(
        image=jnp.asarray((pixels[shown] - mean) / std),
        label=jnp.zeros(COLUMNS, jnp.int32),
        index=jnp.asarray(shown, jnp.int32),
        epoch=jnp.arange(COLUMNS, dtype=jnp.int32),
    )
    change = augment.parse([name], mean=mean, std=std)
    assert change is not None
    done = jax.device_get(jax.jit(change)(batch, key).image) * std + mean
    done[0] = pixels[0]
    return np.round(np.clip(done, 0, 1) * 255).astype(np.uint8)


def draw(rows: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Write the sheet as a PNG of 256 colours, which keeps it small."""
    tile = SIDE * ZOOM + 2
    sheet = Image.new("RGB", (LABEL + COLUMNS * tile, len(rows) * tile), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (name, images) in enumerate(rows.items()):
        pen.text((4, number * tile + tile // 2 - 6), name, fill="black", font_size=13)
        for column, image in enumerate(images):
            enlarged = Image.fromarray(image).resize((SIDE * ZOOM, SIDE * ZOOM), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (LABEL + column * tile, number * tile))
    sheet.quantize(255, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)


def main(names: tuple[str, ...], images: np.ndarray, seed: int, path: pathlib.Path | None) -> None:
    """Apply each augmentation and say how far it leads from the image."""
    rows = {}
    for name in names:
        rows[name] = row_of(name, images, jax.random.key(seed))
        changed = np.abs(rows[name][1:].astype(int) - rows[name][0]).mean() / 255
        print(f"{name}: on average {changed:.3f} from the first image", flush=True)
    if path is not None:
        draw(rows, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="PNG to write")
    parser.add_argument("--photographs", action="store_true", help="take scikit-learn's photographs")
    parser.add_argument("--smoke", action="store_true", help="three rows of them, to see that it runs")
    args = parser.parse_args()
    alone = args.photographs or args.smoke
    real = photographs(COLUMNS) if alone else load_dataset("cifar10").test.images[:COLUMNS]
    main(("flip", "cutout:16", "mixup:1.0") if args.smoke else NAMES, real, args.seed, args.out)
