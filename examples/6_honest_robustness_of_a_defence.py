# %% [markdown]
# # How robust is this defence, honestly?
#
# Many defences have looked robust until somebody attacked them properly. This page takes one that is worthless, shows
# how it passes a careless test, and how the figures give it away.
#
# The defence rounds every pixel to one of 16 levels before the network sees it. Rounding has no gradient.

# %%
import torch
from torch import nn

import advex
from advex.goals import Misclassify

ordinary = advex.load("builtin:cifar10-ordinary")
robust = advex.load("builtin:cifar10-robust")
data = advex.open_dataset("cifar10-sample")
x, y = (batch := data.batch(slice(None))).x, batch.y


class Rounded(nn.Module):
    """A network that sees 16 levels of each pixel."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x):
        return self.classifier(torch.round(x * 15) / 15)


defended = advex.Classifier(
    Rounded(ordinary), box=(0, 1), mean=0.0, std=1.0, class_names=data.class_names
).eval()

# %% [markdown]
# ## The careless test
#
# Projected gradient descent within 8/255, the attack that most papers report:


# %%
def accuracy(classifier, attack):
    found = attack(classifier, x, Misclassify(y))
    return 1 - found.reached.double().mean().item()


pgd = advex.attacks.PGD(
    norm="linf", radius="8/255", steps=10, step="2/255", random_start=False
)
for name, classifier in (
    ("ordinary", ordinary),
    ("defended", defended),
    ("robust", robust),
):
    print(f"{name:9} accuracy under PGD: {accuracy(classifier, pgd):.0%}")

# %% [markdown]
# The defended network seems to lose nothing at all. That is too good to be true, and advex says so: the search had no
# gradient to follow.

# %%
found = pgd(defended, x, Misclassify(y))
print("examples on which the gradient vanished:", int(found.flat.sum()), "of", len(x))

# %% [markdown]
# ## A suite of attacks
#
# `--radius` on the command line, `radius=` here, asks several searches in turn, each for the examples that still stand.
# One of them, `square`, needs no gradient. What the searches leave is the robust accuracy: an upper bound, with a
# 95 % interval, beside the flags that say when to distrust it.

# %%
compared = advex.compare(
    {"ordinary": ordinary, "defended": defended, "robust": robust},
    data,
    attack=None,
    btr=None,
    radius="linf:8/255",
    suite=[
        "apgd:steps=10",
        "pgd:steps=10,step=2/255,random_start=false",
        "square:queries=150",
    ],
    explanations=0,
    out="records/defence",
    quiet=True,
)
for name in ("ordinary", "defended", "robust"):
    figure = compared[name]["robust_accuracy:linf:8/255"]
    print(
        f"{name:9} robust accuracy {figure.value:.0%}  [{figure.low:.0%}, {figure.high:.0%}]"
    )
for flag in compared.record.flags:
    if flag.code in ("gradients_misled", "flat_gradients"):
        print(f"\n{flag.model}: {flag.message}\n  {flag.remedy}")

# %% [markdown]
# The defended network seems to have lost its advantage over the robust one, and two flags say that even this figure is
# too high.
#
# ## Attack the defence itself
#
# Whoever knows the defence goes around it: backwards, rounding is treated as if it were not there (Athalye et al.
# 2018). The decision is still that of the defended network; `PGD` only climbs elsewhere.


# %%
class Through(Rounded):
    """The same answers, with the gradient of the unrounded picture."""

    def forward(self, x):
        rounded = torch.round(x * 15) / 15
        return self.classifier(x + (rounded - x).detach())


adaptive = advex.Classifier(Through(ordinary), box=(0, 1), mean=0.0, std=1.0).eval()
changed = pgd(adaptive, x, Misclassify(y)).adversarial
left = (defended.predict(changed).argmax(dim=1) == y).double().mean()
print(f"accuracy of the defended network under the adaptive attack: {left:.0%}")

# %% [markdown]
# So the honest figure of this defence is the lowest of all: nothing is left, just as without it. The robust network has
# no such trick, and keeps part of its accuracy.
#
# Three rules follow from this page. Report the worst of several searches, at least one of them without gradients. Attack
# the defence as somebody would who knows it. And say how many examples there were: with 24, an interval of 95 % is
# wide, and figures of networks that differ by less should not be ranked.
