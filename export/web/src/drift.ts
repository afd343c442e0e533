/** The scale of drifts, logarithmic, with a threshold that can be moved. */
import { byId, make } from "./dom";

const TICKS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];

export class DriftScale {
  private readonly low: number;
  private readonly high: number;
  private readonly slider = byId<HTMLInputElement>("threshold");

  /** clean, attacked: drifts of a sample. moved: called with a threshold that the visitor chose. */
  constructor(
    private readonly clean: number[],
    private readonly attacked: number[],
    private readonly calibrated: number,
    moved: (threshold: number) => void,
  ) {
    const known = [...clean, ...attacked, calibrated];
    this.low = Math.min(...known) / 1.4;
    this.high = Math.max(...known) * 1.4;
    this.slider.min = String(Math.log(this.low));
    this.slider.max = String(Math.log(this.high));
    this.slider.addEventListener("input", () => moved(this.take(Math.exp(this.slider.valueAsNumber))));
    byId("reset-threshold").addEventListener("click", () => moved(this.take(calibrated)));
    for (const tick of TICKS.filter((value) => this.low < value && value < this.high)) {
      byId("ticks").append(this.at(make("span", {}, String(tick)), tick));
    }
    this.rug("clean", clean);
    this.rug("attacked", attacked);
    this.take(calibrated);
  }

  /** Marks a picture's drift, at an end of the scale where it lies beyond. */
  show(drift: number): void {
    byId("drift-mark").replaceChildren(this.at(make("span", { className: "mark" }, written(drift)), drift));
  }

  private take(threshold: number): number {
    // The calibrated threshold comes back exactly, not as the logarithm's exponential.
    const value = Math.abs(threshold / this.calibrated - 1) < 1e-6 ? this.calibrated : threshold;
    this.slider.value = String(Math.log(value));
    this.slider.setAttribute("aria-valuetext", written(value));
    byId("zone").style.width = `${100 * this.share(value)}%`;
    this.at(byId("sides"), value);
    byId("threshold-value").textContent =
      `${written(value)}${value === this.calibrated ? ", calibrated for this model" : ", not calibrated"}`;
    const share = (drifts: number[]) =>
      `${Math.round((100 * drifts.filter((drift) => drift < value).length) / drifts.length)} %`;
    byId("below").textContent =
      `Below this threshold lie ${share(this.clean)} of the ${this.clean.length} clean pictures drawn for this scale ` +
      `and ${share(this.attacked)} of the same pictures attacked.`;
    return value;
  }

  private rug(name: "clean" | "attacked", drifts: number[]): void {
    byId(`${name}-name`).textContent = `${drifts.length} ${name}`;
    byId(`${name}-rug`).append(...drifts.map((drift) => this.at(make("i"), drift)));
  }

  private at<E extends HTMLElement>(element: E, value: number): E {
    element.style.left = `${100 * this.share(value)}%`;
    return element;
  }

  private share(value: number): number {
    const share = Math.log(value / this.low) / Math.log(this.high / this.low);
    return Math.min(1, Math.max(0, share));
  }
}

/** A drift or a threshold. */
export function written(drift: number): string {
  return drift.toFixed(4);
}
