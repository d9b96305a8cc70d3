"""Whose a wristband session is: which participant's labels are its own, and which subject it counts as.

Splits part people, so two sessions of one person must be one subject. Nothing is guessed without a word:
where the folders allow two readings, the reader asks, and what was taken is in the data card.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.readers.e4_places import Session

NAMED, ABOVE = "named", "above"
_NAMED_ENTRIES = 5
# A number, then what tells sessions apart: S02a, S02_1, P7-day2.
_LOOKS_LIKE_A_SESSION = re.compile(r"(.*\d)(?:[ _.\-]+[a-z]*[ _.\-]*\d*|[a-z])", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Owner:
    """Whose a session is.

    Attributes:
      subject: The person, for splits.
      participant: Name in the label table.
    """

    subject: str
    participant: str


def find_owners(
    sessions: Sequence[Session], participants: Sequence[str], rule: str, subjects: Mapping[str, str]
) -> dict[str, Owner]:
    """Owner of each session that the label table knows, by the session's id.

    A session belongs to the participant whose name (or else whose only number: S02 and 2) one of its folders
    has, or its subject.

    Args:
      sessions: All sessions.
      participants: Names in the label table.
      rule: `NAMED`: that folder is the person; `ABOVE`: the folder above it is; "" for the former, if no
        folder holds several of them.
      subjects: Subject by session, from a table; if not empty, it decides instead of `rule`.

    Raises:
      BadDataError: A name or a number may mean two folders, or a session is in no line of `subjects`.
      UsageError: The folders allow two readings, and `rule` says neither.
    """
    told = {s.id: _told(s, subjects) for s in sessions} if subjects else {}
    levels = _match_names(sessions, participants, told)
    rest = [p for p in participants if p not in {participant for participant, _ in levels.values()}]
    levels |= _match_numbers([s for s in sessions if s.id not in levels], rest, told)
    known = [session for session in sessions if session.id in levels]
    if not subjects:
        if not rule:
            _check_unambiguous(known, levels)
        told = {session.id: _by_folder(session, levels[session.id][1], rule) for session in known}
    if without := [session.id for session in known if not told[session.id]]:
        raise BadDataError(
            f"the table of subjects has no line of session {without[0]} ({len(without)} sessions are not in "
            "it); add one for each"
        )
    return {s.id: Owner(told[s.id], levels[s.id][0]) for s in known}


def describe(owners: Mapping[str, Owner], rule: str, has_table: bool) -> str:
    """What was taken for a person, for the data card."""
    sessions_of = collections.defaultdict(list)
    for session, owner in owners.items():
        sessions_of[owner.subject].append(session)
    by = "the folder that the label table names"
    if has_table:
        by = "what the table of subjects says"
    elif rule == ABOVE:
        by = "the folder above the one that the label table names"
    several = {subject: ids for subject, ids in sessions_of.items() if len(ids) > 1}
    listed = [f"{subject} = {', '.join(ids)}" for subject, ids in list(several.items())[:_NAMED_ENTRIES]]
    more = f" and {len(several) - len(listed)} more" if len(several) > len(listed) else ""
    text = f"{len(owners)} sessions of {len(sessions_of)} people; a person is {by}"
    return text + (f"; of several sessions: {'; '.join(listed)}{more}" if listed else "")


def look_alike(subjects: Iterable[str]) -> list[list[str]]:
    """Names taken for several people that look like sessions of one, such as S02a and S02b."""
    groups = collections.defaultdict(list)
    for subject in sorted(set(subjects)):
        if match := _LOOKS_LIKE_A_SESSION.fullmatch(subject):
            groups[match[1].lower()].append(subject)
    return [names for names in groups.values() if len(names) > 1]


def only_number(name: str) -> int | None:
    """The only whole number in a name, None if there is none or more than one."""
    number = re.fullmatch(r"\D*?(\d+)(?:\.0*)?\D*", name)
    return int(number[1]) if number else None


def _told(session: Session, subjects: Mapping[str, str]) -> str:
    """Subject by the table, which names the session or a folder that it lies in; "" if it names none."""
    for end in range(len(session.parts), 0, -1):
        if subject := subjects.get("/".join(session.parts[:end])):
            return subject
    return subjects.get(session.parts[-1], "")


def _match_names(
    sessions: Sequence[Session], participants: Sequence[str], told: Mapping[str, str]
) -> dict[str, tuple[str, int]]:
    """Participant, and place of the folder that has its name, for the sessions where one has."""
    exact = {participant: participant for participant in participants}
    for participant in participants:
        exact.setdefault(participant.lower(), participant)

    def find(name: str) -> str | None:
        return exact.get(name, exact.get(name.lower()))

    levels: dict[str, tuple[str, int]] = {}
    for session in sessions:
        if participant := find(told.get(session.id, "")) or find(session.id):
            levels[session.id] = participant, len(session.parts) - 1
            continue
        found = {name: level for level, part in reversed([*enumerate(session.parts)]) if (name := find(part))}
        if len(found) > 1:
            raise BadDataError(
                f"session {session.id} lies in folders of the names of participants {' and '.join(found)}; "
                "name the sessions' subjects in a table, as the option subjects"
            )
        for participant, level in found.items():
            levels[session.id] = participant, level
    return levels


def _match_numbers(
    sessions: Sequence[Session], participants: Sequence[str], told: Mapping[str, str]
) -> dict[str, tuple[str, int]]:
    """As `_match_names`, by the only number in a name: of the folders that tell most participants first."""
    numbers = {number: p for p in participants if (number := only_number(p)) is not None}
    told_by: dict[int, set[str]] = collections.defaultdict(set)
    found: dict[str, dict[int, str]] = {}
    for session in sessions:
        names = {level: part for level, part in enumerate(session.parts)}
        if subject := told.get(session.id):
            names = {len(names) - 1: subject}
        found[session.id] = {
            level: numbers[number]
            for level, part in names.items()
            if (number := only_number(part)) in numbers
        }
        for level, participant in found[session.id].items():
            told_by[level].add(participant)
    order = sorted(told_by, key=lambda level: (-len(told_by[level]), level))
    levels: dict[str, tuple[str, int]] = {}
    names_of: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for session in sessions:
        level = next((level for level in order if level in found[session.id]), None)
        if level is not None:
            participant = found[session.id][level]
            levels[session.id] = participant, level
            names_of[participant][told.get(session.id) or session.parts[level]] = None
    for participant, names in names_of.items():
        if len(names) > 1:
            raise BadDataError(
                f"participant {participant} may be {' or '.join(names)}; use the folders' names in the table"
            )
    return levels


def _check_unambiguous(sessions: Sequence[Session], levels: Mapping[str, tuple[str, int]]) -> None:
    """Refuses folders that hold several named folders each: people of a site, or sessions of a person?"""
    inside: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for session in sessions:
        level = levels[session.id][1]
        inside["/".join(session.parts[:level])][session.parts[level]] = None
    # If all lie in one folder, that folder is no person.
    several = {above: list(names) for above, names in inside.items() if above and len(names) > 1}
    if several and len(inside) > 1:
        above, names = next(iter(several.items()))
        raise UsageError(
            f"the label table names {names[0]} and {names[1]}, which lie in one folder {above}: say whether "
            f"they are two people (subjects={NAMED}) or sessions of one (subjects={ABOVE})"
        )


def _by_folder(session: Session, level: int, rule: str) -> str:
    if rule != ABOVE:
        return session.parts[level]
    if level == 0:
        raise BadDataError(
            f"session {session.id} lies in no folder of a person, as subjects={ABOVE} has it; put the "
            "sessions of a person into one folder, or name a table as the option subjects"
        )
    return session.parts[level - 1]
