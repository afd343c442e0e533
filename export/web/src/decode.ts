/** Picture files, as browsers decode them: upright, transparent parts white, no colour management. */
import { MAX_PIXELS, type Pixels, preprocessed } from "./pixels";
import { Problem } from "./problem";

/** A file's pixels at the model's size. Throws a Problem that names the file where it is no picture. */
export async function decoded(file: Blob, name: string, size: number): Promise<Pixels> {
  if (file.size === 0) throw new Problem(`${name}: expected a picture, got zero bytes`);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    const kind = file.type ? `, got ${file.type}` : "";
    throw new Problem(`${name}: not a picture that this browser can decode (PNG, JPEG, WebP and GIF do)${kind}`);
  }
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) {
      throw new Problem(`${name}: expected at most ${MAX_PIXELS} pixels, got ${width} × ${height}`);
    }
    return preprocessed({ width, height, channels: 4, data: onWhite(bitmap, name) }, size);
  } finally {
    bitmap.close();
  }
}

/** RGBA of which A is 255 throughout. */
function onWhite(bitmap: ImageBitmap, name: string): Uint8ClampedArray {
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  // Read back from memory, not from a GPU, which may round.
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  try {
    if (!context) throw new Error();
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height).data;
  } catch {
    throw new Problem(`${name}: ${width} × ${height} pixels are more than this browser can hold`);
  }
}
