// Activity: requests as they end, with filters, two histograms, and export as CSV.

import { h, View } from "../dom.js";
import { histogram, hue } from "../draw.js";
import { clock, count, plural, rate, seconds } from "../format.js";
import { json, query } from "../gateway.js";
import { live, onChange } from "../live.js";
import { dialog, inPath, select, trouble } from "../parts.js";
import { agents } from "./now.js";

const PAGE = 1000;
const MOST = 20000;
const HOUR = 3600;
/** @type {Choices} */
const TIMES = [
  ["", "any time"],
  [String(HOUR), "the last hour"],
  [String(24 * HOUR), "the last day"],
  [String(7 * 24 * HOUR), "the last 7 days"],
];
/** @type {Choices} */
const OUTCOMES = [
  ["ok", "ok"],
  ["refused", "refused"],
  ["client_left", "client left"],
  ["failed", "failed"],
];

const COLUMNS = "at id key model agents endpoint status outcome place prompt_tokens cached_tokens completion_tokens queued_seconds loaded_seconds first_token_seconds seconds".split(" ");

/** Tokens per second while it answered. @param {Row} row */
function speed(row) {
  const time = row.seconds - (row.first_token_seconds ?? 0);
  return row.completion_tokens && row.first_token_seconds !== null && time > 0 ? row.completion_tokens / time : null;
}

class ActivityView extends View {
  /** @type {Row[]} */
  rows = [];
  /** @type {Set<string>} */
  known = new Set();
  /** @type {string | number | null} */
  next = null;
  asking = false;
  asked = 0;
  filters = { key: "", model: "", outcome: "", since: "" };

  enter() {
    this.classList.add("fills");
    this.leaving.push(onChange("request_ended", (row) => this.ended(row)), onChange("snapshot", () => this.restart()));
    this.every(1.5, () => this.update());
    this.restart();
  }

  restart() {
    this.asked += 1;
    this.asking = false;
    this.next = null;
    this.more(true);
  }

  /** @param {boolean} first */
  more(first = false) {
    if (this.asking || (!first && this.next === null)) return;
    this.asking = true;
    const nth = this.asked;
    this.attempt(async () => {
      try {
        const { since, ...rest } = this.filters;
        const from = since ? Math.floor(Date.now() / 1000 - Number(since)) : "";
        const page = await json(`admin/activity${query({ limit: PAGE, before: first ? "" : this.next, since: from, ...rest })}`);
        if (nth !== this.asked) return;
        if (first) {
          this.rows = [];
          this.known = new Set();
        }
        for (const row of page.requests) if (!this.known.has(row.id)) (this.known.add(row.id), this.rows.push(row));
        this.next = page.next;
      } finally {
        if (nth === this.asked) this.asking = false;
      }
    });
  }

  /** @param {Row} row */
  ended(row) {
    const { since, ...rest } = this.filters;
    const fits = Object.entries(rest).every(([name, value]) => !value || String(/** @type {any} */ (row)[name] ?? "") === value);
    if (this.failed || !fits || this.known.has(row.id) || row.seconds === undefined) return;
    this.known.add(row.id);
    this.rows.unshift(row);
    if (this.rows.length > MOST) this.known.delete(this.rows.pop()?.id ?? "");
    this.update();
  }

  draw() {
    const { rows } = this;
    const head = h(
      "div.bar-of-fields",
      h("h1", "Activity"),
      h("div.spring"),
      this.choice("model", "Model", [...live.models.keys()]),
      this.choice("key", "Key", [...new Set(rows.map((row) => row.key ?? ""))].filter(Boolean)),
      select("Outcome", this.filters.outcome, [["", "all"], ...OUTCOMES], (value) => this.filter("outcome", value)),
      select("Time", this.filters.since, TIMES, (value) => this.filter("since", value)),
      h("button", { onclick: () => this.save(), disabled: !rows.length }, "Export CSV"),
    );
    if (this.failed) return [head, trouble(this.failed, "The requests cannot be shown")];
    return [
      head,
      this.charts(),
      h("p.hint", `${plural(rows.length, "request")}${this.next === null ? "" : ", more when you scroll down"}`),
      rows.length === 0 && !this.asking
        ? h("p.empty", "No request has ended here yet.")
        : h("long-list", {
            key: "rows",
            shows: {
              label: "Requests that have ended",
              count: rows.length,
              row: (/** @type {number} */ nth) => this.row(rows[nth], nth),
              head: HEAD,
              nearEnd: () => this.more(),
            },
          }),
    ];
  }

