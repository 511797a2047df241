// Types of the page's modules and of the gateway's answers (docs/endpoints.md); read by TypeScript's checker alone.

type Child = import("./static/dom.js").Described | string | number | boolean | null | undefined | Child[];
type Props = Record<string, any>;
/** Values of a select, each with its words. */
type Choices = [string, string][];
/** Writes a number. */
type Words = (value: number) => string;

interface Placement {
  how: string;
  why: string;
  context: number;
  slot_context: number;
  certainty: string;
  layers: Record<string, number>;
  predicted_memory: Record<string, number>;
  gpu_memory: Record<string, number>;
  host_memory: number;
}

interface Download {
  name: string;
  error?: string | null;
  bytes: number;
  total_bytes: number | null;
  bytes_per_second: number | null;
  seconds_left: number | null;
}

interface Model {
  name: string;
  aliases: string[];
  api: string;
  state: string;
  epoch: number;
  pinned: boolean;
  hidden: boolean;
  description: string | null;
  busy: number;
  slots: number | null;
  waiting: number;
  place: string | null;
  placement: Placement | null;
  download: Download | null;
  load_seconds: number | null;
  ready_seconds: number | null;
  idle_seconds: number | null;
  idle_timeout: number | null;
  failures: number;
  retry_in: number | null;
  error: string | null;
  size: number | null;
  quantization: string | null;
  context: number | null;
  capabilities: string[] | null;
  heardAt?: number;
  stateSince?: number;
}

interface Running {
  id: string;
  key: string | null;
  model: string | null;
  endpoint: string;
  phase: string;
  started_at: number;
  seconds: number;
  first_token_seconds: number | null;
  prompt_tokens: number | null;
  completion_tokens: number | null;
  tokens_per_second: number | null;
  agents: string[] | string | null;
  place: string | null;
  stream: boolean | null;
  heardAt?: number;
}

interface Waiting {
  id: string | null;
  row?: string;
  model: string;
  key: string | null;
  place: number;
  reason: string | null;
  eta_seconds: number | null;
  waited_seconds: number;
  heardAt?: number;
}

interface Gpu {
  index: number;
  uuid: string;
  name: string;
  total_memory: number;
  used_memory: number;
  free_memory: number;
  utilization: number | null;
  temperature: number | null;
  power_watts: number | null;
  reserved_memory: Record<string, number>;
  foreign_memory: number | null;
  room_for_models: number | null;
}

interface Row {
  id: string;
  at: number;
  key: string | null;
  model: string | null;
  agents: string[] | string | null;
  endpoint: string;
  prompt_tokens: number | null;
  cached_tokens: number | null;
  completion_tokens: number | null;
  queued_seconds: number | null;
  loaded_seconds: number | null;
  first_token_seconds: number | null;
  seconds: number;
  status: number;
  outcome: string;
  place: string | null;
  capture: boolean;
}

interface Live {
  connection: "connecting" | "live" | "lost" | "closed";
  failure: import("./static/gateway.js").GatewayError | null;
  models: Map<string, Model>;
  requests: Map<string, Running>;
  waiting: Waiting[];
  downloads: Download[];
  memory: { gpus: Gpu[]; gpu_error: string | null; host: { total_memory: number; available_memory: number } | null };
  version: string;
  startedAt: number;
}

/** A question or an answer of a conversation. */
interface Turn {
  role: "user" | "assistant";
  text: string;
  /** data URLs */
  images: string[];
  thought: string;
  /** of tools */
  calls: { name: string; text: string }[];
  state: "waiting" | "thinking" | "answering" | "done" | "stopped" | "failed";
  /** what the gateway says while one waits */
  comment: string;
  error: Error | null;
  /** tokens of the prompt and of the answer */
  asked: number | null;
  answered: number | null;
  /** seconds to the first token */
  first: number | null;
  /** tokens per second */
  speed: number | null;
  /** what was drawn of the text */
  blocks: Map<string, Child>;
}

interface Options {
  system: string;
  temperature: string;
  most: string;
  tools: string;
}

interface Usage {
  key?: string | null;
  model?: string | null;
  day?: string;
  requests: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  errors: number;
  seconds: number;
}

/** A line of a log. */
interface Line {
  at: number;
  level: string;
  text: string;
  all: any;
  nth: number;
}

/** A part of a bar or a column; `kind`: classes. */
interface Part {
  label: string;
  size: number;
  kind: string;
}

interface Hit {
  repo: string;
  downloads: number | null;
}

interface HubFiles {
  files: { name: string; variant: string; size: number; downloaded: boolean; memory: number | null; certainty: string | null; place: string | null }[];
  plan: any;
  error: string | null;
}
