/** What runs the models in this browser: ONNX Runtime's WebAssembly build, or its WebGPU build. */
import type * as Ort from "onnxruntime-web";
import wasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import loader from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import gpuWasm from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import gpuLoader from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url";

import { Problem } from "./problem";

const NAMES = ["wasm", "webgpu"] as const;
export type RuntimeName = (typeof NAMES)[number];

export interface Runtime {
  name: RuntimeName;
  /** In words. */
  title: string;
  ort: typeof Ort;
}

export const TITLES: Record<RuntimeName, string> = { wasm: "WebAssembly", webgpu: "WebGPU" };

const MOST_THREADS = 4; // more gain nothing on a model of this size

/** Those that this browser has. */
export async function available(): Promise<RuntimeName[]> {
  // Its types are not in TypeScript's own library.
  const { gpu } = navigator as { gpu?: { requestAdapter(): Promise<object | null> } };
  return (await gpu?.requestAdapter()) ? [...NAMES] : ["wasm"];
}

/** Throws a Problem for a runtime that this browser has not. */
export async function started(wanted: string, here: RuntimeName[]): Promise<Runtime> {
  const name = here.find((other) => other === wanted);
  if (!name) throw new Problem(`this browser has no runtime ${wanted}; it has: ${here.join(", ")}`);
  const ort = await (name === "wasm" ? import("onnxruntime-web/wasm") : import("onnxruntime-web/webgpu"));
  ort.env.wasm.wasmPaths = name === "wasm" ? { wasm, mjs: loader } : { wasm: gpuWasm, mjs: gpuLoader };
  // Threads share memory, which browsers allow to pages that are isolated from other origins.
  const threads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  ort.env.wasm.numThreads = threads;
  const title = name === "webgpu" ? "WebGPU" : `WebAssembly on ${threads === 1 ? "one thread" : `${threads} threads`}`;
  return { name, title, ort };
}
