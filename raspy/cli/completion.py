"""Prints the script that completes raspy's commands, options, servers, keys and services in a shell.

bash:  raspy completion bash > ~/.local/share/bash-completion/completions/raspy
zsh:   raspy completion zsh > "${fpath[1]}/_raspy"
fish:  raspy completion fish > ~/.config/fish/completions/raspy.fish
"""

from __future__ import annotations

from argparse import Action, ArgumentParser

from raspy.cli import COMMANDS
from raspy.cli.command import Parser, Request, parser_of, verbs_of
from raspy.cli.queue import STATES
from raspy.cli.scenario import NAMED as SCENARIO_VERBS
from raspy.common.registry import SERVERS

SHELLS = ("bash", "zsh", "fish")
SERVER_COMMANDS = ("server", "make-safe", "restart", "device new", "device template")
KEY_COMMANDS = ("get", "watch", "history")
DEVICE_COMMANDS = ("exec", "device show", "device edit", "device delete")
NAMED = {
    "scenarios": [f"scenario {verb}" for verb in ("show", "edit", *SCENARIO_VERBS, "output", "export")],
    "jobs": [f"cron {verb}" for verb in ("show", "edit", "delete", "run", "next", "enable", "disable")],
    "variables": [f"variable {verb}" for verb in ("get", "set", "delete")],
}
"""The commands that take the name of a scenario, a cron job or a variable."""
OWN = [name for name, entry in SERVERS.items() if not entry.package]
FILES = ("--config", "--output", "--report", "--code", "--entries", "--conf")
"""Options whose value is a file."""


def arguments(parser: ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=SHELLS)


def parsers() -> dict[str, Parser | None]:
    """The parser of each command; None for one that parses its words itself."""
    found: dict[str, Parser | None] = {}
    for name, (place, _) in COMMANDS.items():
        module = __import__(f"raspy.cli.{place}", fromlist=["main"])
        found[name] = None if hasattr(module, "main") else parser_of(name, module)
    return found


def actions() -> dict[str, dict[str, Action | None]]:
    """The long options of each command, and of each ``command verb``, as their parsers know them, verbs first."""
    found: dict[str, dict[str, Action | None]] = {}
    for name, parser in parsers().items():
        if parser is None:
            found[name] = dict.fromkeys(("--help", "--json", "--config"))
            continue
        for words, each in (*((f"{name} {verb}", each) for verb, each in verbs_of(parser).items()), (name, parser)):
            found[words] = {
                option: action for option, action in each._option_string_actions.items() if option.startswith("--")
            }
    return found


def with_value() -> list[str]:
    """The options that have a value behind them."""
    every = [item for known in actions().values() for item in known.items()]
    return sorted({option for option, action in every if action is not None and action.nargs != 0})


def act(request: Request) -> dict[str, str]:
    """Make the script."""
    shell = request.arguments.shell
    return {"shell": shell, "script": {"bash": bash, "zsh": zsh, "fish": fish}[shell]()}


def show(result: dict[str, str]) -> None:
    """Print the script as it is."""
    print(result["script"], end="")


def words_of_commands() -> list[tuple[str, str]]:
    """For each shell pattern of commands, the shell words that give their next argument."""
    return [
        # Those of other packages are there, or not, when they are asked for.
        ("|".join(SERVER_COMMANDS), f'{" ".join(OWN)} $(raspy __complete servers "$current" 2>/dev/null)'),
        ("completion", " ".join(SHELLS)),
        ("|".join(KEY_COMMANDS), '$(raspy __complete keys "$current" 2>/dev/null)'),
        ("|".join(DEVICE_COMMANDS), '$(raspy __complete devices "$current" 2>/dev/null)'),
        *(("|".join(known), f'$(raspy __complete {what} "$current" 2>/dev/null)') for what, known in NAMED.items()),
        *((name, " ".join(verbs_of(parser))) for name, parser in parsers().items() if parser and verbs_of(parser)),
        ("queue list", " ".join(STATES)),
        ("call|request", '$(raspy __complete services "$current" 2>/dev/null)'),
    ]


