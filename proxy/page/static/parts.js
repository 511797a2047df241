// What several views are made of: states, notices, buttons that act, dialogs, and long lists.

import { h, render, View } from "./dom.js";
import { GatewayError, json, key } from "./gateway.js";
import { live } from "./live.js";

const PATHS = {
  now: "M3 12h4l3-8 4 16 3-8h4",
  chat: "M4 5h16v11H9l-5 4z",
  models: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  activity: "M5 20v-8M12 20V4M19 20v-12",
  logs: "M4 6h16M4 12h10M4 18h13",
  keys: "M15.5 4a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM12.3 11.7L4 20v-3.5M7.5 16.5L10 19",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  stop: "M6 6h12v12H6z",
  send: "M12 19V5M5 12l7-7 7 7",
  close: "M6 6l12 12M18 6L6 18",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 2-2 5 5",
  scheme: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18M12 7h5M12 12h9M12 17h5",
};

/** @param {keyof typeof PATHS} name */
export function icon(name) {
  return h("svg.icon", { viewBox: "0 0 24 24", "aria-hidden": "true" }, h("path", { d: PATHS[name] }));
}

/** @type {Record<string, string>} */
const TONES = { ready: "good", failed: "bad", stopped: "off" };
/** @type {Record<string, string>} */
const WORDS = { fetching: "downloading", fetched: "waits for room", starting: "loading", draining: "ends its requests" };

/** @param {Model} model */
export function state(model) {
  return h("span.state", { class: TONES[model.state] ?? "busy" }, WORDS[model.state] ?? model.state);
}

/**
 * A message in place of, or above, what should be there.
 * @param {string} title
 * @param {Child} text
 * @param {Child} [action]
 */
export function notice(title, text, action) {
  return h("div.notice", h("h3", title), h("p", text), action);
}

/** @param {Error | undefined | null} error @param {string} [what] */
export function trouble(error, what = "This cannot be shown") {
  if (!error) return null;
  const kind = error instanceof GatewayError ? error.kind : "refused";
  const title = { unreachable: "No connection", "no key": "A key is needed", forbidden: key.get() ? "Not with this key" : "An admin key is needed", absent: "An older gateway", refused: what }[kind];
  const asks = kind === "no key" || kind === "forbidden";
  const button = h("button", { onclick: () => askForKey() }, "Enter a key");
  return h("div.notice.bad", { role: "alert" }, h("h3", title), h("p", error.message), asks && button);
}

/** Why nothing that moves is shown; null while the events come. */
export function silence() {
  if (live.connection === "connecting") return h("p.hint", "Asking the gateway …");
  return live.connection === "closed" ? trouble(live.failure) : null;
}

export function askForKey() {
  dispatchEvent(new Event("ask for key"));
}

/** Tell in a few words what has happened; screen readers say it. @param {string} text @param {boolean} [bad] */
export function say(text, bad = false) {
  dispatchEvent(new CustomEvent("say", { detail: { text, bad } }));
}

/**
 * Do something by a request, and tell when it fails.
 * @param {string} path
 * @param {Parameters<typeof json>[1]} [options]
 * @param {string} [done] what to say after it
 * @returns {Promise<any>} undefined after a failure
 */
export async function act(path, options, done) {
  try {
    const answer = await json(path, { method: "POST", ...options });
    if (done) say(done);
    return answer;
  } catch (error) {
    say(error.message, true);
    return undefined;
  }
}

/** What the address names behind its view; unlike decodeURIComponent, this takes malformed ones. */
export const named = () => new URLSearchParams(`n=${location.hash.replace(/^[^/]*\/?/, "").replaceAll("+", "%2B")}`).get("n") ?? "";

/** A name as a part of a path: names contain slashes, which stay. @param {string} name */
export function inPath(name) {
  return name.split("/").map(encodeURIComponent).join("/");
}

/**
 * Show a dialog until it is closed.
 * @param {string} title
 * @param {(close: () => void) => Child} draw
 */
