import { Classifier } from "./classifier";
import { type Choice, readChoices, readDescription } from "./description";
import { byId, make } from "./dom";
import { freshNoise, noiseFrom } from "./noise";
import { Page, report } from "./page";
import { Problem } from "./problem";

const MODELS = "models";

async function start(): Promise<void> {
  const query = new URLSearchParams(location.search);
  const choices = await readChoices(MODELS);
  const wanted = query.get("model") ?? choices[0].folder;
  const chosen = choices.find(({ folder }) => folder === wanted);
  offer(choices, chosen);
  if (!chosen) throw new Problem(`no model ${wanted} here; there is: ${choices.map((c) => c.folder).join(", ")}`);
  const folder = `${MODELS}/${chosen.folder}`;
  const description = await readDescription(folder);
  const { size } = description.metadata.preprocess;
  const length = 3 * size[0] * size[1];
  const least = Math.min(...description.defences.map(({ config }) => config.eps));
  const file = query.get("noise");
  const given = file === null ? undefined : await noiseFrom(file, length, least);
  const classifier = await Classifier.load(folder, description);
  const page = new Page(folder, description, classifier, (eps) => given ?? freshNoise(length, eps));
  byId("loading").hidden = true;
  byId("page").hidden = false;
  await page.open();
}

/** Links to the models, where there are several. */
function offer(choices: Choice[], chosen: Choice | undefined): void {
  if (choices.length < 2) return;
  const links = choices.map((choice) => {
    const link = make("a", { href: `?model=${encodeURIComponent(choice.folder)}` }, choice.title);
    if (choice === chosen) link.setAttribute("aria-current", "page");
    return link;
  });
  byId("models").replaceChildren("A tiny model of ", ...links);
  byId("models").hidden = false;
}

addEventListener("error", (event) => report(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => report(event.reason));
start().catch((error: unknown) => {
  byId("loading").hidden = true;
  document.querySelector("main")!.setAttribute("aria-busy", "false");
  report(error);
});
