"""Take training steps with PyTorch, channels-last, some a turn; started by bench/train_step.py: KIND NET BATCH SIDE.

KIND is `eager` or `compile`.
"""

import sys
import time

from turns import Turns

turns = Turns()
try:
    import torch  # pyright: ignore[reportMissingImports]
    from torch_nets import NETS
except ImportError as error:
    turns.report(skipped=str(error))
    sys.exit()


def main(kind: str, name: str, batch_size: int, side: int) -> None:
    torch.manual_seed(0)
    net = NETS[name]().to(memory_format=torch.channels_last)
    params = sum(p.numel() for p in net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    channels = 1 if name == "lenet5" else 3
    x = torch.randn(batch_size, channels, side, side).to(memory_format=torch.channels_last)
    y = torch.arange(batch_size) % 10

    def loss_of(x, y):
        return torch.nn.functional.cross_entropy(net(x), y)

    loss = torch.compile(loss_of) if kind == "compile" else loss_of

    def step() -> float:
        optimizer.zero_grad()
        value = loss(x, y)
        value.backward()
        optimizer.step()
        return value.item()

    start = time.perf_counter()
    try:
        step()
    except Exception as error:  # torch.compile needs a C++ compiler on the machine
        turns.report(skipped=str(error).strip().splitlines()[0][:60])
        return
    turns.serve(
        step,
        batch_size,
        version=f"torch {torch.__version__}",
        params=params,
        compile_seconds=time.perf_counter() - start,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
