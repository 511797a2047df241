// Talks to the gateway. The key is in a header and never in an address; it is kept for this tab alone.

/** The address of the gateway, below whatever path a reverse proxy puts before it. */
export const ROOT = import.meta.url.replace(/(?:ui\/)+[0-9a-f]{16}\/[^/]+$/, "");

const KEY = "llama-smart-proxy key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  /** @param {string} secret */
  set(secret) {
    if (secret) sessionStorage.setItem(KEY, secret);
    else sessionStorage.removeItem(KEY);
    changed.dispatchEvent(new Event("key"));
  },
};

/** Dispatches "key" when another key is used. */
export const changed = new EventTarget();

/** What went wrong, in words for a person. */
export class GatewayError extends Error {
  /**
   * @param {"unreachable" | "no key" | "forbidden" | "absent" | "refused"} kind
   * @param {string} message
   * @param {number} status
   * @param {any} [body]
   */
  constructor(kind, message, status, body) {
    super(message);
    this.kind = kind;
    this.status = status;
    this.body = body;
  }
}

/**
 * Send a request; a failure is a GatewayError.
 * @param {string} path
 * @param {{method?: string, body?: unknown, signal?: AbortSignal, headers?: Record<string, string>}} [options]
 * @returns {Promise<Response>}
 */
export async function send(path, { method = "GET", body, signal, headers = {} } = {}) {
  /** @type {Record<string, string>} */
  const all = { ...headers };
  if (key.get()) all.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, ROOT), {
      method,
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new GatewayError("unreachable", "The gateway does not answer. It may have stopped, or the network is away.", 0);
  }
  if (!response.ok) throw await failure(response, path);
  return response;
}

/** @param {string} path @param {Parameters<typeof send>[1]} [options] @returns {Promise<any>} */
export async function json(path, options) {
  const response = await send(path, options);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch {
    throw new GatewayError("refused", `The answer of ${route(path)} is not JSON: is this address the gateway's?`, response.status);
  }
}

/** @param {Response} response @param {string} path */
async function failure(response, path) {
  /** @type {any} */
  let body = {};
  try {
    body = await response.json();
  } catch {
    // Something between the page and the gateway has answered.
  }
  const error = body?.error ?? {};
  const said = typeof error === "string" ? error : (error.message ?? "");
  const status = response.status;
  if (status === 401) {
    const words = key.get() ? "The gateway does not know this key." : "The gateway wants a key.";
    return new GatewayError("no key", words, status, body);
  }
  if (status === 403) return new GatewayError("forbidden", sentence(said) || `Something between this page and the gateway refuses ${route(path)}.`, status, body);
  if ((status === 404 && (error.code === "not_found" || !said)) || status === 405) {
    const words = `This gateway has no ${route(path)}: it is older than this page, or its address leads elsewhere.`;
    return new GatewayError("absent", words, status, body);
  }
  const words = said ? sentence(said) : `The gateway answered with status ${status}.`;
  return new GatewayError("refused", words, status, body);
}

/** @param {string} path */
const route = (path) => `/${path.split("?")[0]}`;

/** @param {string} text */
const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "");

/** Put values into a query, those that are empty left out. @param {Record<string, unknown>} values */
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
}

/**
 * Read a body line by line, however its bytes are cut.
 * @param {Response} response
 * @returns {AsyncGenerator<string>}
 */
export async function* lines(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      const found = rest.split(/\r\n|\n|\r(?!$)/);
      rest = done ? "" : /** @type {string} */ (found.pop());
      yield* found;
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Read server-sent events. A comment is an event of the type ":".
 * @param {Response} response
 * @returns {AsyncGenerator<{type: string, data: string, id: string}>}
 */
export async function* events(response) {
  let type = "message";
  let id = "";
  /** @type {string[]} */
  let data = [];
  for await (const line of lines(response)) {
    if (line === "") {
      if (data.length) yield { type, data: data.join("\n"), id };
      type = "message";
      data = [];
      continue;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "") yield { type: ":", data: value, id };
    else if (field === "event") type = value;
    else if (field === "data") data.push(value);
    else if (field === "id") id = value;
  }
}

const FIRST_PAUSE = 0.5;
const LONGEST_PAUSE = 10;
/** Seconds without a byte after which a connection is held to be dead. */
const SILENCE = 45;

/**
 * Follow a stream of events for ever: after a cut it continues behind the last event.
 * @param {string} path
 * @param {{event: (type: string, data: any) => void, state: (error: GatewayError | null) => void}} on
 * `state` gets null when events come, and the failure while they do not.
 * @returns {() => void} ends it
 */
export function follow(path, on) {
  let cursor = "";
  let pause = FIRST_PAUSE;
  let ended = false;
  let attempt = new AbortController();
  let awake = () => {};

  const run = async () => {
    while (!ended) {
      attempt = new AbortController();
      /** @type {ReturnType<typeof setTimeout> | undefined} */
      let silence;
      const heard = () => {
        clearTimeout(silence);
        silence = setTimeout(() => attempt.abort(), SILENCE * 1000);
      };
      try {
        heard();
        /** @type {Record<string, string>} */
        const headers = { Accept: "text/event-stream" };
        if (cursor) headers["Last-Event-ID"] = cursor;
        const response = await send(path, { signal: attempt.signal, headers });
        on.state(null);
        for await (const { type, data, id } of events(response)) {
          heard();
          pause = FIRST_PAUSE;
          if (type === ":") continue;
          if (id) cursor = id;
          on.event(type, JSON.parse(data));
        }
        throw new GatewayError("unreachable", "The gateway has closed the connection.", 0);
      } catch (error) {
        if (ended) break;
        const lost = new GatewayError("unreachable", "The connection to the gateway was lost.", 0);
        on.state(error instanceof GatewayError ? error : lost);
        if (error instanceof GatewayError && error.kind === "absent") pause = LONGEST_PAUSE;
      } finally {
        clearTimeout(silence);
      }
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, pause * (750 + Math.random() * 500));
        awake = () => {
          clearTimeout(timer);
          resolve(undefined);
        };
      });
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  };

  const again = () => {
    cursor = "";
    pause = FIRST_PAUSE;
    attempt.abort();
    awake();
  };
  const seen = () => document.hidden || awake();
  changed.addEventListener("key", again);
  addEventListener("online", seen);
  document.addEventListener("visibilitychange", seen);
  run();
  return () => {
    ended = true;
    changed.removeEventListener("key", again);
    removeEventListener("online", seen);
    document.removeEventListener("visibilitychange", seen);
    attempt.abort();
    awake();
  };
}
