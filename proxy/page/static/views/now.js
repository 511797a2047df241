// Now: who has the memory, what runs, who waits and why.

import { h, View } from "../dom.js";
import { bar, hue, legend } from "../draw.js";
import { age, bytes, count, dotted, plural, rate, seconds } from "../format.js";
import { grown, live, LOADING, models, onChange, RUNNING } from "../live.js";
import { act, icon, inPath, notice, silence, state } from "../parts.js";

class NowView extends View {
  enter() {
    this.leaving.push(onChange("*", () => this.update()));
    this.every(1, () => this.update());
  }

  draw() {
    const failed = silence();
    if (failed) return [h("h1", "Now"), failed];
    const known = models();
    const running = known.filter((model) => RUNNING.has(model.state));
    const rest = known.filter((model) => !RUNNING.has(model.state) && !model.hidden);
    return [
      h("h1", "Now", h("small", summary(running))),
      live.connection === "lost" &&
        h("p.banner", { role: "status" }, "The connection to the gateway was lost. What you see is from before; the page tries again by itself."),
      h(
        "div.columns",
        h("div.column", memory(known), loaded(running, rest)),
        h("div.column", waiting(), requests()),
      ),
    ];
  }
}
customElements.define("view-now", NowView);

/** @param {Model[]} running */
function summary(running) {
  const ready = running.filter((model) => model.state === "ready").length;
  return `${plural(ready, "model")} ready, ${plural(answered().length, "request")} running, ${count(live.waiting.length)} waiting`;
}

/** @param {Model[]} known */
function memory(known) {
  const { gpus, gpu_error, host } = live.memory;
  return h(
    "section",
    { "aria-labelledby": "memory" },
    h("h2", { id: "memory" }, "Memory"),
    h("div.cards", gpus.map((gpu) => gpuCard(gpu)), host && hostCard(host, known)),
    gpus.length > 0 && gpu_error && h("p.problem", gpu_error),
    !gpus.length && h("p.hint", `The gateway sees no GPU${gpu_error ? ` (${gpu_error})` : ""}: models run on the CPU.`),
  );
}

/**
 * The parts of a GPU: others, each model as far as it is measured, what it may still take, the reserve.
 * @param {Gpu} gpu
 * @param {Map<string, Model>} byName
 */
export function partsOf(gpu, byName) {
  const parts = [];
  let taken = 0;
  for (const [name, size] of Object.entries(gpu.reserved_memory)) {
    const placement = byName.get(name)?.placement;
    const measured = Math.min(size, placement?.gpu_memory[gpu.uuid] ?? 0);
    taken += size;
    parts.push({ label: name, size: measured, kind: `measured ${hue(name)}` });
    parts.push({ label: `${name}, expected`, size: size - measured, kind: `planned ${hue(name)}` });
  }
  const others = gpu.foreign_memory ?? Math.max(0, gpu.used_memory - taken);
  const room = Math.max(0, gpu.room_for_models ?? gpu.free_memory);
  const reserve = Math.max(0, gpu.total_memory - others - taken - room);
  return { parts: [{ label: "others", size: others, kind: "others" }, ...parts, { label: "reserve", size: reserve, kind: "reserve" }], others, reserve, room };
}

/** @param {Gpu} gpu */
function gpuCard(gpu) {
  const { parts, others, reserve, room } = partsOf(gpu, live.models);
  const facts = [
    gpu.utilization !== null && `${gpu.utilization} % busy`,
    gpu.temperature !== null && `${gpu.temperature} °C`,
    gpu.power_watts !== null && `${Math.round(gpu.power_watts)} W`,
  ];
  const holders = Object.keys(gpu.reserved_memory).map((name) => {
    const placement = live.models.get(name)?.placement;
    return holder(name, placement?.predicted_memory[gpu.uuid] ?? gpu.reserved_memory[name], placement?.gpu_memory[gpu.uuid]);
  });
  return h(
    "article.card.device",
    { key: gpu.uuid },
    h("header", h("h3", `GPU ${gpu.index}`), h("span.hint", gpu.name), h("span.facts", dotted(...facts))),
    bar(gpu.total_memory, parts, `GPU ${gpu.index}`),
    h(
      "ul.legend",
      holders,
      others > 0 && legend("others", "others", bytes(others)),
      reserve > 0 && legend("reserve", "reserve", bytes(reserve), "kept free, and what a further process takes by itself"),
      legend("free", "free for models", `${bytes(room)} of ${bytes(gpu.total_memory)}`),
    ),
  );
}

