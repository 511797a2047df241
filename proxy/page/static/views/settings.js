// Settings: the configuration in effect, what a reload would change, and what the doctor says.

import { h, View } from "../dom.js";
import { plural } from "../format.js";
import { GatewayError, json } from "../gateway.js";
import { onChange } from "../live.js";
import { act, confirm, say, trouble } from "../parts.js";

class SettingsView extends View {
  /** @type {any} */
  config = null;
  /** @type {any[] | null} */
  checks = null;
  /** @type {any} */
  plan = null;
  /** @type {Error | undefined} */
  checksFailed;
  /** @type {Error | undefined} */
  planFailed;

  enter() {
    this.leaving.push(
      onChange("config", () => this.ask()),
      onChange("connection", (error) => !error && this.failed && this.ask()),
    );
    this.ask();
  }

  ask() {
    this.attempt(async () => {
      this.config = await json("admin/config");
    });
    this.look();
    this.diagnose();
  }

  async look() {
    try {
      this.plan = await json("admin/reload?plan=1", { method: "POST" });
      this.planFailed = undefined;
    } catch (error) {
      this.plan = error instanceof GatewayError && error.body?.faults ? error.body : null;
      this.planFailed = this.plan ? undefined : error;
    }
    this.update();
  }

  async diagnose() {
    this.checks = null;
    this.update();
    try {
      this.checks = (await json("admin/doctor")).checks;
      this.checksFailed = undefined;
    } catch (error) {
      this.checksFailed = error;
    }
    this.update();
  }

  draw() {
    return [h("h1", "Settings"), h("div.columns", h("div.column", this.doctor(), this.reload()), h("div.column", this.effective()))];
  }

  doctor() {
    const { checks } = this;
    const count = (/** @type {string} */ status) => checks?.filter((check) => check.status === status).length ?? 0;
    const words = checks && (count("error") || count("warning") ? `${plural(count("error"), "error")}, ${plural(count("warning"), "warning")}` : "all is well");
    return h(
      "section",
      { "aria-labelledby": "doctor" },
      h("div.bar-of-fields", h("h2", { id: "doctor" }, "Doctor", h("small", words)), h("div.spring"), h("button.small", { onclick: () => this.diagnose() }, "Check again")),
      trouble(this.checksFailed, "Nothing could be checked"),
      !checks && !this.checksFailed && h("p.hint", "Checking …"),
      checks && h("ul.list.checks", [...checks].sort((a, b) => rank(a) - rank(b)).map(check)),
    );
  }

  reload() {
    const { plan } = this;
    const changes = plan?.changes ?? [];
    const faults = plan?.faults ?? [];
    return h(
      "section",
      { "aria-labelledby": "reload" },
      h("div.bar-of-fields", h("h2", { id: "reload" }, "Reload"), h("div.spring"), h("button.small", { onclick: () => this.look() }, "Look again")),
      trouble(this.planFailed, "The files cannot be compared"),
      plan &&
        h(
          "article.card.stack",
          faults.length > 0 && [h("p.problem", { role: "alert" }, "The configuration has faults; nothing is changed."), h("pre", { tabindex: 0, "aria-label": "Faults" }, faults.join("\n"))],
          !faults.length && !changes.length && h("p.hint", "A reload would change nothing."),
          changes.length > 0 && h("ul.stack", changes.map(change)),
          changes.length > 0 && !faults.length && h("div.buttons", h("button.main", { onclick: () => this.apply() }, "Reload now")),
        ),
    );
  }

  async apply() {
    const done = await act("admin/reload");
    if (done) say(done.applied === false ? "Nothing was changed." : "The configuration is reloaded.");
    this.ask();
  }

  effective() {
    const { config } = this;
    return h(
      "section",
      { "aria-labelledby": "config" },
      h("h2", { id: "config" }, "In effect", h("small", config?.files?.join(", "))),
      trouble(this.failed, "The configuration cannot be shown"),
      config?.pending?.length > 0 && h("p.banner", `These wait for a restart: ${config.pending.map((/** @type {any} */ one) => one.path ?? one).join(", ")}`),
      config && h("article.card.settings", Object.entries(config.config).map(([name, value]) => tree(name, value, true))),
      h(
        "div.buttons",
        h(
          "button.danger",
          {
            onclick: () =>
              confirm("Drain the gateway?", "It takes no new requests, lets the running ones end, and exits.", "Drain and stop", () => act("admin/drain", {}, "The gateway drains, and stops.")),
          },
          "Drain and stop",
        ),
      ),
    );
  }
}
customElements.define("view-settings", SettingsView);

const RANKS = ["error", "warning", "ok", "absent"];
/** @param {any} one */
const rank = (one) => RANKS.indexOf(one.status);

/** @param {any} one */
function check(one) {
  const tone = /** @type {Record<string, string>} */ ({ ok: "good", warning: "busy", error: "bad" })[one.status] ?? "";
  return h("li", { key: `${one.name} ${one.found}` }, h("span.line", h("b", one.name), h("span.state", { class: tone }, one.status)), h("span.hint", one.found), one.cure && h("span.cure", one.cure));
}

/** @param {any} one */
function change(one) {
  return h("li", { key: one.path }, h("span.line", h("code", one.path), h("span.state", { class: /restart/.test(one.effect) ? "busy" : "good" }, one.effect)), h("span.hint", `${shown(one.from)} → ${shown(one.to)}`));
}

/** @param {unknown} value */
function shown(value) {
  if (value === undefined || value === null || (Array.isArray(value) && !value.length)) return "none";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** @param {string} name @param {any} value @param {boolean} [isTop] @returns {Child} */
function tree(name, value, isTop = false) {
  const inner = value !== null && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : null;
  if (!inner?.length) {
    const words = shown(inner ? null : value);
    return h("div.setting", { key: name }, h("code", name), h("span", { class: words === "none" ? "hint" : "" }, words));
  }
  return h("details.branch", { key: name, open: isTop && inner.length < 14 }, h("summary", h("code", name)), h("div", inner.map(([key, one]) => tree(key, one))));
}
