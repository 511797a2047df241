// Search and download from the hub: what each file would take, before it is fetched.

import { h, View } from "./dom.js";
import { bytes, count } from "./format.js";
import { json, query } from "./gateway.js";
import { act, trouble, valued } from "./parts.js";
import { answer } from "./planner.js";

export class HubSearch extends View {
  text = "";
  /** @type {Hit[] | null} */
  found = null;
  busy = false;
  /** The files of a repository, once it was opened. @type {Map<string, HubFiles | Error | null>} */
  files = new Map();

  search() {
    this.busy = true;
    this.update();
    this.attempt(async () => {
      try {
        this.found = (await json(`admin/hub/search${query({ q: this.text.trim() })}`)).results;
      } finally {
        this.busy = false;
      }
    });
  }

  /** @param {string} repo @param {string} [variant] the one that is predicted exactly */
  async open(repo, variant) {
    if (!variant && this.files.delete(repo)) return this.update();
    if (!variant) this.files.set(repo, null);
    this.update();
    try {
      this.files.set(repo, await json(`admin/hub/files${query({ repo, variant })}`));
    } catch (error) {
      this.files.set(repo, error);
    }
    this.update();
  }

  draw() {
    return [
      h(
        "form.bar-of-fields",
        { role: "search", onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.search()) },
        h("input", { type: "search", "aria-label": "Search the hub", placeholder: "qwen3", value: this.text, oninput: valued((value) => (this.text = value)) }),
        h("button", { type: "submit", disabled: this.busy }, this.busy ? "Searching …" : "Search"),
      ),
      trouble(this.failed, "The hub cannot be searched"),
      this.found?.length === 0 && h("p.empty", "Nothing found that hub.allow permits."),
      this.found && h("ul.hits", this.found.map((hit) => this.hit(hit))),
    ];
  }

  /** @param {Hit} hit */
  hit({ repo, downloads }) {
    const files = this.files.get(repo);
    return h(
      "li",
      { key: repo },
      h(
        "header",
        h("h3", repo),
        downloads !== null && h("span.hint", `${count(downloads)} downloads`),
        h("button.small", { "aria-expanded": String(files !== undefined), onclick: () => this.open(repo), "aria-label": `Files of ${repo}` }, "Files"),
      ),
      files === null && h("p.hint", "Asking the hub …"),
      files instanceof Error ? trouble(files) : files && this.all(repo, files),
    );
  }

  /** @param {string} repo @param {HubFiles} listed */
  all(repo, { files, plan, error }) {
    const row = (/** @type {HubFiles["files"][0]} */ file) =>
      h(
        "tr",
        { key: file.name },
        h("td", file.variant),
        h("td.number", bytes(file.size)),
        h("td.number", file.memory === null ? "–" : `${file.certainty === "by size" ? "about " : ""}${bytes(file.memory)}`),
        h("td", file.place),
        h(
          "td.number",
          h("button.small", { "aria-label": `Plan ${file.name}`, onclick: () => this.open(repo, file.variant) }, "Plan"),
          " ",
          file.downloaded
            ? h("span.hint", "downloaded")
            : h("button.small", { "aria-label": `Download ${file.name}`, onclick: () => act("admin/hub/pull", { body: { name: file.name } }, `${file.name} is being downloaded.`) }, "Download"),
        ),
      );
    return [
      h(
        "div.scrolls",
        { tabindex: 0, role: "group", "aria-label": `Files of ${repo}` },
        h("table", h("thead", h("tr", h("th", "File"), h("th.number", "Size"), h("th.number", "Would take"), h("th", "Place"), h("th.number", "Get"))), h("tbody", files.map(row))),
      ),
      error && h("p.problem", error),
      plan && h("div.stack", h("p.hint", plan.model), answer(plan)),
    ];
  }
}
customElements.define("hub-search", HubSearch);
