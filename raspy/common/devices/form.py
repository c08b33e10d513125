"""HTML forms of devices and commands, both ways.

What is made here goes inside a ``<form method="post">`` of the page, which adds what is its own, as the button and
the token against forgery, and takes that away again before it gives the fields back. Nothing needs a script or a
style; a page gives the classes ``device``, ``field``, ``unit``, ``help``, ``error`` and ``errors`` a look. No text can
leave its place: all are escaped, and an owner's are kept from changing the direction of what stands around them.

The name of a field is the one it has in :class:`~raspy.common.devices.errors.FieldErrors`: ``label``, of a subdevice
``subdevices.volume.label``. Ids are unique on a page: that of the device (its name, or ``new.`` and its oid), the
names below it after colons, and after a dot what belongs to the field. A page that shows devices of several servers,
or two new ones of a kind, tells them apart by a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from raspy.common.devices.command import TEXT_LIMIT, Command, Given, shown
from raspy.common.devices.errors import BadValue, FieldErrors, NotPermitted, UnknownCommand
from raspy.common.devices.schema import command_schema, not_null, settings_schema
from raspy.common.devices.settings import ERRORS_LIMIT, LINES_LIMIT, field_name

if TYPE_CHECKING:
    from raspy.common.devices.device import BaseDevice

NUMBER_LIMIT = 64
INTEGER = re.compile(r"[+-]?[0-9]+")
REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

WORDS = {
    "form.true": "on",
    "form.false": "off",
    "form.none": "none",
    "form.choose": "choose",
    "form.summary": "Not accepted:",
    "form.unknown": "unknown; there is no such field",
    "form.missing": "is missing",
    "form.once": "must be given once",
    "form.text": "must be text",
    "form.long": "must be at most {limit} characters long",
    "form.integer": "must be a whole number (got {text})",
    "form.number": "must be a number (got {text})",
    "form.boolean": "must be on or off (got {text})",
    "form.choice": "must be one of {choices} (got {text})",
    "form.json": "must be JSON (got {text})",
}
"""All words of the forms. A translation changes those, and adds the titles, descriptions and units under themselves."""

_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;", "\r": "&#13;", "\0": "\ufffd"}
)


def word(key: str, /, **values: object) -> str:
    """A text of the forms, or another by itself, in the language of :data:`WORDS`."""
    said = WORDS.get(key, key)
    return said.format(**values) if values else said


def escape(text: str) -> str:
    """A text as it may stand in HTML, between tags or in an attribute with quotes."""
    return text.encode("utf-8", "replace").decode().translate(_ESCAPES)


class Field:
    """One field of a form, by the JSON Schema of what it is for."""

    __slots__ = ("choices", "fixed", "id", "kind", "name", "nullable", "required", "schema", "title", "value")

    def __init__(self, name: str, id_: str, schema: dict[str, Any], value: Any = UNSET) -> None:
        self.name = name
        self.id = id_
        self.value = value
        """What it stands at; UNSET: not known."""
        inner = not_null(schema)
        self.nullable = inner is not None or None in schema.get("enum", ())
        self.schema = schema if inner is None else {**inner, **schema}
        self.title = word(self.schema["title"])
        self.fixed = False
        """It is shown, and cannot be changed."""
        enum = [choice for choice in self.schema.get("enum", ()) if choice is not None]
        if self.schema.get("type") == "boolean" and self.nullable:
            enum = [True, False]
        self.choices = choice_texts(enum, self.nullable)
        """What is sent for each choice, and which it is."""
        kind = self.schema.get("type", "json")
        self.kind = "choice" if enum else kind if kind in ("boolean", "integer", "number", "string") else "json"
        self.required = not self.nullable and self.kind in ("integer", "number")

    def text(self) -> str:
        """What the form sends when nothing is changed."""
        if self.value is UNSET or (self.value is None and self.nullable):
            return ""
        if self.kind == "choice":
            same = (text for text, value in self.choices.items() if _same(value, self.value))
            return next(same, "")
        if self.kind == "string":
            return str(self.value)
        if self.kind == "number":
            return repr(float(self.value)).removesuffix(".0")
        return msgspec.json.encode(self.value).decode()

    def read(self, texts: Sequence[str] | str) -> Any:
        """The value that was sent.

        :raises BadValue: saying what would be right
        """
        sent = [texts] if isinstance(texts, str) else list(texts)
        if self.kind == "boolean" and sent == ["false", "true"]:
            sent = ["true"]
        if len(sent) != 1:
            raise BadValue(word("form.once"))
        text: object = sent[0]
        if not isinstance(text, str):
            raise BadValue(word("form.text"))
        text = text.replace("\r\n", "\n")
        if len(text) > self.limit:
            raise BadValue(word("form.long", limit=self.limit))
        if self.kind not in ("string", "choice"):
            text = text.strip()
        if self.nullable and text == "":
            return None
        try:
            return text if self.kind == "string" else self._parse(text)
        except (ValueError, LookupError, RecursionError, msgspec.MsgspecError) as error:
            said = word(f"form.{self.kind}", text=shown(text), choices=", ".join(self.choices))
            raise BadValue(said) from error

    @property
    def limit(self) -> int:
        """Characters of what is sent."""
        if self.kind in ("integer", "number"):
            return NUMBER_LIMIT
        return LINES_LIMIT if self.kind == "json" or self.schema.get("multiline") else TEXT_LIMIT

    def _parse(self, text: str) -> Any:
        if self.kind == "choice":
            return self.choices[text]
        if self.kind == "boolean":
            return {"true": True, "false": False}[text]
        if self.kind == "json":
            return msgspec.json.decode(text)
        if (INTEGER if self.kind == "integer" else REAL).fullmatch(text) is None:
            raise ValueError
        return int(text) if self.kind == "integer" else float(text)

    def html(self, error: str = "", texts: Sequence[str] | str | None = None) -> str:
        """The field with its label, its unit, what it is for, and what is wrong with it.

        :param texts: what was sent and refused, to be shown again
        """
        notes = {
            "unit": word(self.schema.get("unit", "")),
            "help": word(self.schema.get("description", "")),
            "error": error,
        }
        ids = {key: f"{self.id}.{key}" for key, text in notes.items() if text}
        attributes: dict[str, str | bool] = {
            "id": self.id,
            "name": self.name,
            "readonly": self.fixed,
            "aria-describedby": " ".join(ids.values()),
            "aria-invalid": "true" if error else "",
        }
        control = self._control(attributes, self.text() if texts is None else _shown_again(texts))
        label = f"{tag('label', {'for': self.id})}{escape(self.title)}</label>"
        said = "".join(f"{tag('span', {'class': key, 'id': ids[key]})}{escape(notes[key])}</span>\n" for key in ids)
        first, second = (control, label) if self.kind == "boolean" else (label, control)
        return f'<div class="field">{first}\n{second}\n{said}</div>\n'

    def _control(self, attributes: dict[str, str | bool], text: str) -> str:
        if self.kind == "boolean":
            unchecked = tag("input", {"type": "hidden", "name": self.name, "value": "false"})
            return unchecked + tag(
                "input", {"type": "checkbox", **attributes, "value": "true", "checked": text == "true"}
            )
        if self.kind == "choice":
            return f"{tag('select', attributes | {'required': self.required})}{self._options(text)}</select>"
        if self.kind in ("integer", "number"):
            attributes |= {**self._range(), "value": text, "required": self.required}
            return tag("input", {"type": "number", **attributes})
        attributes["maxlength"] = str(min(self.schema.get("maxLength", self.limit), self.limit))
        if self.kind == "json" or self.schema.get("multiline"):
            attributes |= {"rows": "4", "dir": "auto" if self.kind == "string" else "", "spellcheck": "false"}
            # a parser of HTML takes the first end of line away
            return f"{tag('textarea', attributes)}\n{escape(text)}</textarea>"
        pattern = self.schema.get("pattern", "")
        if not (pattern.startswith("^") and pattern.endswith("$")):
            # a browser wants a pattern to match the whole text
            pattern = ""
        least = self.schema.get("minLength", 0)
        attributes |= {"minlength": str(least or ""), "pattern": pattern, "required": least > 0, "dir": "auto"}
        return tag("input", {"type": "text", **attributes, "autocomplete": "off", "value": text})

    def _options(self, text: str) -> str:
        options = {}
        if self.nullable:
            options[""] = word("form.none")
        elif text not in self.choices:
            options[""] = word("form.choose")
        for sent, value in self.choices.items():
            options[sent] = word(f"form.{sent}" if isinstance(value, bool) else str(value))
        return "".join(
            f"{tag('option', {'value': sent, 'selected': sent == text})}{escape(said)}</option>"
            for sent, said in options.items()
        )

    def _range(self) -> dict[str, str]:
        """The range as far as HTML can tell it: its ends are in it, and steps are counted from the lowest."""
        schema, whole = self.schema, self.kind == "integer"
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is None and "exclusiveMinimum" in schema:
            low = schema["exclusiveMinimum"] + whole
        if high is None and "exclusiveMaximum" in schema:
            high = schema["exclusiveMaximum"] - whole
        step = schema.get("multipleOf", 1 if whole else None)
        if step is not None and low is not None and low % step:
            step = 1 if whole else None
        return {
            "min": "" if low is None else f"{low}",
            "max": "" if high is None else f"{high}",
            "step": "any" if step is None else f"{step}",
            "inputmode": "" if low is None or low < 0 else "numeric" if whole else "decimal",
        }


def tag(name: str, attributes: Mapping[str, str | bool]) -> str:
    """A tag that opens; an attribute that is empty or False is left out, a ``value`` never."""
    texts = [f"<{name}"]
    for key, value in attributes.items():
        if value is True:
            texts.append(key)
        elif value or (key == "value" and value is not False):
            texts.append(f'{key}="{escape(str(value))}"')
    return " ".join(texts) + ">"


def choice_texts(choices: Sequence[Any], nullable: bool) -> dict[str, Any]:
    """What is sent for each choice: itself if that is clear, else its JSON."""
    texts = {c if isinstance(c, str) else msgspec.json.encode(c).decode(): c for c in choices}
    clear = len(texts) == len(choices) and all(map(str.isprintable, texts)) and not (nullable and "" in texts)
    return texts if clear else {msgspec.json.encode(choice).decode(): choice for choice in choices}


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _shown_again(texts: Sequence[str] | str) -> str:
    if isinstance(texts, str):
        return texts
    return texts[-1] if texts and isinstance(texts[-1], str) else ""


def base_id(device: BaseDevice, prefix: str) -> str:
    """What the ids of a device's fields begin with."""
    if device.parent is not None:
        return f"{base_id(device.parent, prefix)}:{device.name}"
    return f"{prefix}{device.name or f'new.{device.oid}'}"


