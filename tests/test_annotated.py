"""Annotated folders made here, by hand and by the writer, and data sets put together from them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from advex.data import (
    Annotation,
    Dataset,
    Origin,
    Part,
    Skipped,
    concatenate,
    describe,
    ids,
    is_annotated,
    open_dataset,
    splits,
    untraced,
    write_annotated,
)
from advex.data.annotated import answers
from advex.data.annotated.folder import AnnotatedFolder
from advex.data.dataset import content
from advex.data.images.png import encode_png, quantise
from advex.data.source import Place
from advex.errors import ArtifactError, DataError, InputError, SpecError

TABLE = "annotations.csv"


def picture(seed: int, channels: int = 1, side: int = 4) -> Tensor:
    """Noise [channels, side, side], uint8."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (channels, side, side), dtype=np.uint8))


def folder(root: Path, table: str | bytes, pictures: Sequence[str] = ("a.png", "b.png", "c.png")) -> Path:
    """An annotated folder written by hand; every picture another one."""
    root.mkdir(parents=True, exist_ok=True)
    (root / TABLE).write_bytes(table.encode() if isinstance(table, str) else table)
    for number, name in enumerate(pictures):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode_png(picture(number)))
    return root


def verdicts(table: str) -> dict[str, str]:
    """Picture -> what its answers come to."""
    return {each.about.picture: each.verdict for each in answers.judge(answers.parse(table.encode(), "t"), "t")}


def dataset(name: str, classes: str, labels: str, **changes: Any) -> Dataset:
    """Grey pictures, one per letter of labels, with ids 0, 1, ..."""
    base = Dataset(
        name=name,
        x=torch.stack([picture(sum(map(ord, name)) + row) for row in range(len(labels))]),
        y=torch.tensor([classes.index(each) for each in labels]),
        class_names=tuple(classes),
        ids=tuple(str(row) for row in range(len(labels))),
    )
    return dataclasses.replace(base, **changes)


# -- the rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (["unchanged"], "unchanged"),
        (["changed"], "changed"),
        (["unsure"], "unsure"),
        ([""], "unanswered"),
        (["", "unsure"], "unsure"),
        (["unchanged", "unsure", "unsure", "unsure"], "unchanged"),  # those who are not sure do not decide
        (["unchanged", "changed"], "tie"),
        (["unchanged", "changed", "unsure"], "tie"),
        (["unchanged", "changed", "unchanged"], "unchanged"),
        (["changed", "unchanged", "changed"], "changed"),
    ],
)
def test_the_majority_of_definite_answers_decides(given: list[str], verdict: str) -> None:
    table = "picture,label,answer\n" + "".join(f"a.png,7,{each}\n" for each in given)
    assert verdicts(table) == {"a.png": verdict}


cast = st.lists(
    st.tuples(
        st.sampled_from(["a.png", "b.png", "sub/c.png"]),
        st.sampled_from(["", "p", "q", "r"]),
        st.sampled_from(["unchanged", "changed", "unsure", ""]),
    ),
    max_size=30,
)


@given(lines=cast)
def test_verdicts_against_counting_by_hand(lines: list[tuple[str, str, str]]) -> None:
    """An annotator's last answer counts, every answer without a name does; then for against against."""
    table = answers.as_csv([Annotation(picture=p, label="7", annotator=who, answer=a) for p, who, a in lines], "t")
    expected = {}
    for name in dict.fromkeys(p for p, _, _ in lines):
        votes = [a for p, who, a in lines if p == name and who == "" and a]
        for person in "pqr":
            own = [a for p, who, a in lines if p == name and who == person and a]
            votes += own[-1:]
        balance = votes.count("unchanged") - votes.count("changed")
        if balance:
            expected[name] = "unchanged" if balance > 0 else "changed"
        else:
            expected[name] = "tie" if "changed" in votes else "unsure" if votes else "unanswered"
    assert verdicts(table) == expected


def test_who_changes_their_mind_is_counted_once(tmp_path: Path) -> None:
    table = (
        "picture,label,answer,annotator\n"
        "a.png,7,changed,p\n"
        "a.png,7,unchanged,q\n"
        "a.png,7,unchanged,p\n"  # p again
        "b.png,7,unchanged,p\n"  # another picture
        "b.png,7,changed,\n"
        "b.png,7,changed,\n"  # nobody knows whether this is the same person
    )
    data = open_dataset(folder(tmp_path / "hitl", table))
    assert data.ids == ("a.png",)
    assert data.parts[0].answers == {"unchanged": 3, "changed": 2, "unsure": 0}
    assert data.notes == (
        "5 answers to 2 pictures (3 unchanged, 2 changed, 0 unsure, 1 replaced by a later one of the same annotator); "
        "1 picture left out: called changed by most (b.png)",
        "1 PNG file left out: not in annotations.csv (c.png)",
    )


