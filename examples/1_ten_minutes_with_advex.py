# %% [markdown]
# # Ten minutes with advex
#
# A classifier says *cat*. Why? advex answers with the smallest change that would make it say something else, shows you
# that change, and measures over many pictures how far the decision and its explanation can be trusted.
#
# Everything on this page comes with the package: four networks for CIFAR-10 and 24 of its test pictures. It runs in
# under a minute on one core.

# %%
import matplotlib.pyplot as plt

import advex

data = advex.open_dataset("cifar10-sample")
print(len(data), "pictures of", ", ".join(data.class_names))

# %% [markdown]
# ## One picture, one question
#
# Here is a cat. What would have to change for the network to call it a dog? The change is limited to an RMSE of 0.1,
# where 0 is no change and 1 is black to white.

# %%
cat = data.take(slice(6, 7))
advex.explain("builtin:cifar10-robust", cat, target="dog", quiet=True)

# %% [markdown]
# And the same question to an ordinary network. It is convinced too, by a change in which nobody sees a dog:

# %%
advex.explain("builtin:cifar10-ordinary", cat, target="dog", quiet=True)

# %% [markdown]
# The answer is more than a picture. It holds the confidences before and after, for every class:

# %%
(answer,) = advex.explain("builtin:cifar10-robust", cat, target="dog", quiet=True)
(change,) = answer["explanations"]
dog = data.class_names.index("dog")
print(
    f"The network says {answer['says']}. Dog: {change['before'][dog]:.1%} before, {change['after'][dog]:.1%} after."
)

# %% [markdown]
# ## How large does the smallest change have to be?
#
# `Minimal` looks for the smallest change that alters the decision, picture by picture. A search that fails says so
# (`reached`); it never counts as zero.

# %%
batch = data.batch(slice(None))
curves = {}
for name in ("ordinary", "robust"):
    classifier = advex.load(f"builtin:cifar10-{name}")
    goal = advex.goals.Misclassify(batch.y)
    found = advex.attacks.Minimal(gradients=25)(classifier, batch.x, goal)
    curves[name] = advex.measures.accuracy_curve(found.rmse)
    print(
        f"{name:9} median RMSE {found.rmse.median():.4f}, found for {int(found.reached.sum())} of {len(batch.x)}"
    )

# %% [markdown]
# Accuracy against the size of the change that is allowed. The area under such a curve, above chance, is the
# *accuracy-robustness area* (ARA), the headline figure of every report:

# %%
figure, axes = plt.subplots(figsize=(6, 3))
for name, curve in curves.items():
    axes.step(*curve, where="post", label=name)
axes.axhline(0.1, color="grey", linestyle=":", label="chance")
axes.set(xlabel="allowed change (RMSE)", ylabel="accuracy", xlim=(0, 0.05), ylim=(0, 1))
legend = axes.legend()

# %% [markdown]
# ## The same for several models at once
#
# `advex.compare` measures models on the same pictures, puts a 95 % interval on every figure, and writes a report: one
# HTML file that works offline. With 24 pictures the intervals are wide, and the page says so.

# %%
compared = advex.compare(
    ["builtin:cifar10-ordinary", "builtin:cifar10-robust"],
    data,
    attack="minimal:gradients=25",
    btr=None,
    recheck=0,
    explanations=1,
    targets="runner_up",
    out="records/first",
    quiet=True,
)
compared

# %% [markdown]
# ## Heat maps are explanations, too
#
# They answer another question: which pixels count for the class? Warm colours count for it, blue
# against it.

# %%
advex.explain(
    "builtin:cifar10-robust",
    cat,
    explainer=["integrated_gradients:steps=20", "grad_cam"],
    quiet=True,
)

# %% [markdown]
# ## Where to go from here
#
# - [My own model](2_my_own_model.ipynb): any `nn.Module`, or any function.
# - [A table and a person](3_a_table_and_a_person.ipynb): explanations in sentences.
# - [Can this explanation be trusted?](4_can_this_explanation_be_trusted.ipynb)
# - [Which explanation should I believe?](5_which_explanation_should_i_believe.ipynb)
# - [How robust is this defence, honestly?](6_honest_robustness_of_a_defence.ipynb)
