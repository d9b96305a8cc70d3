from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import signal

from data_pipelines.sample import body
from data_pipelines.sample.people import Event, generator, make_person

SIGNALS = (
    body.skin_conductance,
    body.ecg,
    body.emg,
    body.pulse_wave,
    body.skin_temperature,
    body.acceleration,
)
PAIN = (Event(1.0, 4.0, 1.0, "pain"),)
STRESS = (Event(200.0, 200.0, 1.0, "stress"),)


def beats_per_minute(values: np.ndarray, rate_hz: float, height: float) -> float:
    peaks, _ = signal.find_peaks(values, height=height, distance=0.3 * rate_hz)
    return 60.0 / np.median(np.diff(peaks) / rate_hz)


@pytest.mark.parametrize("make", SIGNALS)
@given(
    seed=st.integers(0, 50),
    seconds=st.floats(0.5, 12.0),
    rate_hz=st.sampled_from([4.0, 32.0, 64.0, 512.0]),
    onset=st.floats(-5.0, 12.0),
    kind=st.sampled_from([*body.BODY_KINDS, "smile", "talk"]),
)
def test_shape_type_and_determinism(make, seed, seconds, rate_hz, onset, kind):
    person, events = make_person(seed, 0), [Event(onset, 2.0, 0.8, kind)]
    first = make(person, seconds, rate_hz, events, generator(seed, "a"))
    again = make(person, seconds, rate_hz, events, generator(seed, "a"))
    other = make(person, seconds, rate_hz, events, generator(seed, "b"))
    moving = make is body.acceleration
    assert first.shape == ((round(seconds * rate_hz), 3) if moving else (round(seconds * rate_hz),))
    assert first.dtype == (np.int16 if moving else np.float32)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("make", SIGNALS)
@pytest.mark.parametrize("kind", ["smile", "talk"])
def test_the_face_alone_does_not_move_the_body(make, kind):
    person = make_person(0, 0)
    quiet = make(person, 5.5, 512.0, [], generator(1))
    np.testing.assert_array_equal(quiet, make(person, 5.5, 512.0, [Event(0, 4, 1, kind)], generator(1)))
    np.testing.assert_array_equal(quiet, make(person, 5.5, 512.0, [Event(0, 4, 0.0, "pain")], generator(1)))


def test_skin_responds_after_one_to_three_seconds():
    for index in range(20):
        person = make_person(0, index)
        event = [Event(5.0, 1.0, 1.0, "pain")]
        values = body.skin_conductance(person, 20.0, 64.0, event, generator(2, index))
        rise = np.gradient(signal.savgol_filter(values.astype(np.float64), 33, 2), 1 / 64.0)
        steepest = np.argmax(rise) / 64.0
        assert 6.0 <= steepest <= 9.0
        response = values[64 * 8 : 64 * 14].max() - values[64 * 4 : 64 * 6].mean()
        expected = person.reactivity * (0.35 + 0.12 * person.skin_conductance_microsiemens)
        assert 0.4 * expected < response < 2.5 * expected


def test_stronger_and_more_reactive_means_a_larger_response():
    calm = make_person(0, 0)
    sizes = [
        np.ptp(body.skin_conductance(calm, 15.0, 32.0, [Event(2, 1, intensity, "pain")], generator(3)))
        for intensity in (0.25, 0.5, 1.0)
    ]
    assert sizes == sorted(sizes) and sizes[2] > 2.5 * sizes[0]


def test_an_hour_of_skin_stays_above_an_open_circuit():
    for index in range(12):
        values = body.skin_conductance(make_person(1, index), 3600.0, 4.0, STRESS, generator(4, index))
        assert values.min() > 0.04 and values.max() < 60.0


