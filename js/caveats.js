// What first-party caveats mean, as far as a holder needs to know: whether a gateway will understand one, and for
// amounts, counts, times and depth, which of two is the narrower. `src/tolsey/token/caveats.py` has the whole of it.

/** What went wrong, with the `code` that the command line and the Python SDK have too. */
export class TolseyError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "TolseyError";
    this.code = code;
  }
}

const NANO = 1_000_000_000n;
const MAX_NANO = 2n ** 63n - 1n;
const UNITS = new Set("USD EUR GBP CHF JPY CAD AUD CNY INR BRL sat call credit".split(" "));
const PERIODS = new Set(["hour", "day", "week", "month"]);
const RATE_PERIODS = new Set(["second", "minute", "hour", "day"]);
const METHODS = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
const FIRST_MS = Date.parse("0001-01-01T00:00:00Z");
const LAST_MS = Date.parse("9999-12-31T23:59:59Z");

const invalid = (message) => new TolseyError("caveat_invalid", message);

function check(good, message) {
  if (!good) throw invalid(message);
}

function amount(name, text) {
  check(text.length <= 64, `${name}: an amount has at most 64 characters`);
  const found = /^(0|[1-9][0-9]{0,18})(?:\.([0-9]{1,9}))?\s+([A-Za-z]+)$/.exec(text);
  check(found, `${name}: write a number and a unit, as in '0.01 USD'`);
  const nano = BigInt(found[1]) * NANO + BigInt((found[2] ?? "").padEnd(9, "0"));
  check(UNITS.has(found[3]), `${name}: unknown unit ${found[3]}`);
  check(nano <= MAX_NANO, `${name}: the amount is too large`);
  return { nano, unit: found[3] };
}

function plain({ nano, unit }) {
  const fraction = (nano % NANO).toString().padStart(9, "0").replace(/0+$/, "");
  return `${nano / NANO}${fraction && "."}${fraction} ${unit}`;
}

// What a number with a period is compared by: `most` among those of the same `kind`.
function budget(value) {
  const [text, period] = parted(value);
  check(period === undefined || PERIODS.has(period), "budget: the period is hour, day, week or month");
  const found = amount("budget", text);
  const shown = plain(found) + (period ? `/${period}` : "");
  return { kind: `${found.unit}/${period}`, most: found.nano, shown };
}

function calls(value) {
  const [text, period] = parted(value);
  check(/^(0|[1-9]\d{0,9})$/.test(text) && BigInt(text) <= MAX_NANO / NANO, "calls: write a whole number");
  check(period === undefined || PERIODS.has(period), "calls: the period is hour, day, week or month");
  return { kind: `${period}`, most: BigInt(text), shown: text + (period ? `/${period}` : "") };
}

function rate(value) {
  const [text, period] = parted(value);
  check(/^[1-9]\d{0,6}$/.test(text) && BigInt(text) <= 1_000_000n, "rate: write a number of calls from 1 to 1000000");
  check(RATE_PERIODS.has(period), "rate: the period is second, minute, hour or day");
  return { kind: period, most: BigInt(text), shown: `${text}/${period}` };
}

function maxPrice(value) {
  const found = amount("max-price", value);
  return { kind: found.unit, most: found.nano, shown: plain(found) };
}

function parted(value) {
  const at = value.indexOf("/");
  return at < 0 ? [value] : [value.slice(0, at).trim(), value.slice(at + 1).trim()];
}

function expires(value) {
  const found = /^(\d{4}-\d\d-\d\d)(?:[Tt]((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d))?$/.exec(value);
  const day = found ? Date.parse(`${found[1]}T00:00:00Z`) : NaN;
  const real = !Number.isNaN(day) && new Date(day).toISOString().startsWith(found[1]) && day >= FIRST_MS;
  check(real, "expires: write a date (2026-06-30) or an RFC 3339 time (2026-06-30T18:00:00Z)");
  if (found[2] === undefined) return instant(day + 86_400_000, "");
  const zone = /^[Zz]$/.test(found[4]) ? "Z" : found[4];
  const at = Date.parse(`${found[1]}T${found[2]}${zone}`);
  check(!Number.isNaN(at), "expires: the offset is not one");
  return instant(at, found[3] ?? "");
}

function instant(ms, fraction) {
  const shown = new Date(Math.min(Math.max(ms, FIRST_MS), LAST_MS)).toISOString().replace(".000Z", "Z");
  return { kind: "", most: BigInt(ms) * 1_000_000n + BigInt(fraction.padEnd(9, "0")), shown };
}

function depth(value) {
  check(/^(0|[1-9]\d{0,3})$/.test(value), "depth: write a whole number of Links, from 0");
  return { links: Number(value) };
}

function label(value) {
  check(new TextEncoder().encode(value).length <= 128, "label: at most 128 bytes");
  const at = value.lastIndexOf(" ");
  return at < 0 ? { label: value, nonce: null } : { label: value.slice(0, at).trimEnd(), nonce: value.slice(at + 1) };
}

const alternatives = (value) => value.split(/\s+/).map((word) => word.replace(/,$/, ""));

const each = (name, form) => (value) => {
  const words = alternatives(value);
  check(words.every((word) => form(word)), `${name}: '${value.slice(0, 64)}' is not written as it should be`);
  return { shown: words.join(name === "method" ? ", " : " ") };
};

// Segments, each `*` or free of it, and a query of visible ASCII.
const SCOPE = /^(\/(\*|([!"$&-),-.0->@-[\]-~+]|%[0-9A-Fa-f]{2})*))+(\?[!"$-:<-~]+)?$/;

const glob = (word) => /^[A-Za-z0-9_.:/@+*-]+$/.test(word);

const PARSERS = {
  label,
  budget,
  calls,
  rate,
  "max-price": maxPrice,
  expires,
  depth,
  method: each("method", (word) => METHODS.has(word)),
  scope: each("scope", (word) => SCOPE.test(word) && !/^[^?]*(\/\/|\/\.{1,2}(\/|\?|$))/.test(word)),
  upstream: each("upstream", glob),
  model: each("model", glob),
  tool: each("tool", glob),
  tag: each("tag", (word) => /^[a-z][a-z0-9-]{0,31}=[A-Za-z0-9_.:/@+*-]+$/.test(word)),
  peer: each("peer", (word) => /^[0-9A-Fa-f.:]+(\/\d{1,3})?$/.test(word)),
  purpose: () => ({}),
};

/** Read one caveat: its `name` and what its value means. Throws `caveat_invalid`. */
export function parse(text) {
  check(!/[\p{Cc}\p{Cs}\u2028\u2029]/u.test(text), "a caveat holds a character that it may not");
  const found = /^ *([a-z][a-z-]{0,31}) *=(.*)$/s.exec(text);
  check(found, "a caveat is written 'name = value', the name in lower case");
  const [, name] = found;
  const value = found[2].replace(/^ +| +$/g, "");
  check(value, `${name}: the value is missing`);
  check(Object.hasOwn(PARSERS, name), `'${name}' is not a caveat that is known here`);
  return { name, text, ...PARSERS[name](value) };
}

/** Whether `made` would allow more than `held` does; false also where only the gateway can tell. */
export function wider(made, held) {
  return made.name === held.name && made.most !== undefined && made.kind === held.kind && made.most > held.most;
}
