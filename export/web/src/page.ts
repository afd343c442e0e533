/** What the visitor holds: a picture, perhaps attacked, a defence, noise and a threshold; and what becomes of them. */
import { attacked } from "./attack";
import type { Answer, Classifier } from "./classifier";
import { decoded } from "./decode";
import { type Defence, type Description, type Pair, fetched } from "./description";
import { byId, make } from "./dom";
import { showLabels, top } from "./labels";
import type { Noise } from "./noise";
import { showMagnified, showPixels } from "./pictures";
import type { Pixels } from "./pixels";
import { Problem, words } from "./problem";
import type { Runtime } from "./runtime";
import { Scale, written } from "./scale";
import { type Step, showSteps } from "./steps";

interface Subject {
  name: string;
  clean: Pixels;
  attacked?: Pixels;
  /** Its class, where that is known. */
  label?: number;
}

/** What a defence is given beside a picture. */
interface Setting {
  noise: Noise;
  threshold: number;
}

/** What the page knows, for tests and the curious. */
export interface Known extends Setting {
  /** In words. */
  runtime: string;
  preset: string;
  pixels: Pixels;
  clean: Pixels;
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
  private defence: Defence;
  private readonly settings: Map<Defence, Setting>;
  private stale = false;
  private picks = 0;
  private tasks = 0;
  private turn: Promise<unknown> = Promise.resolve();
  private readonly size: number;
  private readonly scale: Scale;

  /** draw: the start of a counterattack within eps, anew at each call. */
  constructor(
    private readonly folder: string,
    private readonly description: Description,
    private readonly runtime: Runtime,
    private readonly classifier: Classifier,
    private readonly draw: (eps: number) => Noise,
  ) {
    const { metadata, defences } = description;
    byId("page").classList.add("empty");
    this.size = metadata.preprocess.size[0];
    this.settings = new Map(
      defences.map((defence) => {
        const { eps, tau_threshold: threshold } = defence.config;
        return [defence, { noise: draw(eps), threshold }];
      }),
    );
    this.scale = new Scale((threshold) => {
      this.setting.threshold = threshold;
      void this.refresh();
    });
    this.describe();
    this.gallery();
    this.choices();
    this.budgets();
    this.files();
    this.defence = defences[0];
    this.explain();
    byId("draw-noise").addEventListener("click", () => {
      this.setting.noise = this.draw(this.defence.config.eps);
      void this.refresh();
    });
    byId("attack").addEventListener("click", () => void this.busy(() => this.attack()));
    byId("restore").addEventListener("click", () => {
      if (this.subject) this.take({ ...this.subject, attacked: undefined });
    });
  }

  /** Shows the first of the supplied pictures, if there are any. */
  async open(): Promise<void> {
    const first = document.querySelector<HTMLInputElement>("#gallery input");
    if (first) first.checked = true;
    const pair = this.description.pictures[0];
    await (pair ? this.pick(() => this.supplied(pair, false)) : this.busy(async () => {}));
  }

  /** Of the defence that is chosen. */
  private get setting(): Setting {
    return this.settings.get(this.defence)!;
  }

  private choices(): void {
    const { defences } = this.description;
    for (const defence of defences) {
      const choice = make("input", { type: "radio", name: "defence", defaultChecked: defence === defences[0] });
      choice.addEventListener("change", () => void this.busy(() => this.defend(defence, choice)));
      byId("defence").append(make("label", {}, choice, ` ${defence.title}`));
    }
  }

  /** Takes a defence, once its model is there, for the picture as it is; an attack that goes on ends. */
  private async defend(defence: Defence, choice: HTMLInputElement): Promise<void> {
    const before = document.querySelectorAll<HTMLInputElement>("#defence input");
    try {
      await this.inTurn(() => this.classifier.prepare(defence));
    } catch (error) {
      const kept = this.description.defences.indexOf(this.defence);
      if (choice.checked) before[kept]!.checked = true;
      throw error;
    }
    if (!choice.checked) return; // another one was chosen meanwhile
    this.defence = defence;
    this.explain();
    if (this.subject) this.subject = { ...this.subject };
    byId("message").hidden = true;
    byId("steps").replaceChildren();
    await this.refresh();
  }