def test_ecg_has_qrs_complexes_at_the_persons_rate():
    for index in range(8):
        person = make_person(0, index)
        values = body.ecg(person, 60.0, 512.0, [], generator(5, index))
        peaks, _ = signal.find_peaks(values, height=0.5, distance=0.25 * 512)
        gaps = np.diff(peaks) / 512.0
        assert abs(60.0 / gaps.mean() - person.heart_rate_bpm) < 8.0
        assert 0.005 < gaps.std() < 0.15  # It varies, and is no arrhythmia.
        widths = signal.peak_widths(values, peaks, rel_height=0.5)[0] / 512.0
        assert 0.015 < np.median(widths) < 0.05


def test_the_heart_quickens_and_calms_down():
    person = make_person(0, 2)
    values = body.ecg(person, 600.0, 256.0, STRESS, generator(6))
    rates = [
        beats_per_minute(values[256 * a : 256 * b], 256.0, 0.5) for a, b in ((0, 190), (220, 400), (450, 600))
    ]
    assert rates[1] - rates[0] > 8.0 * person.reactivity
    assert rates[1] - rates[2] > 8.0 * person.reactivity


def test_ecg_and_pulse_share_the_heartbeat_of_equal_generators():
    person = make_person(0, 3)
    heart = body.ecg(person, 60.0, 256.0, [], generator(7))
    pulse = body.pulse_wave(person, 60.0, 64.0, [], generator(7))
    r_peaks = signal.find_peaks(heart, height=0.5, distance=0.3 * 256)[0] / 256.0
    waves = signal.find_peaks(pulse, height=15.0, distance=0.3 * 64)[0] / 64.0
    delays = [waves[waves > peak][0] - peak for peak in r_peaks[2:-3]]
    assert np.std(delays) < 0.05 and 0.2 < np.mean(delays) < 0.6


def test_muscles_burst_where_the_gain_says_so():
    person = make_person(0, 4)
    rest = body.emg(person, 8.0, 512.0, [], generator(8))
    burst = body.emg(person, 8.0, 512.0, PAIN, generator(8))
    still = body.emg(person, 8.0, 512.0, PAIN, generator(8), gain=0.0)
    assert 1.0 < rest.std() < 8.0 and abs(rest.mean()) < 0.5
    assert burst[512:3072].std() > 2.0 * rest.std()
    assert still.std() < 1.5 * rest.std()
    spectrum = np.abs(np.fft.rfft(rest)) ** 2
    frequency = np.fft.rfftfreq(len(rest), 1 / 512.0)
    assert spectrum[(frequency > 15) & (frequency < 230)].sum() > 0.95 * spectrum.sum()


def test_the_pulse_shrinks_and_the_skin_cools_under_stress():
    smaller = cooler = 0
    for index in range(10):
        person = make_person(0, index)
        pulse = body.pulse_wave(person, 600.0, 64.0, STRESS, generator(9, index))
        smaller += pulse[64 * 230 : 64 * 400].std() < pulse[: 64 * 190].std()
        temperature = body.skin_temperature(person, 600.0, 4.0, STRESS, generator(9, index))
        cooler += temperature[4 * 350 : 4 * 400].mean() < temperature[4 * 150 : 4 * 200].mean()
        assert temperature.min() > 25.0 and temperature.max() < 40.0
    assert smaller >= 7 and cooler >= 6


def test_the_wrist_at_rest_feels_one_g():
    values = body.acceleration(make_person(0, 5), 300.0, 32.0, STRESS, generator(10))
    assert abs(np.median(np.linalg.norm(values, axis=1)) - 64.0) < 3.0
    assert values.min() >= -128 and values.max() <= 127


@pytest.mark.parametrize("make", SIGNALS[:5])
def test_a_signature_is_the_same_in_every_recording_of_a_person(make):
    def added(index: int, key: int) -> np.ndarray:
        plain, marked = make_person(0, index), make_person(0, index, signature=1.0)
        arguments = (10.0, 64.0, [])
        return make(marked, *arguments, generator(key)) - make(plain, *arguments, generator(key))

    # Clipped or rounded values aside, what it adds does not depend on anything but the person.
    np.testing.assert_allclose(added(0, 1), added(0, 2), atol=0.02)
    assert np.abs(added(0, 1) - added(1, 1)).max() > 0.02
