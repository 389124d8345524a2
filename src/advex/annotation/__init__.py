"""People in the loop: a store of answers, the pages that ask for them, and how well those who answer agree.

Knows nothing of models: it shows picture files and keeps what people say of them. Needs the extra `annotate`.
"""

from __future__ import annotations

UNCHANGED, UNSURE, CHANGED = "unchanged", "unsure", "changed"
# In the order of the buttons and of every table.
ANSWERS = (UNCHANGED, UNSURE, CHANGED)
FILE, PICTURES, EXPLORED = "annotation.sqlite", "pictures", "explored"  # in a project's folder
SESSION_DAYS = 30  # that a browser stays let in
UNDONE = "undone"  # a row that takes the answer before it back
