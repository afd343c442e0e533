/** Something that the visitor is told in these words: what was expected, and what came. */
export class Problem extends Error {}

/** An error's words on one line of bounded length. */
export function words(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s+/g, " ").trim().slice(0, 300);
}
