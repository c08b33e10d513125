// Makes the picture of a value's history one that can be zoomed: drag across it; a button shows the whole period again.
// The table below has the same values for whoever cannot see it.
"use strict";
(() => {
  const box = document.getElementById("chart");
  if (!box || typeof uPlot === "undefined" || !box.dataset.css) return;

  const AGAIN = 2000; // ms between fetches at least, when new values come
  const STILL = 10000; // and when none do
  const { of: key, unit, called } = box.dataset;
  const begin = [Number(box.dataset.since), Number(box.dataset.until)];
  const marks = JSON.parse(box.dataset.marks || "[]");
  const ends = box.dataset.now === "1"; // the period goes on with the clock
  const span = begin[1] - begin[0];
  let plot = null;
  let zoom = null;
  let wanted = 0;
  let asked = 0;
  let timer = null;

  const color = (name, otherwise) => getComputedStyle(box).getPropertyValue(name).trim() || otherwise;
  const width = () => Math.max(box.clientWidth, 200);
  const height = () => Math.min(Math.max(Math.round(width() * 0.5), 180), 380);

  // How far the server's clock is ahead of this one, so that "now" is its now.
  const ahead = ends ? begin[1] - Date.now() / 1000 : 0;
  const period = () => (ends ? [Date.now() / 1000 + ahead - span, Date.now() / 1000 + ahead] : begin);

  // What dragging does, for fingers that cannot and for keys (WCAG 2.2, 2.5.7 Dragging Movements).
  function button(id, text, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.id = id;
    made.textContent = text;
    made.addEventListener("click", () => {
      act(...(zoom ?? period()));
      load();
    });
    return made;
  }

  const closer = button("closer", box.dataset.closer, (since, until) => {
    const part = until - since > 40 ? (until - since) / 4 : 0;
    zoom = [since + part, until - part];
  });
  const back = button("back", box.dataset.back, (since, until) => (zoom = [(3 * since - until) / 2, (since + until) / 2]));
  const on = button("on", box.dataset.on, (since, until) => (zoom = [(since + until) / 2, (3 * until - since) / 2]));
  const reset = button("whole", box.dataset.whole, () => {
    zoom = null;
    closer.focus(); // as this one goes away
  });
  const tools = document.createElement("div");
  tools.className = "buttons";
  tools.append(closer, back, on, reset);
  for (const each of [back, on, reset]) each.hidden = true;
  const failed = document.createElement("p");
  failed.className = "trouble";
  failed.setAttribute("role", "status");

  // Columns of times, means, lowest and highest; null where nothing is known.
  function columns(points) {
    const found = [[], [], [], []];
    for (const point of points) for (let i = 0; i < 4; i++) found[i].push(point[i] ?? null);
    return found;
  }

  // How times are written, by how far apart they are (uPlot: axis values): without the names of months, with 24 hours.
  const TIMES = [
    [31536000, "{YYYY}", ...Array(6).fill(null), 1],
    [2419200, "{YYYY}-{MM}", ...Array(6).fill(null), 1],
    [86400, "{MM}-{DD}", "\n{YYYY}", ...Array(5).fill(null), 1],
    [60, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
    [1, "{HH}:{mm}:{ss}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  ];

  function options() {
    const line = color("--accent", "#0a5f62");
    const axis = { stroke: color("--soft", "#51646a"), grid: { stroke: color("--line", "#ccc"), width: 1 } };
    const shown = (_, value) => (value === null || value === undefined ? "—" : `${Number(value.toPrecision(6))} ${unit}`.trim());
    const quiet = { stroke: "transparent", points: { show: false }, value: shown };
    return {
      width: width(),
      height: height(),
      cursor: { drag: { x: true, y: false, setScale: false } },
      series: [
        { label: box.dataset.time, value: "{YYYY}-{MM}-{DD} {HH}:{mm}" },
        { label: box.dataset.mean, stroke: line, width: 2, value: shown },
        { label: box.dataset.low, ...quiet },
        { label: box.dataset.high, ...quiet },
      ],
      bands: [{ series: [3, 2], fill: /^#[0-9a-f]{6}$/i.test(line) ? `${line}38` : "rgba(128, 128, 128, 0.25)" }],
      axes: [{ ...axis, values: TIMES }, { ...axis, size: 56 }],
      scales: { x: { range: () => zoom ?? period() } },
      hooks: { setSelect: [select], draw: [mark] },
    };
  }

  // Where something happened: a line down.
  function mark(shown) {
    const { ctx, bbox } = shown;
    ctx.save();
    ctx.strokeStyle = color("--warn", "#7a4b00");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    for (const at of marks) {
      const x = shown.valToPos(at, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
    }
    ctx.stroke();
    ctx.restore();
  }

  function select(shown) {
    const { left, width: wide } = shown.select;
    if (wide < 5) return;
    const [since, until] = [shown.posToVal(left, "x"), shown.posToVal(left + wide, "x")];
    shown.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (until - since < 10) return;
    zoom = [since, until];
    load();
  }

  // uPlot knows of mice alone: a finger that goes across selects, too; one that goes up or down moves the page.
  function touch(over) {
    let from = null;
    const place = (event) => Math.min(Math.max(event.clientX - over.getBoundingClientRect().left, 0), over.clientWidth);
    over.addEventListener("pointerdown", (event) => (from = event.pointerType === "mouse" ? null : place(event)));
    over.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const [left, right] = [from, place(event)].sort((a, b) => a - b);
      plot.setSelect({ left, top: 0, width: right - left, height: over.clientHeight }, false);
    });
    over.addEventListener("pointerup", () => {
      if (from !== null) select(plot);
      from = null;
    });
    over.addEventListener("pointercancel", () => {
      from = null;
      plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    });
  }

  async function load() {
    const turn = ++wanted;
    asked = performance.now();
    const [since, until] = zoom ?? period();
    const query = { key, since: since.toFixed(3), until: until.toFixed(3), points: Math.min(Math.max(width(), 100), 800) };
    try {
      const answer = await fetch(`/api/v1/history?${new URLSearchParams(query)}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      const { points } = await answer.json();
      if (turn !== wanted) return;
      draw(columns(points));
      failed.textContent = "";
    } catch {
      if (turn === wanted) failed.textContent = box.dataset.failed;
      if (turn === wanted && plot) draw(plot.data); // what is not known anew moves away from now all the same
    }
    box.dataset.zoomed = zoom ? `${zoom[0]} ${zoom[1]}` : "";
    for (const each of [back, on, reset]) each.hidden = !zoom;
  }

  function draw(data) {
    if (plot) {
      plot.setData(data);
    } else {
      box.replaceChildren();
      plot = new uPlot(options(), data, box);
      touch(plot.over);
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", called);
      new ResizeObserver(() => plot.setSize({ width: width(), height: height() })).observe(box);
    }
    box.dataset.points = data[0].length;
  }

  // A pause between fetches: as long as a point of the chart stands for, but not shorter than so many ms.
  const pace = (least) => Math.max(least, (span * 1000) / width());

  // Without news it goes on too: what ended is to be seen to have ended.
  setInterval(() => {
    if (asked && ends && !zoom && !timer && !document.hidden && performance.now() - asked > pace(STILL)) load();
  }, 1000);

  // A value of the tree has changed: the chart goes on, as often as it has points.
  document.addEventListener("raspy:row", (event) => {
    if (event.target.dataset.key !== key || zoom || !ends || timer || document.hidden) return;
    const pause = pace(AGAIN) - (performance.now() - asked);
    timer = setTimeout(() => {
      timer = null;
      load();
    }, Math.max(pause, 0));
  });

  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = box.dataset.css;
  style.addEventListener("load", load);
  document.head.append(style);
  box.after(failed, tools);
})();