/** @param {string} name @param {number | undefined} predicted @param {number | undefined} measured */
function holder(name, predicted, measured) {
  const words = measured ? `${bytes(measured)}${predicted ? ` (predicted ${bytes(predicted)})` : ""}` : `${bytes(predicted)} expected`;
  return legend(hue(name), name, words, "the prediction is without what each process takes by itself");
}

/** @param {{total_memory: number, available_memory: number}} host @param {Model[]} known */
function hostCard(host, known) {
  const holders = known.filter((model) => model.placement && model.placement.host_memory > 0 && RUNNING.has(model.state));
  const parts = holders.map((model) => ({
    label: model.name,
    size: model.placement?.host_memory ?? 0,
    kind: `${model.state === "ready" ? "measured" : "planned"} ${hue(model.name)}`,
  }));
  const used = host.total_memory - host.available_memory;
  const ours = parts.reduce((sum, part) => sum + part.size, 0);
  const others = Math.max(0, used - ours);
  return h(
    "article.card.device",
    { key: "host" },
    h("header", h("h3", "Host"), h("span.hint", "main memory")),
    bar(host.total_memory, [{ label: "others", size: others, kind: "others" }, ...parts], "Host"),
    h(
      "ul.legend",
      holders.map((model) => legend(hue(model.name), model.name, bytes(model.placement?.host_memory))),
      legend("others", "others", bytes(others)),
      legend("free", "available", `${bytes(host.available_memory)} of ${bytes(host.total_memory)}`),
    ),
  );
}

/** @param {Model[]} running @param {Model[]} rest */
function loaded(running, rest) {
  return h(
    "section",
    { "aria-labelledby": "loaded" },
    h("h2", { id: "loaded" }, "Models"),
    running.length === 0 &&
      notice("Nothing is loaded", "The first request to a model loads it. You can load one here, or just talk to it.", h("a.button.main", { href: "#chat" }, "Start a chat")),
    h("div.cards", running.map((model) => h("article.card.model", { key: model.name }, modelRow(model))), live.downloads.map(pulled)),
    rest.length > 0 &&
      h(
        "ul.shelf",
        { "aria-label": "Models that are not loaded" },
        rest.map((model) =>
          h(
            "li",
            { key: model.name },
            h("a", { href: `#models/${encodeURIComponent(model.name)}` }, model.name),
            model.state === "failed" && h("span.state.bad", { title: model.error ?? "" }, "failed"),
            h("button.small", { onclick: () => load(model), "aria-label": `Load ${model.name}` }, "Load"),
          ),
        ),
      ),
  );
}

/** @param {Model} model */
function modelRow(model) {
  const facts = [
    model.place,
    model.placement && `context ${count(model.placement.slot_context)}`,
    model.busy === 0 && model.state === "ready" && model.idle_seconds !== null && `idle for ${age(grown(model.idle_seconds, model))}`,
    model.pinned && "pinned",
    model.waiting > 0 && `${model.waiting} waiting`,
  ];
  return [
    h(
      "header",
      h("i", { class: `dot measured ${hue(model.name)}` }),
      h("h3", h("a", { href: `#models/${encodeURIComponent(model.name)}` }, model.name)),
      state(model),
      h("span.facts", slots(model)),
      model.state === "ready" && h("button.small", { onclick: () => unload(model), "aria-label": `Unload ${model.name}` }, "Unload"),
    ),
    h("p.hint", dotted(...facts)),
    LOADING.has(model.state) && progress(model),
    model.error && h("p.problem", model.error),
  ];
}

/** A download that was asked for by itself. @param {Download} one */
function pulled(one) {
  if (RUNNING.has(live.models.get(one.name)?.state ?? "")) return null;
  return h("article.card", { key: `pull ${one.name}` }, h("header", h("h3", one.name), h("span.state.busy", "download")), one.error ? h("p.problem", one.error) : fetched(one));
}

/** @param {Model} model */
function slots(model) {
  if (!model.slots) return null;
  const shown = Math.min(model.slots, 16);
  return h(
    "span.slots",
    { role: "img", "aria-label": `${model.busy} of ${plural(model.slots, "slot")} busy` },
    Array.from({ length: shown }, (_, nth) => h("i", { class: nth < model.busy ? "on" : "" })),
    h("span", { "aria-hidden": "true" }, `${model.busy}/${model.slots}`),
  );
}

/** A download by its bytes; a load by the time that earlier ones took. @param {Model} model */
export function progress(model) {
  if (model.state === "fetching" && model.download) return fetched({ ...model.download, name: model.name });
  const since = performance.now() / 1000 - (model.stateSince ?? 0);
  const usual = model.load_seconds;
  const words = usual ? `${age(since)} of about ${seconds(usual)}` : age(since);
  return meter(usual ? Math.min(0.97, since / usual) : null, words, model.name);
}

