"""The two GoogLeNets that torchvision has not, against the same net written down in PyTorch's functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models

pytestmark = pytest.mark.slow
BLOCKS = {"3": "ab", "4": "abcde", "5": "ab"}


def randomised(shapes):
    """Return variables that no initialiser has touched and that keep the size of activations."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        if kind in ("scale", "var"):
            return rng.uniform(0.7, 1.4, leaf.shape)
        return rng.normal(0, 0.1, leaf.shape)

    return jax.tree_util.tree_map_with_path(lambda p, leaf: draw(p, leaf).astype(np.float32), shapes)


class Reference:
    """GoogLeNet in `torch.nn.functional`, channels first, with the weights of one of ours."""

    def __init__(self, variables, kernels5, stem):
        self.params = variables["params"]
        self.stats = variables.get("batch_stats", {})
        self.kernels5, self.stem = kernels5, stem

    def __call__(self, x):
        import torch

        function = torch.nn.functional
        x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        aux = []
        if self.stem == "caffe":
            x = function.max_pool2d(self.conv("conv1", x, stride=2), 3, 2, ceil_mode=True)
            x = function.local_response_norm(x, 5, 1e-4, 0.75, 1.0)
            x = self.conv("conv2", self.conv("conv2_reduce", x))
            x = function.max_pool2d(function.local_response_norm(x, 5, 1e-4, 0.75, 1.0), 3, 2, ceil_mode=True)
        else:
            x = self.conv("conv1", x)
        for stage, letters in BLOCKS.items():
            if stage != "3" and self.stem == "caffe":
                x = function.max_pool2d(x, 3, 2, ceil_mode=True)
            elif stage != "3":
                x = function.max_pool2d(x, 3, 2, padding=1)
            for letter in letters:
                x = self.block(f"inception_{stage}{letter}", x)
                if self.stem == "caffe" and stage + letter in ("4a", "4d"):
                    aux.append(self.head(f"aux{len(aux) + 1}", x))
        return [self.dense("head/logits", x.mean((2, 3))), *aux]

    def at(self, tree, path):
        for part in path.split("/"):
            tree = tree[part]
        return tree

    def conv(self, path, x, stride=1):
        import torch

        module = self.at(self.params, path)
        kernel = torch.from_numpy(module["conv"]["kernel"].transpose(3, 2, 0, 1).copy())
        bias = torch.from_numpy(module["conv"]["bias"])
        x = torch.nn.functional.conv2d(x, kernel, bias, stride, padding=kernel.shape[2] // 2)
        if "norm" in module:
            stats = self.at(self.stats, path)["norm"]
            values = (stats["mean"], stats["var"], module["norm"]["scale"], module["norm"]["bias"])
            x = torch.nn.functional.batch_norm(x, *map(torch.from_numpy, values), eps=1e-5)
        return torch.relu(x)

    def block(self, path, x):
        import torch

        branch5 = self.conv(f"{path}/branch5_reduce", x)
        for name in ("branch5", "branch5_2")[: self.kernels5]:
            branch5 = self.conv(f"{path}/{name}", branch5)
        pooled = torch.nn.functional.max_pool2d(x, 3, 1, padding=1)
        branches = [
            self.conv(f"{path}/branch1", x),
            self.conv(f"{path}/branch3", self.conv(f"{path}/branch3_reduce", x)),
            branch5,
            self.conv(f"{path}/branch_pool", pooled),
        ]
        return torch.cat(branches, 1)

    def head(self, path, x):
        import torch

        x = self.conv(f"{path}/conv", torch.nn.functional.avg_pool2d(x, 5, 3))
        assert x.shape[2:] == (4, 4)
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.dense(f"{path}/logits", torch.relu(self.dense(f"{path}/dense1", x)))

    def dense(self, path, x):
        import torch

        module = self.at(self.params, path)
        return x @ torch.from_numpy(module["kernel"]) + torch.from_numpy(module["bias"])


# At 223 x 238, as at 224 x 224, the auxiliary heads' maps are 14 x 14 or 15, and so their pools' 4 x 4.
@pytest.mark.parametrize(
    ("name", "size", "kernels5", "stem"),
    [("googlenet", (223, 238), 1, "caffe"), ("googlenet_cifar", (33, 46), 2, "small")],
)
def test_is_the_same_net_in_pytorch(name, size, kernels5, stem):
    pytest.importorskip("torch")
    model = models.build(name, num_classes=9)
    # Large values, so that local response normalisation is far from the identity.
    x = 100 * np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(x)))
    expected = [value.numpy() for value in Reference(variables, kernels5, stem)(x)]
    logits, state = jax.jit(lambda v, x: model.apply(v, x, mutable=["intermediates"]))(variables, x)
    found = [logits, *(state["intermediates"][f"aux_logits{n}"][0] for n in range(1, len(expected)))]
    assert len(found) == (3 if name == "googlenet" else 1)
    for ours, theirs in zip(found, expected):
        assert np.abs(np.asarray(ours) - theirs).max() <= 1e-4 * np.abs(theirs).max()
        assert theirs.std() > 1e-3
