/** What `models.py` says in classifier.json of the models and pictures beside it. */
import { Problem, words } from "./problem";

/** A drawn picture and the same one attacked, as addresses of 8-bit PNG files. */
export interface Pair {
  label: string;
  background: string;
  clean: string;
  attacked: string;
}

/** eps, step_size: in [0, 1] pixel units. */
export interface AttackSettings {
  eps: number;
  step_size: number;
  steps: number;
}

export interface Description {
  metadata: {
    classnames: string[];
    config: { eps: number; tau_threshold: number };
    preprocess: { size: [number, number]; interpolation: string; resize_mode: string };
    weights_sha256: string;
    versions: Record<string, string>;
    limits: string;
  };
  attack: AttackSettings;
  pictures: Pair[];
  /** Drift of pictures drawn as the supplied ones are, for the scale. */
  drift: { clean: number[]; attacked: number[] };
}

/** Throws a Problem where the file is missing, or is not what `models.py` writes. */
export async function readDescription(folder: string): Promise<Description> {
  const address = `${folder}/classifier.json`;
  const text = new TextDecoder().decode(await fetched(address));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Problem(`${address}: expected JSON as models.py writes it: ${words(error)}`);
  }
  const description = value as Description;
  for (const [name, holds] of checks(description)) {
    if (!holds()) throw new Problem(`${address}: expected ${name}, as models.py writes it`);
  }
  return description;
}

/** The bytes of a file of this page. Throws a Problem where the server does not give it. */
export async function fetched(address: string): Promise<ArrayBuffer> {
  let answer: Response;
  try {
    answer = await fetch(address);
    if (answer.ok) return await answer.arrayBuffer();
  } catch (error) {
    throw new Problem(`cannot read ${address}: ${words(error)}`);
  }
  const hint = answer.status === 404 ? "; `python export/web/models.py --out …` writes it" : "";
  throw new Problem(`cannot read ${address}: the server answered ${answer.status}${hint}`);
}

function checks(d: Description): [string, () => boolean][] {
  const all = (list: unknown, type: string) =>
    Array.isArray(list) && list.length > 0 && list.every((item) => typeof item === type);
  const positive = (value: unknown) => typeof value === "number" && value > 0;
  const said = <T>(read: () => T) => {
    try {
      return read();
    } catch {
      return undefined; // a part that it lies in is missing
    }
  };
  return [
    ["class names", () => all(said(() => d.metadata.classnames), "string")],
    ["eps and tau_threshold", () => positive(said(() => d.metadata.config.eps)) && positive(said(() => d.metadata.config.tau_threshold))],
    ["a size of square pictures", () => positive(said(() => d.metadata.preprocess.size[0])) && said(() => d.metadata.preprocess.size[0] === d.metadata.preprocess.size[1]) === true],
    ["bicubic pictures, cropped by the short side", () => said(() => d.metadata.preprocess.interpolation === "bicubic" && d.metadata.preprocess.resize_mode === "shortest") === true],
    ["the attack's eps, step_size and steps", () => [said(() => d.attack.eps), said(() => d.attack.step_size), said(() => d.attack.steps)].every(positive)],
    ["supplied pictures", () => said(() => d.pictures.every((p) => all([p.label, p.clean, p.attacked], "string"))) === true],
    ["drifts, clean and attacked", () => all(said(() => d.drift.clean), "number") && all(said(() => d.drift.attacked), "number")],
  ];
}
