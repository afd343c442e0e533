import { Classifier } from "./classifier";
import { readDescription } from "./description";
import { byId } from "./dom";
import { freshNoise, noiseFrom } from "./noise";
import { Page, report } from "./page";

const MODELS = "models";

async function start(): Promise<void> {
  const description = await readDescription(MODELS);
  const { size } = description.metadata.preprocess;
  const length = 3 * size[0] * size[1];
  const least = Math.min(...description.defences.map(({ config }) => config.eps));
  const file = new URLSearchParams(location.search).get("noise");
  const given = file === null ? undefined : await noiseFrom(file, length, least);
  const classifier = await Classifier.load(MODELS, description);
  const page = new Page(MODELS, description, classifier, (eps) => given ?? freshNoise(length, eps));
  byId("loading").hidden = true;
  byId("page").hidden = false;
  await page.open();
}

addEventListener("error", (event) => report(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => report(event.reason));
start().catch((error: unknown) => {
  byId("loading").hidden = true;
  document.querySelector("main")!.setAttribute("aria-busy", "false");
  report(error);
});
