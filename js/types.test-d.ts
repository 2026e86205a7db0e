// Compiled and never run: what a TypeScript agent writes, and what it must not be able to write.
import { attenuate, inspect, TolseyError, type Inspection, type Narrower } from "tolsey";

const options: Narrower = { label: "worker", budget: "50 USD", caveats: ["method = GET"] as const };
const child: string = attenuate("tolsey_…", options);
const seen: Inspection = inspect(child);
const budgets: string[] = seen.budgets;
const unverified: false = seen.verified;
const code = (error: TolseyError): "token_malformed" | "caveat_invalid" | "caveat_wider" => error.code;

// @ts-expect-error a label is needed
attenuate(child, { budget: "50 USD" });
// @ts-expect-error an amount has a unit
attenuate(child, { label: "worker", budget: 50 });
// @ts-expect-error there is no such option
attenuate(child, { label: "worker", limit: "50 USD" });

export { budgets, code, unverified };
