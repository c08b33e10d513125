"""Prints the script that completes raspy's commands, options, servers, keys and services in a shell.

bash:  raspy completion bash > ~/.local/share/bash-completion/completions/raspy
zsh:   raspy completion zsh > "${fpath[1]}/_raspy"
fish:  raspy completion fish > ~/.config/fish/completions/raspy.fish
"""

from __future__ import annotations

from argparse import ArgumentParser

from raspy.cli import COMMANDS
from raspy.cli.command import Parser, Request, parser_of, verbs_of
from raspy.common.registry import SERVERS

SHELLS = ("bash", "zsh", "fish")
SERVER_COMMANDS = ("server", "make-safe")
KEY_COMMANDS = ("get", "watch")


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


def options() -> dict[str, list[str]]:
    """The long options of each command and its verbs, as their parsers know them."""
    found = {}
    for name, parser in parsers().items():
        known = ["--help", "--json", "--config"]
        if parser is not None:
            every = [option for each in (*verbs_of(parser).values(), parser) for option in each._option_string_actions]
            known = [option for option in dict.fromkeys(every) if option.startswith("--")]
        found[name] = known
    return found


def act(request: Request) -> dict[str, str]:
    """Make the script."""
    shell = request.arguments.shell
    return {"shell": shell, "script": {"bash": bash, "zsh": zsh, "fish": fish}[shell]()}


def show(result: dict[str, str]) -> None:
    """Print the script as it is."""
    print(result["script"], end="")


def words_of_commands() -> list[tuple[str, str]]:
    """For each shell pattern of commands, the shell words that give their argument."""
    return [
        ("|".join(SERVER_COMMANDS), " ".join(SERVERS)),
        ("completion", " ".join(SHELLS)),
        ("|".join(KEY_COMMANDS), '$(raspy __complete keys "$current" 2>/dev/null)'),
        *((name, " ".join(verbs_of(parser))) for name, parser in parsers().items() if parser and verbs_of(parser)),
        ("call|request", '$(raspy __complete services "$current" 2>/dev/null)'),
    ]


SEARCH = """\
        if [ -n "$value" ]; then value=""
        elif [ "$word" = --config ]; then value=1
        elif [ -z "$command" ]; then
            case "$word" in -*|help) ;; *) command=$word first=1 ;; esac
        else
            case "$word" in -*) ;; *) first="" ;; esac
        fi"""
"""What bash and zsh do with each ``word`` before the current one, to find the command: options may precede it."""


def cases() -> str:
    """The part that bash and zsh share: sets ``offers`` from ``command``, ``current`` and ``first``."""
    lines = ['    case "$current" in', "    -*)", '        case "$command" in']
    lines += [f'        {name}) offers="{" ".join(known)}" ;;' for name, known in options().items()]
    lines += ["        esac ;;", '    *) [ -z "$first" ] || case "$command" in']
    lines += [f'        {pattern}) offers="{words}" ;;' for pattern, words in words_of_commands()]
    lines += ["        esac ;;", "    esac"]
    return "\n".join(lines)


def bash() -> str:
    """For bash, complete -F."""
    return f"""# bash completion for raspy
_raspy() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} command="" offers="" first="" value="" word
    COMPREPLY=()
    if [ "${{COMP_WORDS[COMP_CWORD-1]}}" = --config ]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
{SEARCH}
    done
    if [ -z "$command" ]; then
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
    local current=$words[CURRENT] command="" previous=$words[CURRENT-1] first="" value="" word
    local -a commands
    commands=(
{listed}
    )
    if [ "$previous" = --config ]; then
        _files
        return
    fi
    for word in "${{(@)words[2,CURRENT-1]}}"; do
{SEARCH}
    done
    if [ -z "$command" ]; then
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
    lines = ["# fish completion for raspy", "complete -c raspy -f"]
    for name, (_, text) in COMMANDS.items():
        lines.append(f"complete -c raspy -n __fish_use_subcommand -a {name} -d {quoted(text)}")
    for name, known in options().items():
        for option in known:
            value = " -r -F" if option == "--config" else ""
            lines.append(f"complete -c raspy -n '__fish_seen_subcommand_from {name}' -l {option[2:]}{value}")
    second = "and test (count (commandline -opc)) -eq 2"
    for pattern, words in [("help", " ".join(COMMANDS)), *words_of_commands()]:
        source = words.replace('"$current"', "(commandline -ct)").removeprefix("$") if "$" in words else words
        condition = f"__fish_seen_subcommand_from {pattern.replace('|', ' ')}; {second}"
        lines.append(f"complete -c raspy -n {quoted(condition)} -a {quoted(source)}")
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A word in single quotes, for text of ours that has none but apostrophes."""
    return "'" + text.replace("'", "'\\''") + "'"
