"""Parquet files with boxes in a column of any name, in the order that is said."""

from __future__ import annotations

from advex.data.images import parquet as files
from advex.data.images.boxes import BOXES, Order
from advex.data.published.pictures import folder_of
from advex.data.source import Place, Source
from advex.errors import DataError
from advex.files import at_home
from advex.registry import register


@register("dataset", "parquet", examples=("boxes=objects.bbox,order=xywh",))
def parquet(*, root: str = "", boxes: str = BOXES, order: Order = "xyxy") -> Source:
    """Hugging Face-style Parquet with boxes in a column of any name.

    root: a file, or a folder of them; left away, `parquet` in the folder ADVEX_DATA. boxes: the column, or a field of
    one, as `objects.bbox`; of a row one box, or a list. order: xyxy: x0, y0, x1, y1 with both ends inside; xywh: x, y,
    width, height. All boxes of a row count as the thing that its label names. A row whose box is none, or reaches more
    than a pixel beyond its picture, is skipped and named. Raises DataError for what is not of this form.
    """
    path = at_home(root)
    if root and path.is_file():
        splits = {files.split_name(path.parent, path): [path]}
        return files.source(path.resolve().parent.name, splits, root=path, boxes=boxes, order=order)
    path = folder_of("parquet", root)
    shards = [path / each for each in Place(path).files if each.suffix.lower() == ".parquet"]
    if not shards:
        raise DataError(f"{path} contains no Parquet files.")
    splits = files.split_files(path, shards)
    return files.source(path.resolve().name, splits, root=path, boxes=boxes, order=order)
