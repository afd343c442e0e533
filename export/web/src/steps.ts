/** How an attack went: one column a step, with and without the defence. */
import { make } from "./dom";

/** The labels after a step; step 0 is the picture as it was. */
export interface Step {
  undefended: number;
  defended: number;
}

/** right: the class that the attack leads away from. */
export function showSteps(place: HTMLElement, steps: Step[], planned: number, right: number, classnames: string[]): void {
  const numbers = Array.from({ length: planned + 1 }, (_, k) => k);
  const row = (name: string, cell: (k: number) => HTMLElement) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...numbers.map(cell));
  const labels = (kind: keyof Step) => (k: number) => {
    const step = steps[k];
    if (!step) return make("td", { className: "pending" });
    const hit = step[kind] === right;
    const name = classnames[step[kind]]!;
    return make("td", { className: hit ? "right" : "wrong", title: `${name}, step ${k}` }, hit ? "✓" : "✗");
  };
  place.replaceChildren(
    make(
      "table",
      {},
      make("thead", {}, row("step", (k) => make("th", { scope: "col" }, String(k)))),
      make("tbody", {}, row("without", labels("undefended")), row("with", labels("defended"))),
    ),
    make("p", {}, `Without the defence: ${told(steps, "undefended", classnames)}.`),
    make("p", {}, `With it: ${told(steps, "defended", classnames)}.`),
  );
}

/** "red heart, from step 2 on brown arrow". */
function told(steps: Step[], kind: keyof Step, classnames: string[]): string {
  const changes = steps.map((step, k) => ({ label: step[kind], k })).filter(({ label, k }) => k === 0 || label !== steps[k - 1]![kind]);
  return changes.map(({ label, k }) => `${k ? `from step ${k} on ` : ""}${classnames[label]}`).join(", ");
}
