/** The start of the counterattack: float32 of U(-eps, eps), eps in [0, 1] pixel units. */
import { fetched } from "./description";
import { Problem } from "./problem";

export type Noise = Float32Array<ArrayBuffer>;

const MOST_BYTES = 65536; // that a browser draws at a time

/** From the browser's cryptographic generator, on the grid that clipfast.inputs.philox draws on. */
export function freshNoise(length: number, eps: number): Noise {
  const words = new Uint32Array(length);
  for (let i = 0; i < length; i += MOST_BYTES / 4) {
    crypto.getRandomValues(words.subarray(i, i + MOST_BYTES / 4));
  }
  const unit = Math.fround(eps * 2 ** -23);
  return Float32Array.from(words, (word) => ((word >>> 8) - 2 ** 23) * unit);
}

/** From a file of this page: raw float32, little-endian. Throws a Problem for another length and for more than eps. */
export async function noiseFrom(address: string, length: number, eps: number): Promise<Noise> {
  if (new URL(address, location.href).origin !== location.origin) {
    throw new Problem(`expected noise from this page's own server, got ${address}`);
  }
  const bytes = await fetched(address);
  if (bytes.byteLength !== 4 * length) {
    throw new Problem(`${address}: expected ${4 * length} bytes of float32 noise, got ${bytes.byteLength}`);
  }
  const noise = new Float32Array(bytes);
  if (!noise.every((value) => Math.abs(value) <= eps + 1e-6)) {
    throw new Problem(`${address}: expected noise within eps = ${eps}`);
  }
  return noise;
}
