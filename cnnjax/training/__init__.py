"""Training: the state, the step, losses, metrics, optimizers, the loop and its callbacks."""

from cnnjax.batch import Batch
from cnnjax.ops.cpu.memory import keep_freed_memory
from cnnjax.training.callbacks import CsvHistory, EarlyStopping, Profile
from cnnjax.training.fit import evaluate, fit
from cnnjax.training.history import History
from cnnjax.training.loop import Callback, Loop
from cnnjax.training.losses import (
    LOSSES,
    LabelError,
    balanced_class_weights,
    class_weighted,
    mean_squared_error,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from cnnjax.training.metrics import (
    Metrics,
    NonFiniteError,
    average_precision,
    classification_metrics,
    precision_recall_f1,
)
from cnnjax.training.optim import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule, only_kernels
from cnnjax.training.progress import Progress
from cnnjax.training.state import TrainState, create_state
from cnnjax.training.step import compute_logits, eval_step, make_eval_step, make_train_step, train_step
from cnnjax.training.tensorboard import TensorBoard

__all__ = [
    "LOSSES",
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
    "average_precision",
    "balanced_class_weights",
    "class_weighted",
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
    "mean_squared_error",
    "only_kernels",
    "precision_recall_f1",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "train_step",
]


def __dir__() -> list[str]:
    return __all__
