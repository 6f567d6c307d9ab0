"""What tests of the engine share: a function that does anything, and calls of it without the rest of the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from brolly.engines.deno import Engine, Invocation, Program

CODE = """
let query = "";
const refusals = {
  file: () => Deno.readTextFile("/etc/passwd"),
  itself: () => Deno.readTextFile("/proc/self/environ"),
  write: () => Deno.writeTextFile("/tmp/by-a-function", "x"),
  program: () => new Deno.Command("id").output(),
  environment: async () => Deno.hostname(),
  loopback: () => fetch("http://127.0.0.1:8080/"),
  written: () => fetch("http://2130706433:8080/"),
  name: () => Deno.connect({ hostname: "localhost", port: 8080 }),
  six: () => fetch("http://[::1]:8080/"),
  mapped: () => fetch("http://[::ffff:127.0.0.1]:8080/"),
  private: () => fetch("http://10.0.0.1/"),
  metadata: () => fetch("http://169.254.169.254/latest"),
  listen: async () => Deno.listen({ port: 0 }),
  sharedcache: () => caches.open("x"),
  module: () => import("http://127.0.0.1:8080/x.ts"),
  address: () => Deno.connect({ hostname: new URLSearchParams(query).get("to")!, port: 9 }),
  library: async () => Deno.dlopen("libc.so.6", {}),
};
export async function handler(request: Request, ctx: any) {
  const path = new URL(request.url).pathname.split("/").pop()!;
  const body = await request.text();
  if (path in refusals) {
    query = new URL(request.url).search;
    try { await refusals[path as keyof typeof refusals](); } catch (e) {
      return new Response(path === "address" ? e.message : e.name);
    }
    return new Response("it worked");
  }
  switch (path) {
    case "spin": for (;;);
    case "hang": await new Promise(() => {}); break;
    case "heap": { const all: unknown[] = []; for (;;) all.push(new Array(10_000).fill(Math.random())); }
    case "awaiting": { const all: unknown[] = []; for (;;) { all.push(new Array(10_000).fill(1.5)); await 0; } }
    case "push": { const all: unknown[] = []; for (;;) all.push(all.length); }
    case "block": { const all: unknown[] = []; for (;;) all.push(new Uint8Array(1e7).fill(1)); }
    case "buffers": {
      const all: unknown[] = [];
      for (;;) { all.push(new Uint8Array(2e7).fill(1)); await new Promise((r) => setTimeout(r, 5)); }
    }
    case "exit": Deno.exit(1);
    case "nothing": return;
    case "throw": throw new Error("on purpose");
    case "print": for (let i = 0; i < 2000; i++) console.log("x".repeat(50_000)); break;
    case "stray": Promise.reject(new Error("nobody waits for me")); break;
    case "later": ctx.waitUntil((async () => {
      await new Promise((r) => setTimeout(r, 200));
      console.log("late");
      await ctx.idempotency.claim("after");
    })()); break;
    case "leak": setTimeout(() => ctx.idempotency.claim("stolen").catch((e: any) => console.log(e.code)), 300); break;
    case "stream": return new Response(new ReadableStream({
      async pull(c) { c.enqueue(new TextEncoder().encode("tick\\n")); await new Promise((r) => setTimeout(r, 20)); },
    }));
    case "ask": await ctx.idempotency.claim("x"); break;
    case "bytes": return new Response(new Uint8Array([0, 255, 10]), { status: 201, headers: { "x-own": "yes" } });
    case "environ": return new Response([Deno.env.get("A"), process.env.A, ctx.env.A].join());
    case "socket": return new Response(String(await Array.fromAsync(Deno.readDir(body)).catch((e) => e.name)));
  }
  return Response.json({ method: request.method, url: request.url, body, user: ctx.user });
}
"""


class Calls:
    """Notes what is asked. ``gate`` keeps the first question waiting."""

    def __init__(self, gate: anyio.Event | None = None) -> None:
        self.gate = gate
        self.waits = anyio.Event()
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.closed = anyio.Event()

    async def ask(self, op: str, args: Mapping[str, Any]) -> Any:
        self.asked.append((op, args))
        if self.gate is not None and len(self.asked) == 1:
            self.waits.set()
            await self.gate.wait()
        return True

    async def close(self) -> None:
        self.closed.set()


def program(name: str = "main", code: str = CODE, **more: Any) -> Program:
    return Program("app_000000000000", name, code, {"A": "a secret"}, {"id": "app_000000000000"}, **more)


async def call(
    engine: Engine, path: str, made: Program | None = None, method: str = "POST", body: bytes = b"", calls: Any = None
) -> tuple[int, bytes, Any]:
    """Status, body and the answer's record."""
    about = {"user": {"id": "u1"}, "caller": {}, "trigger": {}}
    invocation = Invocation(
        method, f"http://brolly.test/fn/{path}", [("x-brolly-call", "forged")], body, about, calls or Calls()
    )
    async with engine.invoke(made or program(timeout=20), invocation) as answer:
        return answer.status, b"".join([chunk async for chunk in answer.body]), answer