# -- folders -------------------------------------------------------------------------------------------------

EVERYTHING = (
    Annotation(
        picture="a.png", label="cat", answer="unchanged", annotator="=p", source="pets/train", source_id="cat/1.png",
        model="runs/first", search="minimal:gradients=40", target="dog", rmse=0.0312, time="2026-11-20T10:00:00+00:00",
    ),
    Annotation(picture="sub/b.png", label="dog", answer="changed", annotator="+q"),
    Annotation(picture="sub/b.png", label="dog", answer="unsure", annotator="'-q"),
    Annotation(picture="c.png", label="@home, \"été\"", answer="unchanged", model="runs/first"),
    Annotation(picture="d.png", label="dog"),
)  # fmt: skip


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    shapes = {"a.png": picture(1, 3), "sub/b.png": picture(2, 3), "c.png": picture(3, 3).double() / 255}
    root = write_annotated(tmp_path / "hitl", {**shapes, "d.png": encode_png(picture(4, 3))}, EVERYTHING)
    data = open_dataset(root)
    assert (data.name, data.ids, data.class_names) == ("hitl", ("a.png", "c.png"), ('@home, "été"', "cat"))
    assert data.y.tolist() == [1, 0]
    assert torch.equal(data.x, torch.stack([picture(1, 3), picture(3, 3)]))
    assert data.origins == (
        Origin(part="hitl", id="a.png", source="pets/train", source_id="cat/1.png"),
        Origin(part="hitl", id="c.png"),
    )
    part = Part(
        name="hitl",
        examples=2,
        content=content(data),
        answers={"unchanged": 2, "changed": 1, "unsure": 1},
        made_by={"runs/first, minimal:gradients=40": 1, "runs/first": 1},
    )
    assert data.parts == (part,)
    assert json.loads(json.dumps(data.provenance())) == [dataclasses.asdict(part)]
    assert describe(data) == (
        "hitl: 2 images, 4x4, 3 channels, 2 classes; 4 answers to 4 pictures (2 unchanged, 1 changed, 1 unsure); "
        "1 picture left out: called changed by most (sub/b.png); 1 picture left out: not answered yet (d.png)"
    )
    assert is_annotated(root)
    assert (splits(root), ids(root, [None])) == ((), {None: ("a.png", "c.png")})
    found = answers.read(root / TABLE)
    assert [each for _, each in found.lines] == list(EVERYTHING)
    assert (root / TABLE).read_bytes().startswith("\ufeffpicture,label,answer,".encode())  # marked as UTF-8


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    for number, label in enumerate(("=1+1", "+1", "-1", "@a", "'=1", "''@", "\uff1d1", "'s", "a=b")):
        given = Annotation(picture="a.png", label=label, answer="unchanged", annotator=label)
        root = write_annotated(tmp_path / str(number), {"a.png": picture(0)}, [given])
        rows = list(csv.reader(io.StringIO((root / TABLE).read_text(encoding="utf-8-sig"))))
        assert not any(cell[:1] in tuple("=+-@\uff1d") and cell for row in rows for cell in row)
        assert open_dataset(root).class_names == (label,)


PLAIN = "picture,label,answer,rmse,annotator\na.png,7,unchanged,0.05,p\nb.png,7,changed,0.125,\nc.png,8,unchanged,,\n"


@pytest.mark.parametrize(
    "table",
    [
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.removesuffix("\n"),
        PLAIN.replace(",", ";").replace("0.", "0,"),  # of a country that writes 0,05
        PLAIN.replace(",", "\t"),
        PLAIN.replace("picture,label,answer,rmse", "Picture , LABEL,Answer, Rmse"),
        PLAIN.replace("unchanged", " Unchanged "),
        PLAIN.replace("\n", "\n,,,,\n\n"),  # empty lines
        PLAIN.replace("annotator\n", "annotator,,\n"),  # empty columns
        PLAIN.replace("8,unchanged,,", "8,unchanged"),  # empty cells at the end, left away
        PLAIN.replace("c.png,8,unchanged", '"c.png","8","unchanged"'),
        PLAIN.replace("\nc.png", "\na.png,,,,\nc.png"),  # the label was given above
    ],
    ids=lambda table: repr(table[:60]),
)
def test_a_table_may_come_from_any_spreadsheet(table: str) -> None:
    expected, found = (answers.judge(answers.parse(each.encode(), "t"), "t") for each in (PLAIN, table))
    assert found == expected
    assert [each.about.rmse for each in found] == [0.05, 0.125, None]


