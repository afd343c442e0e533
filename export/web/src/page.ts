/** What the visitor holds: a picture, perhaps attacked, noise and a threshold; and what becomes of them. */
import { attacked } from "./attack";
import type { Answer, Classifier } from "./classifier";
import { decoded } from "./decode";
import { type Description, type Pair, fetched } from "./description";
import { byId, make } from "./dom";
import { DriftScale, written } from "./drift";
import { showLabels, top } from "./labels";
import type { Noise } from "./noise";
import { showMagnified, showPixels } from "./pictures";
import type { Pixels } from "./pixels";
import { Problem, words } from "./problem";
import { type Step, showSteps } from "./steps";

interface Subject {
  name: string;
  clean: Pixels;
  attacked?: Pixels;
  /** The class that it was drawn as. */
  label?: number;
}

/** What the page knows, for tests and the curious. */
export interface Known {
  pixels: Pixels;
  clean: Pixels;
  noise: Noise;
  threshold: number;
  answer: Answer;
}

declare global {
  interface Window {
    clipfast?: Known;
  }
}

const BUDGETS = [1, 2, 4]; // grey levels
const PAUSE = 60; // milliseconds between steps of an attack, to be seen

export class Page {
  private subject: Subject | undefined;
  private noise: Noise;
  private threshold: number;
  private stale = false;
  private picks = 0;
  private tasks = 0;
  private turn: Promise<unknown> = Promise.resolve();
  private readonly size: number;
  private readonly magnified: number;
  private readonly scale: DriftScale;

  /** draw: the start of a counterattack, anew at each call. */
  constructor(
    private readonly folder: string,
    private readonly description: Description,
    private readonly classifier: Classifier,
    private readonly draw: () => Noise,
  ) {
    const { config, preprocess, classnames } = description.metadata;
    this.size = preprocess.size[0];
    this.noise = draw();
    this.threshold = config.tau_threshold;
    this.magnified = Math.floor(127 / (255 * config.eps));
    this.scale = new DriftScale(
      description.sample.clean_drift,
      description.sample.attacked_drift,
      config.tau_threshold,
      (threshold) => {
        this.threshold = threshold;
        void this.refresh();
      },
    );
    byId("class-count").textContent = String(classnames.length);
    this.describe();
    this.gallery();
    this.budgets();
    this.files();
    byId("draw-noise").addEventListener("click", () => {
      this.noise = this.draw();
      void this.refresh();
    });
    byId("attack").addEventListener("click", () => void this.busy(() => this.attack()));
    byId("restore").addEventListener("click", () => {
      if (this.subject) this.take({ ...this.subject, attacked: undefined });
    });
  }

  /** Shows the first of the supplied pictures. */
  async open(): Promise<void> {
    const first = document.querySelector<HTMLInputElement>("#gallery input");
    if (first) first.checked = true;
    const pair = this.description.pictures[0];
    if (pair) await this.pick(() => this.supplied(pair, false));
  }

  private gallery(): void {
    const columns = make("div", { className: "thumbs" });
    for (const pair of this.description.pictures) {
      for (const kind of ["clean", "attacked"] as const) {
        const choice = make("input", { type: "radio", name: "supplied" });
        choice.addEventListener("change", () => void this.pick(() => this.supplied(pair, kind === "attacked")));
        const image = make("img", {
          src: `${this.folder}/${pair[kind]}`,
          alt: `${pair.label}, ${kind}`,
          title: `${pair.label}, ${kind}`,
        });
        columns.append(make("label", {}, choice, image));
      }
    }
    const { turned, brought_back, lost_clean, clean_drift } = this.description.sample;
    const first = this.description.pictures.filter((pair) => pair.brought_back).length;
    const words =
      `Of ${clean_drift.length} drawn pictures the attack turned ${turned}. With one draw of noise the defence brought ` +
      `${brought_back} of those back${first ? ` (the first ${first} here)` : ""} and made ${lost_clean} clean ones wrong.`;
    byId("gallery").append(columns, make("p", { className: "note" }, words));
  }

