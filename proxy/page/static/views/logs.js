// Logs: the gateway's and each model's, as they are written; they pause while one reads further up.

import { h, View } from "../dom.js";
import { clock, count } from "../format.js";
import { GatewayError, lines, query, send } from "../gateway.js";
import { models, onChange } from "../live.js";
import { dialog, inPath, input, named, select, trouble } from "../parts.js";

const HISTORY = 1000;
const MOST = 20000;
const LEVELS = ["debug", "info", "warning", "error"];
const PAUSE = 3;

class LogsView extends View {
  /** @type {Line[]} */
  lines = [];
  level = "info";
  filter = "";
  paused = false;
  /** Lines that came while it was paused. @type {Line[]} */
  held = [];
  count = 0;
  stop = new AbortController();

  enter() {
    this.classList.add("fills");
    const again = () => this.follow();
    addEventListener("hashchange", again);
    this.leaving.push(
      () => (this.stop.abort(), removeEventListener("hashchange", again)),
      onChange("snapshot", () => this.update()),
    );
    this.follow();
  }

  get source() {
    return named();
  }

  /** Read the history, then each line; after a cut, begin again. */
  async follow() {
    this.stop.abort();
    const stop = (this.stop = new AbortController());
    while (!stop.signal.aborted) {
      this.lines = [];
      this.held = [];
      try {
        const path = this.source ? `admin/logs/${inPath(this.source)}` : "admin/logs";
        const level = this.source ? "" : this.level;
        const response = await send(`${path}${query({ lines: HISTORY, follow: 1, level })}`, { signal: stop.signal });
        this.failed = undefined;
        this.update();
        for await (const line of lines(response)) if (line.trim()) this.take(line);
      } catch (error) {
        if (stop.signal.aborted) return;
        this.failed = error instanceof GatewayError ? error : new GatewayError("unreachable", "The connection to the gateway was lost.", 0);
        this.update();
        if (error instanceof GatewayError && error.kind !== "unreachable") return;
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE * 1000));
    }
  }

  /** @param {string} text */
  take(text) {
    const line = read(text, (this.count += 1));
    const list = this.paused ? this.held : this.lines;
    list.push(line);
    if (list.length > MOST) list.splice(0, list.length - MOST + 1000);
    this.update();
  }

  draw() {
    const wanted = this.filter.toLowerCase();
    const shown = wanted ? this.lines.filter((line) => line.text.toLowerCase().includes(wanted)) : this.lines;
    const names = models().map((model) => model.name);
    if (this.source && !names.includes(this.source)) names.push(this.source);
    return [
      h(
        "div.bar-of-fields",
        h("h1", "Logs"),
        h("div.spring"),
        select("Of", this.source, [["", "the gateway"], ...names], (name) => (location.hash = name ? `#logs/${encodeURIComponent(name)}` : "#logs")),
        !this.source && select("Level", this.level, LEVELS.map((level) => [level, `${level}${level === "error" ? "" : " and above"}`]), (level) => ((this.level = level), this.follow())),
        input("Filter", this.filter, (value) => ((this.filter = value), this.update()), { type: "search", placeholder: "text" }),
        h("button", { "aria-pressed": String(this.paused), onclick: () => this.pause(!this.paused) }, this.paused ? `Continue${this.held.length ? ` (${count(this.held.length)} new)` : ""}` : "Pause"),
      ),
      trouble(this.failed, "The log cannot be shown"),
      !this.failed && shown.length === 0 && h("p.empty", this.lines.length ? "No line contains that text." : this.source ? `${this.source} has written nothing yet.` : "No line of this level yet."),
      !this.failed &&
        shown.length > 0 &&
        h("long-list", {
          key: "lines",
          class: "mono",
          onscroll: (/** @type {any} */ event) => this.scrolled(event.target),
          shows: { label: this.source ? `Log of ${this.source}` : "Log of the gateway", count: shown.length, height: 24, stick: !this.paused, row: (/** @type {number} */ nth) => row(shown[nth], nth) },
        }),
    ];
  }

  lastTop = 0;

  /** Whoever scrolls up reads. @param {any} list */
  scrolled(list) {
    const up = list.scrollTop < this.lastTop - 4;
    this.lastTop = list.scrollTop;
    if (up && !list.isAtEnd && !this.paused) this.pause(true);
    else if (!up && this.paused && list.isAtEnd) this.pause(false);
  }

  /** @param {boolean} paused */
  pause(paused) {
    this.paused = paused;
    if (!paused) this.lines.push(...this.held.splice(0));
    this.update();
  }
}
customElements.define("view-logs", LogsView);

/** @param {string} text @param {number} nth @returns {Line} */
function read(text, nth) {
  /** @type {any} */
  let all;
  try {
    all = JSON.parse(text);
  } catch {
    all = { line: text };
  }
  const { at, timestamp, level = "", line, event, ...rest } = all;
  const time = timestamp ?? at;
  const fields = Object.entries(rest).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return { at: typeof time === "string" ? Date.parse(time) / 1000 : (time ?? 0), level, text: line ?? [event, ...fields].filter(Boolean).join("  "), all, nth };
}

/** @param {Line} line @param {number} nth */
function row(line, nth) {
  return h(
    "div.row.log-row",
    { key: line.nth, role: "row", "aria-rowindex": nth + 1, class: line.level },
    h("span", { role: "cell" }, h("button", { title: "The whole line", onclick: () => show(line) }, line.at ? clock(line.at) : "more")),
    line.level && h("span.level", { role: "cell" }, line.level),
    h("span", { role: "cell", title: line.text }, line.text),
  );
}

/** @param {Line} line */
function show(line) {
  dialog("A line of the log", (close) => [
    h("pre", { tabindex: 0, "aria-label": "Line" }, line.all.line ?? JSON.stringify(line.all, null, 2)),
    h("div.buttons", h("button", { onclick: close, autofocus: true }, "Close")),
  ]);
}
