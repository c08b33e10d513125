// Keeps the page current: changed rows come over one event stream, anything else is fetched anew as a whole.
// Nothing that may be old looks current: without a connection every value is shown as stale.
"use strict";
(() => {
  const SILENCE = 12; // s without a sign of life (the server gives one every 5 s) after which it counts as lost
  const POLL = 5; // s between fetches when the server has no stream left
  const RETRY = 30; // s between attempts to get one
  const TEXTS = {
    connecting: "Connecting…",
    live: "Live",
    polling: `Every ${POLL} s`,
    lost: "Connection lost. Trying again…",
  };

  const main = document.getElementById("main");
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
    setText(link, next === "live" && main.dataset.bus !== "live" ? "Connected" : TEXTS[next]);
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
      const title = row.closest("article")?.querySelector("h3").firstChild.textContent ?? "";
      setText(document.getElementById("announce"), `${title} ${row.querySelector("dt").textContent}: ${next}, ${cells.note ?? ""}`);
    }
    row.dataset.state = next;
    for (const [name, text] of Object.entries(cells)) setText(cell(row, name), text);
    const aged = row.querySelector("[data-age]");
    if (aged) {
      ages.set(aged, { age, at: now() });
      tell(aged);
    }
  }

  function distrust() {
    for (const row of rows()) {
      const note = cell(row, "note");
      if (note && row.dataset.state === "ok") {
        setText(note, `was ${cell(row, "value").textContent} ${cell(row, "unit").textContent}`);
        setText(cell(row, "value"), "—");
        setText(cell(row, "unit"), "");
      }
      if (row.dataset.state === "error") continue;
      setText(cell(row, "badge"), note ? "stale" : "unknown");
      row.dataset.state = "stale";
    }
  }

  function duration(seconds) {
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
    return `${Math.floor(seconds / 86400)} d`;
  }

  function tell(element) {
    const { age, at } = ages.get(element);
    if (age === null) return;
    const seconds = age + since(at);
    setText(element, seconds < 2 ? "now" : `${duration(seconds)} ago`);
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

  function take(page) {
    const fresh = page.getElementById("main");
    const script = (of) => of.querySelector("script").getAttribute("src");
    if (script(page) !== script(document)) {
      location.reload(); // RasPy was updated
      return;
    }
    const old = [...rows()];
    const incoming = [...fresh.querySelectorAll("[data-key]")];
    const same = old.length === incoming.length && old.every((row, i) => row.dataset.key === incoming[i].dataset.key);
    if (same) {
      incoming.forEach((row, i) => {
        const cells = {};
        for (const part of row.querySelectorAll("[data-cell]")) cells[part.dataset.cell] = part.textContent;
        const aged = row.querySelector("[data-age]");
        patch(old[i], row.dataset.state, aged && aged.dataset.age !== "" ? Number(aged.dataset.age) : null, cells);
      });
      const lately = fresh.querySelector("#lately");
      const shown = main.querySelector("#lately");
      if (lately.textContent !== shown.textContent) shown.replaceChildren(...lately.childNodes);
    } else {
      const open = [...main.querySelectorAll("details[open]")].map((details) => details.id);
      main.replaceChildren(...fresh.childNodes);
      for (const id of open) main.querySelector(`#${id}`)?.setAttribute("open", "");
      takeAges();
    }
    main.dataset.version = fresh.dataset.version;
    main.dataset.bus = fresh.dataset.bus;
    setText(document.getElementById("notice"), page.getElementById("notice").textContent);
  }

  async function reload() {
    if (fetching) {
      again = true;
      return;
    }
    fetching = true;
    const wait = fetched ? 1 - since(fetched) : 0;
    if (wait > 0) await new Promise((done) => setTimeout(done, wait * 1000));
    fetched = now();
    const abort = new AbortController();
    const limit = setTimeout(() => abort.abort(), 8000);
    try {
      const answer = await fetch("/", { cache: "no-store", signal: abort.signal });
      if (!answer.ok) throw new Error(answer.status);
      take(new DOMParser().parseFromString(await answer.text(), "text/html"));
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
    if (source && since(heard) > SILENCE) {
      show("lost");
      connect();
    } else if (!source && since(tried) > RETRY) {
      connect();
    } else if (!source && (!fetched || since(fetched) > POLL)) {
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

  takeAges();
  show("connecting");
  connect();
  setInterval(tick, 1000);
})();
