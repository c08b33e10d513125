"""usage: raspy run [--config FILE] [--json]

Starts all servers of this host and looks after them, as systemd does on an installed Pi: one that dies or
goes silent is replaced, and nothing else is. Which servers: `servers` in [run] of the configuration.

  --config FILE  the configuration
  --json         log one JSON object a line
  --help         this text

SIGTERM or Ctrl-C stops all of them in order, a second one kills them; SIGHUP reads the configuration again.

Exit code: 0 stopped as asked, 1 failed, 2 the configuration or the machine must be changed first.
"""

from __future__ import annotations

from raspy.cli import GOOD, fail, out


def main(words: list[str]) -> int:
    """Supervise. Without argparse, which would stay in memory for as long as the appliance runs."""
    config_path: str | None = None
    json = False
    left = list(words)
    while left:
        word = left.pop(0)
        if word in ("--help", "-h"):
            out((__doc__ or "").strip())
            return GOOD
        if word == "--json":
            json = True
        elif word.startswith("--config="):
            config_path = word.partition("=")[2]
        elif word == "--config" and left:
            config_path = left.pop(0)
        else:
            return fail(f"run: {word!r} is not known, or lacks its value; raspy run --help shows what is")
    from raspy.common.runner import light_msgspec

    light_msgspec()
    from raspy.common.supervisor import Supervisor

    return Supervisor(config_path=config_path, json=json).run()
