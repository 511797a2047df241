// A conversation with one model: what was said, and the answer as it streams.

import { events, GatewayError, send } from "./gateway.js";

/** @param {"user" | "assistant"} role @param {Partial<Turn>} [given] @returns {Turn} */
function turn(role, given) {
  return {
    role,
    text: "",
    images: [],
    thought: "",
    calls: [],
    state: role === "user" ? "done" : "waiting",
    comment: "",
    error: null,
    asked: null,
    answered: null,
    first: null,
    speed: null,
    blocks: new Map(),
    ...given,
  };
}

export class Conversation {
  /** @type {Turn[]} */
  turns = [];
  /** @type {AbortController | null} */
  running = null;

  /** @param {string} model */
  constructor(model) {
    this.model = model;
  }

  /**
   * Ask, and read the answer until it ends. `changed` is called with each piece.
   * @param {string} text
   * @param {string[]} images
   * @param {Options} options
   * @param {() => void} changed
   */
  async ask(text, images, options, changed) {
    const stop = new AbortController();
    this.running = stop;
    this.turns.push(turn("user", { text, images }));
    const answer = turn("assistant");
    const began = performance.now();
    this.turns.push(answer);
    try {
      const body = { ...this.#body(options), ...parameters(options) };
      const response = await send("v1/chat/completions", { method: "POST", body, signal: stop.signal });
      for await (const { type, data } of events(response)) {
        if (type === ":") answer.comment = data.trim();
        else if (data !== "[DONE]") take(answer, JSON.parse(data), (performance.now() - began) / 1000);
        changed();
      }
      answer.state = "done";
    } catch (error) {
      answer.state = stop.signal.aborted ? "stopped" : "failed";
      const lost = new GatewayError("unreachable", "The connection was lost in the middle of the answer.", 0);
      if (!stop.signal.aborted) answer.error = error instanceof GatewayError || error instanceof SyntaxError ? error : lost;
    } finally {
      if (answer.speed === null && answer.answered && answer.first !== null) {
        answer.speed = answer.answered / Math.max(0.001, (performance.now() - began) / 1000 - answer.first);
      }
      if (this.running === stop) this.running = null;
      changed();
    }
  }

  stop() {
    this.running?.abort();
  }

  /** @param {Options} options */
  #body(options) {
    const said = this.turns
      .filter((one) => one.role === "user" || one.text)
      .map((one) => ({ role: one.role, content: one.images.length ? withImages(one) : one.text }));
    const system = options.system.trim() ? [{ role: "system", content: options.system.trim() }] : [];
    return { model: this.model, stream: true, stream_options: { include_usage: true }, messages: [...system, ...said] };
  }
}

/** @param {Turn} one */
const withImages = (one) => [
  ...(one.text ? [{ type: "text", text: one.text }] : []),
  ...one.images.map((url) => ({ type: "image_url", image_url: { url } })),
];

/** @param {Options} options */
function parameters(options) {
  /** @type {Record<string, unknown>} */
  const given = {};
  if (options.temperature) given.temperature = Number(options.temperature);
  if (options.most) given.max_tokens = Number(options.most);
  if (options.tools.trim()) {
    try {
      given.tools = JSON.parse(options.tools);
    } catch (error) {
      throw new SyntaxError(`The tools are not JSON: ${error.message}`);
    }
  }
  return given;
}

/**
 * Take a chunk of the stream into the answer.
 * @param {Turn} answer
 * @param {any} chunk
 * @param {number} now seconds since the question
 */
export function take(answer, chunk, now) {
  if (chunk.error) throw new GatewayError("refused", String(chunk.error.message ?? chunk.error), 0);
  const delta = chunk.choices?.[0]?.delta ?? {};
  const thought = delta.reasoning_content ?? delta.reasoning ?? "";
  if (thought || delta.content || delta.tool_calls) {
    answer.first ??= now;
    answer.state = thought ? "thinking" : "answering";
    answer.comment = "";
  }
  answer.thought += thought;
  answer.text += delta.content ?? "";
  for (const call of delta.tool_calls ?? []) {
    const known = (answer.calls[call.index ?? 0] ??= { name: "", text: "" });
    known.name += call.function?.name ?? "";
    known.text += call.function?.arguments ?? "";
  }
  if (chunk.usage) {
    answer.asked = chunk.usage.prompt_tokens ?? null;
    answer.answered = chunk.usage.completion_tokens ?? null;
  }
  if (chunk.timings?.predicted_per_second) answer.speed = chunk.timings.predicted_per_second;
}
