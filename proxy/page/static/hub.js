// Search and download from the hub: what each file would take, before it is fetched.

import { h, View } from "./dom.js";
import { bytes, count } from "./format.js";
import { json, query } from "./gateway.js";
import { act, trouble, valued } from "./parts.js";

export class HubSearch extends View {
  text = "";
  /** @type {any[] | null} */
  found = null;
  busy = false;
  /** The files of a repository, once it was opened. @type {Map<string, any[] | Error>} */
  files = new Map();

  search() {
    this.busy = true;
    this.update();
    this.attempt(async () => {
      try {
        const answer = await json(`admin/hub/search${query({ q: this.text.trim() })}`);
        this.found = answer.repos;
      } finally {
        this.busy = false;
      }
    });
  }

  /** @param {string} repo */
  async open(repo) {
    if (this.files.has(repo)) this.files.delete(repo);
    else {
      this.files.set(repo, []);
      try {
        this.files.set(repo, (await json(`admin/hub/files${query({ repo })}`)).files);
      } catch (error) {
        this.files.set(repo, /** @type {Error} */ (error));
      }
    }
    this.update();
  }

  draw() {
    return [
      h(
        "form.bar-of-fields",
        { role: "search", onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.search()) },
        h("input", { type: "search", "aria-label": "Search the hub", placeholder: "qwen3 gguf", value: this.text, oninput: valued((value) => (this.text = value)) }),
        h("button", { type: "submit", disabled: this.busy }, this.busy ? "Searching …" : "Search"),
      ),
      trouble(this.failed, "The hub cannot be searched"),
      this.found?.length === 0 && h("p.empty", "Nothing found that hub.allow permits."),
      this.found && h("ul.hits", this.found.map((hit) => this.hit(hit))),
    ];
  }

  /** @param {any} hit */
  hit(hit) {
    const { repo } = hit;
    const files = this.files.get(repo);
    return h(
      "li",
      { key: repo },
      h(
        "header",
        h("h3", repo),
        hit.downloads !== undefined && h("span.hint", `${count(hit.downloads)} downloads`),
        h("button.small", { "aria-expanded": String(files !== undefined), onclick: () => this.open(repo), "aria-label": `Files of ${repo}` }, "Files"),
      ),
      files instanceof Error && trouble(files),
      Array.isArray(files) &&
        h(
          "div.scrolls",
          h(
            "table",
            h("thead", h("tr", h("th", "File"), h("th.number", "Size"), h("th.number", "Would take"), h("th.number", "Get"))),
            h("tbody", files.map((file) => row(file))),
          ),
        ),
    );
  }
}
customElements.define("hub-search", HubSearch);

/** @param {any} file */
function row(file) {
  const { name } = file;
  const words = name.split(":")[1] ?? name;
  return h(
    "tr",
    { key: name },
    h("td", words),
    h("td.number", bytes(file.size)),
    h("td.number", bytes(file.memory)),
    h(
      "td.number",
      file.downloaded
        ? h("span.hint", "downloaded")
        : h("button.small", { "aria-label": `Download ${name}`, onclick: () => act("admin/hub/pull", { body: { name } }, `${name} is being downloaded.`) }, "Download"),
    ),
  );
}