def test_columns_that_mean_nothing_here_are_named(tmp_path: Path) -> None:
    table = "picture,label,anotator,answer,my\x1b remarks\na.png,7,p,unchanged,nice\n"
    data = open_dataset(folder(tmp_path / "hitl", table, ["a.png"]))
    assert data.notes[1] == "2 columns of annotations.csv not recognised ('anotator', 'my?_remarks')"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "must name the columns picture, label, answer; 'picture' is missing: it is empty"),
        ("picture,label,anser\n", r"'answer' is missing: did you mean 'anser'\? Known: anser, label, picture"),
        ("file,label,answer\n", "'picture' is missing"),
        ("picture,label,answer,label\n", "two columns are called 'label'"),
        ("picture,label,answer\na.png,7,unchnaged\n", "line 2: there is no answer 'unchnaged': did you mean 'unchang"),
        ("picture,label,answer\n,7,unchanged\n", "line 2: the picture is missing"),
        ("picture,label,answer\na.png,,unchanged\n", "line 2: 'a.png' has no label"),
        ("picture,label,answer\na.jpg,7,unchanged\n", "line 2: the picture 'a.jpg' is not a .png file"),
        (
            "picture,label,answer\na.png,7,unchanged\nb.png,7,\na.png,8,unchanged\n",
            "lines 2 and 4 give 'a.png' two different values of 'label': '7' and '8'",
        ),
        (
            "picture,label,answer,source_id\na.png,7,unchanged,1\na.png,7,changed,2\n",
            "lines 2 and 3 give 'a.png' two different values of 'source_id': '1' and '2'",
        ),
        ("picture,label,answer,rmse\na.png,7,unchanged,0,05\n", "line 2: there are more cells than columns"),
        ("picture,label,answer,rmse\na.png,7,unchanged,nan\n", "the rmse 'nan' is not a number in"),
        ("picture,label,answer,rmse\na.png,7,unchanged,5\n", "the rmse '5' is not a number in"),
        ("picture,label,answer,rmse\na.png,7,unchanged,little\n", "the rmse 'little' is not a number in"),
        ('picture,label,answer\na.png,"7,unchanged\n', "line 2: .*Is a quotation mark missing, or is the file cut off"),
        ("picture,label,answer,rmse\na.png,7,unchanged,\nb.png,7,unch", "line 3: there is no answer 'unch'"),
        ("picture,label,answer,rmse\na.png,7,unchanged,\nb.png,7,unchanged", "line 3: the file is cut off"),
        ("picture,label,answer\na.png,\x1b[31m7,unchanged\n", r"the label '\?\[31m7' contains control characters"),
        ('picture,label,answer\na.png,"7\n8",unchanged\n', "the label '7.8' contains control characters"),
        ("picture,label,answer\na\x00.png,7,unchanged\n", "the picture .* contains control characters"),
        (f"picture,label,answer\na.png,{'7' * 1001},unchanged\n", "the label '7{77}...' is longer than 1000"),
        (f"picture,label,answer\na.png,{'7' * 200_000},unchanged\n", "field larger than field limit"),
        ("picture,label,answer\nä.png,7,unchanged\n".encode("latin-1"), "line 2: this line is not UTF-8 text. Save"),
        ("picture,label,answer\na.png,7,unchanged\n".encode("utf-16"), "line 1: this line is not UTF-8 text"),
    ],
    ids=lambda value: repr(value[:70]),
)  # fmt: skip
def test_a_table_that_cannot_be_understood_says_where_and_why(tmp_path: Path, table: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(folder(tmp_path / "hitl", table))
    assert TABLE in str(caught.value)
    assert all(each.isprintable() for each in str(caught.value))


def test_a_table_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "hitl", PLAIN)
    monkeypatch.setattr(answers, "_LARGEST", len(PLAIN) - 1)
    with pytest.raises(DataError, match="the limit for a table of answers"):
        open_dataset(root)
    monkeypatch.setattr(answers, "_LARGEST", len(PLAIN))
    monkeypatch.setattr(answers, "_MOST", 2)
    with pytest.raises(DataError, match="line 4: .* 2 lines"):
        open_dataset(root)


def test_a_table_of_another_kind_is_not_taken_for_ours(tmp_path: Path) -> None:
    """Class folders with somebody's own annotations.csv stay class folders."""
    root = folder(tmp_path / "pets", "filename,xmin,ymin\n1.png,3,4\n", ["cat/1.png", "dog/1.png"])
    data = open_dataset(root)
    assert not is_annotated(root)
    assert (data.ids, data.parts, data.origins) == (("cat/1.png", "dog/1.png"), (), ())
    with pytest.raises(DataError, match="table of answers: name its folder"):
        open_dataset(root / TABLE)


