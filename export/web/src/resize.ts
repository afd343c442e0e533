/**
 * Pillow's antialiased bicubic resize of 8-bit RGB, to the bit: first along rows, then along columns, each with
 * weights in fixed point and a result rounded to 8 bits. Keys, "Cubic convolution interpolation for digital
 * image processing", 1981, with a = -1/2, widened where a picture is made smaller.
 */

/** 8-bit samples, row by row, `channels` of them a pixel, of which the first three are RGB. */
export interface Picture {
  width: number;
  height: number;
  channels: 3 | 4;
  data: Uint8Array | Uint8ClampedArray;
}

const SUPPORT = 2;
const BITS = 22; // of a weight's fraction

/** The picture at another size, RGB. */
export function resized(picture: Picture, width: number, height: number): Picture {
  const across = picture.width === width ? picture : alongRows(picture, width);
  return across.height === height ? across : alongColumns(across, height);
}

/** For each output sample, where its input samples begin and their weights, times 2^BITS. */
interface Weights {
  first: Int32Array;
  weights: Int32Array[];
}

function weightsFor(from: number, to: number): Weights {
  const scale = from / to;
  const widened = Math.max(scale, 1);
  const reach = SUPPORT * widened;
  const first = new Int32Array(to);
  const weights: Int32Array[] = [];
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const exact = Array.from({ length: end - begin }, (_, k) => bicubic((k + begin - centre + 0.5) * (1 / widened)));
    const total = exact.reduce((sum, w) => sum + w, 0);
    first[i] = begin;
    weights.push(
      Int32Array.from(exact, (w) => {
        const scaled = (total ? w * (1 / total) : w) * 2 ** BITS;
        return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
      }),
    );
  }
  return { first, weights };
}

function bicubic(distance: number): number {
  const a = -0.5;
  const x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

function alongRows(picture: Picture, width: number): Picture {
  const { height, channels, data } = picture;
  const out = new Uint8Array(width * height * 3);
  const { first, weights } = weightsFor(picture.width, width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const begin = (y * picture.width + first[x]!) * channels;
      weighted(data, begin, channels, weights[x]!, out, (y * width + x) * 3);
    }
  }
  return { width, height, channels: 3, data: out };
}

function alongColumns(picture: Picture, height: number): Picture {
  const { width, channels, data } = picture;
  const out = new Uint8Array(width * height * 3);
  const { first, weights } = weightsFor(picture.height, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const begin = (first[y]! * width + x) * channels;
      weighted(data, begin, width * channels, weights[y]!, out, (y * width + x) * 3);
    }
  }
  return { width, height, channels: 3, data: out };
}

/** One pixel: the weighted samples from `begin` on, `stride` apart. */
function weighted(
  data: Uint8Array | Uint8ClampedArray,
  begin: number,
  stride: number,
  weights: Int32Array,
  out: Uint8Array,
  at: number,
): void {
  let r = 1 << (BITS - 1);
  let g = r;
  let b = r;
  for (let k = 0, from = begin; k < weights.length; k++, from += stride) {
    const w = weights[k]!;
    r += data[from]! * w;
    g += data[from + 1]! * w;
    b += data[from + 2]! * w;
  }
  out[at] = clipped(r);
  out[at + 1] = clipped(g);
  out[at + 2] = clipped(b);
}

function clipped(sum: number): number {
  return Math.min(255, Math.max(0, sum >> BITS));
}
