"""Shapes inside torchvision's nets, computed on the meta device: no weights, no arithmetic."""

from tests.pretrained.torchvision_oracle import torchvision


def module_shapes(name, size, *, train=False, **options):
    """Return the output shape `(N, H, W, C)` of every module of a torchvision net that makes maps, by its path.

    Args:
      name: torchvision's constructor.
      size: Height and width of the images.
      train: Whether to run in training mode, with the auxiliary heads.
      **options: For the constructor.
    """
    module = torchvision()
    import torch

    shapes = {}

    def note(path):
        def hook(_, __, output):
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                n, c, h, w = output.shape
                shapes[path] = (n, h, w, c)

        return hook

    with torch.device("meta"), torch.no_grad():
        net = getattr(module.models, name)(init_weights=False, **options).train(train)
        for path, layer in net.named_modules():
            layer.register_forward_hook(note(path))
        net(torch.empty(2, 3, *size))
    return shapes
