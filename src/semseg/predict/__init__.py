"""From trained weights to masks, and to files and pictures of them."""

from semseg.predict.decide import Decision, decide
from semseg.predict.mc_dropout import McPrediction, mc_predict
from semseg.predict.predictor import Prediction, Predictor
from semseg.predict.run import Failure, Summary, predict_files

__all__ = [
    "Decision",
    "Failure",
    "McPrediction",
    "Prediction",
    "Predictor",
    "Summary",
    "decide",
    "mc_predict",
    "predict_files",
]
