"""Docstrings of what is public: each is there, and what it says of parameters, errors and units holds for the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

TOP = Path(__file__).parents[2]

QUANTITY = re.compile(
    r"(?:^|_)(?:timeout|interval|delay|pause|wait|patience|retry|age|lifetime|ttl|expiry|grace|lease|period|duration|poll"
    r"|hysteresis|temperature|frequency|speed|size|window|s|ms)$",
    re.I,
)
"""Names that are a quantity, which is nothing without its unit. So is what is called in capitals and is a fraction."""
UNITS = re.compile(
    r"(?<![\w.])(?:s|ms|us|µs|ns|seconds?|milliseconds|minutes?|hours?|days?|weeks?|bytes|characters|letters|degrees|px|pixels?"
    r"|Hz|W|l|ppm|KiB|MiB|MB|times|threads|polls|frames|rows|points|entries|faster|part|share|factor|ratio|per|unit)(?!\w)|%|°",
    re.I,
)
"""What names a unit, or says that there is none: a share, a factor, a number of times."""
SELF_TOLD = re.compile(
    r"(?:^|_)(?:seconds?|minutes?|hours?|days?|weeks?|year|bytes|rows|points|percent|mhz|hz)(?:_|$)", re.I
)
"""Names that have their unit in them."""
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
OUR_ERRORS = "GenericError"
"""The mother of our own errors (raspy.common.MDP)."""


@dataclass
class Class:
    """A class and what must be known of it from elsewhere."""

    node: ast.ClassDef
    bases: list[str]


class Code:
    """Modules that are read and not run.

    :param texts: the source of each, by its path
    """

    def __init__(self, texts: dict[str, str]) -> None:
        self.trees = {path: ast.parse(text, path) for path, text in texts.items()}
        self.classes: dict[str, list[Class]] = {}
        for tree in self.trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
                    self.classes.setdefault(node.name, []).append(Class(node, bases))

    def names_above(self, name: str) -> set[str]:
        """The names of the classes above those of a name; of those that are not ours, the nearest."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            new = {base for each in self.classes.get(waiting.pop(), []) for base in each.bases} - found
            found |= new
            waiting += new
        return found

    def ancestors(self, name: str) -> Iterator[ast.ClassDef]:
        """The classes above those of a name, as far as they are ours."""
        for above in self.names_above(name) - {name}:
            yield from (each.node for each in self.classes.get(above, []))

    def is_error(self, name: str) -> bool:
        """Whether a class is one of our own errors."""
        return OUR_ERRORS in {name, *self.names_above(name)}

    def overrides(self, cls: ast.ClassDef | None, name: str) -> bool:
        """Whether a method is told of where a class above has it."""
        return cls is not None and any(
            ast.get_docstring(member)
            for above in self.ancestors(cls.name)
            for member in above.body
            if isinstance(member, FUNCTION) and member.name == name
        )

    def declares(self, cls: ast.ClassDef, node: ast.Assign | ast.AnnAssign) -> bool:
        """Whether a class above has a field of that name, which is told of there."""
        name = ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        return any(
            isinstance(member, ast.AnnAssign) and ast.unparse(member.target) == name
            for above in self.ancestors(cls.name)
            for member in above.body
        )

    def faults(self) -> list[str]:
        """All that is missing or wrong."""
        return [
            f"{path}:{line}: {what}" for path, tree in self.trees.items() for line, what in self._module(path, tree)
        ]

    def _module(self, path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
        if not ast.get_docstring(tree):
            yield 1, "the module has no docstring"
        yield from self._body(path, tree.body, None)

    def _body(self, path: str, body: list[ast.stmt], cls: ast.ClassDef | None) -> Iterator[tuple[int, str]]:
        for place, node in enumerate(body):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    yield node.lineno, f"{node.name} has no docstring"
                yield from self._body(path, node.body, node)
            elif isinstance(node, FUNCTION) and (not node.name.startswith("_") or node.name == "__init__"):
                for what in self._function(path, node, cls):
                    yield node.lineno, f"{cls.name}.{node.name}: {what}" if cls else f"{node.name}: {what}"
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                below = body[place + 1] if place + 1 < len(body) else None
                if cls is None or not self.declares(cls, node):
                    yield from ((node.lineno, what) for what in untold_units(node, below, cls))

    def _function(self, path: str, node: ast.FunctionDef, cls: ast.ClassDef | None) -> Iterator[str]:
        text = ast.get_docstring(node) or ""
        inherited = self.overrides(cls, node.name) and node.name != "__init__"
        if node.name == "__init__" and cls is not None:
            text = f"{ast.get_docstring(cls) or ''}\n{text}"
        elif not text and not inherited and not _is_setter(node):
            yield "no docstring"
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        named = {each.arg for each in [*every, node.args.vararg, node.args.kwarg] if each is not None}
        if unknown := sorted(set(re.findall(r":param (?:[^:]* )?\*{0,2}(\w+):", text)) - named):
            yield f"tells of {', '.join(unknown)}, which is no parameter"
        if not inherited and not is_called_by_us(path, node):
            told = {
                name.rpartition(".")[2]
                for name in re.findall(r":raises ([\w., ]+):", text)
                for name in name.split(", ")
            }
            raised = {name for name in raised_in(node) if self.is_error(name)}
            for name in sorted(raised):
                if not told & {name, *self.names_above(name)}:
                    yield f"raises {name}, and does not tell"
        if text or not inherited:
            around = f"{text} {ast.get_docstring(cls) or ''}" if cls else text
            for name in sorted(named):
                if QUANTITY.search(name) and not SELF_TOLD.search(name) and not _is_told(name, around):
                    yield f"{name}: no unit"


def _is_told(name: str, text: str) -> bool:
    """Whether the text of a parameter names a unit; where it has none of its own, the whole docstring."""
    own = re.search(rf":param {name}:(.*?)(?=^\s*:|\Z)", text, re.S | re.M)
    return UNITS.search(own[1] if own else text) is not None


def _is_setter(node: ast.FunctionDef) -> bool:
    return any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in node.decorator_list)


