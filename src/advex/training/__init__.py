"""Training: one loop, its run folder, and going on where it was broken off."""

from advex.progress import Interrupted as Interrupted
from advex.recipes import Recipe as Recipe
from advex.recipes import fitted as fitted
from advex.recipes import learning_rate as learning_rate
from advex.recipes import recipe_from as recipe_from
from advex.training.checkpoints import BEST as BEST
from advex.training.checkpoints import CHECKPOINTS as CHECKPOINTS
from advex.training.checkpoints import METRICS as METRICS
from advex.training.checkpoints import checkpoints_in as checkpoints_in
from advex.training.checkpoints import described as checkpoint_described
from advex.training.divergence import Diverged as Diverged
from advex.training.dry_run import dry_run as dry_run
from advex.training.loop import ProcessLost as ProcessLost
from advex.training.loop import train as train
from advex.training.metrics_log import TENSORBOARD as TENSORBOARD
from advex.training.run import completed as completed
from advex.training.run import identity_of as identity_of
from advex.training.validation import accuracy as accuracy
from advex.training.validation import robust_accuracy as robust_accuracy

__all__ = ["checkpoint_described"]
