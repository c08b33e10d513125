// Keeps the page current: changed rows come over one event stream, anything else is fetched anew.
// A page of data-live="whole" is fetched as it is, and what differs is taken over; of one of data-live="rows" only the
// rows are (from data-rows, if it says so). What an owner is typing stays, and all around it goes on.
// Nothing that may be old looks current: without a connection every value is shown as stale.
"use strict";
(() => {
  const SILENCE = 12; // s without a sign of life (the server gives one every 5 s) after which it counts as lost
  const POLL = 5; // s between fetches when the server has no stream left
  const OLD = 900; // s after which a whole page is fetched again: its small charts move on
  const SAID = 20; // s for which it is said what a form did
  const RETRY = 30; // s between attempts to get one
  const words = JSON.parse(document.documentElement.dataset.words || "{}");

  // A text in the language of the page.
  function say(text, values = {}) {
    return (words[text] ?? text).replace(/{(\w+)}/g, (_, name) => values[name] ?? "");
  }

  const TEXTS = {
    connecting: say("Connecting…"),
    live: say("Live"),
    polling: say("Every {seconds} s", { seconds: POLL }),
    lost: say("Connection lost. Trying again…"),
  };

  const main = document.getElementById("main");
  if (!main || !main.dataset.live) return;
  const whole = main.dataset.live === "whole";
  // What answers a form is no address to come back to.
  if (main.dataset.at) history.replaceState(null, "", main.dataset.at + location.hash);
  const link = document.getElementById("link");
  const ages = new Map();
  let source = null;
  let state = "";
  let heard = now();
  let fetched = null;
  let fetching = false;
  let again = false;
  let pending = [];
  let hidden = null;
  let tried = now();
  let outdated = false; // the page is to be loaded anew, once nothing is typed in it
  const began = now();

  // Two clocks: one stops while a phone sleeps, the other may be set back.
  function now() {
    return { steady: performance.now(), wall: Date.now() };
  }

  function since(mark) {
    return Math.max(performance.now() - mark.steady, Date.now() - mark.wall) / 1000;
  }

  function setText(element, text) {
    if (element && element.textContent !== text) element.textContent = text;
  }

  function show(next) {
    setText(link, next === "live" && main.dataset.bus !== "live" ? say("Connected") : TEXTS[next]);
    if (next === state) return;
    state = next;
    document.documentElement.dataset.link = next;
    if (next === "lost") distrust();
  }

  // ---- rows

  const rows = () => main.querySelectorAll("[data-key]");
  const cell = (row, name) => row.querySelector(`[data-cell=${name}]`);

  function patch(row, next, age, cells) {
    if (row.dataset.state === "ok" && (next === "stale" || next === "error") && row.querySelector("dt")) {
      const title = row.closest("article")?.querySelector("h3")?.firstElementChild?.textContent ?? "";
      const what = `${title} ${row.querySelector("dt").textContent}: ${cells.badge ?? next}, ${cells.note ?? ""}`;
      setText(document.getElementById("announce"), what);
    }
    row.dataset.state = next;
    for (const [name, text] of Object.entries(cells)) setText(cell(row, name), text);
    const aged = row.querySelector("[data-age]");
    if (aged) {
      ages.set(aged, { age, at: now() });
      if (age === null) setText(aged, "");
      tell(aged);
    }
    if (row.dataset.key.endsWith("/level")) follow(row.dataset.key.split("/")[2], next === "ok" ? cells.value : "");
    row.dispatchEvent(new CustomEvent("raspy:row", { bubbles: true }));
  }

  // The field of a dimmer has its level, as long as nobody types another one.
  function follow(output, level) {
    const field = document.getElementById(`level:${output}`);
    if (!field || field === document.activeElement || field.value !== field.defaultValue) return;
    field.defaultValue = field.value = level ?? "";
  }

  function distrust() {
    for (const row of rows()) {
      const note = cell(row, "note");
      if (note && row.dataset.state === "ok") {
        const value = `${cell(row, "value").textContent} ${cell(row, "unit").textContent}`.trim();
        setText(note, say("was {value}", { value }));
        setText(cell(row, "value"), "—");
        setText(cell(row, "unit"), "");
      }
      if (row.dataset.state === "error") continue;
      setText(cell(row, "badge"), note ? say("stale") : say("unknown"));
      row.dataset.state = "stale";
      if (row.dataset.key.endsWith("/level")) follow(row.dataset.key.split("/")[2], "");
    }
  }

  function duration(seconds) {
    if (seconds < 60) return say("{count} s", { count: Math.floor(seconds) });
    if (seconds < 3600) return say("{count} min", { count: Math.floor(seconds / 60) });
    if (seconds < 48 * 3600) return say("{count} h", { count: Math.floor(seconds / 3600) });
    return say("{count} d", { count: Math.floor(seconds / 86400) });
  }

  function tell(element) {
    const { age, at } = ages.get(element);
    if (age === null) return;
    const seconds = age + since(at);
    setText(element, seconds < 2 ? say("now") : say("{time} ago", { time: duration(seconds) }));
  }

  function takeAges() {
    ages.clear();
    for (const element of main.querySelectorAll("[data-age]")) {
      ages.set(element, { age: element.dataset.age === "" ? null : Number(element.dataset.age), at: now() });
    }
  }

  // ---- the whole

  const version = () => Number(main.dataset.version.split("-").pop());

  function apply(update) {
    if (update.version <= version()) return;
    main.dataset.version = main.dataset.version.replace(/\d+$/, update.version);
    const found = new Map([...rows()].map((row) => [row.dataset.key, row]));
    for (const { key, state: next, age, cells } of update.rows) {
      const row = found.get(key);
      if (row) patch(row, next, age, cells);
    }
  }

  function takeRows(incoming) {
    const found = new Map([...rows()].map((row) => [row.dataset.key, row]));
    for (const row of incoming) {
      const old = found.get(row.dataset.key);
      if (!old) continue;
      const cells = {};
      for (const part of row.querySelectorAll("[data-cell]")) cells[part.dataset.cell] = part.textContent;
      const aged = row.querySelector("[data-age]");
      patch(old, row.dataset.state, aged && aged.dataset.age !== "" ? Number(aged.dataset.age) : null, cells);
      const [spark, fresh] = [old.querySelector(".spark"), row.querySelector(".spark")];
      if (spark && fresh) {
        spark.setAttribute("aria-label", fresh.getAttribute("aria-label"));
        spark.firstElementChild.setAttribute("d", fresh.firstElementChild.getAttribute("d"));
      } else if (fresh) {
        old.querySelector(".value").after(fresh);
      } else if (spark) {
        spark.remove();
      }
    }
  }

  // The fields in which an owner has typed or chosen something that is not sent yet, or is about to.
  function typed() {
    return [...main.querySelectorAll("input:not([type=hidden]), select, textarea")].filter((field) => {
      if (field === document.activeElement) return true;
      if (field.tagName === "SELECT") {
        const chosen = [...field.options].findIndex((option) => option.defaultSelected);
        return field.selectedIndex !== Math.max(chosen, 0);
      }
      if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
      return field.value !== field.defaultValue;
    });
  }

  // Give an element what a fresh one has in it. The fields that are kept stay where they are, so that they keep what
  // was typed, the focus and a phone its keyboard; unless what they are for is gone.
  function renew(old, fresh, kept) {
    const stays = new Map();
    for (const child of old.children) {
      const twin = [...fresh.children].find((each) =>
        kept.some((field) => child.contains(field) && (each.id === field.id || each.querySelector(`#${CSS.escape(field.id)}`))),
      );
      if (twin) stays.set(twin, child);
    }
    const here = new Set(stays.values());
    for (const node of [...old.childNodes]) if (!here.has(node)) node.remove();
    let next = old.firstChild;
    for (const node of [...fresh.childNodes]) {
      const stay = stays.get(node);
      if (stay && stay === next) next = next.nextSibling;
      else old.insertBefore(stay ?? node, next);
      if (stay && !kept.includes(stay)) renew(stay, node, kept);
    }
  }

  function take(page) {
    const fresh = page.getElementById("main");
    const script = (of) => of.querySelector("script")?.getAttribute("src");
    const kept = typed().filter((field) => field.id);
    outdated = !fresh?.dataset.version || script(page) !== script(document);
    if (outdated && !kept.length) {
      location.reload(); // RasPy was updated, or this page is another one now
      return;
    }
    if (!fresh?.dataset.version) throw new Error("this page is no longer there");
    const shapes = (of) => [...of.querySelectorAll("[data-key], [data-form]")].map((e) => `${e.dataset.key} ${e.dataset.form}`);
    const started = (of) => of.dataset.version.replace(/\d+$/, "");
    // A server that was started anew takes its own forms only.
    const same = shapes(main).join("\n") === shapes(fresh).join("\n") && started(main) === started(fresh);
    if (!whole || same) {
      takeRows(fresh.querySelectorAll("[data-key]"));
      const [lately, shown] = [fresh.querySelector("#lately"), main.querySelector("#lately")];
      if (lately && shown && lately.textContent !== shown.textContent) shown.replaceChildren(...lately.childNodes);
    } else {
      const open = [...main.querySelectorAll("details[open]")].map((details) => details.id);
      const focused = main.contains(document.activeElement) ? document.activeElement.id : "";
      renew(main, fresh, kept);
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      if (focused && document.activeElement.id !== focused) document.getElementById(focused)?.focus();
      takeAges();
    }
    state_of(fresh.dataset.version, fresh.dataset.bus, page.getElementById("notice").textContent);
  }

  function state_of(version, bus, notice) {
    main.dataset.version = version;
    main.dataset.bus = bus;
    setText(document.getElementById("notice"), notice);
  }

  function takeJson(answer) {
    const found = new Map(answer.rows.map((row) => [row.key, row]));
    for (const row of rows()) {
      const { state: next, age, cells } = found.get(row.dataset.key) ?? {};
      if (cells) patch(row, next, age, cells);
      else patch(row, "stale", null, { value: "—", unit: "", badge: say("unknown") });
    }
    state_of(answer.version, answer.bus, answer.notice);
  }

  // The address of this page, without what was said on it once.
  function address() {
    const query = new URLSearchParams(location.search);
    query.delete("said");
    return location.pathname + (query.size ? `?${query}` : "");
  }

  async function reload() {
    if (fetching) {
      again = true;
      return;
    }
    fetching = true;
    const wait = fetched ? (whole || main.dataset.rows ? 1 : POLL) - since(fetched) : 0;
    if (wait > 0) await new Promise((done) => setTimeout(done, wait * 1000));
    fetched = now();
    const abort = new AbortController();
    const limit = setTimeout(() => abort.abort(), 8000);
    try {
      const rowsAt = main.dataset.rows;
      const answer = await fetch(rowsAt ?? address(), { cache: "no-store", signal: abort.signal });
      if (answer.status === 401 || (answer.redirected && /^\/(login|setup)/.test(new URL(answer.url).pathname))) {
        location.assign(`/login?next=${encodeURIComponent(address())}`); // somebody logged this session out
        return;
      }
      if (!answer.ok) throw new Error(answer.status);
      if (rowsAt) takeJson(await answer.json());
      else take(new DOMParser().parseFromString(await answer.text(), "text/html"));
      show(source ? "live" : "polling");
      pending.forEach(apply);
    } catch {
      show("lost");
      setTimeout(() => state === "lost" && reload(), 3000);
    } finally {
      clearTimeout(limit);
      pending = [];
      fetching = false;
      if (again) {
        again = false;
        reload();
      }
    }
  }

  // ---- the stream

  function connect() {
    disconnect();
    tried = heard = now();
    source = new EventSource(`/events?since=${encodeURIComponent(main.dataset.version)}`);
    source.addEventListener("alive", () => {
      heard = now();
      if (state === "lost") reload();
      else if (!fetching) show("live");
    });
    source.addEventListener("reload", () => {
      heard = now();
      reload();
    });
    source.addEventListener("rows", (event) => {
      heard = now();
      const update = JSON.parse(event.data);
      if (state === "lost") reload();
      if (fetching) pending.push(update);
      else apply(update);
    });
    source.addEventListener("error", () => {
      if (source && source.readyState === EventSource.CLOSED) {
        source = null; // refused: no stream left, or something in between does not let it through
        reload();
      } else {
        show("lost"); // the browser tries again by itself
      }
    });
  }

  function disconnect() {
    if (source) source.close();
    source = null;
  }

  function tick() {
    if (document.hidden) return;
    for (const element of ages.keys()) tell(element);
    if (outdated && !typed().length) location.reload();
    if (source && since(heard) > SILENCE) {
      show("lost");
      connect();
    } else if (!source && since(tried) > RETRY) {
      connect();
    } else if (!source && (!fetched || since(fetched) > POLL)) {
      reload();
    } else if (source && whole && since(fetched ?? began) > OLD) {
      reload();
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      hidden = now();
      disconnect(); // a browser allows six connections to one server, over all its tabs
      show("connecting");
      return;
    }
    if (hidden && since(hidden) > 5) distrust();
    connect();
    reload();
  });

  const said = document.getElementById("said");
  if (said.textContent) {
    history.replaceState(null, "", address() + location.hash); // so that loading it anew does not say it again
    setTimeout(() => setText(said, ""), SAID * 1000);
  }
  takeAges();
  show("connecting");
  connect();
  setInterval(tick, 1000);
})();
