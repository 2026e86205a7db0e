// Hand on a narrower token, offline, and see what a token says. No key, no config, no network; npm `macaroon` computes
// the signatures. What is written here, `tolsey attenuate` writes too, byte for byte.

import crypto from "node:crypto";
import macaroon from "macaroon";
import { parse, TolseyError, wider } from "./caveats.js";

export { TolseyError };

const PREFIX = "tolsey_";
const LIMITS = { tokenBytes: 8192, caveats: 64, caveatBytes: 1024, links: 32, accounts: 32, discharges: 8 };
const SIGNATURE = 6;
const TAIL = 35; // The end of the caveats, the signature's tag and length, and its 32 bytes.
const OPENS_ACCOUNT = new Set(["budget", "calls", "rate"]);

const utf8 = new TextEncoder();
const isFirstParty = (caveat) => caveat.vid === undefined;
const textOf = (bytes) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
const malformed = (message) => new TolseyError("token_malformed", message);
const invalid = (message) => new TolseyError("caveat_invalid", message);

/** Where the v2 macaroon that begins at `at` ends: npm `macaroon` reads one alone. */
function endOf(bytes, at) {
  const next = () => {
    if (at >= bytes.length) throw malformed("the token is cut off");
    return bytes[at++];
  };
  if (next() !== 2) throw malformed("the token is not a v2 macaroon");
  for (;;) {
    const tag = next();
    if (tag === 0) continue;
    let [length, byte] = [0, 0x80];
    for (let shift = 0; byte & 0x80; shift += 7) {
      if (shift > 21) throw malformed("a length in the token is too large");
      byte = next();
      length |= (byte & 0x7f) << shift;
    }
    at += length;
    if (at > bytes.length) throw malformed("the token is cut off");
    if (tag === SIGNATURE) return at;
  }
}

/** The bytes of a token and of each discharge behind it. */
function read(token) {
  const parts = String(token).trim().split(",");
  if (parts.length > LIMITS.discharges + 1) throw malformed(`a token has at most ${LIMITS.discharges} discharges`);
  return parts.flatMap((part) => {
    const text = part.trim().replace(/^tolsey_/, "");
    if (text.length > LIMITS.tokenBytes * 2) throw malformed(`a token has at most ${LIMITS.tokenBytes} bytes`);
    const bytes = new Uint8Array(Buffer.from(text, "base64url"));
    if (!/^[A-Za-z0-9+/_-]+={0,2}$/.test(text) || !bytes.length) throw malformed("the token is not base64");
    if (bytes.length > LIMITS.tokenBytes) throw malformed(`a token has at most ${LIMITS.tokenBytes} bytes`);
    const found = [];
    for (let at = 0; at < bytes.length; at += found.at(-1).length) found.push(bytes.slice(at, endOf(bytes, at)));
    return found;
  });
}

function importOne(bytes) {
  if (bytes.at(-TAIL) !== 0 || bytes.at(1 - TAIL) !== SIGNATURE || bytes.at(2 - TAIL) !== 32) {
    throw malformed("a signature has 32 bytes");
  }
  try {
    return macaroon.importMacaroon(bytes);
  } catch {
    throw malformed("the token is not a macaroon");
  }
}

/** The caveats of one Link: `label` first, `budget` last, so that the token's prefix id is the account's. */
function compose({ label, budget, scope, expires, caveats = [] }) {
  if (typeof label !== "string" || !label || label !== label.trim()) {
    throw invalid("label: a label is not empty and has no white space around it");
  }
  const nonce = crypto.randomBytes(9).toString("base64url");
  const texts = [`label = ${label} ${nonce}`];
  if (scope !== undefined) texts.push(`scope = ${scope}`);
  if (expires !== undefined) texts.push(`expires = ${expires}`);
  texts.push(...caveats);
  if (budget !== undefined) texts.push(`budget = ${budget}`);
  const made = texts.map(parse);
  if (labels(made) > 1) throw invalid("label: one Link has one label");
  return [...made.filter(({ name }) => name !== "budget"), ...made.filter(({ name }) => name === "budget")];
}

/** What a first-party caveat means; undefined, and a line in `problems`, for one that is not understood. */
function tried({ identifier }, problems) {
  const text = textOf(identifier);
  try {
    if (Buffer.compare(utf8.encode(text), identifier)) throw invalid("a caveat is not UTF-8");
    return parse(text);
  } catch (error) {
    if (!(error instanceof TolseyError)) throw error;
    problems.push(`'${text}': ${error.message}`);
    return undefined;
  }
}

