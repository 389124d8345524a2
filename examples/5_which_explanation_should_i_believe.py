# %% [markdown]
# # Which explanation should I believe?
#
# Ten methods give ten maps. To judge them you need pictures for which you know what the answer depends on. `planted`
# has such pictures: noise with four small patches, of which one tells the class. The bundled network has learned it: it
# decides by that patch and nothing else.

# %%
import matplotlib.pyplot as plt

import advex

data = advex.open_dataset("planted", split="test").take(slice(0, 30))
classifier = advex.load("builtin:planted")
batch = data.batch(slice(None))
accuracy = (classifier.predict(batch.x).argmax(dim=1) == batch.y).float().mean()
print(
    f"accuracy {accuracy:.0%} on {len(data)} pictures; where the patch lies is known: {data.evidence is not None}"
)

# %% [markdown]
# Maps of one picture: three methods, and two controls, `edge` and `centre`, that never look at the model.

# %%
methods = ["gradient", "guided_backprop", "grad_cam", "edge", "centre"]
advex.explain(classifier, data.take(slice(0, 1)), explainer=methods, quiet=True)

# %% [markdown]
# ## Ask three questions of every map
#
# - `pointing`: does the strongest pixel lie on the patch?
# - `mass`: what share of the map's weight lies on it?
# - `deletion`: how fast does the confidence fall when the strongest pixels are taken away? (Low is good.)

# %%
judged = advex.evaluate(
    {"planted": classifier},
    data,
    attack=None,
    btr=None,
    maps=methods,
    measures=["pointing", "mass", "deletion"],
    explanations=0,
    out="records/judged",
    quiet=True,
)
table = judged.to_pandas()
table = table[table.figure.str.contains("pointing|mass|deletion")]
table[["figure", "value", "low", "high", "n"]].round(3)

# %% [markdown]
# A figure means what it has beyond the controls. With intervals:

# %%
figure, axes = plt.subplots(figsize=(6, 2.6))
keys = [key for key in judged["planted"] if "mass" in key]
for place, key in enumerate(keys):
    score = judged["planted"][key]
    axes.plot([score.low, score.high], [place, place], color="tab:blue")
    axes.plot(score.value, place, "o", color="tab:blue")
axes.set_yticks(range(len(keys)), keys, fontsize=8)
axes.set_xlabel("share of the map's weight on the patch")
figure.tight_layout()

# %% [markdown]
# ## Does the map depend on what was learned?
#
# The last test needs no ground truth. Make the weights random, layer by layer. A map that stays as it was did not show
# what this network has learned. Here is how similar the maps of a wholly random copy are (1 would be the same):

# %%
randomised = advex.evaluate(
    {"planted": classifier},
    data.take(slice(0, 10)),
    attack=None,
    btr=None,
    maps=["gradient", "guided_backprop", "edge"],
    measures=["randomised"],
    explanations=0,
    out="records/randomised",
    quiet=True,
)
for key, score in randomised["planted"].items():
    if "randomised" in key:
        print(f"{key:45} {score.value:+.2f}  [{score.low:+.2f}, {score.high:+.2f}]")

# %% [markdown]
# `edge` does not change at all, as it must: it has never seen the network. There is no overall winner among methods,
# since the measures ask different questions; what can be said is which of them do better than a control, on your data.
# `advex judge --model ... --data ...` makes this table for twelve methods and four controls, with a report.
