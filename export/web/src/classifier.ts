/** The exported classifier in a runtime, one picture at a time. */
import type * as Ort from "onnxruntime-web";

import type { Gradient } from "./attack";
import { type Defence, type Description, fetched } from "./description";
import type { Noise } from "./noise";
import type { Pixels } from "./pixels";
import { Problem, words } from "./problem";
import type { Runtime } from "./runtime";

/** What the model says of one picture; milliseconds are medians of a few runs. */
export interface Answer {
  logits: Float32Array;
  undefendedLogits: Float32Array;
  /** What the gate measured. */
  drift: number;
  countered: boolean;
  /** The perturbation [3, H, W] in [0, 1] pixel units that the answer is of: the counterattack's, or as one passes. */
  delta: Float32Array;
  defendedMs: number;
  undefendedMs: number;
}

type Shape = readonly (number | null)[]; // null: any

interface Ports {
  inputs: Record<string, Shape>;
  outputs: Record<string, Shape>;
}

const RUNS = 3;
const WEIGHTS = "weights.bin"; // of all the models, under the name that they have for it

export class Classifier {
  private readonly sessions = new Map<string, Promise<Ort.InferenceSession>>();
  private readonly defended: Ports;
  private readonly undefended: Ports;
  private readonly attackable: Ports;

  private constructor(
    private readonly folder: string,
    private readonly description: Description,
    private readonly weights: Uint8Array,
    private readonly runtime: Runtime,
  ) {
    const [picture, classes] = shapes(description);
    this.defended = {
      inputs: { pixels: [null, ...picture], noise: [null, ...picture], tau_threshold: [null] },
      outputs: {
        logits: [null, classes],
        undefended_logits: [null, classes],
        drift: [null],
        countered: [null],
        delta: [null, ...picture],
      },
    };
    this.undefended = { inputs: { pixels: [1, ...picture] }, outputs: { logits: [1, classes] } };
    this.attackable = {
      inputs: { pixels: [1, ...picture], label: [1] },
      outputs: { logits: [1, classes], gradient: [1, ...picture] },
    };
  }

  /**
   * With what the first answer takes; the rest is loaded when it is asked for. Throws a Problem for model files that
   * are missing, broken or not those that classifier.json describes.
   */
  static async load(folder: string, description: Description, runtime: Runtime): Promise<Classifier> {
    const weights = new Uint8Array(await fetched(`${folder}/${WEIGHTS}`));
    const classifier = new Classifier(folder, description, weights, runtime);
    await classifier.prepare(description.defences[0]);
    await classifier.session("undefended", classifier.undefended);
    return classifier;
  }

  /** Loads a defence. Throws as `load` does. */
  async prepare({ preset }: Defence): Promise<void> {
    await this.session(preset, this.defended);
  }

  /** By a defence, with noise within its eps. Throws a Problem where the answer is not finite, and as `load` does. */
  async classify(defence: Defence, pixels: Pixels, noise: Noise, threshold: number): Promise<Answer> {
    const defended = await this.session(defence.preset, this.defended);
    const undefended = await this.session("undefended", this.undefended);
    const x = this.picture(pixels);
    const inputs = {
      pixels: x,
      noise: this.picture(noise),
      tau_threshold: new this.runtime.ort.Tensor("float32", [threshold], [1]),
    };
    const times: { defended: number[]; undefended: number[] } = { defended: [], undefended: [] };
    let outputs!: Ort.InferenceSession.OnnxValueMapType;
    for (let run = 0; run < RUNS; run++) {
      let start = performance.now();
      await undefended.run({ pixels: x });
      times.undefended.push(performance.now() - start);
      start = performance.now();
      outputs = await defended.run(inputs);
      times.defended.push(performance.now() - start);
    }
    const answer = {
      logits: floats(outputs, "logits"),
      undefendedLogits: floats(outputs, "undefended_logits"),
      drift: floats(outputs, "drift")[0]!,
      countered: Boolean((outputs["countered"] as Ort.Tensor).data[0]),
      delta: floats(outputs, "delta"),
      defendedMs: median(times.defended),
      undefendedMs: median(times.undefended),
    };
    if (![answer.drift, ...answer.logits, ...answer.undefendedLogits].every(Number.isFinite)) {
      const got = `${defence.measure?.name ?? "drift"} ${answer.drift}`;
      throw new Problem(`expected a finite measure and logits, got ${got}: the model gives no answer`);
    }
    return answer;
  }

  /** The gradient of an attack on the undefended model, away from a class. Throws as `load` does. */
  async gradient(label: number): Promise<Gradient> {
    const loaded = await this.session("gradient", this.attackable);
    const wanted = new this.runtime.ort.Tensor("int64", [BigInt(label)], [1]);
    return async (pixels) =>
      floats(await loaded.run({ pixels: this.picture(pixels), label: wanted }), "gradient");
  }

  /** A model of the folder, loaded when it is first asked for, or again after a failure. */
  private session(name: string, ports: Ports): Promise<Ort.InferenceSession> {
    let made = this.sessions.get(name);
    if (!made) {
      made = session(`${this.folder}/${name}.onnx`, this.weights, ports, this.runtime);
      this.sessions.set(name, made);
      made.catch(() => this.sessions.delete(name));
    }
    return made;
  }

  private picture(values: Float32Array<ArrayBuffer>): Ort.Tensor {
    return new this.runtime.ort.Tensor("float32", values, [1, ...shapes(this.description)[0]]);
  }
}

function shapes({ metadata }: Description): [[number, number, number], number] {
  return [[3, ...metadata.preprocess.size], metadata.classnames.length];
}

function floats(outputs: Ort.InferenceSession.OnnxValueMapType, name: string): Float32Array {
  return (outputs[name] as Ort.Tensor).data as Float32Array;
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

async function session(
  address: string,
  weights: Uint8Array,
  expected: Ports,
  { ort, name }: Runtime,
): Promise<Ort.InferenceSession> {
  const bytes = await fetched(address);
  let made: Ort.InferenceSession;
  try {
    made = await ort.InferenceSession.create(new Uint8Array(bytes), {
      executionProviders: [name],
      logSeverityLevel: 3, // it would warn of operators of shapes, which WebGPU leaves to the CPU
      externalData: [{ path: WEIGHTS, data: weights }],
    });
  } catch (error) {
    throw new Problem(
      `${address}: ONNX Runtime cannot load it; it or ${WEIGHTS} is truncated, or of another format: ${words(error)}`,
    );
  }
  check(address, "input", expected.inputs, made.inputMetadata);
  check(address, "output", expected.outputs, made.outputMetadata);
  return made;
}

/** Throws a Problem where a graph's inputs or outputs are not those that classifier.json describes. */
function check(
  address: string,
  kind: string,
  expected: Record<string, Shape>,
  found: readonly Ort.InferenceSession.ValueMetadata[],
): void {
  const names = new Set([...Object.keys(expected), ...found.map((value) => value.name)]);
  for (const name of names) {
    const value = found.find((other) => other.name === name);
    const shape = value?.isTensor ? value.shape.map((size) => (typeof size === "number" ? size : null)) : undefined;
    if (written(expected[name]) !== written(shape)) {
      throw new Problem(
        `${address}: another model than classifier.json describes: expected ${written(expected[name])} ` +
          `as ${kind} ${name}, got ${written(shape)}`,
      );
    }
  }
}

function written(shape: Shape | undefined): string {
  return shape ? `[${shape.map((size) => size ?? "any").join(", ")}]` : "nothing";
}
