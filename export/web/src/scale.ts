/** The scale of what a gate measures, logarithmic, with a threshold that can be moved. */
import type { Defence } from "./description";
import { byId, make } from "./dom";

/** Where values lie along a scale: ever further for higher ones; and back. */
interface Spacing {
  along(value: number): number;
  value(along: number): number;
}

/** Logarithmic in the value. */
const PLAIN: Spacing = { along: Math.log, value: Math.exp };

/** Logarithmic in what a cosine lacks of 1, as cosines crowd below it. */
const NEAR_ONE: Spacing = {
  along: (value) => -Math.log(Math.max(1 - value, 1e-6)),
  value: (along) => 1 - Math.exp(-along),
};

const MARGIN = Math.log(1.4);
const WIDE_MARGIN = Math.log(20); // around a threshold alone
const MOST_TICKS = 8;

export class Scale {
  private readonly slider = byId<HTMLInputElement>("threshold");
  private defence!: Defence;
  private spacing = PLAIN;
  private low = 0;
  private high = 1;

  /** moved: called with a threshold that the visitor chose. */
  constructor(moved: (threshold: number) => void) {
    this.slider.addEventListener("input", () => moved(this.take(this.spacing.value(this.slider.valueAsNumber))));
    byId("reset-threshold").addEventListener("click", () => moved(this.take(this.defence.config.tau_threshold)));
  }

  /** Shows a defence's gate, which measures what is a cosine or not, and a threshold of it. */
  use(defence: Defence, threshold: number, cosine: boolean): void {
    this.defence = defence;
    const { config, sample } = defence;
    this.spacing = cosine ? NEAR_ONE : PLAIN;
    const { clean = [], attacked = [] } = sample ?? {};
    const known = [...clean, ...attacked, config.tau_threshold].map(this.spacing.along);
    const margin = sample ? MARGIN : WIDE_MARGIN;
    this.low = Math.min(...known) - margin;
    this.high = Math.max(...known) + margin;
    this.slider.min = String(this.low);
    this.slider.max = String(this.high);
    byId("mark").replaceChildren();
    byId("ticks").replaceChildren(...this.ticks().map((tick) => this.at(make("span", {}, String(tick)), tick)));
    this.rug("clean", clean);
    this.rug("attacked", attacked);
    this.take(threshold);
  }

  /** Marks what was measured of a picture, at an end of the scale where it lies beyond. */
  show(measured: number): void {
    byId("mark").replaceChildren(this.at(make("span", { className: "mark" }, written(measured)), measured));
  }

  private take(threshold: number): number {
    const { config, sample } = this.defence;
    const { along } = this.spacing;
    // The calibrated threshold comes back exactly, not by way of its place on the scale.
    const calibrated = config.tau_threshold;
    const value = Math.abs(along(threshold) - along(calibrated)) < 1e-6 ? calibrated : threshold;
    this.slider.value = String(along(value));
    this.slider.setAttribute("aria-valuetext", written(value));
    byId("zone").style.width = `${100 * this.share(value)}%`;
    this.at(byId("sides"), value);
    byId("threshold-value").textContent =
      `${written(value)}${value === calibrated ? ", calibrated for this model" : ", not calibrated"}`;
    const share = (values: number[]) =>
      `${Math.round((100 * values.filter((measured) => measured < value).length) / values.length)} %`;
    byId("below").textContent = sample
      ? `Below this threshold lie ${share(sample.clean)} of the ${sample.clean.length} clean pictures of this scale and ` +
        `${share(sample.attacked)} of the same pictures attacked.`
      : "";
    return value;
  }

  /** At 1, 2 and 5 of each decade, or at decades alone where those are many: of the value, or what it lacks of 1. */
  private ticks(): number[] {
    const decades = Array.from({ length: 7 }, (_, k) => 10 ** (k - 6));
    const within = (steps: number[]) =>
      decades
        .flatMap((decade) => steps.map((step) => step * decade))
        .map((tick) => Number((this.spacing === NEAR_ONE ? 1 - tick : tick).toFixed(6)))
        .filter((tick) => this.low < this.spacing.along(tick) && this.spacing.along(tick) < this.high);
    const fine = within([1, 2, 5]);
    return fine.length > MOST_TICKS ? within([1]) : fine;
  }

  private rug(name: "clean" | "attacked", values: number[]): void {
    byId(`${name}-name`).textContent = values.length ? `${values.length} ${name}` : "";
    byId(`${name}-rug`).replaceChildren(...values.map((measured) => this.at(make("i"), measured)));
  }

  private at<E extends HTMLElement>(element: E, value: number): E {
    element.style.left = `${100 * this.share(value)}%`;
    return element;
  }

  private share(value: number): number {
    const share = (this.spacing.along(value) - this.low) / (this.high - this.low);
    return Math.min(1, Math.max(0, share));
  }
}

/** A measure or a threshold. */
export function written(measured: number): string {
  return measured.toFixed(4);
}