def is_called_by_us(path: str, node: ast.FunctionDef) -> bool:
    """Whether a function is one of many of its kind, and what it raises becomes an answer: that is told once for all of
    them, where they are called (raspy.common.verbs, raspy.web.api.operation, raspy.web.pages, raspy.cli.command)."""
    made = [ast.unparse(each) for each in node.decorator_list]
    if any(re.match(r"[A-Z]+\.(verb|add)\(", each) for each in made):
        return True
    if path.startswith("raspy/web/pages/"):
        return [each.arg for each in node.args.args[:2]] == ["site", "visit"]
    return path.startswith("raspy/cli/") and node.name in ("act", "done", "show", "main")


def raised_in(node: ast.AST) -> Iterator[str]:
    """The names of the classes that a function's own body raises, and does not catch itself."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTION, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            yield ast.unparse(child.exc.func).rpartition(".")[2]
        if isinstance(child, ast.Try):
            caught = {
                ast.unparse(name).rpartition(".")[2]
                for handler in child.handlers
                for name in (handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type])
                if name is not None
            }
            for part in child.body:
                yield from (name for name in raised_in(ast.Module([part], [])) if name not in caught)
            for part in [*child.handlers, *child.orelse, *child.finalbody]:
                yield from raised_in(part)
            continue
        yield from raised_in(child)


def untold_units(node: ast.Assign | ast.AnnAssign, below: ast.stmt | None, cls: ast.ClassDef | None) -> Iterator[str]:
    """The name that an assignment gives a number to, where it is a quantity and nothing says in what."""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if not isinstance(target, ast.Name) or target.id.startswith("_") or SELF_TOLD.search(target.id):
        return
    number = _number(node.value)
    text = ast.get_docstring(cls) or "" if cls else ""
    if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
        text += f" {below.value.value}"
    if isinstance(node, ast.AnnAssign):
        if isinstance(node.annotation, ast.Name | ast.Attribute) and ast.unparse(node.annotation) not in (
            "float",
            "int",
        ):
            return  # A type with a name, which tells it where that is.
        text += f" {ast.unparse(node.annotation)}"
        if node.value is None and re.search(r"\b(float|int)\b", ast.unparse(node.annotation)):
            number = 0
    is_quantity = QUANTITY.search(target.id) or (target.id.isupper() and isinstance(number, float))
    if number is not None and is_quantity and not UNITS.search(text):
        yield f"{target.id}: no unit"


def _number(value: ast.expr | None) -> float | int | None:
    """What an expression of numbers comes to; None when it is something else."""
    if isinstance(value, ast.Constant):
        return value.value if isinstance(value.value, int | float) and not isinstance(value.value, bool) else None
    if isinstance(value, ast.UnaryOp):
        return _number(value.operand)
    if isinstance(value, ast.BinOp):
        left, right = _number(value.left), _number(value.right)
        if left is None or right is None:
            return None
        return float(left) if isinstance(left, float) or isinstance(right, float) else int(left)
    return None


def test_docstrings_hold() -> None:
    texts = {
        str(path.relative_to(TOP)): path.read_text(encoding="utf-8") for path in sorted((TOP / "raspy").rglob("*.py"))
    }
    code = Code(texts)
    assert len(texts) > 300
    assert code.is_error("ConfigError")
    assert code.faults() == []


# Whether a fault would be seen


GOOD = '''
"""A bell."""

class GenericError(Exception):
    """Any error."""

class Cracked(GenericError):
    """It sounds no more."""

LONGEST_WAIT = 2.5
"""Seconds."""
_HIDDEN_WAIT = 2.5
WAIT_SECONDS = 2.5
STROKES = 12

class Bell:
    """A bell.

    :param delay: seconds before it rings
    """

    poll: float = 5
    """Seconds between looks."""

    def __init__(self, delay):
        self._delay = delay

    def ring(self, times, *more, **others):
        """Ring.

        :param times: strokes
        :param more: others
        :param others: others
        :raises Cracked: it is broken
        """
        if times > 12:
            raise Cracked("cannot")
        def hidden():
            raise Cracked("later")

    def _hidden(self): ...

class Gong(Bell):
    """Another."""

    poll: float = 6

    def ring(self, times):
        raise Cracked("has no tongue")

@BELLS.verb()
def toll(server):
    """Toll, slowly."""
    raise Cracked("is not up")

def caught():
    """Try it."""
    try:
        raise Cracked("well")
    except GenericError:
        pass
    except Cracked:
        pass

def told_by_its_mother():
    """Try it.

    :raises GenericError: it failed
    """
    raise Cracked("well")
'''

BAD = {
    "import os": "1: the module has no docstring",
    '"""Module."""\nclass Bell: ...': "2: Bell has no docstring",
    '"""Module."""\ndef ring(): ...': "2: ring: no docstring",
    '"""Module."""\nasync def ring(): ...': "2: ring: no docstring",
    '"""Module."""\nclass Bell:\n    """A bell."""\n    def ring(self): ...': "4: Bell.ring: no docstring",
    '"""Module."""\ndef ring(times):\n    """Ring.\n\n    :param time: when\n    """': (
        "2: ring: tells of time, which is no parameter"
    ),
    '"""Module."""\nfrom x import Cracked\nclass Broken(GenericError):\n    """It."""\ndef ring():\n    """Ring."""\n'
    "    for stroke in range(3):\n        raise Broken('now')": "5: ring: raises Broken, and does not tell",
    '"""Module."""\nclass Bell:\n    """A bell.\n\n    :param times: strokes\n    :raises Other: never\n    """\n'
    "    def __init__(self, times):\n        raise MDP.GenericError('no')": (
        "8: Bell.__init__: raises GenericError, and does not tell"
    ),
    '"""Module."""\nRETRY = 3': "2: RETRY: no unit",
    '"""Module."""\nRETRY = 3\n"""When it is tried again."""': "2: RETRY: no unit",
    '"""Module."""\nLONGEST = 2 * 86_400.0': "2: LONGEST: no unit",
    '"""Module."""\nclass Bell:\n    """A bell."""\n    delay: float': "4: delay: no unit",
    '"""Module."""\ndef ring(timeout):\n    """Ring."""': "2: ring: timeout: no unit",
    '"""Module."""\ndef ring(timeout):\n    """Ring for seconds.\n\n    :param timeout: when it is over\n    """': (
        "2: ring: timeout: no unit"
    ),
}


def test_good_docstrings_are_good() -> None:
    assert Code({"raspy/bell.py": GOOD}).faults() == []


@pytest.mark.parametrize("text", BAD)
def test_a_fault_is_seen(text: str) -> None:
    assert Code({"raspy/bell.py": dedent(text)}).faults() == [f"raspy/bell.py:{BAD[text]}"]
