"""What the verbs of the command line do, from Python: models, pictures and data as one has them, results that show.

given     models and pictures, in whatever form they come
foreign   data of torch and of Hugging Face
pictures  pictures in memory as files hold them
results   explanations and evaluations that can be looked at, kept, and taken on as tables
verbs     explain, evaluate, compare and train
"""

from advex.notebook.results import Evaluated, Explained
from advex.notebook.verbs import compare, evaluate, explain, train

__all__ = ["Evaluated", "Explained", "compare", "evaluate", "explain", "train"]
