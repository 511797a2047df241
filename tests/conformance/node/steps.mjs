// What each client of Node tries: steps by client and feature. Each takes a backend, and throws if it fails.

import { strict as assert } from "node:assert";

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const GATEWAY = process.env.GATEWAY;
const HELLO = [{ role: "user", content: "hello" }];
const WEATHER = [{ role: "user", content: "How is the weather in Paris?" }];
const QUESTION = WEATHER[0].content;
const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const FUNCTION = { name: "get_weather", description: "Get the weather of a city", parameters: PARAMETERS };
const Person = z.object({ name: z.string(), age: z.int() });

const openai = new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: "none", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: GATEWAY, apiKey: "none", maxRetries: 0 });
const ollama = new Ollama({ host: GATEWAY });

async function all(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

async function fails(promise, kind, status) {
  const error = await promise.then(
    () => assert.fail("it did not fail"),
    (error) => error,
  );
  if (kind) assert(error instanceof kind, String(error));
  assert.equal(error.status ?? error.status_code ?? error.statusCode, status);
}

const chat = {
  text: async ({ talks }) => {
    const answer = await openai.chat.completions.create({ model: talks, messages: HELLO });
    assert(answer.choices[0].message.content);
    assert(answer.usage.total_tokens);
  },
  "text, streamed": async ({ talks }) => {
    const runner = openai.chat.completions.stream({ model: talks, messages: HELLO });
    assert((await runner.finalChatCompletion()).choices[0].message.content);
  },
  tools: async ({ talks }) => {
    const asked = [];
    const get_weather = ({ city }) => asked.push(city) && "21 degrees";
    const tools = [{ type: "function", function: { ...FUNCTION, function: get_weather, parse: JSON.parse } }];
    assert(await openai.chat.completions.runTools({ model: talks, messages: WEATHER, tools }).finalContent());
    assert(await openai.chat.completions.runTools({ model: talks, messages: WEATHER, tools, stream: true }).finalContent());
    assert.deepEqual(asked, ["Paris", "Paris"]);
  },
  "structured output": async ({ talks }) => {
    const given = { model: talks, messages: HELLO, response_format: zodResponseFormat(Person, "person") };
    Person.parse((await openai.chat.completions.parse(given)).choices[0].message.parsed);
    Person.parse((await openai.chat.completions.stream(given).finalChatCompletion()).choices[0].message.parsed);
  },
  reasoning: async ({ reasons }) => {
    const answer = await openai.chat.completions.create({ model: reasons, messages: HELLO, reasoning_effort: "low" });
    assert(answer.choices[0].message.reasoning_content);
  },
  embeddings: async ({ embeds }) => {
    const answer = await openai.embeddings.create({ model: embeds, input: ["a llama", "b"], dimensions: 4 });
    assert.equal(answer.data[1].embedding.length, 4);
  },
  models: async ({ talks }) => {
    const names = (await all(openai.models.list())).map((model) => model.id);
    assert(names.includes(talks) || names.includes(`${talks}:latest`));
  },
  errors: async ({ talks }) => {
    await fails(openai.chat.completions.create({ model: "gpt-9", messages: HELLO }), OpenAI.NotFoundError, 404);
    await fails(openai.chat.completions.create({ model: talks, messages: [] }), OpenAI.BadRequestError, 400);
  },
  cancellation: async ({ talks }) => {
    const stream = await openai.chat.completions.create({ model: talks, messages: HELLO, stream: true });
    for await (const part of stream) {
      assert(part.choices);
      break;
    }
    assert(stream.controller.signal.aborted);
  },
};

const responses = {
  "responses: text": async ({ talks }) => {
    assert((await openai.responses.create({ model: talks, input: "hello" })).output_text);
  },
  "responses: text, streamed": async ({ talks }) => {
    const stream = openai.responses.stream({ model: talks, input: "hello" });
    const kinds = (await all(stream)).map((event) => event.type);
    assert.equal(kinds.at(-1), "response.completed");
    assert((await stream.finalResponse()).output_text);
  },
  "responses: tools": async ({ talks }) => {
    const tools = [{ type: "function", strict: true, ...FUNCTION }];
    const given = { model: talks, tools };
    const first = await openai.responses.stream({ ...given, input: QUESTION }).finalResponse();
    const call = first.output.find((item) => item.type === "function_call");
    assert.equal(call.arguments, '{"city": "Paris"}'.replaceAll(" ", call.arguments.includes(" ") ? " " : ""));
    const result = { type: "function_call_output", call_id: call.call_id, output: "21 degrees" };
    const input = [{ role: "user", content: QUESTION }, ...first.output, result];
    assert((await openai.responses.create({ ...given, input })).output_text);
  },
  "responses: structured output": async ({ talks }) => {
    const given = { model: talks, input: "hello", text: { format: zodTextFormat(Person, "person") } };
    Person.parse((await openai.responses.parse(given)).output_parsed);
  },
  "responses: reasoning": async ({ reasons }) => {
    const given = { model: reasons, input: "hello", reasoning: { effort: "low", summary: "auto" } };
    const answer = await openai.responses.stream(given).finalResponse();
    assert.deepEqual(answer.output.map((item) => item.type), ["reasoning", "message"]);
  },
};

const claude = {
  text: async ({ talks }) => {
    const answer = await anthropic.messages.create({ model: talks, max_tokens: 100, messages: HELLO });
    assert(answer.content[0].text);
    assert(answer.usage.output_tokens);
  },
  "text, streamed": async ({ talks }) => {
    const stream = anthropic.messages.stream({ model: talks, max_tokens: 100, messages: HELLO });
    assert(await stream.finalText());
  },
  tools: async ({ talks }) => {
    const { parameters, ...rest } = FUNCTION;
    const tools = [{ ...rest, input_schema: parameters }];
    const given = { model: talks, max_tokens: 200, tools };
    for (const streamed of [false, true]) {
      const first = streamed
        ? await anthropic.messages.stream({ ...given, messages: WEATHER }).finalMessage()
        : await anthropic.messages.create({ ...given, messages: WEATHER });
      assert.equal(first.stop_reason, "tool_use");
      const use = first.content.find((block) => block.type === "tool_use");
      assert.deepEqual(use.input, { city: "Paris" });
      const results = [{ type: "tool_result", tool_use_id: use.id, content: "21 degrees" }];
      const messages = [...WEATHER, { role: "assistant", content: first.content }, { role: "user", content: results }];
      assert((await anthropic.messages.create({ ...given, messages })).content[0].text);
    }
  },
  "structured output": async ({ talks }) => {
    const schema = { type: "object", properties: { age: { type: "integer" } }, required: ["age"], additionalProperties: false };
    const output_config = { format: { type: "json_schema", schema } };
    const answer = await anthropic.messages.create({ model: talks, max_tokens: 200, messages: HELLO, output_config });
    assert(Number.isInteger(JSON.parse(answer.content[0].text).age));
  },
  reasoning: async ({ reasons }) => {
    const thinking = { type: "enabled", budget_tokens: 1024 };
    const stream = anthropic.messages.stream({ model: reasons, max_tokens: 2000, messages: HELLO, thinking });
    const kinds = (await stream.finalMessage()).content.map((block) => block.type);
    assert.deepEqual(kinds, ["thinking", "text"]);
  },
  "counting tokens": async ({ talks }) => {
    assert((await anthropic.messages.countTokens({ model: talks, messages: HELLO })).input_tokens);
  },
  models: async ({ talks }) => {
    const names = (await all(anthropic.models.list())).map((model) => model.id);
    assert(names.includes(talks) || names.includes(`${talks}:latest`));
  },
  errors: async ({ talks }) => {
    const given = { max_tokens: 9, messages: HELLO };
    await fails(anthropic.messages.create({ ...given, model: "gpt-9" }), Anthropic.NotFoundError, 404);
    await fails(anthropic.messages.create({ ...given, model: talks, messages: [] }), Anthropic.BadRequestError, 400);
  },
};

const ollamas = {
  text: async ({ talks }) => assert((await ollama.chat({ model: talks, messages: HELLO })).message.content),
  "text, streamed": async ({ talks }) => {
    const parts = await all(await ollama.chat({ model: talks, messages: HELLO, stream: true }));
    assert(parts.at(-1).done);
  },
  tools: async ({ talks }) => {
    const tools = [{ type: "function", function: FUNCTION }];
    const { message } = await ollama.chat({ model: talks, messages: WEATHER, tools });
    assert.deepEqual(message.tool_calls[0].function.arguments, { city: "Paris" });
    const result = { role: "tool", tool_name: "get_weather", content: "21 degrees" };
    assert((await ollama.chat({ model: talks, messages: [...WEATHER, message, result], tools })).message.content);
  },
  "structured output": async ({ talks }) => {
    const answer = await ollama.chat({ model: talks, messages: HELLO, format: z.toJSONSchema(Person) });
    Person.parse(JSON.parse(answer.message.content));
  },
  reasoning: async ({ reasons }) => {
    assert((await ollama.chat({ model: reasons, messages: HELLO, think: true })).message.thinking);
  },
  embeddings: async ({ embeds }) => {
    assert.equal((await ollama.embed({ model: embeds, input: ["a llama", "b"] })).embeddings.length, 2);
  },
  models: async ({ talks }) => {
    assert((await ollama.list()).models.some((model) => model.name === `${talks}:latest`));
    assert((await ollama.show({ model: talks })).capabilities.includes("tools"));
  },
  errors: async () => fails(ollama.chat({ model: "nope", messages: HELLO }), null, 404),
};

// Vercel's SDK validates what comes by itself, with zod.
const compatible = createOpenAICompatible({
  name: "gateway",
  baseURL: `${GATEWAY}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const vercelOpenai = createOpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: "none" });
const vercelAnthropic = createAnthropic({ baseURL: `${GATEWAY}/v1`, apiKey: "none" });

function vercel(model, thinks) {
  const given = { maxRetries: 0 };
  const loud = { onError: ({ error }) => { throw error; } };
  const weather = (asked) =>
    tool({
      description: FUNCTION.description,
      inputSchema: z.object({ city: z.string() }),
      execute: ({ city }) => asked.push(city) && "21 degrees",
    });
  return {
    text: async ({ talks }) => {
      const answer = await generateText({ ...given, model: model(talks), prompt: "hello" });
      assert(answer.text);
      assert(answer.usage.outputTokens);
    },
    "text, streamed": async ({ talks }) => {
      const stream = streamText({ ...given, model: model(talks), prompt: "hello" });
      const parts = await all(stream.fullStream ?? stream.stream);
      for (const part of parts) if (part.type === "error") throw part.error;
      assert(await stream.text);
      assert((await stream.usage).outputTokens);
    },
    tools: async ({ talks }) => {
      const asked = [];
      const more = { model: model(talks), prompt: QUESTION, tools: { get_weather: weather(asked) }, stopWhen: stepCountIs(3) };
      assert((await generateText({ ...given, ...more })).text);
      const stream = streamText({ ...given, ...more });
      for (const part of await all(stream.fullStream ?? stream.stream)) if (part.type === "error") throw part.error;
      assert(await stream.text);
      assert.deepEqual(asked, ["Paris", "Paris"]);
    },
    "tools: a named one": async ({ talks }) => {
      const tools = { get_weather: weather([]), get_time: weather([]) };
      const toolChoice = { type: "tool", toolName: "get_time" };
      const answer = await generateText({ ...given, model: model(talks), prompt: QUESTION, tools, toolChoice });
      assert.deepEqual(answer.toolCalls.map((call) => call.toolName), ["get_time"]);
    },
    "structured output": async ({ talks }) => {
      const more = { model: model(talks), prompt: "hello", output: Output.object({ schema: Person }) };
      Person.parse((await generateText({ ...given, ...more })).output);
      Person.parse(await streamText({ ...given, ...more }).output);
    },
    reasoning: async ({ reasons }) => {
      const more = { model: model(reasons), prompt: "hello", providerOptions: thinks };
      assert((await generateText({ ...given, ...more })).reasoningText);
      const stream = streamText({ ...given, ...more });
      const kinds = new Set((await all(stream.fullStream ?? stream.stream)).map((part) => part.type));
      assert(kinds.has("reasoning-delta"), [...kinds].join(" "));
    },
    errors: async () => {
      await fails(generateText({ ...given, model: model("gpt-9"), prompt: "hello" }), null, 404);
    },
  };
}

const embedding = (model) => ({
  embeddings: async ({ embeds }) => {
    const { embeddings } = await embedMany({ maxRetries: 0, model: model(embeds), values: ["a llama", "b"] });
    assert.equal(embeddings.length, 2);
  },
});

export const CLIENTS = {
  openai: { ...chat, ...responses },
  "@anthropic-ai/sdk": claude,
  ollama: ollamas,
  "@ai-sdk/openai": {
    ...vercel((name) => vercelOpenai(name), { openai: { reasoningEffort: "low", reasoningSummary: "auto", forceReasoning: true } }),
    ...embedding((name) => vercelOpenai.embedding(name)),
  },
  "@ai-sdk/openai-compatible": {
    ...vercel((name) => compatible(name), {}),
    ...embedding((name) => compatible.embeddingModel(name)),
  },
  "@ai-sdk/anthropic": vercel((name) => vercelAnthropic(name), {
    anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } },
  }),
};