  drawn = { at: 0, count: 0, charts: /** @type {Child} */ (null) };

  /** Drawn once a second at most: all rows are sorted for them. */
  charts() {
    const now = performance.now();
    if (now - this.drawn.at > 1000 || !this.drawn.count) {
      const firsts = this.rows.flatMap((row) => row.first_token_seconds ?? []);
      const speeds = this.rows.flatMap((row) => speed(row) ?? []);
      const charts = h("div.charts", histogram("Time to the first token", firsts, seconds), histogram("Tokens per second", speeds, rate));
      this.drawn = { at: now, count: this.rows.length, charts };
    }
    return this.drawn.charts;
  }

  /** @param {"key" | "model"} name @param {string} label @param {string[]} values */
  choice(name, label, values) {
    const all = [...new Set([...values, this.filters[name]])].filter(Boolean);
    return select(label, this.filters[name], [["", "all"], ...all], (value) => this.filter(name, value));
  }

  /** @param {keyof ActivityView["filters"]} name @param {string} value */
  filter(name, value) {
    this.filters[name] = value;
    this.restart();
    this.update();
  }

  /** @param {Row} row @param {number} nth */
  row(row, nth) {
    const tone = { ok: "good", failed: "bad" }[row.outcome] ?? "";
    const cell = (/** @type {Child} */ child, kind = "") => h("span", { role: "cell", class: kind }, child);
    return h(
      "div.row.activity-row",
      { key: row.id, role: "row", "aria-rowindex": nth + 2 },
      cell(clock(row.at)),
      h("span.model-cell", { role: "cell" }, h("i", { class: `dot measured ${hue(row.model ?? "")}` }), row.model ?? row.endpoint),
      cell(row.key ?? "–"),
      cell(h("span.state", { class: tone, title: `status ${row.status}` }, row.outcome.replace("_", " "))),
      cell(count(row.prompt_tokens), "number"),
      cell(count(row.completion_tokens), "number"),
      cell(seconds(row.first_token_seconds), "number"),
      cell(rate(speed(row)), "number"),
      cell(seconds(row.seconds), "number"),
      cell(h("button.small", { onclick: () => details(row), "aria-label": `Details of the request at ${clock(row.at)}` }, row.capture ? "Capture" : "More")),
    );
  }

  save() {
    const lines = this.rows.map((row) => COLUMNS.map((name) => field(name === "at" ? new Date(row.at * 1000).toISOString() : /** @type {any} */ (row)[name])).join(","));
    const url = URL.createObjectURL(new Blob([`${COLUMNS.join(",")}\r\n${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = `activity-${new Date().toISOString().slice(0, 16).replace(":", "")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
}
customElements.define("view-activity", ActivityView);

const HEAD = h(
  "div.row.activity-row.head",
  { role: "row", "aria-rowindex": 1 },
  ["Time", "Model", "Key", "Outcome", "Prompt", "Answer", "First token", "Tokens/s", "In all", "More"].map((title, nth) => h("span", { role: "columnheader", class: nth > 3 && nth < 9 ? "number" : "" }, title)),
);

/** A field of CSV. A spreadsheet must not take a name for a formula. @param {unknown} value */
export function field(value) {
  const text = value === null || value === undefined ? "" : Array.isArray(value) ? value.join(" ") : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** @param {Row} row */
function details(row) {
  /** @type {Child} */
  let capture = row.capture ? h("p.hint", "Reading the capture …") : null;
  const facts = [
    ["Request", row.id],
    ["Endpoint", row.endpoint],
    ["Status", row.status],
    ["Place", row.place],
    ["Agents", agents(row.agents)],
    ["Cached tokens", count(row.cached_tokens)],
    ["Waited", seconds(row.queued_seconds)],
    ["Loading", seconds(row.loaded_seconds)],
  ];
  const { again } = dialog("A request", (close) => [
    h("dl.told", facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([term, value]) => h("div", h("dt", term), h("dd", value)))),
    capture,
    h("div.buttons", h("button", { onclick: close, autofocus: true }, "Close")),
  ]);
  if (!row.capture) return;
  json(`admin/activity/${inPath(row.id)}/capture`).then(
    (found) => {
      capture = h("pre", { tabindex: 0, "aria-label": "Capture" }, JSON.stringify(found, null, 2));
      again();
    },
    (error) => {
      capture = trouble(error, "The capture cannot be shown");
      again();
    },
  );
}
