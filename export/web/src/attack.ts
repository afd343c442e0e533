/** Projected gradient ascent (Madry et al., ICLR 2018) on the undefended model: what the page attacks with. */
import type { AttackSettings } from "./description";
import { freshNoise } from "./noise";
import type { Pixels } from "./pixels";

/** The gradient of the cross-entropy to the pixels, [3, H, W]. */
export type Gradient = (pixels: Pixels) => Promise<Float32Array>;

/**
 * After each step, the nearest 8-bit picture within eps of `clean`, which is one itself; from a random start.
 * eps: a whole number of grey levels, as k / 255.
 */
export async function* attacked(
  gradient: Gradient,
  clean: Pixels,
  { eps, step_size, steps }: AttackSettings,
): AsyncGenerator<Pixels> {
  const noise = freshNoise(clean.length, eps);
  let x = clean.map((value, i) => within(value + noise[i]!, value, eps));
  for (let step = 0; step < steps; step++) {
    const g = await gradient(x);
    x = x.map((value, i) => within(value + step_size * Math.sign(g[i]!), clean[i]!, eps));
    yield x.map((value) => Math.round(value * 255) / 255);
  }
}

function within(value: number, clean: number, eps: number): number {
  return Math.min(1, clean + eps, Math.max(0, clean - eps, value));
}
