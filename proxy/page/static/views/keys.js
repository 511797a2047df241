// Keys and usage: who used what over time; keys with their limits, made and revoked.

import { h, View } from "../dom.js";
import { columns, hue } from "../draw.js";
import { count, dotted, seconds } from "../format.js";
import { GatewayError, json, key, query } from "../gateway.js";
import { act, confirm, copy, dialog, inPath, input, select, trouble } from "../parts.js";

const DAY = 86400;
/** @type {Choices} */
const SPANS = ["7", "30", "90"].map((days) => [days, `${days} days`]);
const PARTS = ["key", "model"];
const MEASURES = ["tokens", "requests"];

class KeysView extends View {
  /** @type {any[]} */
  keys = [];
  /** @type {Usage[]} */
  usage = [];
  by = "key";
  measure = "tokens";
  span = "30";
  isOwn = false;
  /** @type {Error | undefined} */
  keysFailed;

  enter() {
    this.ask();
    this.every(30, () => this.ask());
  }

  ask() {
    json("admin/keys").then(
      ({ keys }) => ((this.keys = keys), (this.keysFailed = undefined), this.update()),
      (error) => ((this.keysFailed = error), this.update()),
    );
    this.attempt(async () => {
      const asked = query({ by: "key,model,day", since: Math.floor(Date.now() / 1000 / DAY - Number(this.span) + 1) * DAY });
      try {
        this.usage = (await json(`admin/usage${asked}`)).rows;
        this.isOwn = false;
      } catch (error) {
        if (!(error instanceof GatewayError && error.kind === "forbidden")) throw error;
        this.usage = (await json(`v1/usage${asked}`)).rows;
        this.isOwn = true;
      }
    });
  }

  draw() {
    return [h("h1", "Keys and usage"), this.used(), this.all()];
  }

  used() {
    return h(
      "section",
      { "aria-labelledby": "usage" },
      h(
        "div.bar-of-fields",
        h("h2", { id: "usage" }, this.isOwn ? "Your key's usage" : "Usage"),
        h("div.spring"),
        select("Show", this.measure, MEASURES, (value) => ((this.measure = value), this.update())),
        select("By", this.by, PARTS, (value) => ((this.by = value), this.update())),
        select("Of the last", this.span, SPANS, (value) => ((this.span = value), this.ask())),
      ),
      this.failed
        ? trouble(this.failed, "The usage cannot be shown")
        : this.usage.length === 0
          ? h("p.empty", "Nothing was asked in this time.")
          : h("article.card.stack", this.chart(), this.table()),
    );
  }

  chart() {
    const days = Array.from({ length: Number(this.span) }, (_, nth) => new Date(Date.now() - (Number(this.span) - 1 - nth) * DAY * 1000).toISOString().slice(0, 10));
    const names = this.names;
    return columns(
      this.measure === "tokens" ? "Tokens a day" : "Requests a day",
      days.map((day) => ({
        label: day.slice(5),
        parts: names
          .map((name) => ({ label: name || "no key", size: sum(this.usage.filter((row) => row.day === day && this.of(row) === name), this.measure), kind: hue(name) }))
          .filter((part) => part.size > 0),
      })),
      count,
    );
  }

  /** @param {Usage} row */
  of(row) {
    return (this.by === "key" ? row.key : row.model) ?? "";
  }

  get names() {
    return [...new Set(this.usage.map((row) => this.of(row)))].sort();
  }

  table() {
    const rows = this.names.map((name) => ({ name, rows: this.usage.filter((row) => this.of(row) === name) })).sort((a, b) => sum(b.rows, this.measure) - sum(a.rows, this.measure));
    const cells = (/** @type {Usage[]} */ all) =>
      [sum(all, "requests"), sum(all, "prompt_tokens"), sum(all, "cached_tokens"), sum(all, "completion_tokens"), sum(all, "errors")].map((value) => h("td.number", count(value)));
    return h(
      "div.scrolls",
      { tabindex: 0, role: "group", "aria-label": "Usage in figures" },
      h(
        "table",
        h("thead", h("tr", h("th", this.by === "key" ? "Key" : "Model"), ["Requests", "Prompt tokens", "of them cached", "Answer tokens", "Errors"].map((title) => h("th.number", title)), h("th.number", "Time"))),
        h(
          "tbody",
          rows.map(({ name, rows }) =>
            h("tr", { key: name }, h("td", h("span.model-cell", h("i", { class: `dot ${hue(name)}` }), name || "no key")), cells(rows), h("td.number", seconds(sum(rows, "seconds")))),
          ),
        ),
      ),
    );
  }

  all() {
    return h(
      "section",
      { "aria-labelledby": "keys" },
      h("div.bar-of-fields", h("h2", { id: "keys" }, "Keys"), h("div.spring"), !this.keysFailed && h("button.main", { onclick: () => this.make() }, "Make a key")),
      this.keysFailed
        ? trouble(this.keysFailed, "The keys cannot be shown")
        : this.keys.length === 0
          ? h("p.empty", "There is no key, so that requests from this machine need none. With the first one, an admin's, all need a key.")
          : h("div.cards", this.keys.map((key) => this.card(key))),
    );
  }

