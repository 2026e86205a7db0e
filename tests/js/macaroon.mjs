// Drives npm `macaroon` for tests: a JSON list of requests on stdin, a list of answers on stdout. Bytes are base64.
import { readFileSync } from "node:fs";
import macaroon from "macaroon";

const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const text = (data) => Buffer.from(data).toString("base64");
const read = (binary) => macaroon.importMacaroon(bytes(binary));

// exportBinary of 3.0.4 doubles its buffer at every append and so throws from four caveats on ("Invalid typed array
// length"). It writes the small ones, and a larger one is written here from what exportJSON says.
function write(made) {
  if (made.caveats.length <= 2) return text(made.exportBinary());
  const exported = made.exportJSON();
  const field = (tag, value) => {
    const length = value.length < 0x80 ? [value.length] : [(value.length & 0x7f) | 0x80, value.length >> 7];
    return Buffer.concat([Buffer.from([tag, ...length]), value]);
  };
  const value = (holder, name) =>
    name + "64" in holder ? Buffer.from(holder[name + "64"], "base64url") : Buffer.from(holder[name], "utf8");
  const section = (holder) =>
    Buffer.concat([
      holder.l ? field(1, Buffer.from(holder.l)) : Buffer.alloc(0),
      field(2, value(holder, "i")),
      "v64" in holder || typeof holder.v === "string" ? field(4, value(holder, "v")) : Buffer.alloc(0),
      Buffer.from([0]),
    ]);
  const parts = [Buffer.from([2]), section(exported), ...exported.c.map(section), Buffer.from([0])];
  return text(Buffer.concat([...parts, field(6, value(exported, "s"))]));
}

const operations = {
  mint({ key, identifier, location, caveats }) {
    const made = macaroon.newMacaroon({ version: 2, rootKey: bytes(key), identifier: bytes(identifier), location });
    caveats.forEach((caveat) => made.addFirstPartyCaveat(bytes(caveat)));
    return write(made);
  },
  attenuate({ binary, caveats }) {
    const made = read(binary);
    caveats.forEach((caveat) => made.addFirstPartyCaveat(bytes(caveat)));
    return write(made);
  },
  ask({ binary, location, key, identifier }) {
    const made = read(binary);
    made.addThirdPartyCaveat(bytes(key), bytes(identifier), location);
    return write(made);
  },
  bind({ binary, discharge }) {
    const bound = read(discharge);
    bound.bindToRoot(read(binary).signature);
    return write(bound);
  },
  verify({ binary, key, discharges }) {
    try {
      read(binary).verify(bytes(key), () => null, discharges.map(read));
      return true;
    } catch {
      return false;
    }
  },
};

const requests = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(requests.map(({ operation, ...rest }) => operations[operation](rest))));
