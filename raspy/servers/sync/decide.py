"""What is to be done with the clocks: one function of what is known, that touches nothing."""

from __future__ import annotations

import msgspec

from raspy.common.clock import plausible
from raspy.servers.sync.ntp import Consensus, date
from raspy.servers.sync.rtc import Reading

LIMIT = 0.5
"""s by which the system clock may be off before it is set."""
WRONG = 10.0
"""s by which a clock that was trusted may be off, with a daemon to bring it in, before it is not trusted any more."""
DOUBT = 1000.0
"""s, as ntpd's panic threshold: one server alone may not contradict by more what is known otherwise."""
SEVERAL = 2
"""Servers that may, if they agree: a single one cannot be told from a wrong one (RFC 8633, section 3.2)."""
RTC_LIMIT = 1.0
"""s by which the RTC may be off before it is set; its own grain."""
RTC_AGREES = 2.0
"""s by which a system clock that was set from the RTC, by the kernel at the boot, may differ from it."""
RTC_INTERVAL = 3600.0
"""s between two settings of the RTC, at least."""
FAR = 2 * 31_556_952.0
"""s after the last known time that an RTC may say: so long, an appliance may have been off."""
DRIFT = 30.0
"""s by which a good RTC and a trusted clock may differ before that is said, while no NTP server says which is right."""
SILENCE = 86_400.0
"""s for which NTP servers that once agreed may be silent before that is said: an ordinary crystal (50 ppm) is off by
4 s then."""
STEPS = 4
"""Times in an hour that the system clock is set. A boot may need three: by the RTC, by NTP, and once more when that was
slow."""
NO_RTC = "there is no RTC"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known."""

    base: float
    """The system clock less the seconds since the boot (Unix, s)."""
    since: float
    """Seconds since the boot."""
    trusted: str = ""
    """What the clock has been trusted for in this boot: ``ntp``, ``rtc`` or a daemon; empty: it was not."""
    ntp: Consensus | None = None
    ntp_problem: str = "no server is asked"
    """Why there is none."""
    rtc: Reading | None = None
    rtc_problem: str = NO_RTC
    last: float | None = None
    """The latest time at which the clock was trusted, as the disk has it (Unix, s)."""
    keeper: str = ""
    """The daemon that keeps the clock."""
    may_set: str = ""
    """Why no clock may be set; empty: they may."""
    rtc_set: float = float("inf")
    """s since the RTC was last set by us."""
    steps: int = 0
    """Times that the system clock was set by us within the last hour."""
    silence: float = 0.0
    """s for which the servers have not agreed, although they were asked; 0: they never have in this boot, or do."""

    @property
    def may_not_step(self) -> str:
        """Why the system clock may not be set; empty: it may."""
        if self.may_set or self.steps < STEPS:
            return self.may_set
        return f"it was set {self.steps} times within an hour, and is not any more: does another program set it?"

    @property
    def now(self) -> float:
        """The system clock, Unix s."""
        return self.base + self.since


class Decision(msgspec.Struct, kw_only=True):
    """What is to be done, and what to say."""

    trusted: str = ""
    """What the clock is to be trusted for once that is done; empty: it is not."""
    reason: str = ""
    """Why it is, or is not."""
    step: float | None = None
    """s to be added to the system clock, as it is by :attr:`Facts.base`."""
    step_source: str = ""
    write_rtc: str = ""
    """Why the RTC is to be set to the system clock; empty: it is not."""
    doubt: str = ""
    """Why what the servers agree on is not believed."""
    rtc_doubt: str = ""
    """Why the RTC is not."""
    silence: str = ""
    """That NTP was lost."""
    drift: str = ""
    """That RTC and system clock differ, and nobody says which is right."""


def decide(facts: Facts) -> Decision:
    """What is to be done. The docs have it as a table."""
    decision = Decision(rtc_doubt=doubt_of_rtc(facts))
    if facts.ntp is not None:
        decision.doubt = doubt_of_ntp(facts, facts.ntp, not decision.rtc_doubt)
    if facts.ntp is not None and not decision.doubt:
        _by_ntp(facts, decision, facts.ntp.offset + facts.ntp.base - facts.base, len(facts.ntp.agreeing))
    else:
        _without_ntp(facts, decision)
        _not_known(facts, decision)
    return decision


def doubt_of_rtc(facts: Facts) -> str:
    """Why the RTC's time is not to be used; empty: it may be."""
    rtc = facts.rtc
    if rtc is None:
        return facts.rtc_problem
    if rtc.time is None or rtc.problem:
        return rtc.problem or "it says nothing"
    now = rtc.time + facts.since - rtc.at
    if facts.last is not None and now < facts.last - RTC_AGREES:
        return f"it says {date(now)}, and it was {date(facts.last)} already"
    if facts.last is not None and now > facts.last + FAR:
        return f"it says {date(now)}, more than two years after {date(facts.last)}, which was the last known time"
    return ""


