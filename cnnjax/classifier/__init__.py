"""One trained net, whatever it came from, with all that it needs to be asked: see `Classifier`."""

from cnnjax.classifier.classifier import Classifier
from cnnjax.classifier.photographs import Prediction, Predictions
from cnnjax.classifier.sources import eval_batch_size

__all__ = ["Classifier", "Prediction", "Predictions", "eval_batch_size"]


def __dir__() -> list[str]:
    return __all__
