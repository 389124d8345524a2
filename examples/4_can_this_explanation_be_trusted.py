# %% [markdown]
# # Can this explanation be trusted?
#
# A heat map that changes completely for a picture that looks the same, while the decision stays, is no ground for
# anything. This page looks for such pictures, for two networks and one method, and says what the figures mean.

# %%
import matplotlib.pyplot as plt
import torch

import advex
from advex import explainers, goals, measures

data = advex.open_dataset("cifar10-sample")
batch = data.batch(slice(0, 8))
networks = {
    name: advex.load(f"builtin:cifar10-{name}") for name in ("ordinary", "robust")
}
explain = explainers.InputXGradient()

# %% [markdown]
# ## An attack on the map
#
# `Scramble` is a goal like any other: keep the decision, and make the map as different as possible. PGD searches within
# 8/255 of every pixel, a change that is hard to see.


# %%
def attacked(classifier):
    target = explainers.targets(classifier, batch.x, "predicted")
    goal = goals.at(
        "scramble:explainer=input_x_gradient,distance=cosine",
        classifier,
        batch.x,
        batch.y,
    )
    found = advex.attacks.PGD(radius="8/255", steps=10, step="2/255")(
        classifier, batch.x, goal
    )
    before = explain(classifier, batch.x, target).map
    after = explain(classifier, found.adversarial, target).map
    kept = classifier.predict(found.adversarial).argmax(dim=1) == target
    return found.adversarial, before, after, kept


def draw(axes, values):
    weight = values.abs().sum(dim=0)
    axes.imshow(weight / weight.quantile(0.99), cmap="magma", vmin=0, vmax=1)


row = 6
figure, grid = plt.subplots(2, 4, figsize=(7, 3.6))
for line, (name, classifier) in zip(grid, networks.items(), strict=True):
    changed, before, after, kept = attacked(classifier)
    line[0].imshow(batch.x[row].permute(1, 2, 0))
    draw(line[1], before[row])
    line[2].imshow(changed[row].permute(1, 2, 0))
    draw(line[3], after[row])
    line[0].set_ylabel(name)
    print(f"{name}: the decision is kept for {int(kept.sum())} of {len(kept)} pictures")
for axes, title in zip(
    grid[0], ("picture", "its map", "attacked", "its map"), strict=True
):
    axes.set_title(title, fontsize=9)
for axes in grid.flat:
    axes.set(xticks=[], yticks=[])
figure.tight_layout()

# %% [markdown]
# ## A figure for it
#
# `worst_case_stability` does this for each picture and measures how many of the 100 strongest pixels are gone. It looks
# at random points of the same ball as well. A search that finds less than noise has failed, and says nothing.

# %%
for name, classifier in networks.items():
    target = explainers.targets(classifier, batch.x, "predicted")
    worst = measures.worst_case_stability(
        explain,
        classifier,
        batch.x,
        target,
        search="pgd:radius=8/255,steps=10,step=2/255",
        distance="top_k:k=100",
        samples=3,
    )
    print(f"{name:9} pixels gone: {worst.score()}")
    print(
        f"{'':9} by the attack {worst.attack.nanmean():.2f}, at random points {worst.random.nanmean():.2f}; "
        f"the attack was worse for {int(worst.by_attack.sum())} of {len(worst.by_attack)}"
    )

# %% [markdown]
# Each figure is a lower bound: another search may move the map further. So a stable map is one that *this* search did not
# move, and the name of the search belongs to the figure. The random points show how much of the change noise alone would
# have made.
#
# ## Stable is not the same as right
#
# The control `centre` never looks at the model, and nothing can move it:

# %%
centre = explainers.build("centre")
classifier = networks["ordinary"]
target = explainers.targets(classifier, batch.x, "predicted")
noise = (
    (torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(0)) - 0.5)
    * 16
    / 255
)
first = centre(classifier, batch.x, target).map
second = centre(classifier, (batch.x + noise).clamp(0, 1), target).map
print("largest change of the centre's map:", (first - second).abs().max().item())

# %% [markdown]
# Whether a map marks what the answer depends on is
# [another question](5_which_explanation_should_i_believe.ipynb).