def doubt_of_ntp(facts: Facts, ntp: Consensus, rtc_good: bool) -> str:
    """Why what servers say is not believed: it is one alone, and contradicts what is known."""
    true = ntp.offset + ntp.base + facts.since
    if not plausible(true):
        return f"{date(true)} cannot be"
    if len(ntp.agreeing) >= SEVERAL:
        return ""
    against = ""
    if facts.trusted and abs(true - facts.now) > DOUBT:
        against = f"the system clock, trusted by {facts.trusted}, says {date(facts.now)}"
    elif facts.last is not None and true < facts.last - DOUBT:
        against = f"it was {date(facts.last)} already"
    elif rtc_good and facts.rtc is not None and abs(facts.rtc.offset(true - facts.since) or 0.0) > DOUBT:
        against = f"the RTC says {date((facts.rtc.time or 0.0) + facts.since - facts.rtc.at)}"
    if not against:
        return ""
    return f"{', '.join(ntp.agreeing)} says {date(true)}, but {against}: a second server that agrees would be believed"


def _by_ntp(facts: Facts, decision: Decision, offset: float, agreeing: int) -> None:
    servers = "1 server" if agreeing == 1 else f"{agreeing} servers"
    if abs(offset) <= LIMIT:
        decision.trusted, decision.reason = "ntp", f"{servers} agree with it" if agreeing > 1 else f"{servers} agrees"
    elif not facts.keeper and not facts.may_not_step:
        decision.step, decision.step_source = offset, "ntp"
        decision.trusted, decision.reason = "ntp", f"set by {servers}"
    else:
        who = f"{facts.keeper} is to bring it in" if facts.keeper else facts.may_not_step
        decision.reason = f"it is off by {-offset:+.3f} s by {servers}; {who}"
        decision.trusted = facts.trusted if abs(offset) <= WRONG else ""
    right = abs(offset) <= LIMIT or decision.step is not None
    if right and facts.rtc is not None and not facts.may_set and facts.rtc_set >= RTC_INTERVAL:
        decision.write_rtc = _why_write(facts.rtc, facts.base + (decision.step or 0.0))


def _why_write(rtc: Reading, base: float) -> str:
    """Why an RTC is to be set; empty: it is right."""
    off = rtc.offset(base)
    if rtc.problem or off is None:
        return rtc.problem or "it said nothing"
    if abs(off) > RTC_LIMIT:
        return f"it was off by {off:+.1f} s"
    return rtc.weak if rtc.mend else ""


def _without_ntp(facts: Facts, decision: Decision) -> None:
    if facts.trusted:
        decision.trusted, decision.reason = facts.trusted, "it was set in this boot, and goes on"
        return
    why = decision.doubt or facts.ntp_problem
    if decision.rtc_doubt or facts.rtc is None:
        decision.reason = f"NTP: {why}; " + (NO_RTC if facts.rtc is None else f"RTC: {decision.rtc_doubt}")
        return
    offset = facts.rtc.offset(facts.base) or 0.0
    if abs(offset) <= RTC_AGREES:
        decision.trusted, decision.reason = "rtc", f"{facts.rtc.name} agrees with it"
    elif not facts.may_not_step:
        decision.step, decision.step_source = offset, "rtc"
        decision.trusted, decision.reason = "rtc", f"set by {facts.rtc.name}"
    else:
        decision.reason = f"it is off by {-offset:+.1f} s by {facts.rtc.name}; {facts.may_not_step}"


def _not_known(facts: Facts, decision: Decision) -> None:
    """What is to be told while no servers say what time it is; not to who never had a network."""
    if facts.silence > SILENCE:
        decision.silence = f"no servers have agreed for more than a day: {facts.ntp_problem}"
    if decision.trusted and decision.step is None and facts.rtc is not None and not decision.rtc_doubt:
        off = facts.rtc.offset(facts.base) or 0.0
        if abs(off) > DRIFT:
            told = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the system clock"
            decision.drift = f"the RTC is {told}, and no NTP server says which of them is right"
