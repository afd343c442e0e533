/** The most probable labels as bars. */
import { make } from "./dom";

const SHOWN = 5;

export interface Label {
  index: number;
  name: string;
  probability: number;
}

/** The most probable classes, best first: of softmax(logits). */
export function top(logits: Float32Array, classnames: string[]): Label[] {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (z) => Math.exp(z - highest));
  const total = powers.reduce((sum, p) => sum + p, 0);
  return powers
    .map((p, index) => ({ index, name: classnames[index]!, probability: p / total }))
    .sort((a, b) => b.probability - a.probability)
    .slice(0, SHOWN);
}

/** right: the class that would be right, where one is known. */
export function showLabels(
  place: HTMLElement,
  title: string,
  labels: Label[],
  milliseconds: string,
  right: number | undefined,
): void {
  const best = labels[0]!;
  const list = make("ol");
  for (const { name, probability } of labels) {
    const bar = make("span", { className: "bar" }, make("span"));
    (bar.firstChild as HTMLElement).style.width = `${100 * probability}%`;
    list.append(make("li", {}, make("span", {}, name), bar, make("span", { className: "number" }, percent(probability))));
  }
  const mark = right === undefined ? "" : best.index === right ? "✓" : "✗";
  const verdict = mark === "" ? "" : mark === "✓" ? "right" : "wrong";
  place.replaceChildren(
    make("h3", {}, title, " ", make("span", { className: "time" }, milliseconds)),
    make("p", { className: `best ${verdict}` }, `${best.name} `, make("span", { title: verdict }, mark)),
    list,
  );
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
