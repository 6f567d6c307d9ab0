// One function in an isolate of its own: serves its socket, and gives the handler its ctx.
//
// What the handler may do is decided by the host, which knows each call by a token of its own: whatever
// code runs here can ask only for what the calls that it was given may do.
/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
import { AsyncLocalStorage } from "node:async_hooks";
import { getHeapStatistics } from "node:v8";

interface Init {
  key: string;
  module: string;
  socket: string;
  host: string;
  secret: string;
  memory: number;
  env: Record<string, string>;
  app: Record<string, unknown>;
}

/** What the host sends with each request, in the header x-brolly-call. */
interface Call {
  token: string;
  url: string;
  user: { id: string; [claim: string]: unknown } | null;
  caller: Record<string, unknown>;
  trigger: Record<string, unknown>;
}

interface Line {
  level: string;
  message: string;
  timestamp: string;
}

interface Run {
  token: string;
  lines: Line[];
  cut: number;
  sent: number;
  timer: boolean;
  answered: boolean;
  pending: Set<Promise<unknown>>;
}

type Json = unknown;
type Handler = (request: Request, ctx: unknown) => unknown;

const MOST_LINES = 100;
const LONGEST_LINE = 10_000;
const HEADER_BYTES = 6_000;
/** Lines of a call that has no answer yet go out this often: it may never have one. */
const LINES_MS = 300;

const runs = new AsyncLocalStorage<Run>();
const encoder = new TextEncoder();
const { stringify, parse } = JSON;
const inspect = Deno.inspect;
const ResponseClass = Response;
// Taken before the module could put its own in the place.
const post = self.postMessage.bind(self);
const statistics = getHeapStatistics;
const [every, never, afterwards] = [setInterval, clearInterval, setTimeout];
const LOOK_MS = 50;
let proof = "";

// --- memory ---------------------------------------------------------------------------------------------

let limit = Infinity;
let busy = 0;
let looking: ReturnType<typeof setInterval> | undefined;

/** Bytes in the heap and beside it. Looked at between two turns of the loop; who never awaits is seen from outside. */
function memory(): number {
  const told = statistics();
  return told.used_heap_size + told.external_memory;
}

function enter(): void {
  if (!busy++) looking = every(() => memory() > limit && post({ full: true, proof }), LOOK_MS);
}

function leave(): void {
  if (!--busy) never(looking);
}

// --- the host -------------------------------------------------------------------------------------------

class HostError extends Error {
  code: string;
  details: unknown;
  remediation?: string;
  constructor(error: { code: string; message: string; remediation?: string; details?: unknown }) {
    super(error.message);
    this.name = "BrollyError";
    this.code = error.code;
    this.remediation = error.remediation;
    this.details = error.details;
  }
}

class Host {
  #connection!: Deno.UnixConn;
  #waiting = new Map<number, { resolve: (value: Json) => void; reject: (error: Error) => void }>();
  #next = 1;
  #sending = Promise.resolve();

  async open(init: Init): Promise<void> {
    this.#connection = await Deno.connect({ transport: "unix", path: init.host });
    this.#write({ hello: init.secret });
    this.#read();
  }

  call(token: string, op: string, args: Json): Promise<Json> {
    const id = this.#next++;
    // Where the question was asked: the answer comes from another turn of the loop.
    const asked = new Error();
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, {
        resolve,
        reject: (error) => {
          error.stack = `${error.name}: ${error.message}\n${asked.stack?.split("\n").slice(1).join("\n") ?? ""}`;
          reject(error);
        },
      });
      this.#write({ id, call: token, op, args });
    });
  }

  #write(message: unknown): void {
    const bytes = encoder.encode(stringify(message) + "\n");
    this.#sending = this.#sending.then(async () => {
      for (let at = 0; at < bytes.length;) at += await this.#connection.write(bytes.subarray(at));
    });
    this.#sending.catch(() => self.close());
  }

  async #read(): Promise<void> {
    let open: string[] = [];
    try {
      for await (const text of this.#connection.readable.pipeThrough(new TextDecoderStream())) {
        const parts = text.split("\n");
        open.push(parts.shift()!);
        for (const part of parts) {
          this.#settle(parse(open.join("")));
          open = [part];
        }
      }
    } finally {
      self.close();
    }
  }

  #settle(answer: { id: number; value?: Json; error?: ConstructorParameters<typeof HostError>[0] }): void {
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if (answer.error) waiting?.reject(new HostError(answer.error));
    else waiting?.resolve(answer.value);
  }
}

