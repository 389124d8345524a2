"""What records of earlier schemas become: one step from each schema to the next."""

from advex.record.versions import Values

# What figures were called before they had the names of the papers that define them.
TITLES = {
    "Box on the thing": "Localisation accuracy",
    "Box on the thing and answer right": "Top-1 localisation accuracy",
    "Box on the thing, beyond the best constant box": "Localisation accuracy, beyond the best constant box",
    "Distance from the wanted map, least met": "Distance from the wanted map, smallest found",
    "Elements that count": "Effective number of elements",
    "Likeness, all layers random": "Similarity, all layers random",
    "Likeness, half way": "Similarity, half way",
    "Likeness, last step": "Similarity, last step",
    "Likeness, mean of all steps": "Similarity, mean of all steps",
    "Likeness, one layer random": "Similarity, one layer random",
    "Correlation with effects of squares": "Faithfulness correlation, squares",
    "Overlap of box and thing (IoU)": "IoU of the box and the object",
    "Overlap of strong pixels and thing (IoU)": "Segmentation IoU",
    "Overlap of the whole picture and the thing": "Segmentation IoU of the whole picture",
    "Points at the thing": "Pointing game",
    "Points at the thing, classes weighed alike": "Pointing game, mean of the classes",
    "ROAD, strongest pixels gone": "ROAD, most relevant pixels removed",
    "ROAD, weakest pixels gone": "ROAD, least relevant pixels removed",
    "Rise of entropy, all layers random": "Entropy increase, all layers random",
    "Strong pixels on the thing and answer right": "Top-1 segmentation accuracy",
    "Strongest pixels on the thing": "Relevance rank accuracy",
    "The best constant box on the thing": "Localisation accuracy of the best constant box",
    "The whole picture as the box": "Localisation accuracy of the whole picture",
    "Weight on the thing": "Relevance mass accuracy",
}


def described_measures(values: Values) -> None:
    """Schema 1 to 2: the three measures of maps that there were become figures like any other, described beside them.

    The setting `away` became one of the explainers of pictures; searches and measures of other kinds there were none.
    """
    settings = values["settings"]
    if settings:
        explainers = ["toward", "away"] if settings.pop("away", True) else ["toward"]
        settings |= {"searches": [], "radius": [], "suite": ["standard"], "alone": False, "pictures": explainers}
        settings |= {"corruptions": [], "transfer": False}
        settings["measures"] = ["gini", "entropy", "effective"]
    values["lowers"] = ["away"]
    of: Values = {"of": "shape", "standing": "not about truth"}
    entries = {
        "gini": {"title": "Gini index", "better": "high", "spec": "gini", **of},
        "entropy": {"title": "Entropy", "better": "low", "unit": "nats", "spec": "entropy", **of},
        "effective": {"title": "Elements that count", "better": "low", "spec": "effective", **of},
    }
    mapped = [entry for model in values["models"] for entry in model.get("maps", {}).values()]
    for entry in mapped:
        method = entry.get("method")
        if isinstance(method, str) and method.startswith("integrated_gradients:"):
            entry["method"] = f"{method},hold_factor=false"  # an option that there was none of
        former = {key: entry.pop(key, None) for key in (*entries, "change", "completeness")}
        entry["figures"] = {key: figure for key, figure in former.items() if figure is not None}
    if mapped:
        values["measures"] = entries


def renamed_measures(values: Values) -> None:
    """Schema 2 to 3: figures of maps have the names of the papers that define them.

    A title ends in its key, in brackets, where another measure of the record has the same.
    """
    for key, entry in values.get("measures", {}).items():
        former = entry["title"].removesuffix(f" ({key})")
        entry["title"] = TITLES.get(former, former) + entry["title"].removeprefix(former)


STEPS = {1: described_measures, 2: renamed_measures}