const count = (caveats, names) => caveats.filter(({ name }) => names.has(name)).length;
const labels = (caveats) => count(caveats, new Set(["label"]));

function checkNarrower(made, held) {
  const depths = held.flatMap((caveat, at) => (caveat.name === "depth" ? [caveat.links - labels(held.slice(at))] : []));
  const left = Math.min(LIMITS.links, ...depths) - 1;
  if (left < 0) throw new TolseyError("caveat_wider", "the parent may not be handed on: its depth allows no further Link");
  for (const caveat of made) {
    const deeper = caveat.name === "depth" && depths.length > 0 && caveat.links > left;
    const above = held.findLast((earlier) => wider(caveat, earlier));
    if (deeper || above) {
      const has = above ? `it has ${above.shown}` : `${left} Links may follow this one`;
      throw new TolseyError("caveat_wider", `'${caveat.text}' is wider than its parent: ${has}`);
    }
  }
}

function checkLimits(all, number, bytes) {
  if (number > LIMITS.caveats) throw invalid(`a token has at most ${LIMITS.caveats} caveats`);
  if (1 + labels(all) > LIMITS.links) throw invalid(`a token has at most ${LIMITS.links} Links`);
  if (count(all, OPENS_ACCOUNT) > LIMITS.accounts) throw invalid(`a token has at most ${LIMITS.accounts} budgets, calls and rates`);
  if (bytes.length > LIMITS.tokenBytes) throw invalid(`a token has at most ${LIMITS.tokenBytes} bytes`);
}

/** A narrower token for a sub-agent. See tolsey.d.ts. */
export function attenuate(token, options) {
  const [bytes, ...discharges] = read(token);
  if (discharges.length) throw malformed("more than one macaroon stands here");
  const root = importOne(bytes);
  const held = root.caveats.filter(isFirstParty).flatMap((caveat) => tried(caveat, []) ?? []);
  const made = compose(options);
  checkNarrower(made, held);
  const pieces = [bytes.slice(0, -TAIL)];
  for (const { text } of made) {
    const cid = utf8.encode(text);
    if (cid.length > LIMITS.caveatBytes) throw invalid(`a caveat has at most ${LIMITS.caveatBytes} bytes`);
    root.addFirstPartyCaveat(cid);
    const length = cid.length < 0x80 ? [cid.length] : [(cid.length & 0x7f) | 0x80, cid.length >> 7];
    pieces.push(Uint8Array.from([2, ...length]), cid, Uint8Array.of(0));
  }
  const whole = Buffer.concat([...pieces, Uint8Array.of(0, SIGNATURE, 32), root.signature]);
  checkLimits([...held, ...made], root.caveats.length, whole);
  return PREFIX + whole.toString("base64url");
}

/** What a token says, unverified. See tolsey.d.ts. */
export function inspect(token) {
  const [root, ...discharges] = read(token).map(importOne);
  const links = [{ label: null, nonce: null, caveats: [] }];
  const [known, problems, thirdParties] = [[], [], []];
  for (const caveat of root.caveats) {
    if (!isFirstParty(caveat)) {
      thirdParties.push(caveat.location);
      links.at(-1).caveats.push(`third party: ${caveat.location}`);
      continue;
    }
    const meaning = tried(caveat, problems);
    if (meaning) known.push(meaning);
    if (meaning?.name === "label") links.push({ label: meaning.label, nonce: meaning.nonce, caveats: [] });
    else links.at(-1).caveats.push(textOf(caveat.identifier));
  }
  const named = (name) => known.filter((caveat) => caveat.name === name);
  return {
    identifier: textOf(root.identifier),
    prefix_id: crypto.createHash("sha256").update(root.signature).digest("hex").slice(0, 32),
    links: links.filter((link, number) => number || link.caveats.length),
    expires: least(named("expires"))[0] ?? null,
    budgets: least(named("budget")),
    calls: least(named("calls")),
    rates: least(named("rate")),
    max_prices: least(named("max-price")),
    scope: named("scope").map(({ shown }) => shown),
    method: named("method").map(({ shown }) => shown),
    third_parties: thirdParties,
    discharges: discharges.length,
    problems,
    verified: false,
  };
}

/** The least of each kind, as it is shown. */
function least(caveats) {
  const found = new Map();
  for (const caveat of caveats) if (!(found.get(caveat.kind)?.most <= caveat.most)) found.set(caveat.kind, caveat);
  return [...found.values()].map(({ shown }) => shown);
}
