// Verifies signed answers as clients in JavaScript do: JSON.parse, JSON.stringify of the payload, and the
// signature over that, with WebCrypto. Reads a JSON array of answers (as texts) on standard input, and
// writes a JSON array of those that did not verify. Exits 1 if there is one.

import { webcrypto } from "node:crypto";
import { text } from "node:stream/consumers";

const { subtle } = webcrypto;
const P256 = { name: "ECDSA", namedCurve: "P-256" };

async function verifies(answer) {
  const { payload, signature } = JSON.parse(answer);
  const identity = payload.access.serverIdentity;
  if (!identity.startsWith("1AAI") || !signature.startsWith("0I")) return false;
  const point = Buffer.from(identity.slice(4), "base64url");
  const bytes = Buffer.from("AA" + signature.slice(2), "base64url").subarray(2);
  const key = await subtle.importKey("raw", point, P256, false, ["verify"]);
  const message = new TextEncoder().encode(JSON.stringify(payload));
  return subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, bytes, message);
}

const failed = [];
for (const answer of JSON.parse(await text(process.stdin))) {
  if (!(await verifies(answer))) failed.push(answer);
}
console.log(JSON.stringify(failed));
process.exit(failed.length === 0 ? 0 : 1);
