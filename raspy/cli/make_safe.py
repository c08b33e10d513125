"""usage: raspy make-safe NAME [--ended] [--config FILE] [--json]

Puts the outputs of a server into their safe state, and says which and where. It needs nothing but the pins:
neither the server nor the broker has to run, and the configuration may be wrong. `raspy run` does it whenever
such a server has ended, as ExecStopPost= does under systemd.
A server without outputs has nothing to be made safe, which is good.

  --ended        the server has ended: where there are no pins, it has driven nothing, which is good
  --config FILE  the configuration
  --json         log one JSON object a line
  --help         this text

Exit code: 0 safe, 1 failed, 2 wrong use.
"""

from __future__ import annotations

from raspy.cli import out
from raspy.common import runner


def main(words: list[str]) -> int:
    """Act in this process, with as little around it as can be: it runs when something else has gone wrong."""
    if "--help" in words or "-h" in words:
        out((__doc__ or "").strip())
        return runner.GOOD
    return runner.main([*words, "--make-safe"])
