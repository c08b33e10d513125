"""usage: raspy server NAME [--config FILE] [--json]

Runs one server in the foreground, as its systemd unit does. SIGTERM or Ctrl-C stops it.

  --config FILE  the configuration
  --json         log one JSON object a line
  --help         this text

Exit code: 0 stopped as asked, 1 failed, 2 the configuration or the machine must be changed first.
"""

from __future__ import annotations

from raspy.cli import out
from raspy.common import runner


def main(words: list[str]) -> int:
    """Run the server. Without argparse, which each server process would keep in memory."""
    if "--help" in words or "-h" in words:
        out((__doc__ or "").strip())
        return runner.GOOD
    return runner.main(words)
