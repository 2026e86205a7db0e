// The vectors that hold for the Python SDK too, and what comes of input that is no token.
import { strict as assert } from "node:assert";
import crypto from "node:crypto";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";
import macaroon from "macaroon";
import { attenuate, inspect, TolseyError } from "./tolsey.js";

const read = (name) => JSON.parse(readFileSync(new URL(`../tests/vectors/${name}`, import.meta.url), "utf8"));
const { root_key, tokens } = read("tolsey.json");
const { nonce, delegations, inspections } = read("delegations.json");
const code = (wanted) => (error) => error instanceof TolseyError && error.code === wanted && error.message !== "";
const TEAM = tokens[0].text;

test("a child has the bytes that Python writes, or is refused with the same code", () => {
  const random = mock.method(crypto, "randomBytes", () => Buffer.from(nonce, "base64url"));
  for (const { parent, options, child, code: refused } of delegations) {
    const what = JSON.stringify(options);
    if (refused) assert.throws(() => attenuate(parent, options), code(refused), what);
    else assert.equal(attenuate(parent, options), child, what);
  }
  random.mock.restore();
});

test("a token says what Python says of it", () => {
  for (const { token, says } of inspections) {
    const { problems, ...found } = inspect(token);
    assert.deepEqual({ ...found, problems: problems.map((problem) => /^'(.*)': ./s.exec(problem)[1]) }, says);
  }
});

test("half a surrogate pair is refused", () => {
  assert.throws(() => attenuate(TEAM, { label: "a\ud800" }), code("caveat_invalid"));
  assert.ok(attenuate(TEAM, { label: "a\u{1f600}" }));
});

test("equal children are two accounts", () => {
  const [first, second] = [1, 2].map(() => inspect(attenuate(TEAM, { label: "twin", budget: "5 USD" })));
  assert.notEqual(first.prefix_id, second.prefix_id);
  assert.notEqual(first.links.at(-1).nonce, second.links.at(-1).nonce);
});

test("another library verifies what was handed on three times", () => {
  let token = TEAM;
  for (const budget of ["500 USD", "50 USD", "5 USD"]) token = attenuate(token, { label: "next", budget, scope: "/api/v1/search" });
  const made = macaroon.importMacaroon(Buffer.from(token.slice(7), "base64url"));
  made.verify(Buffer.from(root_key), () => null);
  assert.throws(() => made.verify(Buffer.from("another key"), () => null));
});

test("every spelling of a token is read", () => {
  const bare = TEAM.slice(7);
  for (const form of [bare, ` ${TEAM}\n`, Buffer.from(bare, "base64url").toString("base64")]) {
    assert.equal(inspect(form).prefix_id, inspect(TEAM).prefix_id);
    assert.ok(attenuate(form, { label: "child" }).startsWith("tolsey_"));
  }
});

test("a token with discharges is looked at and not handed on", () => {
  const { text, parts } = tokens.find(({ name }) => name === "an approval, discharged");
  for (const form of [text, parts.join(","), parts.join(", ")]) {
    assert.equal(inspect(form).discharges, 1);
    assert.throws(() => attenuate(form, { label: "child" }), code("token_malformed"));
  }
});

test("a caveat that is not UTF-8, or hides behind a byte order mark, is a problem", () => {
  const made = macaroon.newMacaroon({ version: 2, rootKey: root_key, identifier: "i" });
  for (const bytes of ["purpose = \xff", "\xef\xbb\xbfbudget = 5 USD"]) made.addFirstPartyCaveat(Buffer.from(bytes, "latin1"));
  const seen = inspect(Buffer.from(made.exportBinary()).toString("base64url"));
  assert.deepEqual([seen.problems.length, seen.budgets], [2, []]);
});

test("what is no token is refused", () => {
  const bytes = Buffer.from(TEAM.slice(7), "base64url");
  const cut = [...bytes.keys()].map((end) => bytes.subarray(0, end).toString("base64url"));
  const turned = [...bytes.keys()].flatMap((at) => [0x00, 0x7f, 0x80, 0xff].map((byte) => {
    const copy = Buffer.from(bytes);
    copy[at] = byte;
    return copy.toString("base64url");
  }));
  for (const text of ["", "tolsey_", "x", "not a token", "A".repeat(100_000), ",", `${TEAM},`, undefined, null, 7, ...cut]) {
    assert.throws(() => inspect(text), code("token_malformed"), String(text));
    assert.throws(() => attenuate(text, { label: "child" }), code("token_malformed"), String(text));
  }
  for (const text of turned) {
    for (const use of [inspect, (token) => attenuate(token, { label: "child" })]) {
      try {
        use(text);
      } catch (error) {
        assert.ok(error instanceof TolseyError, `${text}: ${error.stack}`);
      }
    }
  }
});
