// Helps with the code of a scenario: line numbers, Tab, and not losing what was typed; and shows what one prints.
// Without it the page works all the same.
"use strict";
(() => {
  const INDENT = "    ";
  const EVERY = 3000; // ms between looks for more output

  const code = document.getElementById("code");
  if (code) edit(code);
  for (const input of document.querySelectorAll("input[data-fills]")) fill(input);
  if (document.querySelector("[data-refresh]")) {
    if (document.getElementById("said").textContent) forget(document.querySelector("[data-refresh]").dataset.editor);
    setInterval(refresh, EVERY);
  }

  function edit(area) {
    const gutter = document.createElement("pre");
    gutter.className = "lines";
    gutter.setAttribute("aria-hidden", "true");
    area.before(gutter);
    area.parentElement.classList.add("numbered");
    const hint = document.getElementById("keys");
    hint.hidden = false;
    area.setAttribute("aria-describedby", `keys ${area.getAttribute("aria-describedby") ?? ""}`.trim());

    let shown = 0;
    function number() {
      const count = area.value.split("\n").length;
      if (count !== shown) {
        shown = count;
        const fault = Number(area.dataset.fault);
        gutter.replaceChildren();
        const before = fault > 0 && fault <= count ? fault - 1 : count;
        gutter.append(numbers(1, before));
        if (before < count) {
          const mark = document.createElement("mark");
          mark.textContent = `${fault}\n`;
          gutter.append(mark, numbers(fault + 1, count));
        }
      }
      gutter.scrollTop = area.scrollTop;
    }

    function numbers(from, to) {
      let text = "";
      for (let line = from; line <= to; line++) text += `${line}\n`;
      return text;
    }

    area.addEventListener("input", number);
    area.addEventListener("scroll", () => (gutter.scrollTop = area.scrollTop));
    number();

    for (const link of document.querySelectorAll("a[data-line]")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        go(area, Number(link.dataset.line));
      });
    }

    // Escape, then Tab, leaves the field (WCAG 2.2, 2.1.2 No Keyboard Trap).
    let leaving = false;
    area.addEventListener("blur", () => (leaving = false));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        leaving = true;
      } else if (event.key === "Tab" && !event.ctrlKey && !event.altKey && !event.metaKey) {
        if (leaving) return;
        event.preventDefault();
        if (event.shiftKey) outdent(area);
        else indent(area);
      } else if (event.key !== "Shift") {
        leaving = false;
        if (event.key === "Enter" && !event.ctrlKey && !event.metaKey && !event.isComposing) {
          event.preventDefault();
          const start = area.value.lastIndexOf("\n", area.selectionStart - 1) + 1;
          const line = area.value.slice(start, area.selectionStart);
          put(area, `\n${/^[ \t]*/.exec(line)[0]}${/:\s*$/.test(line) ? INDENT : ""}`);
        }
      }
    });

    let sent = false;
    let changed = false;
    const form = area.form;
    form.addEventListener("input", () => (changed = true));
    form.addEventListener("submit", () => (sent = true));
    addEventListener("pageshow", () => (sent = false));
    addEventListener("beforeunload", (event) => {
      if (changed && !sent) event.preventDefault();
    });
    keep(form, () => (sent = true));
  }

  // Keep what was typed while this tab is open: who was logged out meanwhile finds it again.
  function keep(form, sending) {
    const key = place(form.getAttribute("action"));
    const fields = () => [...new FormData(form)].filter(([name]) => name !== "csrf");
    const before = JSON.stringify(fields());
    const found = sessionStorage.getItem(key);
    sessionStorage.removeItem(key);
    addEventListener("pagehide", () => {
      const now = JSON.stringify(fields());
      if (now !== before || form.dataset.typed) sessionStorage.setItem(key, now);
      else if (found && !form.dataset.typed) sessionStorage.setItem(key, found);
    });
    if (!found || found === before || form.dataset.typed) return;
    const hint = document.getElementById("draft");
    hint.hidden = false;
    hint.querySelector("button").addEventListener("click", () => {
      const again = document.createElement("form");
      again.method = "post";
      again.action = form.getAttribute("action");
      for (const [name, value] of [["csrf", form.elements.csrf.value], ...JSON.parse(found), ["do", "more"]]) {
        const field = document.createElement("textarea");
        field.name = name;
        field.value = value;
        again.append(field);
      }
      again.hidden = true;
      document.body.append(again);
      sending();
      again.submit();
    });
  }

  function place(action) {
    return `raspy ${action}`;
  }

  function forget(action) {
    for (const path of [action, "/scenarios/new"]) sessionStorage.removeItem(place(path));
  }

  // What the browser puts in can be undone; execCommand is old, and nothing else does that.
  function put(area, text) {
    if (!document.execCommand("insertText", false, text)) {
      area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
      area.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }

  function lines(area) {
    const start = area.value.lastIndexOf("\n", area.selectionStart - 1) + 1;
    return { start, text: area.value.slice(start, area.selectionEnd) };
  }

  function replace(area, start, text) {
    area.setSelectionRange(start, area.selectionEnd);
    put(area, text);
    if (text.includes("\n")) area.setSelectionRange(start, start + text.length);
  }

  function indent(area) {
    const { start, text } = lines(area);
    const many = area.value.slice(area.selectionStart, area.selectionEnd).includes("\n");
    if (many) replace(area, start, text.replace(/^(?=.)/gm, INDENT));
    else put(area, INDENT.slice((area.selectionStart - start) % INDENT.length));
  }

  function outdent(area) {
    const { start, text } = lines(area);
    const less = text.replace(/^( {1,4}|\t)/gm, "");
    if (less === text) return;
    if (less) replace(area, start, less);
    else {
      area.setSelectionRange(start, area.selectionEnd);
      document.execCommand("delete");
    }
  }

  function go(area, line) {
    const all = area.value.split("\n");
    const start = all.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
    area.focus();
    area.setSelectionRange(start, start + (all[line - 1] ?? "").length);
    area.scrollTop = Math.max((area.scrollHeight * (line - 4)) / all.length, 0);
  }

  function fill(input) {
    const area = document.getElementById(input.dataset.fills);
    input.closest("p").hidden = false;
    input.addEventListener("change", async () => {
      if (input.files.length) area.value = await input.files[0].text();
    });
  }

  async function refresh() {
    const old = document.querySelector("[data-refresh]");
    if (!old || document.hidden || old.contains(document.activeElement) || String(getSelection())) return;
    try {
      const answer = await fetch(old.dataset.refresh, { cache: "no-store" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector("[data-refresh]");
      if (fresh && fresh.textContent !== old.textContent) old.replaceChildren(...fresh.childNodes);
    } catch {
      // page.js says that the connection is lost.
    }
  }
})();
