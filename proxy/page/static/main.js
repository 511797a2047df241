// The frame of the page: the views, the connection, the key, and what is said at the bottom.

import { h, render } from "./dom.js";
import { hue, patterns } from "./draw.js";
import { age } from "./format.js";
import { changed, key } from "./gateway.js";
import { begin, live, onChange } from "./live.js";
import { dialog, icon, input } from "./parts.js";
import "./views/activity.js";
import "./views/chat.js";
import "./views/keys.js";
import "./views/logs.js";
import "./views/models.js";
import "./views/now.js";
import "./views/settings.js";

const VIEWS = /** @type {const} */ ([
  ["now", "Now"],
  ["chat", "Chat"],
  ["models", "Models"],
  ["activity", "Activity"],
  ["logs", "Logs"],
  ["keys", "Keys"],
  ["settings", "Settings"],
]);

const SCHEME = "llama-smart-proxy scheme";
const SCHEMES = ["auto", "light", "dark"];
const SCHEME_WORDS = ["As the system", "Light", "Dark"];

class PageShell extends HTMLElement {
  connectedCallback() {
    const template = /** @type {HTMLTemplateElement} */ (document.getElementById("shell"));
    this.append(template.content.cloneNode(true));
    this.at(".skip").onclick = (event) => (event.preventDefault(), this.at("main").focus());
    const stripes = document.body.appendChild(document.createElement("div"));
    render(stripes, patterns());
    setScheme(localStorage.getItem(SCHEME) ?? SCHEMES[0]);
    addEventListener("hashchange", () => this.go());
    addEventListener("ask for key", () => askKey());
    changed.addEventListener("key", () => (this.at("main").replaceChildren(), this.go()));
    addEventListener("say", (event) => this.say(/** @type {CustomEvent} */ (event).detail));
    onChange("connection", () => this.status());
    onChange("snapshot", () => {
      for (const name of [...live.models.keys()].sort()) hue(name); // the same colours each time
      this.status();
    });
    setInterval(() => document.hidden || this.status(), 30000);
    begin();
    this.go();
    this.status();
  }

  /** @param {string} selector */
  at(selector) {
    return /** @type {HTMLElement} */ (this.querySelector(selector));
  }

  go() {
    const asked = location.hash.slice(1).split("/")[0];
    const [name, title] = VIEWS.find(([one]) => one === asked) ?? VIEWS[0];
    const main = this.at("main");
    const tag = `view-${name}`;
    if (main.firstElementChild?.localName !== tag) {
      main.replaceChildren(document.createElement(tag));
      main.scrollTop = 0;
    }
    document.title = `${title} · Llama Smart Proxy`;
    render(
      this.at("nav"),
      VIEWS.map(([one, words]) =>
        h("a", { key: one, href: `#${one}`, "aria-current": one === name ? "page" : null }, icon(one), h("span", words)),
      ),
    );
  }

  status() {
    const words = { connecting: "Connecting", live: "Live", lost: "Reconnecting", closed: "No events" }[live.connection];
    const up = live.startedAt ? `version ${live.version}, up ${age(Date.now() / 1000 - live.startedAt)}` : "";
    render(this.at(".status"), [
      h("span.connection", { class: live.connection, title: live.failure?.message ?? up }, words),
      live.version && h("span.version", up),
      h("button.quiet", { onclick: () => askKey(), "aria-label": key.get() ? "Change the key" : "Enter a key", title: "Key" }, icon("keys")),
      h("button.quiet", { onclick: () => nextScheme(), "aria-label": "Light or dark", title: "Light or dark" }, icon("scheme")),
    ]);
    this.classList.toggle("lost", live.connection === "lost");
  }

  /** @param {{text: string, bad: boolean}} said */
  say({ text, bad }) {
    const box = this.at(".said");
    const line = document.createElement("p");
    line.textContent = text;
    line.classList.toggle("bad", bad);
    box.replaceChildren(line);
    setTimeout(() => line.remove(), bad ? 12000 : 4000);
  }
}

function askKey() {
  let secret = "";
  dialog("Key", (close) =>
    h(
      "form",
      {
        method: "dialog",
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          if (secret.trim()) key.set(secret.trim());
          close();
        },
      },
      h("p", "An admin key shows everything, any other what it may use. It is kept until this tab is closed."),
      input("Key", "", (value) => (secret = value), { type: "password", autocomplete: "off", autofocus: true, spellcheck: "false" }),
      h("p.hint", "A key is made by ", h("code", "run.py key add NAME --admin"), "."),
      h(
        "div.buttons",
        key.get() && h("button", { type: "button", onclick: () => (key.set(""), close()) }, "Forget the key"),
        h("button", { type: "button", onclick: close }, "Cancel"),
        h("button.main", { type: "submit" }, "Use it"),
      ),
    ),
  );
}

/** @param {string} scheme */
function setScheme(scheme) {
  document.documentElement.dataset.scheme = scheme;
}

function nextScheme() {
  const next = (SCHEMES.indexOf(document.documentElement.dataset.scheme ?? "") + 1) % SCHEMES.length;
  localStorage.setItem(SCHEME, SCHEMES[next]);
  setScheme(SCHEMES[next]);
  dispatchEvent(new CustomEvent("say", { detail: { text: SCHEME_WORDS[next], bad: false } }));
}

customElements.define("page-shell", PageShell);