def fields_of(device: BaseDevice, prefix: str = "") -> Iterator[Field]:
    """The fields of a device's settings, without those of its subdevices."""
    below = "" if device.parent is None else f"subdevices.{device.name}."
    values = msgspec.to_builtins(device.config)
    for name, schema in settings_schema(device.Settings)["properties"].items():
        field = Field(below + name, f"{base_id(device, prefix)}:{name}", schema, values[name])
        if name == "name":
            if below:
                continue
            field.fixed = bool(device.name)
            field.schema = schema | {"minLength": 1}
        yield field


def device_html(device: BaseDevice, errors: Mapping[str, str], given: Given, prefix: str) -> str:
    """The form of a device's settings; see :meth:`BaseDevice.to_html`."""
    parts = [(part, list(fields_of(part, prefix))) for part in device.walk()]
    shown_at = {field.name: field for _, fields in parts for field in fields}
    html = [_summary(errors, shown_at), tag("input", {"type": "hidden", "name": "oid", "value": device.oid}), "\n"]
    for part, fields in parts:
        title = part.label or word(part.doc)
        html.append(f'<fieldset class="device"><legend><bdi>{escape(title)}</bdi></legend>\n')
        html += [field.html(errors.get(field.name, ""), given.get(field.name)) for field in fields]
        html.append("" if part is device and len(parts) > 1 else "</fieldset>\n")
    html.append("</fieldset>\n" if len(parts) > 1 else "")
    return "".join(html)


