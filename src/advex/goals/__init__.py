"""What a search wants: goals on classes and on maps. Each is one file."""

from advex.goals.classes import Aim as Aim
from advex.goals.classes import Become as Become
from advex.goals.classes import BelowChance as BelowChance
from advex.goals.classes import Confident as Confident
from advex.goals.classes import Goal as Goal
from advex.goals.classes import Misclassify as Misclassify
from advex.goals.classes import advantage as advantage
from advex.goals.classes import with_temperature as with_temperature
from advex.goals.classes import without_class as without_class
