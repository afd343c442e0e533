/** Pixels and perturbations on canvases. */
import type { Pixels } from "./pixels";

export function showPixels(canvas: HTMLCanvasElement, pixels: Pixels, size: number): void {
  paint(canvas, size, (i) => pixels[i]! * 255);
}

/** Around mid-grey, `times` as strong. */
export function showMagnified(
  canvas: HTMLCanvasElement,
  perturbation: Float32Array,
  size: number,
  times: number,
): void {
  paint(canvas, size, (i) => 128 + perturbation[i]! * 255 * times);
}

/** value: of an index into [3, H, W], in grey levels, rounded and cut to 0..255 as it is painted. */
function paint(canvas: HTMLCanvasElement, size: number, value: (index: number) => number): void {
  canvas.width = canvas.height = size;
  const plane = size * size;
  const data = new Uint8ClampedArray(4 * plane).fill(255);
  for (let i = 0; i < 3 * plane; i++) data[(i % plane) * 4 + Math.floor(i / plane)] = value(i);
  canvas.getContext("2d")?.putImageData(new ImageData(data, size, size), 0, 0);
}