const host = new Host();

// --- ctx ------------------------------------------------------------------------------------------------

interface As {
  role: "user" | "anon";
  id?: string;
}

/** JSON has no bigint and no bytes: bigints go as text, which Postgres reads, bytes as its hex form. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Uint8Array) return "\\x" + Array.from(value, (b) => b.toString(16).padStart(2, "0")).join("");
  if (value === undefined) return null;
  return value;
}

interface Database {
  query: (sql: string, params?: unknown[]) => Promise<Json>;
}

function database(token: string) {
  const through = (target: { as?: As; transaction?: string }): Database => ({
    query: (sql, params = []) => host.call(token, "db.query", { sql, params: params.map(plain), ...target }),
  });
  const transaction = async <T>(work: (db: Database) => T, as?: As): Promise<T> => {
    const opened = await host.call(token, "db.begin", { as }) as { transaction: string };
    let result: T;
    try {
      result = await work(through(opened));
    } catch (error) {
      await host.call(token, "db.rollback", opened).catch(() => {});
      throw error;
    }
    await host.call(token, "db.commit", opened);
    return result;
  };
  const as = (who: As) => <T>(work?: (db: Database) => T) => work ? transaction(work, who) : through({ as: who });
  return {
    ...through({}),
    transaction: <T>(work: (db: Database) => T) => transaction(work),
    asUser: <T>(id: string, work?: (db: Database) => T) => as({ role: "user", id })(work),
    asAnon: <T>(work?: (db: Database) => T) => as({ role: "anon" })(work),
  };
}

function context(init: Init, call: Call, run: Run, request: Request) {
  const ask = (op: string) => (args: Json) => host.call(call.token, op, args);
  return {
    db: database(call.token),
    env: { ...init.env },
    user: call.user,
    caller: call.caller,
    trigger: call.trigger,
    app: init.app,
    request,
    waitUntil: (promise: Promise<unknown>) => later(run, promise),
    idempotency: {
      claim: (key: string, options: { scope?: string; ttlSeconds?: number } = {}) =>
        host.call(call.token, "idempotency.claim", { key, ...options }),
    },
    invoke: (name: string, body?: unknown, options: Record<string, unknown> = {}) =>
      host.call(call.token, "invoke", { name, body: body === undefined ? null : body, options }),
    ai: {
      chat: (body: Record<string, unknown>) =>
        body.stream ? eventStream(call.token, body) : host.call(call.token, "ai.chat", { body }),
      embed: (input: unknown, options: Record<string, unknown> = {}) =>
        host.call(call.token, "ai.embed", { body: { input, ...options } }),
    },
    rag: {
      query: (collection: string, query: string, options: Record<string, unknown> = {}) =>
        host.call(call.token, "rag.query", { body: { ...options, collection, query } }),
      ingest: (collection: string, document: Record<string, unknown>) =>
        host.call(call.token, "rag.ingest", { body: { ...document, collection } }),
    },
    storage: {
      uploadUrl: ask("storage.upload_url"),
      downloadUrl: (object: string | Record<string, unknown>) =>
        host.call(call.token, "storage.download_url", typeof object === "string" ? { object_id: object } : object),
    },
  };
}

/** A model's answer as it comes, in a Response that may be handed on as it is. */
async function eventStream(token: string, body: Record<string, unknown>): Promise<Response> {
  const opened = await host.call(token, "ai.open", { body }) as { stream: string };
  const encoder = new TextEncoder();
  const frames = new ReadableStream<Uint8Array>({
    async pull(controller) {
      let data: string;
      try {
        const { chunk } = await host.call(token, "ai.next", opened) as { chunk: Json };
        data = chunk === null ? "[DONE]" : JSON.stringify(chunk);
        controller.enqueue(encoder.encode(`data: ${data}\n\n`));
        if (chunk === null) controller.close();
      } catch (error) {
        const { message, code } = error as { message: string; code?: string };
        controller.enqueue(encoder.encode(`data: ${JSON.stringify({ error: { message, code } })}\n\n`));
        controller.close();
      }
    },
    async cancel() {
      await host.call(token, "ai.close", opened).catch(() => {});
    },
  });
  return new Response(frames, { headers: { "content-type": "text/event-stream; charset=utf-8" } });
}

