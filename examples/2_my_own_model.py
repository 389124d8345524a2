# %% [markdown]
# # My own model
#
# You have a network. This page takes one from a plain PyTorch training loop to an explanation, to measured robustness,
# and to a second network that withstands more. The digits of scikit-learn come with advex; the loop takes seconds.

# %%
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import advex

torch.manual_seed(0)
train = advex.open_dataset("digits", split="train").batch(slice(None))
test = advex.open_dataset("digits", split="test").take(slice(0, 100))
print(
    tuple(train.x.shape), "between", train.x.min().item(), "and", train.x.max().item()
)

# %% [markdown]
# ## Wrap it once
#
# advex needs to know what your network expects: the range of the inputs (`box`), the normalisation, and the names of
# the classes. The wrapper normalises, so everything else on this page, radii included, is in the units of your data.


# %%
def network():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def wrapped(module):
    return advex.Classifier(
        module,
        box=(0, 1),
        mean=0.3,
        std=0.4,
        class_names=[str(digit) for digit in range(10)],
    )


def fit(classifier, attack=None, epochs=8):
    optimiser = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(train.x)).split(64):
            x, y = train.x[rows], train.y[rows]
            if attack is not None:
                classifier.eval()
                x = attack(classifier, x, advex.goals.Misclassify(y)).adversarial
                classifier.train()
            optimiser.zero_grad()
            cross_entropy(classifier(x), y).backward()
            optimiser.step()
    return classifier.eval()


ordinary = fit(wrapped(network()))

# %% [markdown]
# ## Ask it
#
# The first three digits of the test data, each towards the class that is likeliest besides the predicted one. Watch
# how little has to change.

# %%
advex.explain(
    ordinary, test.take(slice(0, 3)), target="runner-up", rho=0.08, quiet=True
)

# %% [markdown]
# ## Train against the answers
#
# An attack is a function of a classifier, inputs and a goal, so your own loop can call it. Here every batch is replaced
# by its worst neighbours within 0.1 of each pixel: adversarial training, in one line of the loop above.

# %%
torch.manual_seed(0)
robust = fit(
    wrapped(network()), attack=advex.attacks.PGD(norm="linf", radius=0.1, steps=3)
)

# %% [markdown]
# The same question to the new network. The same amount of change convinces it less, and goes into strokes that appear and
# disappear.

# %%
advex.explain(robust, test.take(slice(0, 3)), target="runner-up", rho=0.08, quiet=True)

# %% [markdown]
# ## Measure both
#
# On 100 test digits: accuracy, the accuracy-robustness area (ARA), and what is left within 0.1 of every pixel after a
# whole suite of attacks.

# %%
compared = advex.compare(
    {"ordinary": ordinary, "robust": robust},
    test,
    attack="minimal:gradients=25",
    btr=None,
    radius="linf:0.1",
    suite="apgd:steps=20,square:queries=100",
    explanations=0,
    recheck=0,
    out="records/mine",
    quiet=True,
)
for name in ("ordinary", "robust"):
    figures = compared[name]
    print(name)
    for key in ("accuracy", "attack_ara", "robust_accuracy:linf:0.1"):
        figure = figures[key]
        print(f"  {key:26} {figure.value:.3f}  [{figure.low:.3f}, {figure.high:.3f}]")

# %% [markdown]
# Each figure has a 95 % interval over the examples. On these digits, training against the attack costs no accuracy that
# 100 examples could show, and far more decisions withstand the attacks. Whether that holds on your data is what the three
# lines above are for.
#
# ## What is not a network
#
# A function that gives confidences is a classifier as well, for everything that needs answers alone: here a random
# forest, explained by what its answer loses when a window is hidden, and attacked by decisions alone.

# %%
from sklearn.ensemble import RandomForestClassifier

trees = RandomForestClassifier(30, random_state=0).fit(
    train.x.flatten(1).numpy(), train.y.numpy()
)


def ask(x):
    return trees.predict_proba(x.reshape(len(x), -1))  # x: a NumPy array


forest = advex.Classifier.from_function(ask, classes=10)
batch = test.batch(slice(0, 10))
x, y = batch.x, batch.y
found = advex.attacks.HopSkipJump(queries=150)(forest, x, advex.goals.Misclassify(y))
accuracy = (forest.predict(x).argmax(dim=1) == y).float().mean()
print(
    f"accuracy {accuracy:.0%}, median RMSE to another class {found.rmse.median():.3f} (an upper bound: few queries)"
)

# %% [markdown]
# ## On the command line
#
# `advex evaluate --model mymodels:network --weights mine.safetensors` asks the same network by its import path;
# `advex.load("runs/mine")` opens what `advex train` has trained. See
# the page on own models for folders of transformers and for weights of torchvision and timm.
