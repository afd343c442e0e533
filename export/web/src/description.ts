/** What `models.py` says: in models.json of the models that there are, in classifier.json of one beside it. */
import { Problem, words as reason } from "./problem";

/** A model that the visitor may choose: its folder below that of models.json, and what it is of. */
export interface Choice {
  folder: string;
  title: string;
}

/** A picture and the same one attacked, as addresses of 8-bit PNG files. */
export interface Pair {
  label: string;
  clean: string;
  attacked: string;
  /** Presets of the defences that brought its label back, under the sample's draw of noise. */
  brought_back: string[];
}

/** eps, step_size: in [0, 1] pixel units. */
export interface AttackSettings {
  eps: number;
  step_size: number;
  steps: number;
}

/** A defence: its model is in the file named after its preset. */
export interface Defence {
  preset: string;
  title: string;
  /** Whether its answers depend on the noise. */
  randomised: boolean;
  config: { eps: number; tau_threshold: number; pass_through: string };
  /** What its gate measures, low of attacked pictures; null where it has none. */
  measure: { name: string; cosine: boolean } | null;
  /** What each stage does, in words, by the stage's name. */
  stages: Record<string, string>;
  /** What became of the pictures that the supplied ones are of, under one draw of noise; null where there are none. */
  sample: Sample | null;
}

export interface Sample {
  brought_back: number;
  lost_clean: number;
  /** What the gate measured of each picture, clean and attacked. */
  clean: number[];
  attacked: number[];
  /** Whether the gate, if there is one, tells the attacked ones from the clean ones, in words. */
  separation: string;
}

export interface Description {
  /** Of all the models. */
  metadata: {
    classnames: string[];
    preprocess: { size: [number, number]; interpolation: string; resize_mode: string };
    weights_sha256: string;
    versions: Record<string, string>;
    limits: string;
  };
  /** The first is the one that the page begins with. */
  defences: [Defence, ...Defence[]];
  attack: AttackSettings;
  pictures: Pair[];
  /** How many of the sample's pictures the attack turned. */
  turned: number;
  /** What is said of this model alone. */
  words: {
    /** What the model knows. */
    knows: string;
    /** What the supplied pictures are. */
    pictures: string;
    /** What stands before the name of a supplied one. */
    labelled: string;
    /** What the model is no evidence of. */
    limits: string;
  };
}

/** The models that there are; the first is the one that the page begins with. Throws a Problem as `readDescription`. */
export async function readChoices(folder: string): Promise<[Choice, ...Choice[]]> {
  const address = `${folder}/models.json`;
  const choices = await json(address);
  const named = (choice: Choice) => [choice.folder, choice.title].every((text) => typeof text === "string");
  if (!Array.isArray(choices) || choices.length === 0 || !choices.every(named)) {
    throw new Problem(`${address}: expected folders and titles, as models.py writes them`);
  }
  return choices as [Choice, ...Choice[]];
}

/** Throws a Problem where the file is missing, or is not what `models.py` writes. */
export async function readDescription(folder: string): Promise<Description> {
  const address = `${folder}/classifier.json`;
  const description = (await json(address)) as Description;
  let wrong: [string, boolean] | undefined;
  try {
    wrong = checks(description).find(([, holds]) => !holds);
  } catch (error) {
    throw new Problem(`${address}: not what models.py writes: ${reason(error)}`);
  }
  if (wrong) throw new Problem(`${address}: expected ${wrong[0]}, as models.py writes it`);
  return description;
}

async function json(address: string): Promise<unknown> {
  const text = new TextDecoder().decode(await fetched(address));
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Problem(`${address}: expected JSON as models.py writes it: ${reason(error)}`);
  }
}

/** The bytes of a file of this page. Throws a Problem where the server does not give it. */
export async function fetched(address: string): Promise<ArrayBuffer> {
  let answer: Response;
  try {
    answer = await fetch(address);
    if (answer.ok) return await answer.arrayBuffer();
  } catch (error) {
    throw new Problem(`cannot read ${address}: ${reason(error)}`);
  }
  const hint = answer.status === 404 ? "; `python export/web/models.py --out …` writes it" : "";
  throw new Problem(`cannot read ${address}: the server answered ${answer.status}${hint}`);
}

/** What must hold, in words. Throws where a part that others lie in is missing. */
function checks(d: Description): [string, boolean][] {
  const { metadata, defences, attack, pictures, words } = d;
  const samples = defences.flatMap(({ sample }) => (sample ? [sample] : []));
  const { preprocess } = metadata;
  const all = (list: unknown, type: string) =>
    Array.isArray(list) && list.length > 0 && list.every((item) => typeof item === type);
  const positive = (...values: unknown[]) => values.every((value) => typeof value === "number" && value > 0);
  const [height, width] = preprocess.size;
  return [
    ["class names", all(metadata.classnames, "string")],
    ["defences", defences.length > 0],
    ["eps", defences.every(({ config }) => positive(config.eps))],
    ["thresholds", defences.every(({ config }) => Number.isFinite(config.tau_threshold))],
    ["measures", samples.every((sample) => all(sample.clean, "number") && all(sample.attacked, "number"))],
    ["words of the model", all(Object.values(words), "string")],
    ["words of stages", defences.every(({ stages }) => all(Object.values(stages), "string"))],
    ["square pictures", positive(height) && height === width],
    ["bicubic pictures", preprocess.interpolation === "bicubic"],
    ["pictures cropped by the short side", preprocess.resize_mode === "shortest"],
    ["the attack's eps, step_size and steps", positive(attack.eps, attack.step_size, attack.steps)],
    ["supplied pictures", pictures.every((pair) => all([pair.label, pair.clean, pair.attacked], "string"))],
  ];
}
