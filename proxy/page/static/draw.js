// Pictures: bars of memory, histograms, columns over time. SVG with lengths in percent, so that nothing is distorted.

import { h } from "./dom.js";
import { bytes } from "./format.js";

/** @type {Map<string, number>} */
const hues = new Map();
const HUES = 8;

/** The class with a model's colour, which stays the same as long as the page is open. @param {string} name */
export function hue(name) {
  if (!hues.has(name)) hues.set(name, hues.size % HUES);
  return `hue${hues.get(name)}`;
}

/** @param {number} part @param {number} whole */
const percent = (part, whole) => `${whole > 0 ? ((100 * part) / whole).toFixed(3) : 0}%`;

/**
 * A bar of bytes. The rest of `total` is free.
 * @param {number} total
 * @param {Part[]} parts
 * @param {string} label
 */
export function bar(total, parts, label) {
  let at = 0;
  const shown = parts.filter((part) => part.size > 0);
  const whole = Math.max(
    total,
    shown.reduce((sum, part) => sum + part.size, 0),
  );
  const said = shown.map((part) => `${part.label} ${bytes(part.size)}`).join(", ");
  return h(
    "svg.bar",
    { role: "img", "aria-label": `${label}: ${said || "all free"}, of ${bytes(total)}` },
    h("rect.track", { width: "100%", height: "100%" }),
    shown.map((part, nth) => {
      const x = percent(at, whole);
      at += part.size;
      const box = { x, width: percent(part.size, whole), height: "100%" };
      const title = h("title", `${part.label}: ${bytes(part.size)}`);
      const marks = part.kind.includes("planned") || part.kind.includes("others");
      return h(
        "g",
        { key: nth, class: part.kind },
        h("rect.fill", box, title),
        marks && h("rect.marks", { ...box, fill: "url(#stripes)" }),
        h("rect.edge", { x: percent(at, whole), width: 1, height: "100%" }),
      );
    }),
  );
}

/** What a part of a bar is. @param {string} kind @param {string} label @param {string} words @param {string} [title] */
export function legend(kind, label, words, title) {
  return h("li", { key: `${kind} ${label}`, title }, h("i", { class: kind }), label, h("b", words));
}

/** What `bar` fills with; once in the page. */
export function patterns() {
  return h(
    "svg.patterns",
    { "aria-hidden": "true", width: 0, height: 0 },
    h(
      "defs",
      h(
        "pattern",
        { id: "stripes", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        h("rect", { width: 2, height: 6 }),
      ),
    ),
  );
}

/**
 * Count values in `bins` bins, up to the 99th percentile: a few slow ones must not flatten all others.
 * @param {number[]} values
 * @param {number} bins
 * @returns {{counts: number[], step: number, median: number, p95: number}}
 */
export function binned(values, bins) {
  const sorted = [...values].sort((a, b) => a - b);
  const quantile = (/** @type {number} */ part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? 0;
  const step = Math.max(quantile(0.99), 1e-9) / (bins - 1);
  const counts = new Array(bins).fill(0);
  for (const value of sorted) counts[Math.min(bins - 1, Math.floor(value / step))] += 1;
  return { counts, step, median: quantile(0.5), p95: quantile(0.95) };
}

/**
 * A histogram.
 * @param {string} title
 * @param {number[]} values
 * @param {Words} words
 */
export function histogram(title, values, words) {
  const { counts, step, median, p95 } = binned(values, 24);
  const told = values.length ? `median ${words(median)}, 95 % below ${words(p95)}` : "no values yet";
  const bins = counts.map((size, nth) => [{ label: `${words(nth * step)} to ${words((nth + 1) * step)}: ${size}`, size, kind: "" }]);
  return chart(title, told, bins, ["0", values.length ? words(step * 24) : ""], "");
}

/**
 * Columns of stacked parts, one for each time.
 * @param {string} title
 * @param {{label: string, parts: Part[]}[]} times
 * @param {Words} words
 */
export function columns(title, times, words) {
  const parts = times.map(({ label, parts }) => parts.map((part) => ({ ...part, label: `${label}, ${part.label}: ${words(part.size)}` })));
  return chart(title, `up to ${words(tallest(parts))}`, parts, [times[0]?.label, times.at(-1)?.label], "tall");
}

/** @param {Part[][]} stacks */
const tallest = (stacks) => Math.max(1, ...stacks.map((stack) => stack.reduce((sum, part) => sum + part.size, 0)));

/**
 * @param {string} title
 * @param {string} told
 * @param {Part[][]} stacks
 * @param {(string | undefined)[]} ends of the axis
 * @param {string} kind
 */
function chart(title, told, stacks, ends, kind) {
  const most = tallest(stacks);
  return h(
    "figure.chart",
    { class: kind },
    h("figcaption", h("b", title), h("span", told)),
    h(
      "svg",
      { role: "img", "aria-label": `${title}: ${told}` },
      stacks.map((stack, nth) => {
        let below = 0;
        return stack.map((part) => {
          below += part.size;
          const box = { x: percent(nth + 0.1, stacks.length), width: percent(0.8, stacks.length), y: percent(most - below, most), height: percent(part.size, most) };
          return h("rect.column", { class: part.kind, ...box }, h("title", part.label));
        });
      }),
    ),
    h("div.axis", { "aria-hidden": "true" }, ends.map((end) => h("span", end))),
  );
}