@pytest.mark.parametrize("file", ["annotation.sqlite", "made/robust/shards/robust.images.00000.parquet"])
def test_a_project_is_told_from_data(file: str, tmp_path: Path) -> None:
    """With a database in its folder or elsewhere; what it needs is said, not what its pieces lack."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(DataError, match=r"is a project of advex annotate, not a data set: .* annotations="):
        open_dataset(tmp_path)


def test_without_an_unchanged_picture_there_is_no_data(tmp_path: Path) -> None:
    root = folder(tmp_path / "hitl", "picture,label,answer\na.png,7,changed\nb.png,7,\n")
    with pytest.raises(DataError, match=r"1 picture .*\(a\.png\)"):
        open_dataset(root)


# -- pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../a.png", "sub/../../a.png", "/etc/a.png", "..\\a.png", "C:/a.png", "c:a.png", "./a.png", "sub//a.png",
        "\\\\host\\a.png",
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(picture(9)))
    root = folder(tmp_path / "hitl", f"picture,label,answer\n{name},7,unchanged\nb.png,7,unchanged\n")
    with pytest.raises(DataError, match="line 2: the picture .* must be given as a path relative to the folder"):
        open_dataset(root)
    with pytest.raises(DataError, match="must be given as a path relative to the folder"):
        write_annotated(tmp_path / "new", {name: picture(0)}, [])
    assert not (tmp_path / "new").exists()


def test_every_picture_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path) -> None:
    good = encode_png(picture(0, side=16))
    wide = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(wide, "PNG")
    lossy = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(lossy, "JPEG")
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0x55
    broken: dict[str, tuple[bytes | None, str]] = {
        "missing.png": (None, "does not exist"),
        "empty.png": (b"", "the file does not exist or is empty"),
        "jpeg.png": (lossy.getvalue(), "not a PNG file, despite its name"),
        "text.png": (b"hello", "not a PNG file, despite its name"),
        "wide.png": (wide.getvalue(), "its pixels have 16 bits"),
        "header.png": (good[:20], "truncated file"),
        "truncated.png": (good[:-60], "truncated file"),
        "flipped.png": (bytes(flipped), "damaged: "),
        "link.png": (None, "leads out of the folder through a link"),
        "away/link.png": (None, "leads out of the folder through a link"),
        "pipe.png": (None, "does not exist"),
        "folder.png": (None, "does not exist"),
        f"{'x' * 400}.png": (None, "does not exist"),
    }
    lines = "".join(f"{name},7,unchanged\n" for name in ["good.png", *broken, "same.png"])
    root = folder(tmp_path / "hitl", "picture,label,answer\n" + lines, [])
    for name, data in {
        "good.png": good,
        "same.png": good,
        **{name: data for name, (data, _) in broken.items()},
    }.items():
        if data is not None:
            (root / name).write_bytes(data)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "link.png").write_bytes(encode_png(picture(1, side=16)))
    os.symlink(tmp_path / "outside" / "link.png", root / "link.png")
    os.symlink(tmp_path / "outside", root / "away")
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    data = open_dataset(root)
    assert data.ids == ("good.png",)
    assert data.parts[0].examples == 1
    found = {each.name: each.reason for each in data.skipped}
    assert found.keys() == broken.keys() | {"same.png"}
    assert found["same.png"] == "the same pixels as good.png"
    for name, (_, reason) in broken.items():
        assert reason in found[name], (name, found[name])


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    root = folder(tmp_path / "hitl", "picture,label,answer\nlink.png,7,unchanged\n", ["a.png"])
    os.symlink("a.png", root / "link.png")
    os.symlink(root, tmp_path / "other")
    assert torch.equal(open_dataset(tmp_path / "other").x[0], picture(0))


def test_the_same_pixels_with_two_labels_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "hitl", "picture,label,answer\na.png,7,unchanged\nb.png,8,unchanged\n")
    shutil.copy(root / "a.png", root / "b.png")
    with pytest.raises(DataError, match="'a.png' .*'b.png' .*'7' .*'8'"):
        open_dataset(root)


def test_pictures_are_not_scaled(tmp_path: Path) -> None:
    root = folder(tmp_path / "hitl", PLAIN)
    assert open_dataset(root, size=4).shape == (1, 4, 4)
    with pytest.raises(DataError, match=r"4x4 \(2: a\.png, c\.png\).*8x8"):
        open_dataset(root, size=8)
    (root / "c.png").write_bytes(encode_png(torch.zeros(1, 5, 6)))
    with pytest.raises(DataError, match=r"several sizes \(height x width\): 4x4 \(1: a.png\); 5x6 \(1: c.png\)"):
        open_dataset(root)
    (root / "b.png").write_bytes(encode_png(picture(1, side=9)))  # judged changed: its size is of no matter
    (root / "c.png").write_bytes(encode_png(picture(2, channels=3)))
    assert open_dataset(root).shape == (3, 4, 4)
    assert torch.equal(open_dataset(root).x[0], picture(0).expand(3, 4, 4))


def test_a_sample_keeps_its_origins(tmp_path: Path) -> None:
    names = [f"{row}.png" for row in range(9)]
    table = "picture,label,answer,source_id\n" + "".join(f"{each},7,unchanged,id {each}\n" for each in names)
    data = open_dataset(folder(tmp_path / "hitl", table, names), max_samples=4, seed=2)
    assert len(set(data.ids)) == 4
    assert [each.source_id for each in data.origins] == [f"id {each}" for each in data.ids]
    assert torch.equal(data.x, torch.stack([picture(names.index(each)) for each in data.ids]))
    reverse = data.take(torch.tensor([3, 0]))
    assert [each.id for each in reverse.origins] == [data.ids[3], data.ids[0]] == list(reverse.ids)


# -- anything at all -----------------------------------------------------------------------------------------


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_table_or_a_sentence(data: bytes) -> None:
    said = ""
    for table in (data, b"picture,label,answer\n" + data):
        try:
            answers.judge(answers.parse(table, "t"), "t")
        except DataError as error:
            said += str(error)
    assert said.isprintable()


cells = st.sampled_from(
    ["a.png", "b.png", "7", "8", "unchanged", "changed", "", "0.1", '"', "'=", "x\ty", "../a.png", "\ufeff", ",", "\n"]
)


@given(
    rows=st.lists(st.lists(cells, max_size=5), max_size=6), separator=st.sampled_from(",;\t"), cut=st.integers(0, 99)
)
def test_any_folder_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], separator: str, cut: int
) -> None:
    """Tables that look like ones, cut anywhere: whatever is read has its label, and nothing is lost uncounted."""
    header = separator.join(["picture", "label", "answer", "rmse"])
    table = "\n".join([header, *(separator.join(row) for row in rows)])
    root = folder(tmp_path_factory.mktemp("any") / "hitl", table[: len(header) + cut], ["a.png"])
    try:
        data = open_dataset(root)
    except DataError:
        return
    judged = answers.judge(answers.read(root / TABLE), "t")
    kept = {each.about.picture: each.about.label for each in judged if each.verdict == "unchanged"}
    assert {*data.ids, *(each.name for each in data.skipped)} == kept.keys()
    assert [data.class_names[label] for label in data.y.tolist()] == [kept[name] for name in data.ids]


@given(data=st.binary(max_size=60), at=st.integers(0, 90))
def test_damage_of_a_picture_is_survived(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    root = folder(tmp_path_factory.mktemp("damage") / "hitl", PLAIN)
    whole = (root / "a.png").read_bytes()
    (root / "a.png").write_bytes(whole[:at] + data + whole[at + len(data) :])
    found = open_dataset(root)
    assert "c.png" in found.ids
    assert {*found.ids, *(each.name for each in found.skipped)} == {"a.png", "c.png"}


texts = st.text(max_size=12)


lines_of_any_text = st.builds(
    Annotation,
    picture=st.sampled_from(["a.png", "ä/☃.PNG", "=b.png"]),
    label=texts,
    answer=st.sampled_from([*answers.ANSWERS, ""]),
    rmse=st.none() | st.floats(0, 1),
    **dict.fromkeys(("annotator", "source", "source_id", "model", "search", "target", "time"), texts),
)


@given(lines=st.lists(lines_of_any_text, max_size=3))
def test_what_the_writer_takes_comes_back(lines: list[Annotation]) -> None:
    cells = [cell for each in lines for cell in dataclasses.astuple(each) if isinstance(cell, str)]
    bad = any(cell != cell.strip() or unicodedata.category(each) in ("Cc", "Cs") for cell in cells for each in cell)
    if bad:  # refused, and for no other reason
        with pytest.raises(DataError):
            answers.as_csv(lines, "t")
        return
    found = [each for _, each in answers.parse(answers.as_csv(lines, "t").encode(), "t").lines]
    for wish, answer in zip(lines, found, strict=True):
        for name in set(answers.COLUMNS) - {"label", "target"}:  # of which the accents are spelt in one way
            assert getattr(answer, name) == getattr(wish, name)


# -- writing -------------------------------------------------------------------------------------------------

ONE = Annotation(picture="a.png", label="7", answer="unchanged")


@pytest.mark.parametrize(
    ("pictures", "given", "words"),
    [
        ({"a.png": picture(0)}, [dataclasses.replace(ONE, picture="b.png")], "answer for 'b.png', .* mean 'a.png'"),
        ({}, [ONE], "answer for 'a.png', which is not among the pictures"),
        ({"a.png": picture(0)}, [dataclasses.replace(ONE, answer="same")], "no answer 'same'"),
        ({"a.png": picture(0)}, [dataclasses.replace(ONE, label=" 7")], "would be read back as '7'. Remove spaces"),
        ({"a.png": picture(0)}, [dataclasses.replace(ONE, annotator="p\x1b")], "contains control characters"),
        ({"a.png": picture(0)}, [dataclasses.replace(ONE, annotator="\ud800")], "cannot be stored as text"),
        ({"a.png": picture(0)}, [dataclasses.replace(ONE, picture="", label="", answer="")], "has no picture"),
        ({"a.png": picture(0)}, [dataclasses.replace(ONE, rmse=float("inf"))], "rmse 'inf' is not a number"),
        ({"a.png": picture(0)}, [ONE, dataclasses.replace(ONE, label="8")], "two different values of 'label'"),
        ({"a.jpg": picture(0)}, [], "is not a .png file"),
        ({"a.png": b"hello"}, [ONE], "PNG cannot be read"),
        ({"a.png": torch.full((1, 4, 4), 1.5)}, [ONE], "Pictures must be in"),
        ({"a.png": torch.zeros(2, 4, 4)}, [ONE], "1 or 3 channels"),
    ],
)  # fmt: skip
def test_what_could_not_be_read_is_not_written(tmp_path: Path, pictures: Any, given: Any, words: str) -> None:
    with pytest.raises((DataError, InputError), match=words):
        write_annotated(tmp_path / "hitl", pictures, given)
    assert not (tmp_path / "hitl").exists()


def test_answers_are_added_and_pictures_never_exchanged(tmp_path: Path) -> None:
    root = write_annotated(tmp_path / "hitl", {"a.png": picture(0).float() / 255}, [ONE])
    with pytest.raises(DataError, match="annotations.csv already exists"):
        write_annotated(root, {}, [ONE])
    more = [ONE, dataclasses.replace(ONE, answer="changed"), dataclasses.replace(ONE, picture="b.png")]
    with pytest.raises(DataError, match="is a different picture"):
        write_annotated(root, {"b.png": picture(1), "a.png": picture(2)}, more, overwrite=True)
    assert sorted(path.name for path in root.iterdir()) == ["a.png", TABLE]
    write_annotated(root, {"b.png": picture(1), "a.png": picture(0)}, more, overwrite=True)
    assert open_dataset(root).ids == ("b.png",)
    assert sorted(path.name for path in root.iterdir()) == ["a.png", TABLE, "b.png"]


@pytest.mark.parametrize("last", ["b.png", TABLE, "half"])
def test_a_broken_off_export_leaves_the_former_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    root = write_annotated(tmp_path / "hitl", {"a.png": picture(0)}, [ONE])
    rename = os.replace

    def broken(source: Any, target: Any) -> None:
        if Path(target).name == last:
            raise OSError("no space left")
        rename(source, target)

    def half(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("no space left")

    if last == "half":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, "replace", broken)
    more = [ONE, dataclasses.replace(ONE, picture="b.png")]
    with pytest.raises((ArtifactError, OSError), match="no space left"):
        write_annotated(root, {"b.png": picture(1)}, more, overwrite=True)
    assert open_dataset(root).ids == ("a.png",)
    monkeypatch.undo()
    write_annotated(root, {"b.png": picture(1)}, more, overwrite=True)
    assert open_dataset(root).ids == ("a.png", "b.png")
    assert len(list(root.iterdir())) == 3


def test_floats_become_what_people_see(tmp_path: Path) -> None:
    x = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    data = open_dataset(write_annotated(tmp_path / "hitl", {"a.png": x}, [ONE]))
    assert torch.equal(data.batch(slice(None)).x[0], quantise(x))


# -- end to end ----------------------------------------------------------------------------------------------


def test_examples_follow_each_other_with_the_classes_of_the_first() -> None:
    first, second = dataset("one", "abc", "abcca"), dataset("two", "ca", "cac")
    joined = concatenate(first, second)
    assert (joined.name, joined.class_names) == ("one + two", ("a", "b", "c"))
    assert joined.y.tolist() == [0, 1, 2, 2, 0, 2, 0, 2]
    assert torch.equal(joined.x, torch.cat([first.x, second.x]))
    assert joined.ids == ("0", "1", "2", "3", "4", "two/0", "two/1", "two/2")
    assert joined.class_counts == first.class_counts == (2, 1, 2)
    assert joined.chance == first.chance == 0.4
    assert [(each.part, each.id) for each in joined.origins] == [
        *(("one", str(row)) for row in range(5)),
        *(("two", str(row)) for row in range(3)),
    ]
    assert joined.parts == (
        Part(name="one", examples=5, content=content(first)),
        Part(name="two", examples=3, content=content(second)),
    )
    assert concatenate(first) is first


@given(
    classes=st.permutations("abcde").map("".join),
    others=st.lists(st.tuples(st.permutations("abcde").map("".join), st.integers(1, 5), st.booleans()), max_size=3),
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=6),
)
def test_joining_moves_rows_and_renumbers_classes_alone(
    classes: str, others: list[tuple[str, int, bool]], labels: list[int]
) -> None:
    """Row by row: the picture and the name of its class are as before, the id leads back; in one go or by and by."""
    sets = [dataset("set", classes, "".join(classes[label] for label in labels))]
    for order, known, same_name in others:
        some = "".join(order[label % known] for label in labels)
        # Ids that look like those that joining makes.
        own = tuple(f"set/{row}" if row % 2 else str(row) for row in range(len(some)))
        sets.append(dataset("set" if same_name else "set-2", order[:known], some, ids=own))
    joined = concatenate(*sets)
    rows = [(one.x[row], one.class_names[int(one.y[row])], one.ids[row]) for one in sets for row in range(len(one))]
    assert len(set(joined.ids)) == len(joined) == len(rows)
    for row, (x, label, id_) in enumerate(rows):
        assert torch.equal(joined.x[row], x)
        assert joined.class_names[int(joined.y[row])] == label
        assert not joined.origins or joined.origins[row].id == id_
    assert len({part.name for part in joined.parts}) == len(joined.parts)
    step = sets[0]
    for one in sets[1:]:
        step = concatenate(step, one)
    assert (step.ids, step.parts, step.origins) == (joined.ids, joined.parts, joined.origins)
    if len(sets) > 1:
        assert [part.content for part in joined.parts] == [content(one) for one in sets]
        counts = [sum(origin.part == part.name for origin in joined.origins) for part in joined.parts]
        assert counts == [part.examples for part in joined.parts] == [len(one) for one in sets]


def test_what_is_joined_can_be_joined_again(tmp_path: Path) -> None:
    root = folder(tmp_path / "one", PLAIN.replace("7", "a").replace("8", "b"))
    inner = concatenate(dataset("one", "ab", "ab"), open_dataset(root))
    joined = concatenate(dataset("one", "ab", "ba"), inner)
    assert [part.name for part in joined.parts] == ["one", "one-2", "one-2-2"]
    assert joined.ids == ("0", "1", *(f"one + one/{each}" for each in ("0", "1", "one-2/a.png", "one-2/c.png")))
    assert [(each.part, each.id) for each in joined.origins[2:]] == [
        ("one-2", "0"), ("one-2", "1"), ("one-2-2", "a.png"), ("one-2-2", "c.png"),
    ]  # fmt: skip


def test_losses_and_remarks_of_all_are_kept() -> None:
    first = dataset("one", "ab", "ab", skipped=(Skipped("x", "broken"),), notes=("odd",))
    second = dataset("two", "ab", "a", skipped=(Skipped("x", "empty"),), notes=("even",))
    joined = concatenate(first, second)
    assert joined.skipped == (Skipped("x", "broken"), Skipped("two/x", "empty"))
    assert joined.notes == ("odd", "two: even")


def test_bytes_beside_floats_mean_the_same() -> None:
    first, second = dataset("one", "ab", "ab"), dataset("two", "ab", "ba")
    floats = dataclasses.replace(first, x=first.x.double() / 255)
    for pair in ((floats, second), (second, floats)):
        joined, plain = (concatenate(*each).batch(slice(None)).x for each in (pair, [
            dataclasses.replace(one, x=one.batch(slice(None)).x.float()) for one in pair]))  # fmt: skip
        assert torch.equal(joined, plain)


COMPOSED, DECOMPOSED = "\xe9t\xe9", "e\u0301te\u0301"


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ((DECOMPOSED, "b"), ("b", COMPOSED), [1, 0]),
        ((COMPOSED, "b"), ("b", DECOMPOSED), [1, 0]),
        ((DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED), [1, 0]),  # who has both, means both
        ((COMPOSED, DECOMPOSED), (COMPOSED, DECOMPOSED), [0, 1]),
    ],
)
def test_accents_of_classes_may_be_spelt_in_two_ways(
    mine: tuple[str, str], theirs: tuple[str, str], expected: list[int]
) -> None:
    first, second = dataset("one", "ab", "ab", class_names=mine), dataset("two", "ab", "ab", class_names=theirs)
    assert concatenate(first, second).y[2:].tolist() == expected


def test_accents_in_a_table_are_spelt_in_one_way(tmp_path: Path) -> None:
    table = f"picture,label,answer\na.png,{DECOMPOSED},unchanged\na.png,{COMPOSED},unchanged\n"
    assert open_dataset(folder(tmp_path / "hitl", table)).class_names == (COMPOSED,)
    one = Annotation(picture="a.png", label=DECOMPOSED, answer="unchanged")
    assert open_dataset(write_annotated(tmp_path / "new", {"a.png": picture(0)}, [one])).class_names == (COMPOSED,)


def test_no_name_makes_an_id_twice() -> None:
    first = dataset("one", "ab", "ab", ids=("0", "two/0"))
    joined = concatenate(
        first, dataset("two", "ab", "a"), dataset("a", "ab", "a", ids=("b/0",)), dataset("a/b", "ab", "b")
    )
    assert joined.ids == ("0", "two/0", "two-2/0", "a/b/0", "a/b-2/0")
    assert [part.name for part in joined.parts] == ["one", "two-2", "a", "a/b-2"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (dataset("two", "ax", "ax"), r"two: 1 class unknown to one: 'x'. For 'x' \(examples: 1\): choose from a, b"),
        (dataset("two", "ab", "ab", class_names=("catt", "dgo")), "2 classes unknown to one: 'catt', 'dgo'"),
        (dataset("two", "ab", "ab", x=torch.zeros(2, 1, 4, 5)), "its inputs are 1x4x5 .*, but those of one are 1x4x4"),
        (dataset("two", "ab", "ab", x=torch.zeros(2, 3, 4, 4)), "its inputs are 3x4x4 .*, but those of one are 1x4x4"),
    ],
)
def test_what_does_not_fit_is_not_joined(other: Dataset, words: str) -> None:
    with pytest.raises(DataError, match=words):
        concatenate(dataset("one", "ab", "ab"), other)
    known = dataset("one", "ab", "ab", class_names=("cat", "dog"))
    if other.class_names[0] == "catt":
        with pytest.raises(DataError, match="did you mean 'cat'"):
            concatenate(known, other)


def test_a_label_that_is_not_its_originals_is_noticed() -> None:
    first = dataset("pets/train", "ab", "ab")
    made_from = tuple(Origin(part="hitl", id=str(row), source="pets/train", source_id=str(1 - row)) for row in range(2))
    assert len(concatenate(first, dataset("hitl", "ab", "ba", origins=made_from))) == 4
    with pytest.raises(DataError, match="'0' .*'a', but '1' of pets/train.* 'b'"):
        concatenate(first, dataset("hitl", "ab", "ab", origins=made_from))
    elsewhere = tuple(dataclasses.replace(each, source="zoo/train") for each in made_from)
    assert len(concatenate(first, dataset("hitl", "ab", "ab", origins=elsewhere))) == 4


@pytest.mark.parametrize(
    ("source", "source_id", "verdict"),
    [
        ("", "mine", "fine"),
        ("pets/train", "mine", "fine"),
        ("pets/test", "mine", "fine"),  # it may have been so in another split of the same data
        ("", "held", "leak"),
        ("pets/train", "held", "leak"),  # the id is of the test split, whatever it is called
        ("", "both", "leak"),
        ("pets/train", "both", "fine"),
        ("renamed/test", "both", "leak"),
        ("pets/test", "", "unknown"),
        ("pets/test", "nobody's", "unknown"),
    ],
)
def test_pictures_made_from_held_out_examples_are_refused(source: str, source_id: str, verdict: str) -> None:
    origin = Origin(part="hitl", id="0", source=source, source_id=source_id)
    added = dataset("hitl", "ab", "a", origins=(origin,))
    held_out = {"test": ["held", "both"], "val": ["other"]}
    if verdict == "leak":
        with pytest.raises(DataError, match=f"1 .* of 1 .*'{source_id}' of test"):
            untraced(added, ["mine", "both"], held_out)
    else:
        assert untraced(added, ["mine", "both"], held_out) == (["0"] if verdict == "unknown" else [])


def test_examples_without_an_origin_cannot_be_traced() -> None:
    assert untraced(dataset("new", "ab", "ab"), ["0"], {"test": ["1"]}) == ["0", "1"]


def test_the_digest_is_of_the_content_and_not_of_the_name() -> None:
    data = dataset("one", "ab", "ab")
    assert content(dataclasses.replace(data, name="two", ids=("x", "y"), notes=("new",))) == content(data)
    for change in ({"x": data.x ^ 1}, {"y": data.y ^ 1}, {"class_names": ("a", "c")}):
        assert content(dataclasses.replace(data, **change)) != content(data)
    assert data.provenance() == [{"name": "one", "examples": 2, "content": content(data)}]


def test_the_makers_that_a_part_names_are_bounded(tmp_path: Path) -> None:
    names = [f"{row}.png" for row in range(12)]
    table = "picture,label,answer,model\n" + "".join(f"{row}.png,7,unchanged,m{row % 11}\n" for row in range(12))
    (part,) = open_dataset(folder(tmp_path / "hitl", table, names)).parts
    assert part.made_by == {**{f"m{row}": 2 if row == 0 else 1 for row in range(8)}, "others": 3}


def test_an_impossible_number_of_origins_is_refused() -> None:
    with pytest.raises(DataError, match="2 examples and 1 origins"):
        dataset("one", "ab", "ab", origins=(Origin(part="one", id="0"),))


def test_options_are_those_of_every_data_set(tmp_path: Path) -> None:
    root = folder(tmp_path / "hitl", PLAIN)
    assert open_dataset(root, channels=3).shape == (3, 4, 4)
    with pytest.raises(DataError, match="has no splits"):
        open_dataset(root, split="train")
    with pytest.raises(SpecError, match="max_samples"):
        open_dataset(root, max_samples=0)
    assert AnnotatedFolder().find(Place(tmp_path)) is None
