/** The exported classifier in ONNX Runtime's WebAssembly build, one thread, one picture at a time. */
import * as ort from "onnxruntime-web/wasm";
import wasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

import type { Gradient } from "./attack";
import { type Description, fetched } from "./description";
import type { Noise } from "./noise";
import type { Pixels } from "./pixels";
import { Problem, words } from "./problem";

/** What the model says of one picture; milliseconds are medians of a few runs. */
export interface Answer {
  logits: Float32Array;
  undefendedLogits: Float32Array;
  drift: number;
  countered: boolean;
  /** The counter-perturbation [3, H, W] in [0, 1] pixel units: the noise it starts with, where none is countered. */
  delta: Float32Array;
  defendedMs: number;
  undefendedMs: number;
}

type Shape = readonly (number | null)[]; // null: any

const RUNS = 3;

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm };

export class Classifier {
  private attackable: Promise<ort.InferenceSession> | undefined;

  private constructor(
    private readonly folder: string,
    private readonly description: Description,
    private readonly defended: ort.InferenceSession,
    private readonly undefended: ort.InferenceSession,
  ) {}

  /** Throws a Problem for model files that are missing, broken or not those that classifier.json describes. */
  static async load(folder: string, description: Description): Promise<Classifier> {
    const [picture, classes] = shapes(description);
    const defended = await session(`${folder}/defended.onnx`, {
      inputs: { pixels: [null, ...picture], noise: [null, ...picture], tau_threshold: [null] },
      outputs: {
        logits: [null, classes],
        undefended_logits: [null, classes],
        drift: [null],
        countered: [null],
        delta: [null, ...picture],
      },
    });
    const undefended = await session(`${folder}/undefended.onnx`, {
      inputs: { pixels: [1, ...picture] },
      outputs: { logits: [1, classes] },
    });
    return new Classifier(folder, description, defended, undefended);
  }

  /** Throws a Problem where the answer is not finite. */
  async classify(pixels: Pixels, noise: Noise, threshold: number): Promise<Answer> {
    const x = this.picture(pixels);
    const inputs = {
      pixels: x,
      noise: this.picture(noise),
      tau_threshold: new ort.Tensor("float32", [threshold], [1]),
    };
    const times: { defended: number[]; undefended: number[] } = { defended: [], undefended: [] };
    let outputs!: ort.InferenceSession.OnnxValueMapType;
    for (let run = 0; run < RUNS; run++) {
      let start = performance.now();
      await this.undefended.run({ pixels: x });
      times.undefended.push(performance.now() - start);
      start = performance.now();
      outputs = await this.defended.run(inputs);
      times.defended.push(performance.now() - start);
    }
    const answer = {
      logits: floats(outputs, "logits"),
      undefendedLogits: floats(outputs, "undefended_logits"),
      drift: floats(outputs, "drift")[0]!,
      countered: Boolean((outputs["countered"] as ort.Tensor).data[0]),
      delta: floats(outputs, "delta"),
      defendedMs: median(times.defended),
      undefendedMs: median(times.undefended),
    };
    if (![answer.drift, ...answer.logits, ...answer.undefendedLogits].every(Number.isFinite)) {
      throw new Problem(`expected a finite drift and logits, got drift ${answer.drift}: the model gives no answer`);
    }
    return answer;
  }

  /** The gradient of an attack on the undefended model, away from a class. Loads its file when first called. */
  async gradient(label: number): Promise<Gradient> {
    const [picture, classes] = shapes(this.description);
    this.attackable ??= session(`${this.folder}/gradient.onnx`, {
      inputs: { pixels: [1, ...picture], label: [1] },
      outputs: { logits: [1, classes], gradient: [1, ...picture] },
    });
    const loaded = await this.attackable.catch((error: unknown) => {
      this.attackable = undefined;
      throw error;
    });
    const wanted = new ort.Tensor("int64", [BigInt(label)], [1]);
    return async (pixels) =>
      floats(await loaded.run({ pixels: this.picture(pixels), label: wanted }), "gradient");
  }

  private picture(values: Float32Array<ArrayBuffer>): ort.Tensor {
    return new ort.Tensor("float32", values, [1, ...shapes(this.description)[0]]);
  }
}

function shapes({ metadata }: Description): [[number, number, number], number] {
  return [[3, ...metadata.preprocess.size], metadata.classnames.length];
}

function floats(outputs: ort.InferenceSession.OnnxValueMapType, name: string): Float32Array {
  return (outputs[name] as ort.Tensor).data as Float32Array;
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

async function session(
  address: string,
  expected: { inputs: Record<string, Shape>; outputs: Record<string, Shape> },
): Promise<ort.InferenceSession> {
  const bytes = await fetched(address);
  let made: ort.InferenceSession;
  try {
    made = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Problem(`${address}: ONNX Runtime cannot load it; it is truncated, or of another format: ${words(error)}`);
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
  found: readonly ort.InferenceSession.ValueMetadata[],
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
