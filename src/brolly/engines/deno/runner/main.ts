// The supervisor of one app's functions: loads each into a worker of its own and ends those that hang.
//
// It reads one line from stdin ({host, key}), connects to that unix socket and takes orders there, a JSON
// object a line. The end of that connection ends the process. Workers may neither read stdin's first line,
// which is gone by then, nor reach anything but their own sockets, of which the host's is gone by then, too.

interface Order {
  id: number;
  op: "load" | "unload" | "ping";
  key: string;
  module: string;
  socket: string;
  host: string;
  secret: string;
  memory: number;
  env: Record<string, string>;
  app: Record<string, unknown>;
}

interface Loaded {
  worker: Worker;
  answer: (value: { ready?: unknown; error?: unknown } | null) => void;
  pings: ((memory: number) => void)[];
}

const loaded = new Map<string, Loaded>();
const encoder = new TextEncoder();

async function* lines(source: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  for await (const text of source.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n");
    rest = parts.pop()!;
    yield* parts;
  }
}

async function firstLine(): Promise<{ host: string; key: string }> {
  // Byte by byte: what follows must stay unread.
  const bytes: number[] = [];
  const one = new Uint8Array(1);
  while (await Deno.stdin.read(one) === 1 && one[0] !== 10) bytes.push(one[0]);
  return JSON.parse(new TextDecoder().decode(new Uint8Array(bytes)));
}

const { host, key } = await firstLine();
const connection = await Deno.connect({ transport: "unix", path: host });
let sending = Promise.resolve();

function send(message: unknown): void {
  const bytes = encoder.encode(JSON.stringify(message) + "\n");
  sending = sending.then(async () => {
    for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
  }).catch(() => Deno.exit(0));
}

function load(order: Order): void {
  unload(order.key);
  const worker = new Worker(new URL("./worker.ts", import.meta.url), {
    type: "module",
    name: order.key,
    // @ts-ignore: Deno's own option
    deno: {
      permissions: {
        net: "inherit",
        read: [order.host, order.socket, new URL(order.module)],
        write: [order.host, order.socket],
        import: "inherit",
        env: false,
        run: false,
        ffi: false,
        sys: false,
      },
    },
  });
  const entry: Loaded = { worker, answer: (value) => send({ ready: Boolean(value?.ready), error: value?.error, id: order.id }), pings: [] };
  loaded.set(order.key, entry);
  worker.onmessage = (event) => {
    const told = event.data;
    // The module has postMessage too: what does not know the key is not our half's word.
    if (told?.proof !== order.secret) return;
    if (told.pong) entry.pings.splice(0).forEach((answer) => answer(told.memory));
    else if (told.full) {
      entry.answer({ error: { message: "It needs more memory than it may have." } });
      if (loaded.get(order.key) === entry) unload(order.key);
      send({ event: "full", key: order.key });
    } else {
      entry.answer(told);
      entry.answer = () => {};
    }
  };
  worker.onerror = (event) => {
    event.preventDefault();
    entry.answer({ error: { message: event.message } });
    if (loaded.get(order.key) === entry) loaded.delete(order.key);
    worker.terminate();
    send({ event: "ended", key: order.key });
  };
  worker.postMessage(order);
}

function unload(name: string): void {
  loaded.get(name)?.worker.terminate();
  loaded.delete(name);
}

function ping(order: Order): void {
  const entry = loaded.get(order.key);
  if (!entry) return send({ id: order.id, gone: true });
  entry.pings.push((memory) => send({ id: order.id, alive: true, memory }));
  entry.worker.postMessage({ ping: true });
}

send({ hello: key });
for await (const line of lines(connection.readable)) {
  const order: Order = JSON.parse(line);
  if (order.op === "load") load(order);
  else if (order.op === "ping") ping(order);
  else {
    unload(order.key);
    send({ id: order.id });
  }
}
Deno.exit(0);
