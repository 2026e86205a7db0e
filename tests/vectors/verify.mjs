// Checks tolsey.json without a line of Tolsey: HMACs by node:crypto, formats and verification by npm `macaroon`.
// Prints how many tokens it checked; throws at the first difference.
import { strict as assert } from "node:assert";
import { createHash, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const macaroon = createRequire(new URL("../js/", import.meta.url))("macaroon");
const { root_key, tokens } = JSON.parse(readFileSync(new URL("tolsey.json", import.meta.url), "utf8"));

const hmac = (key, ...data) => createHmac("sha256", key).update(Buffer.concat(data.map((d) => Buffer.from(d)))).digest();
const prefixId = (mac) => createHash("sha256").update(mac).digest("hex").slice(0, 32);
const decode = (text) => Buffer.from(text.replace(/^tolsey_/, ""), "base64url");
const utf8 = (data) => Buffer.from(data).toString("utf8");

function checkRoot(token, root) {
  const caveats = [...token.minted, ...token.appended];
  let mac = hmac(hmac("macaroons-key-generator", root_key), token.identifier);
  const names = [prefixId(mac)];
  root.caveats.forEach((caveat, n) => {
    if (caveat.vid) {
      assert.equal(utf8(caveat.identifier), caveats[n].identifier);
      assert.equal(caveat.location, caveats[n].location);
      assert.equal(Buffer.from(caveat.vid.slice(0, 24)).toString("hex"), caveats[n].nonce);
      mac = hmac(mac, hmac(mac, caveat.vid), hmac(mac, caveat.identifier));
    } else {
      assert.equal(utf8(caveat.identifier), caveats[n]);
      mac = hmac(mac, caveat.identifier);
    }
    names.push(prefixId(mac));
  });
  assert.equal(root.caveats.length, caveats.length);
  assert.equal(utf8(root.identifier), token.identifier);
  assert.ok(token.identifier.endsWith(`:${token.minted.length}`));
  assert.equal(Buffer.from(root.signature).toString("hex"), token.signature);
  assert.equal(mac.toString("hex"), token.signature);
  assert.deepEqual(names, token.prefix_ids);
}

function checkMint(token) {
  const made = macaroon.newMacaroon({ version: 2, rootKey: root_key, identifier: token.identifier });
  [...token.minted, ...token.appended].forEach((caveat) => made.addFirstPartyCaveat(caveat));
  assert.equal(Buffer.from(made.signature).toString("hex"), token.signature);
}

for (const token of tokens) {
  const parts = token.parts.map(decode);
  assert.deepEqual(decode(token.text), Buffer.concat(parts));
  const [root, ...discharges] = parts.map((part) => macaroon.importMacaroon(new Uint8Array(part)));
  checkRoot(token, root);
  if (token.appended.every((caveat) => typeof caveat === "string")) checkMint(token);

  assert.deepEqual(discharges.map((d) => d.caveats.map((c) => utf8(c.identifier))), token.discharges.map((d) => d.caveats));
  const verify = (key) => root.verify(Buffer.from(key), () => null, discharges);
  const verdicts = token.calls.map((call) => call.verdict);
  if (verdicts.every((verdict) => verdict.startsWith("discharge_"))) assert.throws(() => verify(root_key));
  else verify(root_key);
  assert.throws(() => verify(root_key + "!"));
}
console.log(`${tokens.length} tokens`);
