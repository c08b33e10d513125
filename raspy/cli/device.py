"""Shows, makes, changes and deletes devices.

raspy device new fake sensor.cyclic name=room period=600 makes one; raspy device template fake shows of what kinds, and
which settings they have. raspy device edit room label="Living room" poll=30 changes settings. They are kept by the
device's server and in the durable store.
Exit code: 0 done, 1 refused, or no answer.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import msgspec

from raspy.cli import out
from raspy.cli.command import Request, print_json
from raspy.cli.naming import Devices, settings_of
from raspy.cli.table import print_table
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient


def arguments(parser: ArgumentParser) -> None:
    """A verb, and what it is about."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def add(verb: str, text: str) -> ArgumentParser:
        return verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)

    add("list", "list the devices with their kind and label")
    add("show", "print all of a device: settings, commands, readings").add_argument("device", metavar="DEVICE")
    new = add("new", "make a device on a server")
    new.add_argument("server", metavar="SERVER", help="as fake, or pi.fake")
    new.add_argument("kind", metavar="KIND", help="its oid, as sensor.cyclic")
    new.add_argument("settings", metavar="NAME=VALUE", nargs="+", help="name=... is needed")
    edit = add("edit", "change settings of a device, all that are given or none")
    edit.add_argument("device", metavar="DEVICE")
    edit.add_argument("settings", metavar="NAME=VALUE", nargs="+", help="SUBDEVICE.NAME=VALUE for a subdevice")
    add("delete", "delete a device that was made, or forget a probe that is gone").add_argument(
        "device", metavar="DEVICE"
    )
    template = add("template", "the kinds of devices of a server, or the settings and commands of one kind")
    template.add_argument("server", metavar="SERVER")
    template.add_argument("kind", metavar="KIND", nargs="?")


def act(request: Request) -> dict[str, Any]:
    """Do what the verb says."""
    words = request.arguments
    with MajorDomoClient(request.address) as client:
        devices = Devices(request, client)
        return {"verb": words.verb, "result": VERBS[words.verb](devices, words)}


def _list(devices: Devices, words: Any) -> Any:
    fields = ("oid", "label", "unsettled")
    return [
        {"device": MDP.routing_key(server, each["name"]), **{key: each.get(key) for key in fields}}
        for server in devices.servers
        for each in devices.ask(server, "list")
    ]


def _show(devices: Devices, words: Any) -> Any:
    server, path = devices.find(words.device)
    return devices.ask(server, "info", path)


def _new(devices: Devices, words: Any) -> Any:
    settings = {**settings_of(words.settings), "oid": words.kind}
    return devices.ask(devices.server(words.server), "new", msgspec.json.encode(settings))


def _edit(devices: Devices, words: Any) -> Any:
    server, path = devices.find(words.device)
    return devices.ask(server, "exec", path, "config", msgspec.json.encode(settings_of(words.settings)))


def _delete(devices: Devices, words: Any) -> Any:
    server, path = devices.find(words.device)
    return devices.ask(server, "delete", path)


def _template(devices: Devices, words: Any) -> Any:
    server = devices.server(words.server)
    return devices.ask(server, "template", words.kind or "")


VERBS = {"list": _list, "show": _show, "new": _new, "edit": _edit, "delete": _delete, "template": _template}


def show(answer: dict[str, Any]) -> None:
    """Print a table where it is a list, JSON where it is one thing."""
    result = answer["result"]
    if answer["verb"] == "list":
        rows = [[row["device"], row["oid"], row["label"] or "", row["unsettled"] or ""] for row in result]
        print_table(["device", "kind", "label", "settings"], rows)
    elif answer["verb"] == "template" and "schema" not in result:
        rows = [[oid, "yes" if each.get("make") else "", each.get("doc", "")] for oid, each in result.items()]
        print_table(["kind", "can be made", "what it is"], rows)
    elif answer["verb"] == "template":
        _show_template(result)
    elif result is not None:
        print_json(result)


def _show_template(result: dict[str, Any]) -> None:
    out(f"{result.get('oid')}: {result.get('doc')}\n")
    schema = result.get("schema", {})
    fields = next(iter(schema.get("$defs", {}).values()), schema).get("properties", {})
    rows = [
        [
            name,
            msgspec.json.encode(result.get("default", {}).get(name)).decode(),
            str(field.get("unit") or ""),
            str(field.get("description") or field.get("title") or ""),
        ]
        for name, field in fields.items()
    ]
    print_table(["setting", "default", "unit", "what it is"], rows)
    out("")
    rows = [
        [name, str(field.get("type", "")), str(field.get("unit") or ""), str(field.get("info") or "")]
        for name, field in result.get("commands", {}).items()
    ]
    print_table(["command", "type", "unit", "what it does"], rows)
