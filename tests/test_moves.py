"""Processes that do not move: who is said to be stuck, and when."""

from __future__ import annotations

import pytest

from jmt_jax import moves


def _at(count: int, signs: int, place: str = "step 7") -> dict:
    return {"host": "h", "count": count, "signs": signs, "place": place}


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return _Clock()


def test_whoever_moves_saves_all_of_them(clock):
    watch = moves.Watch(10.0, clock)
    for signs in range(20):
        # Process 1 waits for process 0, which draws pictures.
        assert not watch.verdict({0: _at(3, signs), 1: _at(4, 4)})
        clock.now += 8.0


def test_the_one_that_is_behind_is_named_after_the_limit(clock):
    watch = moves.Watch(10.0, clock)
    found = {0: _at(8, 8), 1: _at(7, 9), 2: _at(8, 8)}
    assert not watch.verdict(found)
    clock.now += 9.0
    assert not watch.verdict(found)
    clock.now += 1.5
    first, *places, last = watch.verdict(found)
    assert first == "no process has moved for 10 s" and len(places) == 3
    assert "process 1 (h) has come to move 7, step 7" in places
    assert last.startswith("process 1 is stuck")


def test_all_at_one_place_are_said_to_be(clock):
    watch = moves.Watch(10.0, clock)
    watch.verdict({0: _at(8, 8), 1: _at(8, 9)})
    clock.now += 11.0
    assert watch.verdict({0: _at(8, 8), 1: _at(8, 9)})[-1].startswith("all of them wait at the same place")


def test_moves_and_signs_are_counted(monkeypatch):
    monkeypatch.setattr(moves, "_moves", moves._Moves())
    moves.made("step 1")
    moves.alive()
    assert (moves._moves.count, moves._moves.signs, moves._moves.place) == (1, 2, "step 1")
