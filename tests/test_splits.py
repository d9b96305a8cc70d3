"""Splits: every protocol's promises, leaks refused, and sentences for what cannot be done."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import splits
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.splits import Item, check, make_split, num_folds


def people(subjects, clips=4, classes=2):
    return [Item(f"s{s:02d}-{c}", f"s{s:02d}", c % classes) for s in range(subjects) for c in range(clips)]


def parts(split):
    return {part: set(split.subjects(part)) for part in ("train", "validation", "test")}


@settings(max_examples=30, deadline=None)
@given(
    subjects=st.integers(4, 30),
    folds=st.integers(2, 6),
    seed=st.integers(0, 99),
    share=st.floats(0.05, 0.9),
    protocol=st.sampled_from(["subject_kfold", "loso"]),
    order=st.randoms(use_true_random=False),
)
def test_subjects_are_divided_and_each_is_tested_once(subjects, folds, seed, share, protocol, order):
    folds = min(folds, subjects)
    items = people(subjects)
    shuffled = list(items)
    order.shuffle(shuffled)
    options = {"folds": folds, "seed": seed, "validation_share": share}
    made = [
        make_split(items, protocol, fold=fold, **options) for fold in range(num_folds(items, protocol, folds))
    ]
    assert made == [make_split(shuffled, protocol, fold=s.fold, **options) for s in made]
    everyone = {item.subject for item in items}
    for split in made:
        divided = parts(split)
        assert sum(len(part) for part in divided.values()) == len(everyone)
        assert set().union(*divided.values()) == everyone
        assert all(divided.values())
        assert sorted(split.train + split.validation + split.test) == sorted(item.id for item in items)
        assert split.selection == "validation"
        assert split.warnings == ()
    tested = [subject for split in made for subject in split.subjects("test")]
    assert sorted(tested) == sorted(everyone)
    sizes = [len(split.subjects("test")) for split in made]
    assert max(sizes) - min(sizes) <= 1


def test_the_seed_draws_the_folds():
    items = people(20)
    assert {make_split(items, "subject_kfold", seed=seed).test for seed in range(5)}.__len__() > 1
    validation = {make_split(items, "loso", seed=seed).validation for seed in range(5)}
    assert len(validation) > 1


def test_folds_stay_what_they_are():
    split = make_split(people(6), "subject_kfold", folds=3, seed=7)
    assert (split.subjects("validation"), split.subjects("test")) == (("s02",), ("s01", "s05"))


def test_leave_one_out_of_87_and_67():
    items = people(87, clips=2)
    left_out = [f"s{s:02d}" for s in range(20)]
    assert num_folds(items, "loso", 5) == 87
    assert num_folds(items, "loso", 5, left_out) == 67
    split = make_split(items, "loso", fold=66, exclude=left_out)
    assert split.subjects("test") == ("s86",)
    assert not set(left_out) & set.union(*parts(split).values())


def test_hold_out_says_who_is_absent():
    split = make_split(people(6), "hold_out", test_subjects=["s01", "s04", "nobody"], exclude=["s04"])
    assert split.subjects("test") == ("s01",)
    assert split.warnings == (
        "1 of 3 test subjects are not in this copy.",
        "1 of 3 test subjects are left out by request.",
    )
    with pytest.raises(UsageError, match="none of the 1 test subjects is in the data; expected at least one"):
        make_split(people(6), "hold_out", test_subjects=["nobody"])


def test_absent_excluded_subjects_are_said():
    split = make_split(people(6), "loso", exclude=["s01", "nobody"])
    assert split.warnings == ("1 of 2 subjects to leave out are not in this copy anyway.",)


def test_official_partitions():
    groups = {"s00": "train", "s01": "train", "s02": "train", "s03": "validation", "s04": "test"}
    items = [item._replace(group=groups.get(item.subject, "")) for item in people(6)]
    split = make_split(items, "official")
    assert parts(split) == {"train": {"s00", "s01", "s02"}, "validation": {"s03"}, "test": {"s04"}}
    assert split.warnings == ("4 recordings belong to no official partition and are left out.",)

    without_test = [item for item in items if item.group in ("train", "validation")]
    split = make_split(without_test, "official")
    assert parts(split)["test"] == {"s03"}
    assert len(parts(split)["validation"]) == 1
    assert "no official test partition" in split.warnings[0]

    leaky = [*without_test, Item("again", "s00", 0, "validation")]
    with pytest.raises(BadDataError, match="1 subjects are both in"):
        make_split(leaky, "official")
    with pytest.raises(UsageError, match="no official partition"):
        make_split(people(6), "official")


def test_training_subjects_set_aside_choose_so_that_validation_can_be_reported():
    groups = {**dict.fromkeys((f"s{n:02d}" for n in range(6)), "train"), "s06": "validation", "s07": "test"}
    items = [item._replace(group=groups[item.subject]) for item in people(8)]
    split = make_split(items, "official", selection="set_aside")
    plain = make_split(items, "official")
    assert split.selection == "set_aside" and len(split.subjects("set_aside")) == 1
    assert split.subjects("validation") == plain.subjects("validation") == ("s06",)
    assert split.subjects("test") == ("s07",)
    assert set(split.train) | set(split.set_aside) == set(plain.train) and not plain.set_aside
    assert split.as_json()["set_aside"]["recordings"] == 4 and "set_aside" not in plain.as_json()
    without_test = make_split([i for i in items if i.group != "test"], "official", selection="set_aside")
    assert without_test.test == () and without_test.subjects("validation") == ("s06",)
    with pytest.raises(BadDataError, match="subjects are both in validation and in set_aside"):
        check(dataclasses.replace(split, set_aside=split.validation[:1], validation=split.validation[1:]))
    assert make_split(people(6), "subject_kfold", selection="set_aside", folds=3).selection == "validation"
    with pytest.raises(UsageError, match="it is one of validation, set_aside"):
        make_split(people(6), "subject_kfold", selection="test", folds=3)


def test_the_papers_protocol_names_both_leaks():
    items = people(10, clips=5)
    made = [make_split(items, "clip_kfold_test_selected", fold=fold, folds=5) for fold in range(5)]
    assert sorted(i for split in made for i in split.test) == sorted(item.id for item in items)
    for split in made:
        assert split.selection == "test"
        assert split.validation == ()
        assert "test subjects are trained on" in split.warnings[0]
        assert "chosen on the test fold" in split.warnings[1]
        assert not set(split.train) & set(split.test)
    # Shuffled KFold with the random state 42: the first fold of 50 in 5.
    order = np.random.RandomState(42).permutation(50)
    ids = sorted(item.id for item in items)
    assert made[0].test == tuple(sorted(ids[i] for i in order[:10]))


def test_check_refuses_every_other_overlap():
    good = make_split(people(6), "subject_kfold", folds=3)
    shared = dataclasses.replace(good, train=(*good.train, good.test[0]), test=good.test[1:])
    with pytest.raises(BadDataError, match="subjects are both in train and in test"):
        check(shared)
    with pytest.raises(BadDataError, match="recordings are both in train and in validation"):
        check(dataclasses.replace(good, train=(*good.train, good.validation[0])))
    with pytest.raises(BadDataError, match="subjects are both in train and in test"):
        check(dataclasses.replace(shared, name="clip_kfold_test_selected"))
    with pytest.raises(BadDataError, match="chooses its checkpoint on 'test'"):
        check(dataclasses.replace(good, selection="test"))
    with pytest.raises(BadDataError, match="validation part .* is empty"):
        check(dataclasses.replace(good, validation=()))


def test_a_missing_class_is_said():
    items = [Item(f"{s}{c}", s, 0 if s == "a" else c) for s in "abcdef" for c in range(2)]
    split = make_split(items, "loso", fold=0)
    assert split.warnings == ("The test part holds no recording of class 1.",)
    no_labels = [item._replace(label=None) for item in items]
    assert make_split(no_labels, "loso", fold=0).warnings == ()


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"folds": 7}, "6 subjects found; expected at least 7 for 7 folds"),
        ({"folds": 1}, "1 folds asked for; expected at least 2"),
        ({"fold": 5}, "fold 5 asked for; subject_kfold has 0 to 4"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"exclude": [f"s0{i}" for i in range(6)]}, "0 of 24 recordings are left"),
        ({"protocol": "subject_fold"}, "Did you mean 'subject_kfold'"),
        (
            {"protocol": "loso", "exclude": [f"s0{i}" for i in range(4)]},
            "2 subjects found; expected at least 3",
        ),
        ({"protocol": "clip_kfold_test_selected", "folds": 25}, "24 recordings found; expected at least 25"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_split(people(6), **{"protocol": "subject_kfold", **options})


def test_three_subjects_do_not_make_two_folds():
    with pytest.raises(UsageError, match="3 subjects found; expected at least 4 for 2 folds"):
        num_folds(people(3), "subject_kfold", 2)
    assert [len(make_split(people(4), "subject_kfold", folds=2, fold=f).test) for f in range(2)] == [8, 8]


def test_an_id_twice_is_bad_data():
    with pytest.raises(BadDataError, match="'s00-0'"):
        make_split([*people(6), Item("s00-0", "s00", None)], "loso")


def test_the_split_as_json():
    described = make_split(people(6), "subject_kfold", folds=3, seed=7).as_json()
    assert described["test"] == {"subjects": ["s01", "s05"], "recordings": 8}
    assert set(described) == {
        "name", "fold", "folds", "selection", "train", "validation", "test", "warnings",
    }  # fmt: skip
    assert tuple(splits.PROTOCOLS) == (
        "subject_kfold", "loso", "hold_out", "official", "clip_kfold_test_selected",
    )  # fmt: skip


def test_folds_are_counted_from_0_in_words_too():
    assert (
        splits.fold_words(0, 5) == "fold 0 (of 0 to 4)" and splits.fold_words(0, 1) == "fold 0 (the only one)"
    )
    root = pathlib.Path(splits.__file__).parent.parent
    for path in [*root.glob("jmt_jax/*.py"), *root.glob("data_pipelines/*.py"), root / "README.md"]:
        found = re.search(r"\bfold\b[^\n]*\+ 1|[Ff]old \d+ of \d", path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[0]}"
