"""Who is trained on, who chooses the checkpoint, and who is tested.

All protocols but one divide *subjects*; that one is the paper's, kept for the comparison, and says what it
leaks. Every order is a hash of (purpose, seed, name): it depends on no library's random numbers, on no order
of the recordings, and a subject that joins later leaves the order of the others as it was.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import math
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from data_pipelines import clip_folds
from data_pipelines.errors import BadDataError, UsageError

PARTS = ("train", "validation", "test", "set_aside")
EVALUATED = PARTS[:3]  # what can be reported; ``set_aside`` only chooses the checkpoint
SELECTIONS = ("validation", "set_aside")
PAPER_PROTOCOL = "clip_kfold_test_selected"


class Item(NamedTuple):
    """What a split has to know of a recording.

    Attributes:
      id: The recording's id.
      subject: Who it is.
      label: The recording's class; None where it has no single one.
      group: The recording's official partition (``train``, ``validation``, ``test``) or "".
    """

    id: str
    subject: str
    label: int | None = None
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Split:
    """Recording ids in disjoint parts.

    Attributes:
      name: The protocol.
      train: Ids of the recordings to learn from, sorted.
      validation: Ids that choose the checkpoint, sorted; empty where ``selection`` is ``test``.
      test: Ids that are looked at once, sorted.
      subject_of: Recording id to subject; holds all parts.
      fold: Number of the fold, from 0.
      folds: How many folds there are.
      selection: The part that chooses the checkpoint.
      warnings: Sentences that belong into every report of this split.
      set_aside: Ids of training subjects that choose the checkpoint where ``selection`` is ``set_aside``, so
        that the validation part can be reported; else empty.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    subject_of: Mapping[str, str]
    fold: int = 0
    folds: int = 1
    selection: Literal["validation", "test", "set_aside"] = "validation"
    warnings: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that this split has: all of `PARTS`, ``set_aside`` only where it is used."""
        return PARTS if self.set_aside else PARTS[:3]

    def subjects(self, part: str) -> tuple[str, ...]:
        """The subjects of one part, sorted, each once."""
        return tuple(sorted({self.subject_of[item] for item in getattr(self, part)}))

    def as_json(self) -> dict[str, object]:
        """The split as JSON values: for each part its subjects and its number of recordings."""
        facts = {name: getattr(self, name) for name in ("name", "fold", "folds", "selection")}
        for part in self.parts:
            facts[part] = {"subjects": list(self.subjects(part)), "recordings": len(getattr(self, part))}
        return {**facts, "warnings": list(self.warnings)}


def fold_words(fold: int, folds: int) -> str:
    """A fold as logs and messages name it, by the number that ``protocol.folds`` and folders use too.

    Args:
      fold: From 0.
      folds: How many there are.
    """
    return f"fold {fold} (of 0 to {folds - 1})" if folds > 1 else "fold 0 (the only one)"


def num_folds(items: Sequence[Item], protocol: str, folds: int, exclude: Collection[str] = ()) -> int:
    """How many folds ``make_split`` knows for this protocol.

    Args:
      items: All recordings.
      protocol: A name in ``PROTOCOLS``.
      folds: The asked number; only the k-fold protocols look at it.
      exclude: Subjects to leave out.

    Returns:
      The number of folds, at least 1.

    Raises:
      UsageError: Unknown protocol, no recordings, or too few subjects or clips.
    """
    _check_protocol(protocol)
    kept, _ = _leave_out(items, exclude)
    subjects = sorted({item.subject for item in kept})
    if protocol == "loso":
        _at_least(len(subjects), 3, "subjects", "leave-one-subject-out (to train, to validate, to test)")
        return len(subjects)
    if protocol in ("hold_out", "official"):
        return 1
    if folds < 2:
        raise UsageError(f"{folds} folds asked for; expected at least 2. Set a higher number of folds.")
    if protocol == PAPER_PROTOCOL:
        _at_least(len(kept), folds, "recordings", f"{folds} folds")
        return folds
    # The largest fold must leave two subjects: one to train on and one to validate on.
    needed = next(n for n in itertools.count(folds) if n - math.ceil(n / folds) >= 2)
    _at_least(len(subjects), needed, "subjects", f"{folds} folds")
    return folds


def make_split(
    items: Sequence[Item],
    protocol: str,
    *,
    fold: int = 0,
    folds: int = 5,
    seed: int = 0,
    validation_share: float = 0.2,
    exclude: Collection[str] = (),
    test_subjects: Collection[str] = (),
    selection: str = "validation",
) -> Split:
    """Divides recordings by a named protocol.

    Args:
      items: All recordings, in any order.
      protocol: ``subject_kfold``: the subjects in ``folds`` parts of equal size (give or take one), by
        ``seed``. ``loso``: leave one subject out, fold i tests the i-th subject by name. ``hold_out``:
        tests ``test_subjects``. ``official``: by the recordings' own group; without a test group the
        validation group is tested. ``clip_kfold_test_selected``: the paper's, which leaks and says so.
      fold: Number of the fold, from 0.
      folds: How many folds, for the k-fold protocols.
      seed: Draws the folds and the validation subjects. The paper's protocol is pinned to its own seed, 42.
      validation_share: In (0, 1): the share of the training *subjects* that choose the checkpoint instead,
        at least one. Unused where the data set has an official validation group beside a test group, and by
        the paper's protocol.
      exclude: Subjects to leave out, e.g. BioVid's 20 non-reactive ones (LOSO-67).
      test_subjects: For ``hold_out``.
      selection: Who chooses the checkpoint: ``validation``, or where there is an official validation group
        ``set_aside``, a share of the training subjects, so that this group can be reported. (Without one,
        validation subjects are set aside of the training subjects anyway.)

    Returns:
      A checked split.

    Raises:
      UsageError: Unknown protocol, no such fold, or too few subjects.
      BadDataError: Two recordings with one id, or official groups that share a subject.
    """
    total = num_folds(items, protocol, folds, exclude)
    if not 0 <= fold < total:
        raise UsageError(f"fold {fold} asked for; {protocol} has 0 to {total - 1} here. Choose one of them.")
    if not 0 < validation_share < 1:
        raise UsageError(f"validation_share is {validation_share}; expected more than 0 and less than 1.")
    if selection not in SELECTIONS:
        raise UsageError(f"protocol.selection={selection!r}; it is one of {', '.join(SELECTIONS)}")
    kept, notes = _leave_out(items, exclude)
    subject_of = {item.id: item.subject for item in kept}
    if len(subject_of) < len(kept):
        twice = next(one.id for one, other in itertools.pairwise(kept) if one.id == other.id)
        raise BadDataError(f"two recordings have the id {twice!r}; expected each id once. Mend the reader.")
    lists = frozenset(exclude), frozenset(test_subjects)
    parts = PROTOCOLS[protocol](_Request(kept, fold, total, seed, validation_share, *lists, selection))
    chooses = "set_aside" if parts.set_aside else "validation"
    split = Split(
        protocol,
        *(tuple(sorted(ids)) for ids in parts[:3]),
        set_aside=tuple(sorted(parts.set_aside)),
        subject_of=subject_of,
        fold=fold,
        folds=total,
        selection="test" if protocol == PAPER_PROTOCOL else chooses,
        warnings=(*notes, *parts.warnings, *_missing_classes(kept, parts)),
    )
    check(split)
    return split


def check(split: Split) -> None:
    """Refuses a leak: a recording in two parts, a subject in two parts, or an empty part.

    Only the paper's own protocol, under its own name and with its own selection, may share subjects between
    train and test.

    Raises:
      BadDataError: What is shared by which parts.
    """
    paper = split.name == PAPER_PROTOCOL and split.selection == "test"
    # With training subjects set aside it is the validation part that is reported, and a test part is extra.
    needed = ("train", "validation", "set_aside") if split.selection == "set_aside" else PARTS[:3]
    for part in ("train", "test") if paper else needed:
        if not getattr(split, part):
            which = fold_words(split.fold, split.folds)
            found = f"the {part} part of split {split.name!r}, {which}, is empty"
            raise BadDataError(f"{found}; expected recordings. Choose another protocol or add subjects.")
    if split.selection not in SELECTIONS and not paper:
        found = f"split {split.name!r} chooses its checkpoint on {split.selection!r}"
        raise BadDataError(f"{found}; expected 'validation'. Only {PAPER_PROTOCOL!r} looks at its test part.")
    for one, other in itertools.combinations(PARTS, 2):
        recordings = set(getattr(split, one)) & set(getattr(split, other))
        subjects = set(split.subjects(one)) & set(split.subjects(other))
        if recordings or (subjects and not (paper and (one, other) == ("train", "test"))):
            what = "recordings" if recordings else "subjects"
            shared = sorted(recordings or subjects)
            found = f"{len(shared)} {what} are both in {one} and in {other} of split {split.name!r}"
            raise BadDataError(f"{found} (first: {shared[0]}); expected none. Divide by subject.")


class _Request(NamedTuple):
    """What a protocol is asked: the arguments of ``make_split``, checked."""

    items: list[Item]
    fold: int
    folds: int
    seed: int
    validation_share: float
    exclude: frozenset[str]
    test_subjects: frozenset[str]
    selection: str


class _Parts(NamedTuple):
    """What a protocol answers: recording ids."""

    train: list[str]
    validation: list[str]
    test: list[str]
    warnings: tuple[str, ...] = ()
    set_aside: Sequence[str] = ()


def _rank(purpose: str, seed: int, *names: str) -> bytes:
    return hashlib.sha256("\0".join((purpose, str(seed), *names)).encode()).digest()


def _at_least(found: int, expected: int, what: str, purpose: str) -> None:
    if found < expected:
        raise UsageError(
            f"{found} {what} found; expected at least {expected} for {purpose}. "
            f"Ask for fewer folds, choose another protocol or prepare more {what}."
        )


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        near = difflib.get_close_matches(protocol, PROTOCOLS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}.{hint}")


def _leave_out(items: Sequence[Item], exclude: Collection[str]) -> tuple[list[Item], list[str]]:
    """The items to divide, sorted by id, and a sentence on what was left out."""
    left_out = set(exclude)
    kept = sorted((item for item in items if item.subject not in left_out), key=lambda item: item.id)
    if not kept:
        raise UsageError(
            f"0 of {len(items)} recordings are left after leaving out {len(left_out)} subjects; "
            "expected some to divide. Check the list of excluded subjects."
        )
    absent = left_out - {item.subject for item in items}
    note = f"{len(absent)} of {len(left_out)} subjects to leave out are not in this copy anyway."
    return kept, [note] if absent else []


def _missing_classes(items: list[Item], parts: _Parts) -> list[str]:
    """Sentences on classes that a part does not hold."""
    label_of = {item.id: item.label for item in items if item.label is not None}
    classes = sorted(set(label_of.values()))
    notes = []
    for part in PARTS[:3]:
        ids = getattr(parts, part)
        absent = [str(c) for c in classes if c not in {label_of.get(i) for i in ids}]
        if ids and absent:
            notes.append(f"The {part} part holds no recording of class {', '.join(absent)}.")
    return notes


def _with_validation(
    request: _Request, train: list[Item], test: list[Item], notes: Sequence[str] = ()
) -> _Parts:
    """Takes validation subjects from the training subjects."""
    subjects = sorted({item.subject for item in train})
    _at_least(len(subjects), 2, "subjects beside those to test", "training and validation")
    subjects.sort(key=lambda subject: _rank("validation", request.seed, str(request.fold), subject))
    count = min(max(1, round(request.validation_share * len(subjects))), len(subjects) - 1)
    chosen = set(subjects[:count])
    return _Parts(
        [item.id for item in train if item.subject not in chosen],
        [item.id for item in train if item.subject in chosen],
        [item.id for item in test],
        tuple(notes),
    )


def _by_subjects(request: _Request, tested: Collection[str], notes: Sequence[str] = ()) -> _Parts:
    """Tests the given subjects, trains on the others."""
    train, test = ([i for i in request.items if (i.subject in tested) == part] for part in (False, True))
    return _with_validation(request, train, test, notes)


def _subject_kfold(request: _Request) -> _Parts:
    subjects = sorted({item.subject for item in request.items})
    subjects.sort(key=lambda subject: _rank("folds", request.seed, subject))
    return _by_subjects(request, set(subjects[request.fold :: request.folds]))


def _loso(request: _Request) -> _Parts:
    subjects = sorted({item.subject for item in request.items})
    return _by_subjects(request, {subjects[request.fold]})


def _hold_out(request: _Request) -> _Parts:
    present = request.test_subjects & {item.subject for item in request.items}
    if not present:
        raise UsageError(
            f"none of the {len(request.test_subjects)} test subjects is in the data; expected at least one. "
            "Set the test subjects to names of this data set, or choose subject_kfold."
        )
    asked, excluded = len(request.test_subjects), len(request.test_subjects & request.exclude)
    counts = {"not in this copy": asked - len(present) - excluded, "left out by request": excluded}
    notes = [f"{count} of {asked} test subjects are {what}." for what, count in counts.items() if count]
    return _by_subjects(request, present, notes)


def _official(request: _Request) -> _Parts:
    groups: dict[str, list[Item]] = {}
    for item in request.items:
        groups.setdefault(item.group, []).append(item)
    test = "test" if "test" in groups else "validation"
    if "train" not in groups or test not in groups:
        found = ", ".join(repr(name) for name in sorted(groups))
        raise UsageError(
            f"the recordings' groups are {found}; expected 'train' and 'test' or 'validation'. "
            "This data set has no official partition: choose subject_kfold."
        )
    notes = []
    unused = sum(len(v) for name, v in groups.items() if name not in PARTS[:3])
    if unused:
        notes.append(f"{unused} recordings belong to no official partition and are left out.")
    if "validation" in groups and request.selection == "set_aside":
        held = [[item.id for item in groups.get(part, [])] for part in ("validation", "test")]
        own = _with_validation(request, groups["train"], [])
        return _Parts(own.train, *held, tuple(notes), own.validation)
    if test == "test" and "validation" in groups:
        return _Parts(*([item.id for item in groups[part]] for part in PARTS[:3]), tuple(notes))
    missing = "test" if test == "validation" else "validation"
    notes.append(
        f"There is no official {missing} partition: the {test} partition is the test part and validation "
        "subjects are taken from the training subjects."
    )
    return _with_validation(request, groups["train"], groups[test], notes)


def _clip_kfold_test_selected(request: _Request) -> _Parts:
    found = clip_folds.divide(request.items, request.fold, request.folds)
    return _Parts(found.train, [], found.test, found.warnings)


PROTOCOLS = types.MappingProxyType(
    {
        "subject_kfold": _subject_kfold,
        "loso": _loso,
        "hold_out": _hold_out,
        "official": _official,
        PAPER_PROTOCOL: _clip_kfold_test_selected,
    }
)