/** @param {Download} one */
function fetched(one) {
  const words = dotted(
    one.total_bytes ? `${bytes(one.bytes)} of ${bytes(one.total_bytes)}` : bytes(one.bytes),
    one.bytes_per_second && `${bytes(one.bytes_per_second)}/s`,
    one.seconds_left !== null && `${age(one.seconds_left)} left`,
  );
  return meter(one.total_bytes ? one.bytes / one.total_bytes : null, words, one.name);
}

/** @param {number | null} part @param {string} words @param {string} name */
function meter(part, words, name) {
  const props = part === null ? {} : { value: part.toFixed(3), max: 1 };
  return h("div.meter", h("progress", { ...props, "aria-label": `${name} is on its way` }), h("span", words));
}

function waiting() {
  return h(
    "section",
    { "aria-labelledby": "waiting" },
    h("h2", { id: "waiting" }, "Waiting", h("small", live.waiting.length > 0 && count(live.waiting.length))),
    live.waiting.length === 0 && h("p.empty", "Nobody waits."),
    h(
      "ol.queue",
      live.waiting.slice(0, 100).map((one) =>
        h(
          "li.card",
          { key: one.row },
          h("b.place", one.place),
          h(
            "div",
            h("header", h("i", { class: `dot measured ${hue(one.model)}` }), h("h3", one.model), one.key && h("span.hint", one.key)),
            h("p", one.reason),
            h("p.hint", dotted(`has waited ${age(grown(one.waited_seconds, one))}`, one.eta_seconds !== null && `about ${age(Math.max(1, one.eta_seconds))} more`)),
          ),
          one.id && cancel(one.id, `the waiting request to ${one.model}`),
        ),
      ),
    ),
    live.waiting.length > 100 && h("p.hint", `and ${count(live.waiting.length - 100)} more`),
  );
}

const PHASES = { reading: "is read", queue: "waits", agents: "is with its agents", prompt: "reads the prompt", answer: "answers" };

/** The requests that do not wait, the oldest first. */
function answered() {
  const waits = new Set(live.waiting.map((one) => one.id));
  return [...live.requests.values()].filter((one) => !waits.has(one.id)).sort((a, b) => a.started_at - b.started_at);
}

function requests() {
  const running = answered();
  return h(
    "section",
    { "aria-labelledby": "requests" },
    h("h2", { id: "requests" }, "Requests", h("small", running.length > 0 && count(running.length))),
    running.length === 0 && h("p.empty", "No request runs."),
    h(
      "ul.queue",
      running.slice(0, 100).map((one) =>
        h(
          "li.card.request",
          { key: one.id },
          h(
            "div",
            h(
              "header",
              h("i", { class: `dot measured ${hue(one.model ?? "")}` }),
              h("h3", one.model ?? one.endpoint),
              h("span.hint", /** @type {Record<string, string>} */ (PHASES)[one.phase] ?? one.phase),
            ),
            h("p.hint", dotted(one.key, one.place, agents(one.agents), one.prompt_tokens && `prompt of ${count(one.prompt_tokens)}`)),
          ),
          h("dl.figures", figure(count(one.completion_tokens), "tokens"), figure(rate(one.tokens_per_second), "per s"), figure(age(grown(one.seconds, one)), "time")),
          cancel(one.id, `the request to ${one.model ?? one.endpoint}`),
        ),
      ),
    ),
    running.length > 100 && h("p.hint", `and ${count(running.length - 100)} more`),
  );
}

/** @param {string[] | string | null} value */
export const agents = (value) => (Array.isArray(value) ? value.join(", ") : value);

/** @param {string} value @param {string} unit */
const figure = (value, unit) => h("div", h("dd", value), h("dt", unit));

/** @param {string} id @param {string} what */
function cancel(id, what) {
  const title = "Cancel";
  return h("button.quiet", { title, "aria-label": `Cancel ${what}`, onclick: () => act(`admin/requests/${inPath(id)}`, { method: "DELETE" }, "The request was cancelled.") }, icon("close"));
}

/** @param {Model} model */
export const load = (model) => act(`admin/models/${inPath(model.name)}/load`, {}, `${model.name} is being loaded.`);
/** @param {Model} model */
export const unload = (model) => act(`admin/models/${inPath(model.name)}/unload`, {}, `${model.name} is unloaded when its requests have ended.`);
