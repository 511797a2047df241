// Models: all there are, what one can do with each, the planner, and the hub.

import { h, View } from "../dom.js";
import { bytes, count, dotted, seconds, tokens } from "../format.js";
import { live, LOADING, models, onChange } from "../live.js";
import { act, confirm, inPath, named, notice, silence, state, valued } from "../parts.js";
import "../hub.js";
import "../planner.js";
import { load, progress, unload } from "./now.js";

class ModelsView extends View {
  filter = "";

  enter() {
    for (const kind of ["snapshot", "model", "connection"]) this.leaving.push(onChange(kind, () => this.update()));
    const chosen = () => this.update();
    addEventListener("hashchange", chosen);
    this.leaving.push(() => removeEventListener("hashchange", chosen));
    this.every(1, () => [...live.models.values()].some((model) => LOADING.has(model.state)) && this.update());
  }

  get chosen() {
    return named();
  }

  draw() {
    const failed = silence();
    if (failed) return [h("h1", "Models"), failed];
    const known = models();
    const wanted = this.filter.toLowerCase();
    const shown = known.filter((model) => [model.name, ...model.aliases].some((name) => name.toLowerCase().includes(wanted)));
    const isHub = this.chosen === "+";
    const chosen = isHub ? undefined : (live.models.get(this.chosen) ?? (innerWidth > 760 ? known[0] : undefined));
    return [
      h("h1", "Models", h("small", count(known.length))),
      h(
        "div.pair",
        { class: chosen || isHub ? "chosen" : "" },
        h(
          "section",
          { "aria-label": "All models" },
          h(
            "div.bar-of-fields",
            known.length > 8 && h("input", { type: "search", "aria-label": "Filter", placeholder: "Filter", value: this.filter, oninput: valued((value) => ((this.filter = value), this.update())) }),
            h("a.button", { href: "#models/+", "aria-current": isHub ? "true" : null }, "Get a model from the hub"),
          ),
          h("ul.list", shown.map((model) => entry(model, chosen))),
          live.connection === "live" && !known.length && h("p.empty", "There is no model. Add one to config.yaml, or get one from the hub."),
        ),
        h(
          "div.column",
          h("a.back", { href: "#models" }, "‹ All models"),
          isHub ? h("section", h("h2", "From the hub"), h("article.card", h("hub-search", { key: "hub" }))) : chosen && details(chosen),
        ),
      ),
    ];
  }
}
customElements.define("view-models", ModelsView);

/** @param {Model} model @param {Model | undefined} chosen */
function entry(model, chosen) {
  const facts = [model.size && bytes(model.size), model.quantization, model.context && `context ${tokens(model.context)}`, model.api === "ollama" && "Ollama"];
  return h(
    "li",
    { key: model.name },
    h(
      "a",
      { href: `#models/${encodeURIComponent(model.name)}`, "aria-current": model.name === chosen?.name ? "true" : null },
      h("span.line", h("b", model.name), model.state !== "stopped" && state(model)),
      h("span.hint", dotted(...facts)),
    ),
  );
}

/** @param {Model} model */
function details(model) {
  const path = `admin/models/${inPath(model.name)}`;
  const runs = model.state === "ready" || model.state === "draining";
  const facts = [
    ["Size", bytes(model.size)],
    ["Quantisation", model.quantization ?? "–"],
    ["Context", model.placement ? `${count(model.placement.slot_context)} a request` : count(model.context)],
    ["Slots", model.slots ? `${model.busy} of ${model.slots} busy` : "–"],
    ["Place", model.place ?? "–"],
    ["Load", model.load_seconds ? `about ${seconds(model.load_seconds)}` : "–"],
    ["Unloaded when idle for", model.idle_timeout ? seconds(model.idle_timeout) : "never"],
    ["Server", model.api],
  ];
  return [
    h(
      "section",
      { key: model.name, "aria-label": model.name },
      h(
        "article.card",
        h("header", h("h2", model.name), state(model), model.pinned && h("span.hint", "pinned")),
        model.description && h("p", model.description),
        model.aliases.length > 0 && h("p.hint", `also ${model.aliases.join(", ")}`),
        h("ul.tags", { "aria-label": "Capabilities" }, (model.capabilities ?? []).map((one) => h("li", { key: one }, one))),
        LOADING.has(model.state) && progress(model),
        model.error && h("p.problem", model.error),
        h("dl.told", facts.map(([term, value]) => h("div", { key: term }, h("dt", term), h("dd", value)))),
        h(
          "div.buttons.acts",
          runs
            ? h("button", { key: "unload", onclick: () => unload(model) }, "Unload")
            : h("button.main", { key: "load", disabled: LOADING.has(model.state), onclick: () => load(model) }, "Load"),
          h("a.button", { href: `#chat/${encodeURIComponent(model.name)}` }, "Chat"),
          h("button", { onclick: () => act(`${path}/${model.pinned ? "unpin" : "pin"}`, {}, model.pinned ? "It may be unloaded again." : "It stays loaded until it is unpinned.") }, model.pinned ? "Unpin" : "Pin"),
          model.state === "draining" && h("button.danger", { onclick: () => act(`${path}/unload?force=1`, {}, "Its requests are ended.") }, "End its requests"),
          model.failures > 0 && h("button", { onclick: () => act(`${path}/reset`, {}, "Its failures are forgotten.") }, "Forget failures"),
          h("a.button", { href: `#logs/${encodeURIComponent(model.name)}` }, "Logs"),
          /[/]/.test(model.name) &&
            model.state === "stopped" &&
            h(
              "button.danger",
              {
                onclick: () =>
                  confirm("Delete the files?", `The downloaded files of ${model.name} are deleted (${bytes(model.size)}). A later request would fetch them again.`, "Delete", () =>
                    act(path, { method: "DELETE" }, "The files are deleted."),
                  ),
              },
              "Delete the files",
            ),
        ),
      ),
    ),
    h(
      "section",
      { "aria-labelledby": "planner" },
      h("h2", { id: "planner" }, "Planner", h("small", "what it would take; nothing is changed")),
      model.api === "ollama"
        ? notice("Ollama decides", "The daemon places its models itself; the gateway makes room for them.")
        : h("article.card", h("model-planner", { model: plannerModel(model) })),
    ),
  ];
}

/** The same object as long as it says the same, so that the planner is not set again. @type {Map<string, {key: string, name: string, largest: number | null}>} */
const planned = new Map();

/** @param {Model} model */
function plannerModel(model) {
  const known = planned.get(model.name);
  if (known && known.largest === model.context) return known;
  const made = { key: model.name, name: model.name, largest: model.context };
  planned.set(model.name, made);
  return made;
}
