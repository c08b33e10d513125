"""What is decided, as a function; the cases are in tests/integration/test_sync_decisions.py."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.clock import BUILT, plausible
from raspy.servers.sync.decide import DOUBT, LIMIT, RTC_INTERVAL, Facts, decide
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
)


@given(facts)
def test_what_is_true_of_every_decision(known: Facts) -> None:
    decision = decide(known)
    assert decision.reason
    if decision.step is not None:
        assert not known.may_set
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
            assert known.last is None or known.now + decision.step >= known.last - 2
    if decision.write_rtc:
        assert decision.trusted == "ntp"
        assert known.rtc is not None
        assert known.rtc_set >= RTC_INTERVAL
        assert not known.may_set
        off = 0.0 if known.ntp is None else known.ntp.offset
        assert abs(off) <= LIMIT or decision.step is not None
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
