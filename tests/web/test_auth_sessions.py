"""The cookie, and what is derived from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raspy.web.auth.sessions import (
    SECRET,
    Session,
    csrf,
    digest,
    end_cookie,
    new_secret,
    public_id,
    read_cookies,
    set_cookie,
    short_agent,
)

VALUE = "A" * 42 + "_"


def test_a_cookie_is_out_of_reach_of_scripts_and_other_sites() -> None:
    plain, tls = set_cookie(VALUE, False), set_cookie(VALUE, True)
    assert plain == f"raspy={VALUE}; Path=/; Max-Age=34560000; HttpOnly; SameSite=Lax"
    assert tls == f"__Host-raspy={VALUE}; Path=/; Max-Age=34560000; HttpOnly; SameSite=Lax; Secure"
    assert "Domain" not in tls
    for cookie in (end_cookie(False), end_cookie(True)):
        assert "=; Path=/; Max-Age=0; HttpOnly" in cookie


def test_a_cookie_is_read_among_others() -> None:
    header = f'theme="dark; {{}}"; raspy_lang=fr; raspy={VALUE}; @bad[name]=1; x'
    assert read_cookies(header, False) == [VALUE]
    assert read_cookies(header, True) == [], "that of a plain page opens nothing on TLS"
    assert read_cookies(f"__Host-raspy={VALUE}", True) == [VALUE]


def test_what_another_program_put_in_front_does_not_hide_it() -> None:
    other = "B" * 43
    assert read_cookies(f"raspy={other}; raspy={VALUE}", False) == [other, VALUE]
    assert read_cookies(f"raspy=junk; raspy={VALUE}; raspy={VALUE}", False) == [VALUE]
    many = [f"raspy={number:043d}" for number in range(90)]
    assert read_cookies("; ".join([*many, f"raspy={VALUE}"]), False)[90:] == [VALUE]
    assert len(read_cookies("; ".join([*many, *many, "raspy="]) + f"; raspy={VALUE}", False)) == 90


@given(st.text(max_size=300), st.booleans())
def test_any_header_is_taken(header: str, tls: bool) -> None:
    for value in read_cookies(header, tls):
        assert SECRET.fullmatch(value)


def test_secrets_differ_and_fit_a_header() -> None:
    found = {new_secret() for _ in range(100)}
    assert len(found) == 100
    assert all(SECRET.fullmatch(each) for each in found)


def test_what_is_shown_does_not_open_anything() -> None:
    value = new_secret()
    assert not {value[:16], digest(value)} & {csrf(value), public_id(digest(value))}
    assert csrf(value) != csrf(new_secret())
    assert csrf(value) not in digest(value)


def test_only_the_word_of_the_session_fits() -> None:
    session = Session("1", 0, 0, "", csrf(VALUE))
    assert session.owns(csrf(VALUE))
    for word in ("", csrf(VALUE)[:-1], csrf(VALUE) + "0", "é", "\ud800"):
        assert not session.owns(word)
    assert not Session("1", 0, 0, "").owns(""), "one of a list fits no form"


def test_what_a_browser_says_it_is_can_be_shown() -> None:
    assert short_agent("Mozilla/5.0\r\n\x1b[31m" + "x" * 500).startswith("Mozilla/5.0   [31mxx")
    assert len(short_agent("x" * 500)) == 120
