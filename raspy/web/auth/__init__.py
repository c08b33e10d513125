"""Who may see and do what on the page: the password, sessions, tokens for programs, slowed guesses.

Knows nothing of HTTP but the text of its cookie, and nothing of the loop. What is here is used from any thread.
"""

from raspy.web.auth.facade import Auth, SetUpRefused, TokenError, WrongPassword
from raspy.web.auth.keeper import AuthFileError
from raspy.web.auth.passwords import BadPassword, Overloaded, check_new, hash_password
from raspy.web.auth.sessions import Session, Token, cookie_name, end_cookie, read_cookies, set_cookie
from raspy.web.auth.throttle import TooMany

__all__ = [
    "Auth",
    "AuthFileError",
    "BadPassword",
    "Overloaded",
    "Session",
    "SetUpRefused",
    "Token",
    "TokenError",
    "TooMany",
    "WrongPassword",
    "check_new",
    "cookie_name",
    "end_cookie",
    "hash_password",
    "read_cookies",
    "set_cookie",
]
