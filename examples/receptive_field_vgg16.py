"""Measure which pixels matter to VGG-16 before and after training on real digits, and draw both.

Command:   python examples/receptive_field_vgg16.py --out vgg16_field.png
Expected:  About 99 % of the test images. The theoretical field stays what it is; deeper, the effective one is a smaller
           share of it. Three epochs change its width by about 1 % only. About 3 min on two CPU cores.
"""

import argparse
import pathlib

import jax
import numpy as np

from cnnjax import data, models
from cnnjax import receptive_field as rf
from cnnjax.training import create_state, evaluate, fit, make_optimizer, make_schedule, make_train_step

BATCH_SIZE = 64  # images
LEARNING_RATE = 1e-3  # greatest, of Adam on a one-cycle schedule
TILES = 3  # digits along each side of the mosaic that gradients are taken on: 96 pixels, more than the field of 92
LAYERS = ("stage2_conv2", "stage3_conv3", "stage4_conv3")  # theoretical fields 14, 40 and 92 pixels wide


def mosaics(images: np.ndarray, count: int, tiles: int) -> np.ndarray:
    """Return `count` pictures of tiles x tiles digits: real pixels wherever a unit looks, at the scale of training."""
    chosen = images[np.arange(count * tiles**2) % len(images)]
    _, height, width, channels = chosen.shape
    grid = chosen.reshape(count, tiles, tiles, height, width, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(count, tiles * height, tiles * width, channels)


def measured(model, variables, pictures, layer, key):
    """Return the map of the layer's middle unit, averaged over the pictures."""
    return rf.measure(
        model,
        pictures.shape[1:],
        output=layer,
        variables=variables,
        images=pictures,
        samples=len(pictures),
        key=key,
    )


def draw(maps, model, shape, layer, path):
    """Draw the last layer's maps and their sections, before and after, in one figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    field = rf.receptive_field(model, shape, layer)
    top, bottom = field.interval([count // 2 for count in field.units])[0] or (0, 0)
    # Colours of Okabe and Ito, which the colour-blind tell apart; the line's style says it again.
    for axes, (name, heat), style, colour in zip((left, middle), maps.items(), ("--", "-"), ("#0072B2", "#D55E00")):
        axes.imshow(np.sqrt(heat / heat.max()), cmap="cividis")
        axes.set(title=f"{name} training", xlabel="column (pixels)", ylabel="row (pixels)")
        rows = heat.sum(1)
        right.plot(
            rows / rows.max(), style, color=colour, lw=2, label=f"{name}: 95 % in {rf.effective_size(heat)[0]:.0f} rows"
        )
    for edge in (top - 0.5, bottom + 0.5):
        right.axvline(edge, color="black", ls=":")
    right.plot([], [], "k:", label=f"theoretical: {field.size[0]} rows")
    right.set(xlabel="row (pixels)", ylabel="|gradient| (share of the largest row)", ylim=(0, 1.6))
    right.legend(fontsize=8)
    right.grid(alpha=0.3)
    figure.suptitle(
        f"What matters to VGG-16's {layer}, middle unit (brightness: square root of mean |gradient|)", fontsize=11
    )
    canvas.print_png(str(path))


def main(name: str, layers: tuple, epochs: int, samples: int, tiles: int, seed: int, path: pathlib.Path | None) -> None:
    """Train, measure before and after, say what changed."""
    dataset = data.load_dataset("digits", image_size=(32, 32))
    model = models.build(name, num_classes=dataset.info.num_classes)
    init_key, order_key, measure_key = jax.random.split(jax.random.key(seed), 3)
    steps = data.epoch_range(len(dataset.train), BATCH_SIZE, epochs - 1).stop
    tx = make_optimizer("adam", make_schedule("one-cycle", LEARNING_RATE, steps))
    state = create_state(model, tx, dataset.train.image_shape, key=init_key)
    fresh = jax.tree.map(np.array, state.variables)
    state, _ = fit(
        state,
        lambda epoch: data.batches(dataset.train, BATCH_SIZE, key=order_key, epoch=epoch, train=True),
        lambda: data.batches(dataset.validation, 256),
        epochs=epochs,
        train_step=make_train_step(),
    )
    metrics = evaluate(state, data.batches(dataset.test, 256))
    print(f"{epochs} epochs, {metrics.accuracy:.2%} of {metrics.examples} test images")

    pictures = mosaics(np.asarray(next(iter(data.batches(dataset.test, 256))).image), samples, tiles)
    maps = {}
    for layer in layers:
        size = rf.receptive_field(model, pictures.shape[1:], layer).size[0]
        for when, variables in (("before", fresh), ("after", state.variables)):
            maps[when] = measured(model, variables, pictures, layer, measure_key)
            wide, fitted = rf.effective_size(maps[when])[0], rf.fit_gaussian(maps[when])
            print(
                f"{layer or 'last map'}, {when}: theoretical {size}, 95.45 % of |gradient| in {wide:.1f} rows "
                f"({wide / size:.0%}), Gaussian sigma {fitted.sigma[0]:.1f}, R² {fitted.r_squared:.3f}",
                flush=True,
            )
    if path is not None:
        draw(maps, model, pictures.shape[1:], layers[-1], path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=12, help="pictures whose gradients are averaged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="PNG to draw (needs matplotlib)")
    parser.add_argument("--smoke", action="store_true", help="a small net and one epoch, to see that it runs")
    args = parser.parse_args()
    if args.smoke:
        main("simple_cnn", (None,), 1, 2, 1, args.seed, args.out)
    else:
        main("vgg16_cifar", LAYERS, args.epochs, args.samples, TILES, args.seed, args.out)