export function dialog(title, draw) {
  const element = document.createElement("dialog");
  element.setAttribute("aria-label", title);
  const close = () => element.close();
  element.addEventListener("close", () => element.remove());
  element.addEventListener("click", (event) => event.target === element && close());
  addEventListener("hashchange", close, { once: true });
  document.body.append(element);
  const again = () => render(element, [h("h2", title), draw(close)]);
  again();
  element.showModal();
  return { again, close };
}

/**
 * Ask before something that cannot be undone.
 * @param {string} title
 * @param {string} text
 * @param {string} verb
 * @param {() => void} action
 */
export function confirm(title, text, verb, action) {
  dialog(title, (close) => [
    h("p", text),
    h(
      "div.buttons",
      h("button", { onclick: close }, "Keep it"),
      h("button.danger", { onclick: () => (close(), action()) }, verb),
    ),
  ]);
}

/** @param {string} text */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    say("The browser forbids it; select the text instead.", true);
  }
}

/** Make a handler that takes the value of its element. @param {(value: string) => void} change */
export const valued = (change) => (/** @type {any} */ event) => change(event.target.value);

/**
 * A labelled select.
 * @param {string} label
 * @param {string} value
 * @param {(string | [string, string])[]} options values, or values with their words
 * @param {(value: string) => void} change
 */
export function select(label, value, options, change) {
  return h(
    "label.field",
    h("span", label),
    h(
      "select",
      { value, onchange: valued(change) },
      options.map((one) => {
        const [key, words] = Array.isArray(one) ? one : [one, one];
        return h("option", { key, value: key }, words);
      }),
    ),
  );
}

/**
 * A labelled input.
 * @param {string} label
 * @param {string} value
 * @param {(value: string) => void} change
 * @param {Props} [props]
 */
export function input(label, value, change, props = {}) {
  return h(
    "label.field",
    h("span", label),
    h("input", { value, oninput: valued(change), ...props }),
  );
}

/** Rows above and below those that can be seen. */
const MARGIN = 12;

/** A long list: only the rows that can be seen are there. `show` says what it shows. */
export class LongList extends View {
  count = 0;
  height = 32;
  label = "";
  width = "100%";
  /** @type {(nth: number) => Child} */
  row = () => null;
  /** @type {Child} */
  head = null;
  /** @type {(() => void) | null} */
  nearEnd = null;
  stick = false;
  /** The rows as they were described: what scrolls only is not compared again. @type {Map<number, Child>} */
  #rows = new Map();

  enter() {
    this.tabIndex = 0;
    const scrolled = () => this.update();
    this.addEventListener("scroll", scrolled, { passive: true });
    const resized = new ResizeObserver(scrolled);
    resized.observe(this);
    this.leaving.push(() => (this.removeEventListener("scroll", scrolled), resized.disconnect()));
  }

  /** @param {Partial<LongList>} options */
  set shows(options) {
    Object.assign(this, options);
    this.#rows.clear();
    if (this.isConnected) this.update();
  }

  get isAtEnd() {
    return this.scrollTop + this.clientHeight >= this.scrollHeight - 2 * this.height;
  }

  now() {
    super.now();
    if (this.stick && !this.isAtEnd) this.scrollTop = this.scrollHeight;
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scrollTop / this.height) - MARGIN);
    const seen = Math.ceil((this.clientHeight || 400) / this.height) + 2 * MARGIN;
    const last = Math.min(this.count, first + seen);
    if (this.nearEnd && last >= this.count - MARGIN) this.nearEnd();
    const rows = [];
    for (const nth of this.#rows.keys()) if (nth < first || nth >= last) this.#rows.delete(nth);
    for (let nth = first; nth < last; nth += 1) {
      const row = this.#rows.get(nth) ?? this.row(nth);
      this.#rows.set(nth, row);
      rows.push(row);
    }
    return h(
      "div.long",
      { role: "table", "aria-label": this.label, "aria-rowcount": this.count + (this.head ? 1 : 0) },
      this.head,
      h(
        "div.rows",
        { role: "rowgroup", style: { height: `${this.count * this.height}px` } },
        h("div.window", { role: "presentation", style: { transform: `translateY(${first * this.height}px)` } }, rows),
      ),
    );
  }
}
customElements.define("long-list", LongList);
