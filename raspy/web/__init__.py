"""The local page and its small HTTP API.

Importing this package, or its section of the configuration, needs neither bottle nor cheroot: only a server
that starts does.
"""

from raspy.web.server import Web, WebConfig

__all__ = ["Web", "WebConfig"]
