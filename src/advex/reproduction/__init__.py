"""A paper's tables run again: what is to be run, doing it row by row, and setting it beside what was published.

plan      rows -> recipes, data and settings of evaluations, at a scale; what cannot be run, and why
sources   where the data of its rows are opened from
scaling   a recipe at a scale, and in words how it then differs from the one asked for
simulated annotators that are no people
folder    whose folder it is, and which rows in it are done
carry     row by row, resumable
paired    a row less the row that it is set against, example by example
orderings which orders of a paper's rows hold here
compare   records -> published and measured values, side by side
figures   the paper's plots, grids and judged images as PNG
"""

from advex.reproduction.carry import Work as Work
from advex.reproduction.carry import carry_out as carry_out
from advex.reproduction.compare import compared as compared
from advex.reproduction.folder import OURS as OURS
from advex.reproduction.plan import Job as Job
from advex.reproduction.plan import Plan as Plan
from advex.reproduction.plan import Planned as Planned
from advex.reproduction.plan import Together as Together
from advex.reproduction.plan import planned as planned
from advex.reproduction.sources import data_from as data_from

__all__ = ["OURS", "Job", "Plan", "Planned", "Together", "Work", "carry_out", "compared", "data_from", "planned"]
