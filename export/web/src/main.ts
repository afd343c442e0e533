import { Classifier } from "./classifier";
import { readChoices, readDescription } from "./description";
import { byId, make } from "./dom";
import { freshNoise, noiseFrom } from "./noise";
import { Page, report } from "./page";
import { Problem } from "./problem";
import { TITLES, available, started } from "./runtime";

const MODELS = "models";

/** What a visitor may choose by a link: a parameter's value, and what the link says. */
interface Offered {
  value: string;
  title: string;
}

async function start(): Promise<void> {
  const query = new URLSearchParams(location.search);
  const choices = await readChoices(MODELS);
  const wanted = query.get("model") ?? choices[0].folder;
  const chosen = choices.find(({ folder }) => folder === wanted);
  const models = choices.map(({ folder, title }) => ({ value: folder, title }));
  offer("model", "A tiny model of ", models, wanted);
  const here = await available();
  const name = query.get("runtime") ?? "wasm";
  offer("runtime", "Run by ", here.map((value) => ({ value, title: TITLES[value] })), name);
  const runtime = await started(name, here);
  if (!chosen) throw new Problem(`no model ${wanted} here; there is: ${choices.map((c) => c.folder).join(", ")}`);
  const folder = `${MODELS}/${chosen.folder}`;
  const description = await readDescription(folder);
  const { size } = description.metadata.preprocess;
  const length = 3 * size[0] * size[1];
  const least = Math.min(...description.defences.map(({ config }) => config.eps));
  const file = query.get("noise");
  const given = file === null ? undefined : await noiseFrom(file, length, least);
  const classifier = await Classifier.load(folder, description, runtime);
  const page = new Page(folder, description, runtime, classifier, (eps) => given ?? freshNoise(length, eps));
  byId("loading").hidden = true;
  byId("page").hidden = false;
  await page.open();
}

/** Links to what may be chosen, where there are several; the rest of the address stays. */
function offer(parameter: string, words: string, offered: Offered[], chosen: string): void {
  if (offered.length < 2) return;
  const links = offered.map(({ value, title }) => {
    const query = new URLSearchParams(location.search);
    query.set(parameter, value);
    const link = make("a", { href: `?${query}` }, title);
    if (value === chosen) link.setAttribute("aria-current", "page");
    return link;
  });
  byId(`${parameter}s`).replaceChildren(words, ...links);
  byId(`${parameter}s`).hidden = false;
}

addEventListener("error", (event) => report(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => report(event.reason));
start().catch((error: unknown) => {
  byId("loading").hidden = true;
  document.querySelector("main")!.setAttribute("aria-busy", "false");
  report(error);
});
