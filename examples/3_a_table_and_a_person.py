# %% [markdown]
# # A table and a person
#
# A bank's model refuses a loan. The applicant asks: what would have had to be different? The answer should be a sentence
# that is true of the model, that asks for nothing impossible, and that names more than one way.
#
# The applications below are made up, by a rule that we know: income and savings count for the applicant, debts count
# against, and a rented flat costs some points.

# %%
from pathlib import Path

import numpy as np

import advex

rng = np.random.default_rng(0)
n = 1500
income = rng.normal(38_000, 12_000, n).clip(8_000, 120_000).round(-2)
debt = rng.exponential(9_000, n).clip(0, 80_000).round(-2)
savings = rng.exponential(6_000, n).clip(0, 60_000).round(-2)
age = rng.integers(18, 80, n)
housing = rng.choice(["own", "rent"], n)
points = (
    income / 1_000
    + 0.8 * savings / 1_000
    - 0.9 * debt / 1_000
    - 6 * (housing == "rent")
    + rng.normal(0, 4, n)
)
accepted = np.where(points > 28, "yes", "no")

rows = zip(income, debt, savings, age, housing, accepted, strict=True)
lines = [f"{a:.0f},{b:.0f},{c:.0f},{d},{e},{f}" for a, b, c, d, e, f in rows]
Path("loans.csv").write_text(
    "\n".join(["income,debt,savings,age,housing,accepted", *lines]) + "\n"
)
print((accepted == "yes").mean().round(2), "of the applications are accepted")

# %% [markdown]
# ## What may change, and which way
#
# A YAML file beside the table says what each column is, and what a person can do about it. Nobody gets younger; nobody
# is told to have another age at all.

# %%
Path("loans.yaml").write_text("""\
target: accepted
classes: {no: refused, yes: accepted}
splits: {train: 0.8, test: 0.2}
columns:
  income: {unit: EUR, step: 100}
  debt: {unit: EUR, step: 100}
  savings: {unit: EUR, step: 100}
  age: {change: never}
""")
test = advex.open_dataset("loans.csv", split="test")
print(len(test), "applications for the test;", test.features.decode(test.x[:1])[0])

# %% [markdown]
# ## Train, and ask

# %%
Path("recipe.yaml").write_text("""\
network: "mlp:widths=32"
optimiser: adam
learning_rate: 0.01
epochs: 12
""")
classifier = advex.train(
    "recipe.yaml", "loans.csv", out="runs/loans", split="train", quiet=True
)
right = (classifier.predict(test.x).argmax(dim=1) == test.y).double().mean()
print(f"{right:.1%} of the test applications are decided as the rule decides")

# %%
Path("anna.csv").write_text(
    "income,debt,savings,age,housing\n27000,6000,3000,34,rent\n"
)
advex.explain(classifier, "anna.csv", quiet=True)

# %% [markdown]
# Each sentence names one way, and each is checked: the changed row is typed in again, encoded and put to the model. The
# rule is known here, so we can also check what the model was told to learn. Anna has 27 + 0.8 x 3 - 0.9 x 6 - 6 = 18
# points and needs 28: by the rule about 10,000 EUR of income, or 12,500 EUR of savings. Her debts alone (5.4 points)
# and the flat alone (6 points) would not have sufficed; together they would have.
#
# ## From Python
#
# The same with all its parts: what changes, from what to what, and the confidence after it.

# %%
from advex.tabular import counterfactuals

(row,) = classifier.features.encode(
    [{"income": 27_000, "debt": 6_000, "savings": 3_000, "age": 34, "housing": "rent"}]
)
for way in counterfactuals(classifier, row, k=4).alternatives:
    print(
        ", ".join(
            f"{change.feature}: {change.before} -> {change.after}"
            for change in way.changes
        )
    )

# %% [markdown]
# ## A model that withstands small errors
#
# Numbers are typed in wrongly, and change from month to month. `RobustClassifier` is a scikit-learn estimator trained
# on the worst change of each row. For a linear network the share of rows that no change within epsilon standard
# deviations can flip is exact, not a search's best guess.

# %%
from advex.tabular import RobustClassifier

X = np.column_stack([income, debt, savings, age, housing == "rent"]).astype(float)
train, held_out = np.arange(n) < 1200, np.arange(n) >= 1200
for epsilon in (0, 0.2):
    model = RobustClassifier(epsilon=epsilon).fit(X[train], accepted[train])
    accuracy = model.score(X[held_out], accepted[held_out])
    score = model.robustness(X[held_out], accepted[held_out], epsilon=0.2)
    print(
        f"trained with epsilon={epsilon}: accuracy {accuracy:.3f}, withstands 0.2: {score}"
    )

# %% [markdown]
# The two intervals overlap: the rule is linear to begin with, and on these data the robust training buys little. That is
# worth knowing before paying for it.
#
# ## What a sentence does not say
#
# It is a statement about the model, and no advice: nothing says that earning more makes the applicant a better risk.
# `advex explain anna.csv --model runs/loans` prints the same sentences on the command line.