  private budgets(): void {
    const { eps, steps, step_size } = this.description.attack;
    for (const levels of BUDGETS) {
      const value = levels / 255;
      const checked = Math.abs(value - eps) < 1e-6;
      const choice = make("input", { type: "radio", name: "eps", value: String(value), defaultChecked: checked });
      byId("budget").append(make("label", {}, choice, ` ${levels}/255`));
    }
    byId("attack-words").textContent =
      `${steps} steps of ${Math.round(step_size * 255)}/255 up the gradient of the undefended model's loss (PGD), ` +
      "rounded to 8‑bit pictures. The attack does not know of the defence.";
  }

  private files(): void {
    const input = byId<HTMLInputElement>("file");
    byId("choose").addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      input.value = ""; // so that the same file may be chosen again
      if (file) void this.pick(() => this.file(file));
    });
    const over = (inside: boolean) => (event: DragEvent) => {
      event.preventDefault();
      byId("drop").classList.toggle("over", inside);
    };
    document.addEventListener("dragover", over(true));
    document.addEventListener("dragleave", over(false));
    document.addEventListener("drop", (event) => {
      over(false)(event);
      const file = event.dataTransfer?.files[0];
      void this.pick(async () => {
        if (!file) throw new Problem("expected a picture file, got something else");
        return this.file(file);
      });
    });
  }

  private async file(file: File): Promise<Subject> {
    const clean = await decoded(file, file.name, this.size);
    for (const choice of document.querySelectorAll<HTMLInputElement>("#gallery input")) choice.checked = false;
    return { name: file.name, clean };
  }

  private async supplied(pair: Pair, withAttack: boolean): Promise<Subject> {
    const read = async (name: string) => {
      const address = `${this.folder}/${name}`;
      return decoded(new Blob([await fetched(address)]), address, this.size);
    };
    const label = this.description.metadata.classnames.indexOf(pair.label);
    const subject: Subject = { name: pair.label, label, clean: await read(pair.clean) };
    if (withAttack) subject.attacked = await read(pair.attacked);
    return subject;
  }

  /** Takes the picture that was picked last, whichever comes last. */
  private pick(load: () => Promise<Subject>): Promise<void> {
    const pick = ++this.picks;
    return this.busy(async () => {
      const subject = await load();
      if (pick === this.picks) this.take(subject);
    });
  }

  private take(subject: Subject): void {
    this.subject = subject;
    this.noise = this.draw();
    byId("message").hidden = true;
    byId("steps").replaceChildren();
    void this.refresh();
  }

  /** Classifies what there is when its turn comes: one run for all calls until then. */
  private async refresh(): Promise<void> {
    if (this.stale) return;
    this.stale = true;
    await this.busy(() =>
      this.inTurn(async () => {
        this.stale = false;
        if (this.subject) await this.classify(this.subject);
      }),
    );
  }

  /** Models run one at a time; between two of them the page reacts. */
  private inTurn<T>(task: () => Promise<T>): Promise<T> {
    const run = this.turn.then(() => new Promise((done) => setTimeout(done))).then(task);
    this.turn = run.catch(() => undefined);
    return run;
  }

  private async classify(subject: Subject): Promise<Answer> {
    const { noise, threshold } = this;
    const pixels = subject.attacked ?? subject.clean;
    const answer = await this.classifier.classify(pixels, noise, threshold);
    if (subject === this.subject) this.show({ pixels, clean: subject.clean, noise, threshold, answer });
    return answer;
  }

  private async attack(): Promise<void> {
    if (!this.subject) return;
    const { attacked: _, ...clean } = this.subject;
    const { classnames } = this.description.metadata;
    const eps = Number(document.querySelector<HTMLInputElement>("#budget input:checked")?.value);
    const settings = { ...this.description.attack, eps };
    const labels = ({ undefendedLogits, logits }: Answer): Step => ({
      undefended: top(undefendedLogits, classnames)[0]!.index,
      defended: top(logits, classnames)[0]!.index,
    });
    let subject: Subject = clean;
    this.subject = subject;
    byId("steps").replaceChildren();
    const classify = (held: Subject) => this.inTurn(() => this.classify(held));
    const steps = [labels(await classify(subject))];
    const right = subject.label ?? steps[0]!.undefended;
    const gradient = await this.inTurn(() => this.classifier.gradient(right));
    const look = (pixels: Pixels) => this.inTurn(() => gradient(pixels));
    for await (const moved of attacked(look, subject.clean, settings)) {
      if (this.subject !== subject) return; // the visitor took another picture
      subject = this.subject = { ...subject, attacked: moved };
      steps.push(labels(await classify(subject)));
      if (this.subject !== subject) return;
      showSteps(byId("steps"), steps, settings.steps, right, classnames);
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  }

  private show(known: Known): void {
    window.clipfast = known;
    const { pixels, clean, answer, threshold } = known;
    const { classnames } = this.description.metadata;
    const subject = this.subject!;
    const labels = [answer.undefendedLogits, answer.logits].map((logits) => top(logits, classnames));
    const [undefended, defended] = labels as [ReturnType<typeof top>, ReturnType<typeof top>];
    const times = answer.defendedMs / answer.undefendedMs;
    const ms = (value: number) => `${value.toFixed(1)} ms`;
    showLabels(byId("undefended"), "Without the defence", undefended, ms(answer.undefendedMs), subject.label);
    const cost = `${ms(answer.defendedMs)}, ${times.toFixed(1)}×`;
    showLabels(byId("defended"), "With the defence", defended, cost, subject.label);
    this.scale.show(answer.drift);
    const [from, to] = [undefended[0]!.name, defended[0]!.name];
    byId("verdict").replaceChildren(
      make("strong", {}, answer.countered ? "Countered." : "Not countered."),
      ` Its drift, ${written(answer.drift)}, is ${answer.countered ? "below" : "not below"} the threshold ${written(threshold)}. ` +
        (from === to ? `The label stays ${to}.` : `The label goes from ${from} to ${to}.`),
    );
    this.showPictures(subject, pixels, clean, answer);
  }

  private showPictures(subject: Subject, pixels: Pixels, clean: Pixels, answer: Answer): void {
    const input = byId<HTMLCanvasElement>("input");
    const state = pixels === clean ? "" : ", attacked";
    showPixels(input, pixels, this.size);
    input.setAttribute("aria-label", `${subject.name}${state}`);
    byId("input-caption").textContent =
      `${subject.label === undefined ? subject.name : `drawn as ${subject.name}`}${state}`;
    const perturbation = pixels.map((value, i) => value - clean[i]!);
    showMagnified(byId<HTMLCanvasElement>("attack-picture"), perturbation, this.size, this.magnified);
    byId("attack-caption").textContent = pixels === clean ? "no attack" : `attack, × ${this.magnified}`;
    showMagnified(byId<HTMLCanvasElement>("delta"), answer.delta, this.size, this.magnified);
    byId("delta-caption").textContent =
      `${answer.countered ? "counterattack" : "start noise"}, × ${this.magnified}`;
    byId<HTMLButtonElement>("restore").disabled = pixels === clean;
  }

  private describe(): void {
    const { limits, versions, weights_sha256 } = this.description.metadata;
    byId("limits").textContent = limits;
    byId("about").textContent =
      `Exported by clipfast ${versions["clipfast"]}; weights ${weights_sha256.slice(0, 12)}. ` +
      "Runs in ONNX Runtime's WebAssembly build, on one thread.";
  }

  /** Runs a task with the page marked as busy, and says what went wrong. */
  private async busy(task: () => Promise<void>): Promise<void> {
    const main = document.querySelector("main")!;
    this.tasks += 1;
    main.setAttribute("aria-busy", "true");
    try {
      await task();
    } catch (error) {
      report(error);
    } finally {
      this.tasks -= 1;
      main.setAttribute("aria-busy", String(this.tasks > 0));
    }
  }
}

/** Shows what went wrong above the page. */
export function report(error: unknown): void {
  const message = byId("message");
  message.textContent = error instanceof Problem ? error.message : `Something went wrong: ${words(error)}`;
  message.hidden = false;
  message.scrollIntoView({ block: "nearest" });
}
