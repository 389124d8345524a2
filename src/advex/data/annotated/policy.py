"""Which annotated pictures are learned from: what their answers must come to, and how much each picture counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from advex.data.annotated.answers import CHANGED, TIE, UNANSWERED, UNCHANGED, UNSURE, Judged
from advex.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class AnnotationPolicy:
    """agree: whether the majority must call a picture unchanged, or all. unsure: the weight of undecided pictures.

    Undecided are, by majority, pictures that got only `unsure`, or as many `changed` as `unchanged`; if all must
    agree, those that nobody called changed but not all unchanged. Their cross-entropy is multiplied by `unsure`, from 0
    (left out) to 1. Raises SpecError.
    """

    agree: Literal["majority", "all"] = "majority"
    unsure: float = 0.0

    def __post_init__(self) -> None:
        if self.agree not in ("majority", "all"):
            raise SpecError(f"annotations.agree={self.agree} is not valid: use majority or all.")
        if not 0 <= self.unsure <= 1:  # also true for NaN
            raise SpecError(f"annotations.unsure={self.unsure} is not valid: a weight must be in [0, 1].")

    def weight(self, judged: Judged) -> float:
        """How much a picture counts: 1, `unsure` or nothing.

        >>> from advex.data.annotated.answers import Annotation, Judged
        >>> judged = Judged(about=Annotation(picture="a.png", label="7"), votes={"unchanged": 2, "unsure": 1})
        >>> AnnotationPolicy().weight(judged), AnnotationPolicy(agree="all").weight(judged)
        (1.0, 0.0)
        >>> AnnotationPolicy(agree="all", unsure=0.5).weight(judged)
        0.5
        """
        votes = {answer: number for answer, number in judged.votes.items() if number}
        if judged.verdict == UNANSWERED or (self.agree == "all" and CHANGED in votes):
            return 0.0
        if self.agree == "all":
            return 1.0 if set(votes) == {UNCHANGED} else self.unsure
        return {UNCHANGED: 1.0, CHANGED: 0.0, TIE: self.unsure, UNSURE: self.unsure}[judged.verdict]


MAJORITY = AnnotationPolicy()  # the default everywhere
