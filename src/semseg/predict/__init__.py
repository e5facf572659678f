"""From trained weights to masks, and to files and pictures of them."""

from semseg.predict.decide import Decision, decide
from semseg.predict.large import predict_large
from semseg.predict.mc_dropout import McPrediction, mc_predict
from semseg.predict.predictor import Prediction, Predictor
from semseg.predict.rasters import RasterSummary, predict_raster
from semseg.predict.run import Failure, Summary, predict_files
from semseg.predict.tiling import Tiling
from semseg.predict.tta import Views
from semseg.predict.video import predict_video

__all__ = [
    "Decision",
    "Failure",
    "McPrediction",
    "Prediction",
    "Predictor",
    "RasterSummary",
    "Summary",
    "Tiling",
    "Views",
    "decide",
    "mc_predict",
    "predict_files",
    "predict_large",
    "predict_raster",
    "predict_video",
]
