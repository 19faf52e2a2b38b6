from flare23_lib.inference.predictor import Predictor as Predictor

__version__: str
IMPORTED: float
