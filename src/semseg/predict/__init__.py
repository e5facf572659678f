"""From trained weights to masks, and to files and pictures of them."""

from semseg.predict.predictor import Prediction, Predictor, decide
from semseg.predict.run import Failure, Summary, predict_files

__all__ = ["Failure", "Prediction", "Predictor", "Summary", "decide", "predict_files"]