function later(run: Run, promise: Promise<unknown>): void {
  const kept = Promise.resolve(promise).catch((error) => note(run, "error", [error])).finally(() => {
    run.pending.delete(kept);
    if (run.answered) finish(run);
  });
  run.pending.add(kept);
}

/** After the answer: later lines go to the host, and the last promise ends the call. */
function finish(run: Run): void {
  if (run.sent < run.lines.length) {
    const lines = run.lines.slice(run.sent);
    run.sent = run.lines.length;
    host.call(run.token, "log", { lines, cut: run.cut }).catch(() => {});
  }
  if (!run.pending.size) host.call(run.token, "finished", {}).catch(() => {});
}

/** Before the answer: the lines so far go to the host. */
function tell(run: Run): void {
  if (run.answered || run.sent === run.lines.length) return;
  const lines = run.lines.slice(run.sent);
  run.sent = run.lines.length;
  const told: Promise<unknown> = host.call(run.token, "log", { lines }).catch(() => {}).finally(() => {
    run.pending.delete(told);
    if (run.answered) finish(run);
  });
  run.pending.add(told);
}

// --- console --------------------------------------------------------------------------------------------

function note(run: Run | undefined, level: string, values: unknown[]): void {
  if (!run) return;
  if (run.lines.length >= MOST_LINES) return void run.cut++;
  let message = "";
  for (const value of values) {
    message += (message ? " " : "") + (typeof value === "string" ? value : readable(value));
    if (message.length > LONGEST_LINE) break;
  }
  run.lines.push({ level, message: message.slice(0, LONGEST_LINE), timestamp: new Date().toISOString() });
  if (run.answered) return queueMicrotask(() => finish(run));
  if (run.timer) return;
  run.timer = true;
  afterwards(() => {
    run.timer = false;
    tell(run);
  }, LINES_MS);
}

function readable(value: unknown): string {
  if (value instanceof Error) return mapped(value.stack ?? String(value));
  return inspect(value, { depth: 6, iterableLimit: 100, strAbbreviateSize: LONGEST_LINE });
}

function listen(): void {
  const levels = { log: "info", info: "info", debug: "debug", trace: "debug", warn: "warn", error: "error" };
  const target = console as unknown as Record<string, unknown>;
  for (const [name, level] of Object.entries(levels)) {
    target[name] = (...values: unknown[]) => note(runs.getStore(), level, values);
  }
  target.table = target.dir = (...values: unknown[]) => note(runs.getStore(), "info", values);
  target.assert = (test: unknown, ...values: unknown[]) => {
    if (!test) note(runs.getStore(), "error", ["Assertion failed", ...values]);
  };
}

// --- serving --------------------------------------------------------------------------------------------

let shown = "";
let moduleUrl = "";

/** A stack as the author knows the file, without our own frames. */
function mapped(stack: string): string {
  const ours = import.meta.url;
  return stack.split("\n").filter((line) => !line.includes(ours) && !line.includes("ext:")).join("\n")
    .replaceAll(moduleUrl, shown);
}

function headerOf(run: Run): string {
  const text = stringify({ lines: run.lines.slice(run.sent), cut: run.cut });
  const bytes = encoder.encode(text);
  if (bytes.length > HEADER_BYTES) return "";
  run.sent = run.lines.length;
  return btoa(String.fromCharCode(...bytes));
}