  /** What is said of the defence that is chosen, whatever the picture. */
  private explain(): void {
    const { measure, config, sample, stages, preset, randomised } = this.defence;
    const { turned, pictures, words } = this.description;
    byId("stages").replaceChildren(
      ...Object.entries(stages).flatMap(([name, words]) => [make("dt", {}, name), make("dd", {}, words)]),
    );
    byId("measure").hidden = !measure;
    if (measure) {
      byId("measure-heading").textContent = `${capitalised(measure.name)} and its threshold`;
      const others = config.pass_through === "noise" ? "are answered with noise" : "are answered as they came";
      byId("measure-words").textContent =
        `Pictures whose ${measure.name} is below the threshold are countered. The others ${others}.` +
        (sample ? ` On ${sample.clean.length} ${words.pictures} ${sample.separation}.` : "");
      this.scale.use(this.defence, this.setting.threshold, measure.cosine);
    }
    byId("draw-noise").hidden = !randomised;
    if (!sample) return;
    const here = pictures.filter((pair) => pair.brought_back.includes(preset)).length;
    byId("gallery-words").textContent =
      `Of ${sample.clean.length} ${words.pictures} the attack turned ${turned}. This defence brought ` +
      `${sample.brought_back} of those back (${here} of the ${pictures.length} here) and made ` +
      `${sample.lost_clean} clean ones wrong${randomised ? ", with one draw of noise" : ""}.`;
  }

  private gallery(): void {
    byId("gallery").hidden = this.description.pictures.length === 0;
    byId("gallery-title").textContent = `${capitalised(this.description.words.pictures)}, clean above and attacked below`;
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
    byId("gallery").append(columns, make("p", { className: "note", id: "gallery-words" }));
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
    for (const [{ config }, setting] of this.settings) setting.noise = this.draw(config.eps);
    byId("message").hidden = true;
    byId("page").classList.remove("empty");
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
    const { defence } = this;
    const { noise, threshold } = this.setting;
    const pixels = subject.attacked ?? subject.clean;
    const answer = await this.classifier.classify(defence, pixels, noise, threshold);
    if (subject === this.subject) {
      const { title: runtime } = this.runtime;
      this.show({ runtime, preset: defence.preset, pixels, clean: subject.clean, noise, threshold, answer });
    }
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
      if (this.subject !== subject) return; // the visitor took another picture or defence
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
    const { measure } = this.defence;
    if (measure) this.scale.show(answer.drift);
    const [from, to] = [undefended[0]!.name, defended[0]!.name];
    const below = answer.countered ? "below" : "not below";
    const gated = measure && [
      make("strong", {}, answer.countered ? "Countered." : "Not countered."),
      ` Its ${measure.name}, ${written(answer.drift)}, is ${below} the threshold ${written(threshold)}. `,
    ];
    const label = from === to ? `The label stays ${to}.` : `The label goes from ${from} to ${to}.`;
    byId("verdict").replaceChildren(...(gated ?? []), label);
    this.showPictures(subject, pixels, clean, answer);
  }

  private showPictures(subject: Subject, pixels: Pixels, clean: Pixels, answer: Answer): void {
    const input = byId<HTMLCanvasElement>("input");
    const state = pixels === clean ? "" : ", attacked";
    showPixels(input, pixels, this.size);
    input.setAttribute("aria-label", `${subject.name}${state}`);
    byId("input-caption").textContent =
      `${subject.label === undefined ? subject.name : `${this.description.words.labelled} ${subject.name}`}${state}`;
    const magnified = Math.floor(127 / (255 * this.defence.config.eps));
    const perturbation = pixels.map((value, i) => value - clean[i]!);
    showMagnified(byId<HTMLCanvasElement>("attack-picture"), perturbation, this.size, magnified);
    byId("attack-caption").textContent = pixels === clean ? "no attack" : `attack, × ${magnified}`;
    showMagnified(byId<HTMLCanvasElement>("delta"), answer.delta, this.size, magnified);
    const added = answer.countered ? "counterattack" : "noise";
    byId("delta-caption").textContent = answer.delta.some((value) => value !== 0)
      ? `${added}, × ${magnified}`
      : "nothing added";
    byId<HTMLButtonElement>("restore").disabled = pixels === clean;
  }

  private describe(): void {
    const { limits, versions, weights_sha256 } = this.description.metadata;
    const { words } = this.description;
    byId("knows").textContent = `The model knows ${words.knows}, and nothing else.`;
    byId("model-limits").textContent = words.limits;
    byId("limits").textContent = limits;
    byId("about").textContent =
      `Exported by clipfast ${versions["clipfast"]}; weights ${weights_sha256.slice(0, 12)}.`;
    byId("ran").textContent = this.runtime.title;
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

function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Shows what went wrong above the page. */
export function report(error: unknown): void {
  const message = byId("message");
  message.textContent = error instanceof Problem ? error.message : `Something went wrong: ${words(error)}`;
  message.hidden = false;
  message.scrollIntoView({ block: "nearest" });
}
