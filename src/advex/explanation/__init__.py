"""Inputs explained one by one: pictures, maps and sentences, as values and as a folder of files.

subjects        what is explained, and the classes that are asked about
pictures        what would have to change, as pictures, judged on the 8-bit files that show them
maps            how much each element counts
rows            of tables: what would have had to be different, in sentences
folder          all files of a run over several inputs; it can be stopped and goes on
"""

from advex.explanation.folder import explain_into as explain_into
from advex.explanation.maps import HeatScale as HeatScale
from advex.explanation.maps import MapRequest as MapRequest
from advex.explanation.maps import Maps as Maps
from advex.explanation.maps import explain_maps as explain_maps
from advex.explanation.maps import named_explainers as named_explainers
from advex.explanation.pictures import PictureExplanation as PictureExplanation
from advex.explanation.pictures import PictureRequest as PictureRequest
from advex.explanation.pictures import as_files as as_files
from advex.explanation.pictures import explain_pictures as explain_pictures
from advex.explanation.pictures import has_pictures as has_pictures
from advex.explanation.rows import RowRequest as RowRequest
from advex.explanation.subjects import Subject as Subject
from advex.explanation.subjects import from_data as from_data
from advex.explanation.subjects import from_pictures as from_pictures

__all__ = [
    "HeatScale", "MapRequest", "Maps", "PictureExplanation", "PictureRequest", "RowRequest", "Subject", "as_files",
    "explain_into", "explain_maps", "explain_pictures", "from_data", "from_pictures", "has_pictures",
    "named_explainers",
]  # fmt: skip
