"""What a prepared data set leaves out as damaged, and what its card tells."""

from __future__ import annotations

import fake_reader
import numpy as np
import pytest
from prepare_case import SOURCES, contents, run

from data_pipelines.errors import BadDataError
from data_pipelines.recording import LeftOut
from data_pipelines.source import PreparedSet


def test_damaged_recordings_are_left_out_and_listed(raw, tmp_path, decoded):
    (raw / "body" / "b1.txt").write_text("900 1 then broken")
    (raw / "camera" / "v7.txt").unlink()
    with (raw / "people.txt").open("a") as people:
        people.write("r8 p0 gone - -\n")
    out = tmp_path / "out"
    with pytest.raises(BadDataError) as refused:
        run(raw, out)
    sentence = str(refused.value)
    assert "3 of 8 recordings are damaged or lack a file, more than the 5.0% allowed" in sentence
    assert "r2: body: body/b1.txt is cut short after 900" in sentence
    assert "max_damaged=0.38" in sentence and "--" not in sentence
    card = run(raw, out, max_damaged_share=0.38)
    assert len(decoded) == SOURCES
    assert card["counts"] == {
        "recordings": 5,
        "subjects": 3,
        "groups": {"train": 5},
        "left_out": 4,
        "damaged": 3,
    }
    assert card["left_out"] == [
        {"id": "r8", "reason": "is not part of this copy", "damaged": False},
        {"id": "r2", "reason": "body: body/b1.txt is cut short after 900", "damaged": True},
        {"id": "r3", "reason": "body: body/b1.txt is cut short after 900", "damaged": True},
        {"id": "r7", "reason": "camera: there is no file camera/v7.txt", "damaged": True},
    ]
    found = PreparedSet.open(out)
    assert [r.id for r in found.recordings] == ["r0", "r1", "r4", "r5", "r6"]
    # Nor is what only they used stored.
    assert found.table("body").source_ids == ("b0", "b2", "b3")
    assert found.table("camera").source_ids == ("v0", "v1", "v4", "v5", "v6")


def test_nothing_sound_is_an_error_whatever_is_allowed(raw, tmp_path, decoded):
    for path in (raw / "body").iterdir():
        path.write_text("broken")
    with pytest.raises(BadDataError, match="all 8 recordings are damaged"):
        run(raw, tmp_path / "out", max_damaged_share=1.0)


def test_what_the_scan_found_damaged_counts(raw, tmp_path, decoded, monkeypatch):
    scan = fake_reader.Fake.scan

    def scan_with_damage(self):
        recordings, sources, left_out = scan(self)
        return recordings, sources, [*left_out, LeftOut("r9", f"{self.root}/r9 is empty", damaged=True)]

    monkeypatch.setattr(fake_reader.Fake, "scan", scan_with_damage)
    with pytest.raises(BadDataError, match="1 of 9"):
        run(raw, tmp_path / "out")
    card = run(raw, tmp_path / "out", max_damaged_share=0.2)
    assert card["left_out"][-1]["reason"] == "r9 is empty"


def test_the_card_tells_what_is_in(raw, tmp_path, decoded):
    (raw / "SAMPLE.json").write_text("{}")
    people = raw / "people.txt"
    people.write_text(people.read_text().replace("v3 b1", "- b1").replace("p0 0", "p0 0,?,1"))
    out = tmp_path / "out"
    card = run(raw, out)
    assert card["sample"] is True
    assert "say nothing about" in card["warning"]
    assert card["counts"]["subjects"] == 4
    assert card["labels"]["pain"] == {"annotated": 10, "not_annotated": 2, "values": {"0": 4, "1": 6}}
    camera, body = card["streams"]["camera"], card["streams"]["body"]
    assert (camera["recordings"], camera["sources"]) == (7, 7)
    assert camera["frames"] == sum(30 + 20 * n for n in range(8)) - 90
    assert (body["recordings"], body["sources"], body["chunks"]) == (8, 4, 8)
    assert body["samples"] == 2806
    assert body["hours"] == pytest.approx(2806 / fake_reader.RATE_HZ / 3600, abs=1e-4)
    assert body["units"] == ["microsiemens", "millivolt"]
    assert camera["bytes"] == sum(
        p.stat().st_size for p in (out / "chunks" / "camera").rglob("*.*record*")
    ) + sum(p.stat().st_size for p in (out / "chunks" / "camera").rglob("*.json"))
    assert card["fingerprints"]["settings"] == {"scale": 1.0, "order": ["a", "b"]}
    assert card["fingerprints"]["input_files"] == 11
    assert card["versions"]["numpy"] == np.__version__
    assert not (out / "sources").exists()
    assert not (out / "UNFINISHED").exists()
    text = (out / "data_card.md").read_text()
    assert "**Warning:**" in text
    assert "8 recordings of 4 subjects" in text
    for name, content in contents(out).items():
        assert str(tmp_path).encode() not in content, name


def test_a_stream_that_nobody_has_is_left_out(raw, tmp_path, decoded):
    (raw / "people.txt").write_text("r1 anna 0 - b1\n")
    card = run(raw, tmp_path / "out")
    assert list(card["streams"]) == ["body"]
    assert "no recording has the stream camera" in card["notes"]["without_camera"]
    assert list(PreparedSet.open(tmp_path / "out").streams) == ["body"]


def test_a_reader_that_contradicts_itself_is_a_defect(raw, tmp_path, decoded, monkeypatch):
    scan = fake_reader.Fake.scan

    def scan_twice(self):
        recordings, sources, left_out = scan(self)
        return [*recordings, *recordings], sources, left_out

    with monkeypatch.context() as patch:
        patch.setattr(fake_reader.Fake, "scan", scan_twice)
        with pytest.raises(ValueError, match="alike"):
            run(raw, tmp_path / "out")

    def scan_without_sources(self):
        recordings, _, left_out = scan(self)
        return recordings, [], left_out

    monkeypatch.setattr(fake_reader.Fake, "scan", scan_without_sources)
    with pytest.raises(ValueError, match="no source for a stream of recording 'r0'"):
        run(raw, tmp_path / "out")
