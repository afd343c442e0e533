/** Pixels as the model takes them: float32 [3, H, W] in [0, 1], RGB; and as clipfast.preprocess makes them. */
import { Problem } from "./problem";
import { type Picture, resized } from "./resize";

export type Pixels = Float32Array<ArrayBuffer>;

/** A file that claims more is taken for a decompression bomb, as clipfast.preprocess takes it. */
export const MAX_PIXELS = 89_478_485;

/** The short side resized to `size` and the centre cut out. Throws a Problem for what is too long and narrow. */
export function preprocessed(picture: Picture, size: number): Pixels {
  const { width, height } = picture;
  const scaled = Math.floor((size * Math.max(width, height)) / Math.min(width, height));
  const [w, h] = width <= height ? [size, scaled] : [scaled, size];
  if (w * h > MAX_PIXELS) {
    throw new Problem(`expected a picture that can be resized, got ${width} × ${height}: too long and narrow`);
  }
  const whole = resized(picture, w, h);
  const left = halfToEven((w - size) / 2);
  const top = halfToEven((h - size) / 2);
  const pixels = new Float32Array(3 * size * size);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const from = ((y + top) * w + x + left) * whole.channels;
      for (let c = 0; c < 3; c++) pixels[(c * size + y) * size + x] = whole.data[from + c]! / 255;
    }
  }
  return pixels;
}

/** Python's round, for halves of whole numbers. */
function halfToEven(value: number): number {
  const below = Math.floor(value);
  return value === below ? below : below + (below % 2);
}
