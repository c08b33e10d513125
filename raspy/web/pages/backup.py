"""Back up and restore: made and taken by the command line's own commands, in processes of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from raspy.web.jobs import BACKUP, CHECK, DONE, FAILED, RESTORE, RUNNING, Job
from raspy.web.pages.system import size
from raspy.web.refusal import Elsewhere, Refusal
from raspy.web.site import Site
from raspy.web.texts import clean, number
from raspy.web.upload import receive
from raspy.web.visit import Route, Visit
from raspy.web.words import Words

PAGE = "/system/backup"
CHUNK = 65536
SOON, LATER = 3, 20
"""Seconds after which the page looks again, without JavaScript; the latter while this server restarts."""
SERVERS, FILES = 50, 20
"""Servers in a backup that are shown, and files of each."""


def backup(site: Site, visit: Visit) -> bytes:
    """What goes on, and the forms."""
    jobs, t = site.jobs, visit.t
    job = jobs.job
    running, others = job is not None and job.state == RUNNING, jobs.others
    shown: dict[str, Any] = {"job": job, "running": running, "others": others, "progress": "", "content": None}
    shown |= {"problem": "", "last": None, "size": "", "left": {}, "scripts": (), "then": PAGE, "again": 0}
    if running or others:
        step = job.progress() if job is not None else {}
        shown["progress"] = progress(step, t)
        shown["scripts"] = ("wait.js",)
        shown["again"] = LATER if step.get("server") == "web" and step.get("step") == "restart" else SOON
    elif job is not None and job.state == FAILED:
        shown["problem"] = _problem(job, t)
    elif job is not None and job.state == DONE:
        result = job.outcome()[0] or {}
        shown["content"], shown["left"] = content(result, t), told(result.get("left"))
        if job.kind != RESTORE:
            shown["size"] = _size(job.path)
    if not running and (job is None or job.kind != RESTORE):
        shown["last"] = _last(site, t)
    return site.page(visit, "backup.tpl", title=t("Back up and restore"), **shown)


def make(site: Site, visit: Visit) -> bytes:
    """Begin a backup."""
    site.jobs.begin(BACKUP, site.jobs.new_path(), partial=bool(visit.form.get("partial")))
    raise Elsewhere(PAGE)


def fetch(site: Site, visit: Visit, identity: str) -> bytes | Iterator[bytes]:
    """The backup that was made; it stays for a while, as nobody here knows whether it has arrived."""
    job = site.jobs.find(identity, BACKUP)
    try:
        opened = os.open(job.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise Refusal("404 Not Found", visit.t("it is not there any more; begin again")) from error
    name = f"raspy-{site.hostname}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(job.began))}.backup"
    visit.headers += [
        ("Content-Type", "application/octet-stream"),
        ("Content-Disposition", f'attachment; filename="{name}"'),
        ("Content-Length", str(os.fstat(opened).st_size)),
        ("Cache-Control", "no-store"),
    ]
    if visit.method == "HEAD":
        os.close(opened)
        return b""
    return Content(opened)


def upload(site: Site, visit: Visit) -> bytes:
    """Take a backup that is sent, and have it checked."""
    jobs, begun = site.jobs, False

    def check(word: str) -> None:
        """Nobody holds up others before it is known that it is the owner."""
        nonlocal begun
        visit.check(word)
        try:
            jobs.begin_upload()
        except Refusal as refusal:
            raise Elsewhere(PAGE) from refusal
        begun = True

    path = jobs.new_path()
    try:
        receive(visit.environ, path, check)
    finally:
        if begun:
            jobs.end_upload()
    try:
        jobs.begin(CHECK, path)
    except Refusal:
        os.unlink(path)
        raise
    raise Elsewhere(PAGE)


def restore(site: Site, visit: Visit) -> bytes:
    """Put everything back to what is in the file that was checked."""
    job = site.jobs.find(visit.form.get("id", ""), CHECK)
    site.jobs.begin(RESTORE, job.path, partial=bool(visit.form.get("partial")))
    raise Elsewhere(PAGE)


def discard(site: Site, visit: Visit) -> bytes:
    """Forget the file that was sent, or the backup that was made."""
    job = site.jobs.job
    if job is not None and job.id == visit.form.get("id", "") and job.state != RUNNING:
        job.drop()
    raise Elsewhere(PAGE)


class Content:
    """A file on its way out.

    :param opened: its descriptor
    """

    def __init__(self, opened: int) -> None:
        self._opened = opened

    def __iter__(self) -> Content:
        return self

    def __next__(self) -> bytes:
        data = os.read(self._opened, CHUNK) if self._opened >= 0 else b""
        if data:
            return data
        raise StopIteration

    def close(self) -> None:
        """Let go of the file; called at the end, however it comes (PEP 3333)."""
        opened, self._opened = self._opened, -1
        if opened >= 0:
            os.close(opened)


def progress(step: dict[str, Any], t: Words) -> str:
    """What goes on, in one line."""
    steps = {
        "verify": t("checking the file"),
        "save": t("saving"),
        "write": t("writing the file"),
        "stage": t("checking and copying"),
        "decide": t("all servers can take it"),
        "restart": t("restarting"),
    }
    words = [steps.get(str(step.get("step")), t("beginning"))]
    if isinstance(step.get("server"), str):
        words.append(clean(step["server"], 40))
    done, of = number(step.get("done")), number(step.get("of"))
    if done is not None and of:
        words.append(f"{min(100, int(100 * done / of))} %")
    return " · ".join(words)


def content(result: dict[str, Any], t: Words) -> list[tuple[str, str]]:
    """What is in a backup: names and texts."""
    stamp = number(result.get("time"))
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp)) if stamp is not None and 0 <= stamp < 4e9 else "?"
    found = [
        (t("Of"), clean(str(result.get("host", "?")), 80)),
        (t("Made"), when),
        ("RasPy", clean(str(result.get("version", "?")), 40)),
    ]
    servers = result.get("servers")
    for name, files in list(servers.items() if isinstance(servers, dict) else [])[:SERVERS]:
        listed = list(files.items())[:FILES] if isinstance(files, dict) else []
        text = ", ".join(f"{clean(str(each), 80)} ({size(number(count) or 0)})" for each, count in listed)
        found.append((clean(str(name), 40), text or t("nothing yet")))
    return found


def told(left: Any) -> dict[str, str]:
    """Servers and why they were left out, as they can be shown."""
    pairs = list(left.items())[:SERVERS] if isinstance(left, dict) else []
    return {clean(str(name), 40): clean(str(why), 200) for name, why in pairs}


def _problem(job: Job, t: Words) -> str:
    reason = job.outcome()[1]
    if job.kind == BACKUP:
        return t("There is no backup: {reason}", reason=reason)
    return reason if job.decided else t("Nothing was changed: {reason}", reason=reason)


def _size(path: str) -> str:
    try:
        return size(os.stat(path).st_size)
    except OSError:
        return "?"


def _last(site: Site, t: Words) -> dict[str, Any] | None:
    """What came of the last restore."""
    found = site.jobs.last_restore()
    if found is None:
        return None
    result, reason, stamp = found
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp))
    if result is None:
        return {"when": when, "good": False, "reason": reason, "left": {}}
    names = result.get("late")
    late = [clean(str(name), 40) for name in (names if isinstance(names, list) else [])[:SERVERS]]
    reason = t("not back yet: {servers}", servers=", ".join(late)) if late else ""
    return {"when": when, "good": not late, "reason": reason, "left": told(result.get("left"))}


ROUTES = (
    Route(PAGE, backup),
    Route(f"{PAGE}/make", make, "POST"),
    Route(f"{PAGE}/file/<identity>", fetch),
    Route(f"{PAGE}/upload", upload, "POST", raw=True),
    Route(f"{PAGE}/restore", restore, "POST"),
    Route(f"{PAGE}/discard", discard, "POST"),
)
