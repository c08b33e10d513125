"""What is decided, as a function; the cases are in tests/integration/test_sync_decisions.py."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.clock import BUILT, plausible
from raspy.servers.sync.decide import DOUBT, DRIFT, FAR, LIMIT, RTC_INTERVAL, SILENCE, STEPS, Facts, decide
from raspy.servers.sync.ntp import Consensus
from raspy.servers.sync.rtc import Reading

NOW = BUILT + 30_000_000.0
SPAN = st.floats(-2e9, 2e9) | st.floats(-5, 5) | st.floats(-5000, 5000)

consensus = st.builds(
    Consensus,
    offset=SPAN,
    base=st.just(NOW),
    agreeing=st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
    answered=st.just(3),
    stratum=st.just(2),
    distance=st.just(0.1),
)
reading = st.builds(
    Reading,
    name=st.just("rtc0"),
    device=st.just("/dev/rtc0"),
    time=st.none() | SPAN.map(lambda off: NOW + off),
    at=st.floats(0, 100),
    problem=st.sampled_from(["", "flag"]),
)
facts = st.builds(
    Facts,
    base=st.just(NOW),
    since=st.just(100.0),
    trusted=st.sampled_from(["", "ntp", "rtc"]),
    ntp=st.none() | consensus,
    rtc=st.none() | reading,
    last=st.none() | SPAN.map(lambda off: NOW + off).filter(plausible),
    keeper=st.sampled_from(["", "chrony"]),
    may_set=st.sampled_from(["", "step is never"]),
    rtc_set=st.sampled_from([0.0, 3599.0, 3600.0, float("inf")]),
    steps=st.sampled_from([0, STEPS - 1, STEPS]),
    silence=st.sampled_from([0.0, 2 * SILENCE]),
)


@given(facts)
def test_what_is_true_of_every_decision(known: Facts) -> None:
    decision = decide(known)
    assert decision.reason
    if decision.step is not None:
        assert not known.may_set
        assert known.steps < STEPS
        assert decision.step_source == decision.trusted
        assert abs(decision.step) > LIMIT
        if decision.step_source == "ntp":
            assert not known.keeper
            assert known.ntp is not None
            assert plausible(known.now + decision.step)
        else:
            # Once it is trusted, only NTP changes it; and the RTC never takes it to before the last known time.
            assert not known.trusted
            assert known.rtc is not None
            assert known.rtc.good
            assert known.last is None or known.last - 2 <= known.now + decision.step <= known.last + FAR
    if decision.write_rtc:
        assert decision.trusted == "ntp"
        assert known.rtc is not None
        assert known.rtc_set >= RTC_INTERVAL
        assert not known.may_set
        off = 0.0 if known.ntp is None else known.ntp.offset
        assert abs(off) <= LIMIT or decision.step is not None
    if decision.silence or decision.drift:
        assert known.ntp is None or decision.doubt
    if decision.trusted == "rtc" and not known.trusted:
        assert known.rtc is not None
        assert not known.rtc.problem


@given(facts)
def test_one_server_alone_contradicts_nothing(known: Facts) -> None:
    if known.ntp is None or len(known.ntp.agreeing) > 1:
        return
    decision = decide(known)
    if decision.step is not None and decision.step_source == "ntp":
        after = known.now + decision.step
        assert not (known.trusted and abs(decision.step) > DOUBT)
        assert known.last is None or after >= known.last - DOUBT


def test_the_decision_may_be_told() -> None:
    assert msgspec.json.encode(decide(Facts(base=NOW, since=1.0)))


def rtc(off: float, **more: Any) -> Reading:
    return Reading("rtc0", "/dev/rtc0", NOW + off, **more)


def test_ntp_that_was_lost_is_told() -> None:
    lost = Facts(base=NOW, since=1.0, trusted="ntp", ntp_problem="all are mute", silence=SILENCE + 1, rtc=rtc(0.0))
    assert decide(lost).silence == "no servers have agreed for more than a day: all are mute"
    # A network that fails for an hour is nothing; nor is one that never was, beside a good RTC.
    for seconds in (3600.0, 0.0):
        decision = decide(msgspec.structs.replace(lost, silence=seconds))
        assert (decision.trusted, decision.silence, decision.drift) == ("ntp", "", "")


@pytest.mark.parametrize(("off", "told"), [(120.0, "120 s ahead of"), (-120.0, "120 s behind"), (DRIFT - 1, "")])
def test_an_rtc_that_says_something_else_is_told(off: float, told: str) -> None:
    known = Facts(base=NOW, since=0.0, trusted="ntp", ntp_problem="all are mute", rtc=rtc(off))
    decision = decide(known)
    assert decision.trusted == "ntp"
    assert told in decision.drift
    assert bool(decision.drift) == bool(told)
    agreed = Consensus(0.0, NOW, ("a", "b"), 2, 2, 0.1)
    assert decide(msgspec.structs.replace(known, ntp=agreed)).drift == ""


def test_an_rtc_far_ahead_is_not_believed() -> None:
    known = Facts(base=NOW, since=0.0, rtc=rtc(FAR + 3600), last=NOW)
    decision = decide(known)
    assert decision.trusted == ""
    assert decision.step is None
    assert "more than two years after" in decision.rtc_doubt
    # Nor does it contradict the only server.
    alone = Consensus(0.0, NOW, ("a",), 1, 2, 0.1)
    assert decide(msgspec.structs.replace(known, ntp=alone)).trusted == "ntp"
    assert decide(msgspec.structs.replace(known, rtc=rtc(FAR - 3600))).trusted == "rtc"


def test_a_clock_that_does_not_stay_as_it_is_set_is_left_alone() -> None:
    agreed = Consensus(5.0, NOW, ("a", "b"), 2, 2, 0.1)
    decision = decide(Facts(base=NOW, since=0.0, ntp=agreed, steps=STEPS))
    assert (decision.trusted, decision.step) == ("", None)
    assert "does another program set it?" in decision.reason


def test_a_battery_that_is_not_used_is_mended() -> None:
    agreed = Consensus(0.0, NOW, ("a", "b"), 2, 2, 0.1)
    weak = Facts(base=NOW, since=0.0, ntp=agreed, rtc=rtc(0.0, weak="it does not use its battery", mend=True))
    assert decide(weak).write_rtc == "it does not use its battery"
    low = msgspec.structs.replace(weak, rtc=rtc(0.0, weak="its battery is low"))
    assert decide(low).write_rtc == ""


def test_an_rtc_is_not_set_to_a_clock_that_a_daemon_is_to_bring_in() -> None:
    agreed = Consensus(5.0, NOW, ("a", "b"), 2, 2, 0.1)
    decision = decide(Facts(base=NOW, since=0.0, trusted="ntp", keeper="chrony", ntp=agreed, rtc=rtc(60.0)))
    assert (decision.trusted, decision.write_rtc) == ("ntp", "")
