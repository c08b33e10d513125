"""An emulated machine that boots from a card.

It is QEMU's ``virt`` with a virtio disk, or a Raspberry Pi 3 with its SD card (``raspi3b``). Either starts the kernel
that lies on the card's boot partition, with the words of its ``cmdline.txt``: the firmware, which does that on a Pi, is
what is left out. Nothing is changed on the card but by the machine itself.

A root shell is had by a unit that comes with the kernel's command line (systemd-debug-generator(8),
``systemd.extra-unit.``), so the card needs no way in for it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from raspy.web.auth.sessions import csrf
from tests.image.card import Card
from tests.image.qemu import qemu
from tests.support_processes import wait_for

BOOT_LIMIT_S = 1200.0
"""Until a machine has booted: it is emulated, and others may be at work beside it."""
ANSWER_LIMIT_S = 300.0
COMMAND_LINE = 2048
"""COMMAND_LINE_SIZE of arm64."""
PASSWORD = "two clownfish and a goby"

# A line in: a number, and a script in base64. A line out: @, the number, its exit code, what it printed in base64.
_LOOP = (
    "stty raw -echo;while read -r n l;do "
    'o=$(bash -c "$(base64 -d<<<$l)" 2>&1 </dev/null|base64 -w0;exit ${PIPESTATUS[0]});'
    'echo "@$n $? $o";done'
)
_SHELL = """[Unit]
DefaultDependencies=no
{order}
[Service]
ExecStart=/bin/bash -c '{loop}'
StandardInput=tty-force
StandardOutput=tty
TTYPath=/dev/{tty}
Restart=always
"""
_ANSWER = rb"@%d (\d+) ([A-Za-z0-9+/=]*)\r?\n"


class Pi:
    """A machine with a card in it.

    :param card: what it boots from
    :param directory: for its sockets and what it says
    :param name: of its files there
    :param options: further ones of QEMU
    :param words: further ones for the kernel
    :param shell: whether there is a root shell
    """

    def __init__(
        self,
        card: Card,
        directory: Path,
        name: str = "pi",
        *,
        options: tuple[str, ...] = (),
        words: tuple[str, ...] = (),
        shell: bool = True,
    ) -> None:
        self.card, self.name = card, name
        self.console_path = directory / f"{name}.console"
        self._errors = directory / f"{name}.qemu"
        self._shell_path = directory / f"{name}.shell"
        self._kernel, self._initrd = directory / f"{name}.vmlinuz", directory / f"{name}.initrd"
        self._options, self._more_words = options, words
        self._has_shell = shell
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: socket.socket | None = None
        self._asked = 0
        self._begun = 0.0
        self.port = self.ssh_port = 0

    # ------------------------------------------------ power

    def switch_on(self) -> None:
        """Switch it on; what it said before is forgotten."""
        assert self._process is None, f"{self.name} is on"
        self._kernel.write_bytes(self._boot_file("vmlinuz|kernel8"))
        self._initrd.write_bytes(self._boot_file("initrd|initramfs8"))
        self.port, self.ssh_port = _free_ports(2)
        with contextlib.suppress(FileNotFoundError):
            self.console_path.unlink()
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                [
                    *self._qemu(),
                    *("-m", str(self.memory), "-display", "none", "-no-reboot", "-monitor", "none"),
                    *("-kernel", str(self._kernel), "-initrd", str(self._initrd), "-append", self._words()),
                    *self._devices(),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        self._begun = time.monotonic()

    def _boot_file(self, pattern: str) -> bytes:
        """The file of the boot partition whose name begins so, the newest of several."""
        names = self.card.names()
        name = max((name for name in names if re.match(pattern, name)), default="")
        content = self.card.get(name)
        assert content, f"no {pattern} on the boot partition: {names}"
        return content

    tty, shell_tty = "ttyAMA0", "hvc0"
    memory = 512
    """MB, as a Pi Zero 2 W has."""

    def _qemu(self) -> list[str]:
        return [*qemu(), "-M", "virt", "-cpu", "cortex-a72", "-smp", "2"]

    def _devices(self) -> list[str]:
        forwards = f"hostfwd=tcp:127.0.0.1:{self.port}-:80,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        return [
            *("-drive", f"file={self.card.path},format=raw,if=none,id=card", "-device", "virtio-blk-pci,drive=card"),
            # There is nothing but this machine in its network: a test does not depend on the world.
            *("-netdev", f"user,id=net,restrict=on,{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-chardev", f"file,id=console,path={self.console_path}", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=shell,path={self._shell_path},server=on,wait=off"),
            *("-device", "virtio-serial-pci", "-device", "virtconsole,chardev=shell", "-device", "virtio-rng-pci"),
        ]

    def _words(self) -> str:
        """The kernel's command line: that of the card, with the console where it is here."""
        given = (self.card.get("cmdline.txt") or b"").decode().split()
        words = [*(word for word in given if not word.startswith("console=")), f"console={self.tty}", *self._more_words]
        if self._has_shell:
            late = self.shell_tty != self.tty
            # The console is there from the start.
            order = "After={0}\nBindsTo={0}".format(f"dev-{self.shell_tty}.device") if late else "After=basic.target"
            unit = base64.b64encode(
                _SHELL.format(loop=_LOOP.replace("$", "$$"), tty=self.shell_tty, order=order).encode()
            ).decode()
            words.append(f"systemd.set_credential_binary=systemd.extra-unit.test-shell.service:{unit}")
            words += ["systemd.wants=test-shell.service", f"systemd.mask=serial-getty@{self.shell_tty}.service"]
        line = " ".join(words)
        assert len(line) < COMMAND_LINE, "longer than the kernel takes"
        return line

    def seconds(self) -> float:
        """How long it is on."""
        return time.monotonic() - self._begun

    def cut(self) -> None:
        """Pull the plug."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._off()

    def switch_off(self) -> None:
        """Shut it down in order."""
        self.run("systemctl --no-block poweroff")
        self.wait_off()

    def wait_off(self) -> None:
        """Wait until it has shut down by itself, or for a reboot; QEMU ends with either."""
        assert self._process is not None, f"{self.name} is off"
        try:
            self._process.wait(BOOT_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end\n{self.said[-3000:]}") from None
        self._off()

    def _off(self) -> None:
        self._process = None
        if self._shell is not None:
            self._shell.close()
            self._shell = None

    # ------------------------------------------------ what it says

    @property
    def said(self) -> str:
        """All that came on its console since it was switched on."""
        try:
            return self.console_path.read_text(errors="replace").replace("\r", "")
        except FileNotFoundError:
            return ""

    def wait_said(self, pattern: str, limit: float = BOOT_LIMIT_S) -> float:
        """Wait until a regular expression is found on the console; return after how many seconds."""
        self._wait(pattern, lambda: re.search(pattern, self.said), limit)
        return self.seconds()

    def _wait(self, what: str, found: Any, limit: float) -> Any:
        def look() -> Any:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} has ended\n{self._errors.read_text()}\n{self.said[-3000:]}")
            return found()

        try:
            return wait_for(what, look, limit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said[-3000:]}") from None

    # ------------------------------------------------ inside

    def run(self, script: str, check: bool = True, limit: float = ANSWER_LIMIT_S) -> str:
        """Run lines of shell as root; return what they print."""
        code, printed = self._ask(script, limit)
        assert code == 0 or not check, f"{self.name}: {script}: exit {code}\n{printed}"
        return printed

    def json(self, script: str, check: bool = True) -> Any:
        """What a script prints, which is JSON."""
        return json.loads(self.run(script, check))

    def wait_shell(self) -> None:
        """Wait until the root shell answers."""
        self._wait("a root shell", self._try_shell, BOOT_LIMIT_S)

    def _try_shell(self) -> bool:
        try:
            return self._ask("echo here", 2.0) == (0, "here\n")
        except (TimeoutError, ConnectionError, FileNotFoundError):
            return False

    def _ask(self, script: str, limit: float) -> tuple[int, str]:
        if self._shell is None:
            line = socket.socket(socket.AF_UNIX)
            with contextlib.ExitStack() as stack:
                stack.callback(line.close)
                line.connect(str(self._shell_path))
                stack.pop_all()
            self._shell = line
        self._asked += 1
        self._shell.sendall(b"%d %s\n" % (self._asked, base64.b64encode(script.encode())))
        received = b""
        end = time.monotonic() + limit
        while not (answer := re.search(_ANSWER % self._asked, received)):
            self._shell.settimeout(max(end - time.monotonic(), 0.001))
            try:
                more = self._shell.recv(1 << 16)
            except TimeoutError:
                raise TimeoutError(f"{self.name}: {script}: no answer within {limit:g} s: {received!r}") from None
            if not more:
                raise ConnectionError(f"{self.name} has hung up")
            received += more
        return int(answer[1]), base64.b64decode(answer[2]).decode(errors="replace")

    # ------------------------------------------------ from outside

    def wait_page(self) -> float:
        """Wait until the page answers and is on the bus; return how many seconds that took."""
        self._wait("the page", self._answers, BOOT_LIMIT_S)
        return self.seconds()

    def _answers(self) -> bool:
        try:
            return Browser(self.port).ask("GET", "/health", limit=10.0).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def has_ssh(self) -> bool:
        """Whether somebody answers as sshd does."""
        try:
            with socket.create_connection(("127.0.0.1", self.ssh_port), 10.0) as line:
                return line.recv(64).startswith(b"SSH-2.0")
        except OSError:
            return False


class Pi3(Pi):
    """A Raspberry Pi 3 with its buses, and no network. Its first serial port is Bluetooth's; the console and the shell
    are on the second. It starts with no idea of the time, as a Pi does.

    :param card: what it boots from
    """

    tty = shell_tty = "ttyS1"
    memory = 1024

    def _qemu(self) -> list[str]:
        return [*qemu(), "-M", "raspi3b"]

    def _devices(self) -> list[str]:
        self._dtb.write_bytes(self._boot_file("bcm2837-rpi-3-b.dtb"))
        line = f"socket,id=console,path={self._shell_path},server=on,wait=off,logfile={self.console_path}"
        return [
            *("-drive", f"file={self.card.path},format=raw,if=sd", "-dtb", str(self._dtb)),
            *("-chardev", line, "-serial", "null", "-serial", "chardev:console"),
        ]

    def _words(self) -> str:
        # Nothing but answers on the line, as far as possible. QEMU's watchdog bites as soon as it is set (hw/misc/
        # bcm2835_powermgt.c).
        quiet = "8250.nr_uarts=2 quiet loglevel=1 systemd.show_status=0 modprobe.blacklist=bcm2835_wdt"
        return f"{super()._words()} {quiet}"

    @property
    def _dtb(self) -> Path:
        return self._kernel.with_suffix(".dtb")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


# ---------------------------------------------------------------- what an owner has


class Answer:
    """A whole HTTP response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers = response.status, response.headers
        self.text = response.read().decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Browser:
    """Somebody on the page, with a session once they have logged in.

    :param port: where the page is, on this machine
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""

    @property
    def csrf(self) -> str:
        """What forms bring."""
        return csrf(self.cookie.partition("=")[2])

    def ask(self, method: str, path: str, body: bytes = b"", limit: float = ANSWER_LIMIT_S, **headers: str) -> Answer:
        """One request, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        known = {"Cookie": self.cookie} if self.cookie else {}
        if method != "GET":
            known["Origin"] = f"http://127.0.0.1:{self.port}"
        known |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body or None, known)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def at(self, port: int) -> Browser:
        """The same one, after the machine has got another port here."""
        self.port = port
        return self

    def get(self, path: str) -> Answer:
        """Look at a page."""
        return self.ask("GET", path)

    def send(self, path: str, **fields: str) -> Answer:
        """Send a form."""
        given = {"csrf": self.csrf, **fields} if self.cookie else fields
        return self.ask("POST", path, urlencode(given).encode(), Content_Type="application/x-www-form-urlencoded")

    def put(self, path: str, content: Any) -> Answer:
        """Write by the API."""
        more = {"Content_Type": "application/json", "X_CSRF_Token": self.csrf}
        return self.ask("PUT", f"/api/v1{path}", json.dumps(content).encode(), **more)

    def enter(self, path: str = "/setup") -> Browser:
        """Set the first password; with ``/login``, log in by it."""
        fields = {"password": PASSWORD, **({"again": PASSWORD} if path == "/setup" else {})}
        answer = self.send(path, **fields)
        assert answer.status == 303, (answer.status, answer.text[:2000])
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return self