  /** @param {any} key */
  card(key) {
    const facts = [
      `…${key.hint}`,
      key.admin && "may use /admin",
      key.models && key.models.join() !== "*" ? `models ${key.models.join(", ")}` : "all models",
      key.agents && key.agents.join() !== "*" && (key.agents.length ? `agents ${key.agents.join(", ")}` : "no agents"),
      key.weight && key.weight !== 1 && `weight ${key.weight}`,
      key.expires_at && `until ${new Date(key.expires_at * 1000).toISOString().slice(0, 10)}`,
      key.configured && "in config.yaml",
    ];
    return h(
      "article.card.stack",
      { key: key.name },
      h(
        "header",
        h("h3", key.name),
        h("span.facts"),
        !key.configured && h("button.small", { onclick: () => this.rotate(key.name), "aria-label": `New secret for ${key.name}` }, "New secret"),
        !key.configured && h("button.small.danger", { onclick: () => this.revoke(key.name), "aria-label": `Revoke ${key.name}` }, "Revoke"),
      ),
      h("p.hint", dotted(...facts)),
      left("Requests at a time", key.concurrent, key.left?.concurrent),
      left("Requests a minute", key.per_minute, key.left?.per_minute),
      left("Tokens today", key.tokens_per_day, key.left?.tokens_per_day),
    );
  }

  /** @param {string} name */
  revoke(name) {
    confirm(`Revoke ${name}?`, "Requests with this key are refused from now on. This cannot be undone.", "Revoke", async () => {
      await act(`admin/keys/${inPath(name)}`, { method: "DELETE" }, `${name} is revoked.`);
      this.ask();
    });
  }

  /** @param {string} name */
  rotate(name) {
    confirm(`A new secret for ${name}?`, "The present secret is refused from then on.", "Make it", async () => {
      const made = await act(`admin/keys/${inPath(name)}/rotate`);
      if (made) secret(name, made);
      this.ask();
    });
  }

  make() {
    const form = { name: "", models: "", agents: "", concurrent: "", per_minute: "", tokens_per_day: "", weight: "", expires: "", admin: !this.keys.some((one) => one.admin) };
    const text = (/** @type {Exclude<keyof typeof form, "admin">} */ name, /** @type {string} */ label, /** @type {Props} */ props) => input(label, form[name], (value) => (form[name] = value), props);
    const number = { type: "number", min: 1, step: 1, placeholder: "no limit" };
    dialog("Make a key", (close) =>
      h(
        "form",
        {
          onsubmit: async (/** @type {Event} */ event) => {
            event.preventDefault();
            const made = await act("admin/keys", { body: keyOf(form) });
            if (!made) return;
            close();
            secret(form.name, made, form.admin);
            this.ask();
          },
        },
        text("name", "Name", { required: true, autofocus: true, placeholder: "alice", autocomplete: "off" }),
        h(
          "div.options",
          text("models", "Models, as globs", { placeholder: "all" }),
          text("agents", "Agents", { placeholder: "all" }),
          text("concurrent", "Requests at a time", number),
          text("per_minute", "Requests a minute", number),
          text("tokens_per_day", "Tokens a day", number),
          text("weight", "Weight of its turns", { type: "number", min: 0.01, step: "any", placeholder: "1" }),
          text("expires", "Valid until", { type: "date" }),
        ),
        h("label.check", h("input", { type: "checkbox", checked: form.admin, onchange: (/** @type {any} */ event) => (form.admin = event.target.checked) }), "It may use /admin: act on models, requests and keys"),
        h("div.buttons", h("button", { type: "button", onclick: close }, "Cancel"), h("button.main", { type: "submit" }, "Make it")),
      ),
    );
  }
}
customElements.define("view-keys", KeysView);

/** @param {Usage[]} rows @param {string} name */
function sum(rows, name) {
  const value = (/** @type {any} */ row) => (name === "tokens" ? row.prompt_tokens + row.completion_tokens : (row[name] ?? 0));
  return rows.reduce((total, row) => total + value(row), 0);
}

/** The body of `POST /admin/keys`: what was left empty is left out. @param {Record<string, any>} form */
export function keyOf(form) {
  const words = (/** @type {string} */ text) => text.split(/[,\s]+/).filter(Boolean);
  const number = (/** @type {string} */ text) => (text ? Number(text) : undefined);
  return {
    name: form.name.trim(),
    models: form.models ? words(form.models) : undefined,
    agents: form.agents ? words(form.agents) : undefined,
    concurrent: number(form.concurrent),
    per_minute: number(form.per_minute),
    tokens_per_day: number(form.tokens_per_day),
    weight: number(form.weight),
    expires: form.expires || undefined,
    admin: form.admin || undefined,
  };
}

/** @param {string} label @param {number | null | undefined} limit @param {number | null | undefined} rest */
function left(label, limit, rest) {
  if (limit === null || limit === undefined) return null;
  const known = rest !== null && rest !== undefined;
  return h("div.meter", h("progress", { value: known ? limit - rest : 0, max: limit, "aria-label": label }), h("span", `${label}: ${known ? `${count(rest)} left of ` : ""}${count(limit)}`));
}

/** Show a new secret, once. @param {string} name @param {any} made @param {boolean} [isAdmin] */
function secret(name, made, isAdmin) {
  const text = made.secret;
  dialog(`The key of ${name}`, (close) => [
    h("p", "It is shown this once: the gateway keeps its hash alone."),
    h("pre", { tabindex: 0, "aria-label": "Secret" }, text),
    h("div.buttons", h("button", { onclick: () => copy(text) }, "Copy"), isAdmin && !key.get() && h("button", { onclick: () => (key.set(text), close()) }, "Use it in this tab"), h("button.main", { onclick: close }, "I have it")),
  ]);
}