def search() -> str:
    """What bash and zsh do with each ``word`` before the current one: ``at`` is the command and what stands behind it,
    without options, and ``value`` the option whose value comes next."""
    return f"""\
        if [ -n "$value" ]; then value=""
        else
            case "$word" in
            {"|".join(with_value())}) value=$word ;;
            -*) ;;
            help) [ -z "$at" ] || at="$at help" ;;
            *) at="${{at:+$at }}$word" ;;
            esac
        fi"""


def cases() -> str:
    """The part that bash and zsh share: sets ``offers`` from ``at`` and ``current``."""
    lines = ['    case "$current" in', "    -*)", '        case "$at " in']
    lines += [f'        {quoted(name + " ")}*) offers="{" ".join(known)}" ;;' for name, known in actions().items()]
    lines += ["        esac ;;", '    *) case "$at" in']
    for pattern, words in words_of_commands():
        lines += [f'        {"|".join(map(quoted, pattern.split("|")))}) offers="{words}" ;;']
    lines += ["        esac ;;", "    esac"]
    return "\n".join(lines)


def bash() -> str:
    """For bash, complete -F."""
    return f"""# bash completion for raspy
_raspy() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} at="" offers="" value="" word
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
{search()}
    done
    case "$value" in
    "") ;;
    {"|".join(FILES)}) mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
    *) return ;;
    esac
    if [ -z "$at" ]; then
        mapfile -t COMPREPLY < <(compgen -W "{" ".join(COMMANDS)} --help --version" -- "$current")
        return
    fi
{cases()}
    mapfile -t COMPREPLY < <(compgen -W "$offers" -- "$current")
}}
complete -F _raspy raspy
"""


def zsh() -> str:
    """For zsh, as an autoloaded function or sourced after compinit."""
    listed = "\n".join(f"        {quoted(f'{name}:{text}')}" for name, (_, text) in COMMANDS.items())
    return f"""#compdef raspy
_raspy() {{
    local current=$words[CURRENT] at="" value="" word
    local -a commands
    commands=(
{listed}
    )
    for word in "${{(@)words[2,CURRENT-1]}}"; do
{search()}
    done
    case "$value" in
    "") ;;
    {"|".join(FILES)}) _files; return ;;
    *) return ;;
    esac
    if [ -z "$at" ]; then
        _describe command commands
        return
    fi
    local offers=""
{cases()}
    compadd -- ${{=offers}}
}}
if [ "$funcstack[1]" = _raspy ]; then
    _raspy "$@"
else
    compdef _raspy raspy
fi
"""


def fish() -> str:
    """For fish."""
    lines = [
        f"""# fish completion for raspy
function __raspy_at
    set -l at
    set -l value ""
    for word in (commandline -opc)[2..-1]
        if test -n "$value"
            set value ""
        else if contains -- $word {" ".join(with_value())}
            set value $word
        else if not string match -q -- '-*' $word; and test "$word$at" != help
            set -a at $word
        end
    end
    string match -q -- $argv[1] (string join ' ' -- $at '')
end
complete -c raspy -f"""
    ]
    for name, (_, text) in COMMANDS.items():
        lines.append(f"complete -c raspy -n \"__raspy_at ''\" -a {name} -d {quoted(text)}")
    for name, known in actions().items():
        # Where there are verbs, the command's own options stand in front of them.
        pattern = f"{name} " + ("" if any(other.startswith(f"{name} ") for other in actions()) else "*")
        for option in known:
            value = " -r -F" if option in FILES else " -x" if option in with_value() else ""
            lines.append(f'complete -c raspy -n "__raspy_at {quoted(pattern)}" -l {option[2:]}{value}')
    for pattern, words in words_of_commands():
        source = words.replace('"$current"', "(commandline -ct)").replace("$(", "(")
        for each in pattern.split("|"):
            lines.append(f'complete -c raspy -n "__raspy_at {quoted(each + " ")}" -a {quoted(source)}')
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A word in single quotes, for text of ours that has none but apostrophes."""
    return "'" + text.replace("'", "'\\''") + "'"