def _summary(errors: Mapping[str, str], fields: Mapping[str, Field]) -> str:
    """All that is wrong in one place, which a screen reader tells at once, with links to the fields."""
    if not errors:
        return ""
    lines = []
    for name, text in errors.items():
        field = fields.get(name)
        if field is not None:
            lines.append(f'<li><a href="#{escape(field.id)}">{escape(field.title)}</a>: {escape(text)}</li>\n')
        else:
            lines.append(f"<li>{escape(f'{name}: {text}' if name else text)}</li>\n")
    return f'<div class="errors" role="alert"><p>{escape(word("form.summary"))}</p><ul>\n{"".join(lines)}</ul></div>\n'


def read_device(device: BaseDevice, given: Given) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that a form of this kind of device sent, as JSON has them, and what is wrong, by field."""
    settings: dict[str, Any] = {"oid": device.oid}
    errors: dict[str, str] = {}
    places: dict[str, tuple[Field, dict[str, Any], str]] = {}
    for part in device.walk():
        for field in fields_of(part):
            name = field.name.rpartition(".")[2]
            place = settings if part is device else settings.setdefault("subdevices", {}).setdefault(part.name, {})
            places[field.name] = (field, place, name)
    places["oid"] = (Field("oid", "", {"title": "oid", "type": "string"}), settings, "oid")
    for name, texts in given.items():
        if len(errors) == ERRORS_LIMIT:
            break
        if name not in places:
            errors[field_name(name)] = word("form.unknown")
            continue
        field, place, key = places[name]
        try:
            place[key] = field.read(texts)
        except BadValue as error:
            errors[name] = str(error)
    return settings, errors


def command_html(device: BaseDevice, name: str, error: str, given: Given, prefix: str) -> str:
    """The field with which a command is given its value; see :meth:`BaseDevice.command_html`.

    :raises UnknownCommand: there is no such command
    :raises NotPermitted: the command is read only
    """
    command = device.commands.get(name)
    if command is None:
        raise UnknownCommand(f"{device.path} has no command {shown(name)}")
    if command.readonly:
        raise NotPermitted(f"{name} of {device.path} is read only")
    return _command_field(command, f"{base_id(device, prefix)}:do-{name}").html(error, given.get("value"))


def read_command(command: Command, given: Given) -> Any:
    """The value that the form of a command sent, checked; see :meth:`Command.from_form`.

    :raises FieldErrors: with an entry for each field at fault
    """
    errors = {field_name(name): word("form.unknown") for name in list(given)[:ERRORS_LIMIT] if name != "value"}
    field = _command_field(command, "")
    try:
        if "value" not in given:
            raise BadValue(word("form.missing"))
        value = command.check(field.read(given["value"]))
    except BadValue as error:
        errors["value"] = str(error)
    if errors:
        raise FieldErrors(errors)
    return value


def _command_field(command: Command, id_: str) -> Field:
    field = Field("value", id_, command_schema(command), UNSET if command.value is None else command.value)
    if field.kind == "boolean":
        # a box that is not checked would say off of what is not known
        field.kind, field.choices = "choice", {"true": True, "false": False}
    if field.kind == "choice":
        field.required = True
    return field
