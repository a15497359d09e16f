// Sample app in TypeScript: answers POST /foo/bar. It knows nothing of the protocol; the edge before it does.
//
// Usage: node --input-type=module - [ADDRESS:PORT [SECRET_FILE]] < server.ts
//        (without arguments: 127.0.0.1 and the port in PORT; from node 22.18 on `node server.ts` does too)
//
// With SECRET_FILE only requests whose header `keelson-edge-secret` holds that secret are answered.
//
// Every type here is inferred (`tsc` in strict mode agrees), so there is no annotation to strip, and
// node 18 and 20, which cannot strip them, run the file as it stands: no compiler, nothing to download.

import { timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const LONGEST_BODY = 1 << 20; // bytes; what an edge forwards by default

const [listen = `127.0.0.1:${process.env["PORT"] ?? "3000"}`, secretFile] = process.argv.slice(2);
const secret = secretFile === undefined ? undefined : readFileSync(secretFile, "utf8").trimEnd();

const isFromEdge = (given = "") => {
  if (secret === undefined) return true;
  const [a, b] = [Buffer.from(given), Buffer.from(secret)];
  return a.length === b.length && timingSafeEqual(a, b);
};

const answerTo = (body = "") => {
  const request = JSON.parse(body);
  if (request?.foo === undefined || request?.bar === undefined) throw new SyntaxError("foo or bar is missing");
  return { wasFoo: request.foo, wasBar: request.bar, serverName: "typescript" };
};

const server = createServer(async (request, response) => {
  const answer = (status = 200, value = {}) => {
    const body = JSON.stringify(value);
    const head = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    response.writeHead(status, head).end(body);
  };
  let body = Buffer.alloc(0);
  for await (const chunk of request) {
    body = Buffer.concat([body, chunk]);
    if (body.length > LONGEST_BODY) {
      response.shouldKeepAlive = false;
      return answer(413, { error: "the body is too large" });
    }
  }
  const given = request.headers["keelson-edge-secret"];
  if (!isFromEdge(typeof given === "string" ? given : "")) {
    return answer(403, { error: "only the edge may call this app" });
  }
  if (request.url?.split("?")[0] !== "/foo/bar") return answer(404, { error: "no such path" });
  if (request.method !== "POST") return answer(405, { error: "POST only" });
  try {
    answer(200, answerTo(body.toString("utf8")));
  } catch {
    answer(400, { error: "the body must be a JSON object with foo and bar" });
  }
});

server.keepAliveTimeout = 75_000; // longer than the edge keeps an idle connection
const colon = listen.lastIndexOf(":");
server.listen(Number(listen.slice(colon + 1)), listen.slice(0, colon));
process.on("SIGTERM", () => {
  server.close();
  server.closeIdleConnections();
});
