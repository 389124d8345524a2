"""A table that papers measure on, which comes without a description of its own: it is here, the rows are the user's."""

from __future__ import annotations

from pathlib import Path

from advex.data.tables import table
from advex.registry import register


@register("dataset", "mushroom", cites="Schlimmer 1987; chalasani2020 Sec. 6")
def mushroom() -> table.Table:
    """8,124 mushrooms, 22 columns of categories, edible or poisonous; 64 % to train on, 20 % to test.

    The rows are those of mushroom/all.csv in the folder named by ADVEX_DATA. Raises DataError where they are not.
    """
    return table.from_description(Path(__file__).with_name("mushroom.yaml"))
