// The planner: what a model would take, and where, with other settings, before anything is loaded.

import { h, View } from "./dom.js";
import { bar, legend } from "./draw.js";
import { bytes, count, seconds, tokens } from "./format.js";
import { GatewayError, json, query } from "./gateway.js";
import { copy, select, trouble, valued } from "./parts.js";

const SMALLEST = 512;
const MOST_SLOTS = 32;
const CACHES = ["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"];
const COMPONENTS = [
  ["weights", "hue0", "weights"],
  ["kv", "hue1", "cache of the context"],
  ["compute", "hue3", "computing"],
  ["output", "hue4", "output"],
];
const PAUSE = 120;

export class ModelPlanner extends View {
  name = "";
  /** The model's own context. */
  largest = 131072;
  ctx = "";
  parallel = "";
  kv = "";
  /** @type {any} */
  plan = null;
  #timer = 0;
  #asked = 0;

  enter() {
    this.ask();
    this.leaving.push(() => clearTimeout(this.#timer));
  }

  /** @param {{name: string, largest: number | null, key: string}} model */
  set model({ name, largest }) {
    if (name === this.name) return;
    this.name = name;
    this.largest = largest ?? 131072;
    this.ctx = this.parallel = this.kv = "";
    this.plan = null;
    if (this.isConnected) this.ask();
  }

  /** Ask once the slider rests; only the latest question counts. */
  ask() {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => {
      const nth = ++this.#asked;
      const asked = { model: this.name, ctx: this.ctx, parallel: this.parallel, kv: this.kv };
      json(`admin/plan${query(asked)}`).then(
        (plan) => nth === this.#asked && this.took(plan, undefined),
        (error) => nth === this.#asked && this.took(null, error),
      );
    }, PAUSE);
    this.stale = true;
    this.update();
  }

  stale = false;

  /** @param {any} plan @param {Error | undefined} error */
  took(plan, error) {
    this.plan = plan ?? (error instanceof GatewayError && error.status === 422 ? this.plan : null);
    this.failed = error;
    this.stale = false;
    this.update();
  }

  draw() {
    const slots = Number(this.parallel) || Math.round((this.plan?.context ?? 1) / (this.plan?.slot_context ?? 1));
    const most = this.largest * slots;
    // Half octaves: 512, 768, 1024, 1536, ...
    const steps = 2 * Math.ceil(Math.log2(most / SMALLEST));
    const context = Number(this.ctx || this.plan?.context || Math.min(this.largest, 16384));
    const step = Math.max(0, Math.round(2 * Math.log2(context / SMALLEST)));
    const isOther = this.ctx || this.parallel || this.kv;
    return [
      h(
        "div.knobs",
        h(
          "label.field.knob",
          h("span", "Context, all slots together", h("b", tokens(context))),
          h("input", {
            type: "range",
            min: 0,
            max: Math.max(steps, step),
            value: String(step),
            "aria-valuetext": `${count(context)} tokens`,
            oninput: valued((value) => {
              const at = Number(value);
              this.ctx = String(at === steps ? most : SMALLEST * 2 ** Math.floor(at / 2) * (at % 2 ? 1.5 : 1));
              this.ask();
            }),
          }),
        ),
        h(
          "label.field.knob",
          h("span", "Slots", h("b", count(slots))),
          h("input", { type: "range", min: 1, max: MOST_SLOTS, value: String(slots), oninput: valued((value) => ((this.parallel = value), this.ask())) }),
        ),
        select("Type of the cache", this.kv, [["", "as configured"], ...CACHES], (value) => ((this.kv = value), this.ask())),
      ),
      trouble(this.failed, "No plan can be made"),
      this.plan && h("div.stack", { class: this.stale ? "stale" : "", "aria-busy": String(this.stale) }, answer(this.plan)),
      isOther && this.keep(),
    ];
  }

  keep() {
    const lines = ["llama_cpp:", "  models:", `    ${JSON.stringify(this.name)}:`];
    if (this.ctx) lines.push(`      ctx_size: ${this.ctx}`);
    if (this.parallel) lines.push(`      parallel: ${this.parallel}`);
    if (this.kv) lines.push(`      arguments: ["--cache-type-k", "${this.kv}", "--cache-type-v", "${this.kv}"]`);
    const text = lines.join("\n");
    return h(
      "details",
      h("summary", "Keep these settings"),
      h("p.hint", "Nothing has changed yet. Write this into config.yaml, and reload:"),
      h("pre", { tabindex: 0, "aria-label": "Settings" }, text),
      h("div.buttons", h("button.small", { onclick: () => copy(text) }, "Copy")),
    );
  }
}
customElements.define("model-planner", ModelPlanner);

const VERDICTS = { runs: "It is loaded", start: "It fits", "make room": "Others make room for it", wait: "It would wait", refuse: "It cannot run like this" };

/** What a plan says. @param {any} plan */
export function answer(plan) {
  const where = plan.gpus?.length ? `on GPU ${plan.gpus.map((/** @type {any} */ gpu) => gpu.index).join(" and ")}` : plan.host ? "on the host" : "";
  const tone = plan.action === "refuse" ? "bad" : plan.action === "wait" ? "busy" : "";
  const time = plan.load_seconds === null || plan.load_seconds === undefined ? "How long a load takes is not known yet." : `A load takes about ${seconds(plan.load_seconds)}.`;
  return [
    h("p.verdict", { class: tone }, [/** @type {Record<string, string>} */ (VERDICTS)[plan.action] ?? plan.action, where].filter(Boolean).join(", ")),
    h("p.hint", [plan.reason, plan.why !== plan.reason && plan.why].filter(Boolean).join("; "), plan.action !== "refuse" && `. ${time}`),
    plan.evicts?.length > 0 &&
      h(
        "ul.told-evicts",
        plan.evicts.map((/** @type {any} */ one) =>
          h("li", { key: one.model }, h("b", one.model), one.busy ? ` ends its ${count(one.requests)} requests, then makes room: ` : " is idle and makes room: ", Object.values(one.frees).map((size) => bytes(/** @type {number} */ (size))).join(" and "), `; it takes ${seconds(one.reload_seconds)} to load again`),
        ),
      ),
    (plan.gpus ?? []).map((/** @type {any} */ gpu) => device(`GPU ${gpu.index ?? gpu.uuid}`, gpu.size, gpu.free, gpu, gpu.overhead ?? 0)),
    plan.host && device("Host", null, plan.host.free, plan.host, 0),
    plan.context && h("p.hint", `Context ${count(plan.context)}, of which each request has ${count(plan.slot_context)}. The prediction is ${plan.certainty}.`),
  ];
}

/** @param {string} title @param {number | null} size @param {number | null} free @param {any} taken @param {number} overhead */
function device(title, size, free, taken, overhead) {
  const whole = size ?? free ?? taken.total;
  const others = size !== null && free !== null ? size - free : 0;
  const known = COMPONENTS.filter(([part]) => taken[part]);
  const parts = known.map(([part, kind, label]) => ({ label, size: taken[part], kind: `measured ${kind}` }));
  const rest = Math.max(0, taken.set_aside + overhead - parts.reduce((sum, part) => sum + part.size, 0));
  if (!known.length && !rest) return null;
  return h(
    "div.device",
    { key: title },
    h("header", h("h3", title), h("span.hint", `${bytes(taken.set_aside + overhead)} set aside`)),
    bar(whole, [{ label: "others", size: others, kind: "others" }, ...parts, { label: "process and margin", size: rest, kind: "reserve" }], title),
    h(
      "ul.legend",
      known.map(([part, kind, label]) => legend(kind, label, bytes(taken[part]))),
      rest > 0 && legend("reserve", "process and margin", bytes(rest)),
      others > 0 && legend("others", "others, who stay", bytes(others)),
      legend("free", "left", bytes(Math.max(0, (free ?? whole) - taken.set_aside - overhead))),
    ),
  );
}
