"""Training: the state, the step, losses, metrics, optimizers, the loop and its callbacks."""

from cnnjax.batch import Batch
from cnnjax.ops.cpu.memory import keep_freed_memory
from cnnjax.training.callbacks import CsvHistory, EarlyStopping, Profile
from cnnjax.training.fit import evaluate, fit
from cnnjax.training.loop import Callback, Loop
from cnnjax.training.losses import LabelError, softmax_cross_entropy
from cnnjax.training.metrics import History, Metrics, NonFiniteError, classification_metrics
from cnnjax.training.optim import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule, only_kernels
from cnnjax.training.progress import Progress
from cnnjax.training.state import TrainState, create_state
from cnnjax.training.step import compute_logits, eval_step, make_eval_step, make_train_step, train_step
from cnnjax.training.tensorboard import TensorBoard

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Batch",
    "Callback",
    "CsvHistory",
    "EarlyStopping",
    "History",
    "LabelError",
    "Loop",
    "Metrics",
    "NonFiniteError",
    "Profile",
    "Progress",
    "TensorBoard",
    "TrainState",
    "classification_metrics",
    "compute_logits",
    "create_state",
    "eval_step",
    "evaluate",
    "fit",
    "keep_freed_memory",
    "make_eval_step",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "only_kernels",
    "softmax_cross_entropy",
    "train_step",
]


def __dir__() -> list[str]:
    return __all__
