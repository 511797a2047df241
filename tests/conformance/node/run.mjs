// Tries every step on every backend of BACKENDS, and prints a line of JSON for each: how it went.

import { CLIENTS } from "./steps.mjs";

const backends = JSON.parse(process.env.BACKENDS);
globalThis.AI_SDK_LOG_WARNINGS = false; // they would stand between the lines
process.on("unhandledRejection", () => {}); // the step that caused it fails by itself

for (const [client, steps] of Object.entries(CLIENTS)) {
  for (const [feature, step] of Object.entries(steps)) {
    for (const backend of backends) {
      let error = "";
      try {
        await step(backend);
      } catch (failure) {
        error = `${failure?.name}: ${failure?.message}`.slice(0, 500);
      }
      console.log(JSON.stringify({ client, feature, backend: backend.name, error }));
    }
  }
}
process.exit(0);
