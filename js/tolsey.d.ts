/** What went wrong. The codes are those of the command line. */
export class TolseyError extends Error {
  readonly code: "token_malformed" | "caveat_invalid" | "caveat_wider";
}

export interface Narrower {
  /** The name of the new Link. A random nonce is added, so that two equal children are two accounts. */
  label: string;
  /** The most that it may spend, as in `"50 USD"` or `"20 USD/day"`. */
  budget?: string;
  /** A path pattern, or several separated by spaces, as in `"/api/v1/search?source=arxiv"`. */
  scope?: string;
  /** A date (its end, UTC) or an RFC 3339 time. */
  expires?: string;
  /** Any others, as in `"method = GET"`. */
  caveats?: readonly string[];
}

export interface UnverifiedLink {
  label: string | null;
  nonce: string | null;
  caveats: string[];
}

/** What a token says, with the members of `tolsey inspect --json`. Only its gateway can tell whether it is genuine. */
export interface Inspection {
  identifier: string;
  /** The public name of the token, in the trail and for revoking; it can be logged. */
  prefix_id: string;
  links: UnverifiedLink[];
  /** The earliest end, RFC 3339. */
  expires: string | null;
  /** The least limits, one for each unit and period; `calls`, `rates` and `max_prices` likewise. */
  budgets: string[];
  calls: string[];
  rates: string[];
  max_prices: string[];
  /** The alternatives of each caveat, all of which must allow a call. */
  scope: string[];
  method: string[];
  third_parties: string[];
  discharges: number;
  /** The caveats that a gateway will refuse. */
  problems: string[];
  verified: false;
}

/**
 * A narrower token for a sub-agent, offline.
 *
 * Throws `TolseyError`: `token_malformed` if the token cannot be read (v1 macaroons are not), `caveat_invalid` if a
 * caveat is not one that is known, and `caveat_wider` if an amount, a count, a rate, a time or a depth is more than the
 * token has. That a scope, a method, a glob or a network is wider is not noticed here; the narrower one holds all the
 * same.
 */
export function attenuate(token: string, options: Narrower): string;

/** Say what a token amounts to, without verifying it. Throws `token_malformed`. */
export function inspect(token: string): Inspection;
