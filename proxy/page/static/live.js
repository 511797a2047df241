// What moves: the state of the gateway as its one stream of events tells it, shared by all views.

import { follow } from "./gateway.js";

/** @type {Live} */
export const live = {
  connection: "connecting",
  failure: null,
  models: new Map(),
  requests: new Map(),
  waiting: [],
  downloads: [],
  memory: { gpus: [], gpu_error: null, host: null },
  version: "",
  startedAt: 0,
};

const heard = new EventTarget();

/**
 * Call with each change of these kinds: "model", "request", "request_ended", "config", "connection", ...; "*" is any.
 * @param {string} kind
 * @param {(data: any) => void} action
 * @returns {() => void} ends it
 */
export function onChange(kind, action) {
  const listener = (/** @type {Event} */ event) => action(/** @type {CustomEvent} */ (event).detail);
  heard.addEventListener(kind, listener);
  return () => heard.removeEventListener(kind, listener);
}

/** @param {string} kind @param {any} data */
function tell(kind, data) {
  for (const one of [kind, "*"]) heard.dispatchEvent(new CustomEvent(one, { detail: data }));
}

/**
 * Take an event into the state.
 * @param {Live} state
 * @param {string} type
 * @param {any} data
 */
export function take(state, type, data) {
  switch (type) {
    case "snapshot":
      state.models = new Map(data.models.map((/** @type {Model} */ model) => [model.name, seen(model)]));
      state.requests = new Map(data.requests.map((/** @type {Running} */ one) => [one.id, dated(one)]));
      state.waiting = data.waiting.map(waits);
      state.memory = data.memory;
      state.downloads = data.downloads;
      state.version = data.version;
      state.startedAt = Date.now() / 1000 - data.uptime_seconds;
      break;
    case "model":
      state.models.set(data.name, seen(data, state.models.get(data.name)));
      break;
    case "model_removed":
      state.models.delete(data.name);
      break;
    case "request":
      state.requests.set(data.id, dated(data));
      break;
    case "request_ended":
      state.requests.delete(data.id);
      break;
    case "waiting":
      state.waiting = data.map(waits);
      break;
    case "memory":
      state.memory = data;
      break;
    case "downloads":
      state.downloads = data;
      for (const download of data) {
        const model = state.models.get(download.name);
        if (model) state.models.set(model.name, { ...model, download });
      }
      break;
  }
}

/**
 * Note when a model was heard of, and since when it is in its state: ages grow between events.
 * @param {Model} model
 * @param {Model} [before]
 */
function seen(model, before) {
  const now = performance.now() / 1000;
  const same = before?.state === model.state && before?.epoch === model.epoch;
  return { ...model, heardAt: now, stateSince: same ? before.stateSince : now };
}

/** @template {object} T @param {T} one @returns {T & {heardAt: number}} */
function dated(one) {
  return { ...one, heardAt: performance.now() / 1000 };
}

/** Work of the gateway itself waits without an id. @param {Waiting} one @param {number} nth */
const waits = (one, nth) => ({ ...dated(one), row: one.id ?? `own ${nth}` });

/**
 * A time in seconds that has grown since it was told.
 * @param {number | null | undefined} value
 * @param {{heardAt?: number}} told
 */
export function grown(value, told) {
  return value === null || value === undefined ? null : value + performance.now() / 1000 - (told.heardAt ?? 0);
}

/**
 * Before the first snapshot nothing is known, though the gateway answers.
 * @param {import("./gateway.js").GatewayError | null} error
 */
function state(error) {
  live.failure = error;
  if (error !== null) live.connection = error.kind === "unreachable" ? "lost" : "closed";
  else live.connection = live.startedAt ? "live" : "connecting";
  tell("connection", error);
}

/** Follow the gateway's events as long as the page is open. */
export function begin() {
  return follow("admin/events", {
    event(type, data) {
      take(live, type, data);
      if (live.connection === "connecting") state(null);
      tell(type, data);
    },
    state,
  });
}

export const RUNNING = new Set(["fetching", "fetched", "starting", "ready", "draining", "stopping"]);
export const LOADING = new Set(["fetching", "fetched", "starting"]);

/** The models, those that run first. */
export function models() {
  const order = (/** @type {Model} */ model) => (RUNNING.has(model.state) ? 0 : model.state === "failed" ? 1 : 2);
  return [...live.models.values()].sort((a, b) => order(a) - order(b) || a.name.localeCompare(b.name));
}
