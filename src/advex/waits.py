"""Where asking costs: a GPU works through a queue, and who asks what has come of it waits until the queue is empty.

On a CPU each answer is there already. So searches there look in every step at what they know of their rows; on a GPU
they look now and then, and in between do what is right whatever the answer would be.
"""

from __future__ import annotations

from torch import Tensor

ASKED = 4  # on a GPU, in each of so many steps of a search once
_AT_ONCE = {"cpu"}  # devices that do what they are told before they return


def asking_waits(of: Tensor) -> bool:
    """Whether the host has to wait for a value of this tensor."""
    return of.device.type not in _AT_ONCE