function respond(run: Run, response: Response, failed = false): Response {
  const headers = new Headers(response.headers);
  for (const name of [...headers.keys()]) if (name.startsWith("x-brolly-")) headers.delete(name);
  if (failed) headers.set("x-brolly-failed", "1");
  const lines = run.lines.length ? headerOf(run) : "";
  if (lines) headers.set("x-brolly-lines", lines);
  // Lines that are too many for a header keep the call open until they are sent, as promises do.
  if (run.pending.size || run.sent < run.lines.length) headers.set("x-brolly-pending", "1");
  run.answered = true;
  if (run.sent < run.lines.length) finish(run);
  return new ResponseClass(response.body, { status: response.status, statusText: response.statusText, headers });
}

function failed(run: Run, error: unknown): Response {
  const known = error instanceof Error;
  const body = {
    message: (known ? `${error.name}: ${error.message}` : inspect(error)).slice(0, LONGEST_LINE),
    stack: known ? mapped(error.stack ?? "").slice(0, LONGEST_LINE) : "",
    code: error instanceof HostError ? error.code : undefined,
    remediation: error instanceof HostError ? error.remediation : undefined,
  };
  return respond(run, ResponseClass.json(body, { status: 500 }), true);
}

async function answer(init: Init, handler: Handler, incoming: Request): Promise<Response> {
  const call: Call = parse(decodeURIComponent(incoming.headers.get("x-brolly-call")!));
  const headers = new Headers(incoming.headers);
  headers.delete("x-brolly-call");
  const request = new Request(call.url, {
    method: incoming.method,
    headers,
    body: incoming.body,
    signal: incoming.signal,
  });
  const run: Run = { token: call.token, lines: [], cut: 0, sent: 0, timer: false, answered: false, pending: new Set() };
  enter();
  return await runs.run(run, async () => {
    try {
      const result = await handler(request, context(init, call, run, request));
      if (result instanceof ResponseClass) return respond(run, result);
      throw new TypeError(
        `The handler must return a Response; it returned ${result === undefined ? "nothing" : inspect(result)}.`,
      );
    } catch (error) {
      return failed(run, error);
    } finally {
      leave();
    }
  });
}

function handlerOf(module: Record<string, unknown>): Handler {
  const own = module.default as Handler | { fetch?: Handler } | undefined;
  const found = module.handler ?? (typeof own === "function" ? own : own?.fetch?.bind(own));
  if (typeof found !== "function") {
    throw new TypeError("The module exports no handler: write `export async function handler(request, ctx)`.");
  }
  return found as Handler;
}

function settings(env: Record<string, string>): void {
  const access = {
    get: (name: string) => env[name],
    has: (name: string) => name in env,
    toObject: () => ({ ...env }),
    set: (name: string, value: string) => void (env[name] = value),
    delete: (name: string) => void delete env[name],
  };
  Object.defineProperty(Deno, "env", { value: access });
  Object.defineProperty(process, "env", { value: env });
}

async function start(init: Init): Promise<void> {
  shown = `${init.key.split("@")[0]}.ts`;
  moduleUrl = init.module;
  await host.open(init);
  settings({ ...init.env });
  listen();
  self.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    note(runs.getStore(), "error", ["Unhandled rejection:", event.reason]);
  });
  self.addEventListener("error", (event) => {
    event.preventDefault();
    note(runs.getStore(), "error", ["Uncaught", event.error]);
  });
  const handler = handlerOf(await import(init.module));
  Deno.serve({
    path: init.socket,
    onListen: () => post({ ready: true, proof: init.secret }),
    onError: () => new ResponseClass(null, { status: 500 }),
  }, (request) => answer(init, handler, request));
}

self.onmessage = (event: MessageEvent<Init & { ping?: boolean }>) => {
  const told = event.data;
  if (told.ping) return post({ pong: true, memory: memory(), proof });
  proof = told.secret;
  limit = told.memory * 2 ** 20;
  start(told).catch((error) => {
    const known = error instanceof Error;
    post({
      proof,
      error: { message: known ? mapped(error.message) : inspect(error), stack: known ? mapped(error.stack ?? "") : "" },
    });
  });
};
