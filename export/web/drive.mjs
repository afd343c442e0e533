// Drives the page in a real Chromium: node drive.mjs SCENARIO '{"chromium": PATH, "url": ADDRESS, ...}'
// Prints one JSON object: what the scenario found, every request that was made, and every error on the page.
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox", // Chromium's own sandbox does not work as root
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const scenarios = { answers, attack, threshold, presets, models, runtimes, refused, keyboard, layout, messages, isolation, screenshot };

const [name, text] = process.argv.slice(2);
const given = JSON.parse(text);
// A GPU's work done by the CPU, so that WebGPU can be tried anywhere.
const gpu = given.gpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : ["--disable-gpu"];
const browser = await chromium.launch({ executablePath: given.chromium, args: [...FLAGS, ...gpu] });
const requests = [];
const errors = [];
try {
  const found = (await scenarios[name](given)) ?? null;
  console.log(JSON.stringify({ found, requests, errors }));
} finally {
  await browser.close();
}

/**
 * A page of its own, once it has loaded and a preset is chosen: by its place, the first if none. options: of the
 * browser's context; set: called before it loads.
 */
async function open({ url, query = "", preset = 0 }, options = {}, set = async () => {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 900 }, ...options });
  context.on("request", (request) => requests.push(request.url()));
  const page = await context.newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await set(page);
  await page.goto(`${url}${query}`);
  await idle(page);
  if (preset) await defend(page, preset);
  return page;
}

async function defend(page, preset) {
  await page.click(`#defence label:nth-of-type(${preset + 1})`);
  await idle(page);
}

/** Waits until the page has nothing to do. */
async function idle(page) {
  await page.waitForSelector('main[aria-busy="false"]', { timeout: 60_000 });
}

/** What the page knows, with its arrays as lists. */
async function known(page) {
  await idle(page);
  return page.evaluate(() => {
    const lists = (value) =>
      ArrayBuffer.isView(value)
        ? Array.from(value)
        : value && typeof value === "object"
          ? Object.fromEntries(Object.entries(value).map(([key, held]) => [key, lists(held)]))
          : value;
    return lists(window.clipfast);
  });
}

async function choose(page, path) {
  await page.setInputFiles("#file", path);
  await idle(page);
}

/** Attacks the picture and returns what the table of steps says. */
async function attacked(page) {
  await page.click("#attack");
  await page.waitForSelector("#steps td");
  await idle(page);
  return page.$$eval("#steps tbody tr", (rows) =>
    rows.map((row) => [...row.querySelectorAll("td")].map((cell) => cell.textContent)),
  );
}

/** What the page answers for each of some files, and for a file that is dropped. */
async function answers({ files, dropped, ...where }) {
  const page = await open(where);
  const found = [];
  for (const file of files) {
    await choose(page, file);
    found.push({ ...(await known(page)), said: await page.innerText("#defended .best") });
  }
  const bytes = [...(await readFile(dropped))];
  await page.evaluate((data) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(data)], "dropped.png", { type: "image/png" }));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
  }, bytes);
  await page.waitForFunction(() => document.getElementById("input-caption").textContent === "dropped.png");
  return { chosen: found, dropped: await known(page) };
}

/** Attacks the first of the supplied clean pictures. */
async function attack({ most, ...where }) {
  const page = await open(where);
  const found = [];
  const clean = await page.$$("#gallery label:nth-child(odd)");
  for (const choice of clean.slice(0, most)) {
    await choice.click();
    await idle(page);
    const before = await known(page);
    const steps = await attacked(page);
    const after = await known(page);
    await page.click("#restore");
    found.push({ before, steps, after, restored: await known(page) });
  }
  return found;
}

/** Moves the threshold to both ends and back. */
async function threshold(where) {
  const page = await open(where);
  const found = [];
  const look = async () => {
    const { answer, threshold: at } = await known(page);
    const [at_mark, at_end] = await page.evaluate(() => [
      parseFloat(document.querySelector("#mark span").style.left),
      parseFloat(document.getElementById("zone").style.width),
    ]);
    found.push({
      at,
      countered: answer.countered,
      drift: answer.drift,
      places: [at_mark, at_end],
      logits: answer.logits,
      verdict: await page.innerText("#verdict"),
      value: await page.innerText("#threshold-value"),
    });
  };
  await look();
  await page.focus("#threshold");
  for (const key of ["Home", "End"]) {
    await page.keyboard.press(key);
    await look();
  }
  await page.click("#reset-threshold");
  await look();
  return found;
}

/** One picture by each defence in turn, and what the page says of them; then a switch while an attack goes on. */
async function presets(where) {
  const page = await open(where);
  const found = [];
  const look = async () => {
    const { pixels, noise, ...rest } = await known(page);
    const texts = {};
    const ids = ["stages", "measure-heading", "measure-words", "gallery-words", "below", "threshold-value"];
    for (const id of [...ids, "delta-caption"]) {
      texts[id] = await page.textContent(`#${id}`);
    }
    const ticks = await page.$$eval("#ticks span", (spans) => spans.map((span) => span.textContent));
    const measured = await page.isVisible("#measure");
    const drawable = await page.isVisible("#draw-noise");
    found.push({ ...rest, pixels, noise, texts, ticks, measured, drawable, steps: await page.$$eval("#steps td", (cells) => cells.length) });
  };
  await look();
  await defend(page, 1);
  await look();
  await attacked(page);
  await look();
  await page.focus("#threshold");
  await page.keyboard.press("Home");
  await defend(page, 0);
  await look();
  await defend(page, 1);
  await look();
  await page.click("#attack");
  await page.waitForSelector("#steps td");
  await defend(page, 0);
  await page.waitForTimeout(500);
  await look();
  return found;
}

/** From one model to another that brings no pictures, with which a file is answered and attacked; and one that is not there. */
async function models({ file, ...where }) {
  const page = await open(where);
  const seen = [];
  const look = async () =>
    seen.push({
      current: await page.innerText("#models [aria-current]"),
      gallery: await page.isVisible("#gallery"),
      answers: await page.isVisible(".answer"),
      measured: await page.isVisible("#measure"),
      knows: await page.innerText("#knows"),
      caption: await page.textContent("#input-caption"),
      below: await page.textContent("#below"),
    });
  const links = await page.$$eval("#models a", (all) => all.map((link) => link.textContent));
  await look();
  await page.click("#models a:not([aria-current])");
  await idle(page);
  await look();
  await choose(page, file);
  await defend(page, 1);
  await look();
  const steps = await attacked(page);
  const missing = await open({ ...where, query: "?model=nothing" });
  return { links, seen, steps, attacked: await known(page), missing: await missing.innerText("#message") };
}

/** What may run the model, what does, and its answer; countered: at the end of the scale. */
async function runtimes({ countered = false, ...where }) {
  const page = await open(where);
  if (countered) {
    await page.focus("#threshold");
    await page.keyboard.press("End");
  }
  const links = await page.$$eval("#runtimes a", (all) => all.map((link) => [link.textContent, link.getAttribute("href")]));
  const current = await page.$$eval("#runtimes [aria-current]", (all) => all.map((link) => link.textContent));
  const said = await page.textContent("#ran");
  return { links, current, said, threads: page.workers().length, known: await known(page) };
}

/** What the page says that does not start. */
async function refused(where) {
  return (await open(where)).innerText("#message");
}

/** Does everything without a mouse. */
async function keyboard({ file, ...where }) {
  const page = await open(where);
  const dialog = page.waitForEvent("filechooser", { timeout: 120_000 }); // it takes a moment to listen
  const stops = [];
  const seen = async () => {
    const stop = await page.evaluate(() => {
      const { id, name, tagName } = document.activeElement;
      const style = getComputedStyle(document.activeElement.parentElement.querySelector("img") ?? document.activeElement);
      return { stop: id || name || tagName, outline: `${style.outlineWidth} ${style.outlineColor}` };
    });
    stops.push(stop);
    return stop.stop;
  };
  const tabTo = async (wanted) => {
    for (let k = 0; k < 12; k++) {
      await page.keyboard.press("Tab");
      if ((await seen()) === wanted) return;
    }
    throw new Error(`Tab does not come to ${wanted}: ${JSON.stringify(stops)}`);
  };
  const caption = () => page.innerText("#input-caption");
  await tabTo("supplied");
  const first = await caption();
  await page.keyboard.press("ArrowRight");
  await page.waitForFunction((before) => document.getElementById("input-caption").textContent !== before, first);
  const second = await caption();
  await tabTo("choose");
  await page.keyboard.press("Enter");
  await (await dialog).setFiles(file);
  await page.waitForFunction((before) => document.getElementById("input-caption").textContent !== before, second);
  const third = await caption();
  await tabTo("defence");
  await page.keyboard.press("ArrowRight");
  const preset = (await known(page)).preset;
  await page.keyboard.press("ArrowLeft");
  const back = (await known(page)).preset;
  await page.keyboard.press("ArrowRight"); // the published defence draws noise
  await tabTo("threshold");
  const before = (await known(page)).threshold;
  await page.keyboard.press("ArrowRight");
  const after = (await known(page)).threshold;
  await tabTo("reset-threshold");
  await page.keyboard.press("Enter");
  const reset = (await known(page)).threshold;
  await tabTo("draw-noise");
  const noise = [(await known(page)).noise];
  await page.keyboard.press("Space");
  noise.push((await known(page)).noise);
  await tabTo("eps");
  await page.keyboard.press("ArrowRight");
  await tabTo("attack");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#steps td");
  const { pixels, clean } = await known(page);
  await tabTo("restore");
  await page.keyboard.press("Enter");
  const restored = await known(page);
  const furthest = Math.max(...pixels.map((value, i) => Math.abs(value - clean[i])));
  return {
    stops,
    captions: [first, second, third],
    presets: [preset, back],
    thresholds: [before, after, reset],
    redrawn: noise[0].some((value, i) => value !== noise[1][i]),
    furthest,
    restored: restored.pixels.every((value, i) => value === clean[i]),
  };
}

/** Widths and the least contrast of text, on a wide and a narrow screen, in light and dark. */
async function layout(where) {
  const found = [];
  const page = await open(where);
  await attacked(page);
  await page.evaluate(() => {
    const message = document.getElementById("message");
    message.hidden = false;
    message.textContent = "a message";
  });
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [360, 1100]) {
      await page.setViewportSize({ width, height: 800 });
      await page.emulateMedia({ colorScheme });
      found.push({ colorScheme, width, ...(await page.evaluate(measured)) });
    }
  }
  return found;
}

/** Runs on the page. Contrast is WCAG's, of each element that has text of its own. */
function measured() {
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
  const ground = (element) => {
    const below = element.parentElement ? ground(element.parentElement) : [255, 255, 255];
    return over(channels(getComputedStyle(element).backgroundColor), below);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = [...document.body.querySelectorAll("*")].filter(
    (element) =>
      element.checkVisibility() &&
      [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()),
  );
  const contrasts = texts.map((element) => {
    const below = ground(element);
    const colour = over(channels(getComputedStyle(element).color), below);
    const [dark, bright] = [light(colour), light(below)].sort((a, b) => a - b);
    return { text: element.textContent.trim().slice(0, 40), contrast: (bright + 0.05) / (dark + 0.05) };
  });
  return {
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    background: getComputedStyle(document.body).backgroundColor,
    least: contrasts.reduce((least, other) => (other.contrast < least.contrast ? other : least)),
    texts: contrasts.length,
  };
}

/** What the page says of files that are wrong: pictures, then files of its own that are replaced. */
async function messages({ pictures, replaced, ...where }) {
  const found = {};
  const said = (page) => page.locator("#message").innerText();
  const page = await open(where);
  for (const file of pictures) {
    await choose(page, file);
    found[file] = { message: await said(page), kept: await page.innerText("#input-caption") };
  }
  await page.evaluate(() => {
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: new DataTransfer(), cancelable: true }));
  });
  await idle(page);
  found.text = { message: await said(page) };
  await page.click("#gallery label:nth-child(3)");
  await idle(page);
  found.after = { hidden: await page.locator("#message").isHidden() };
  const noise = await open({ ...where, query: "?noise=models/drawn/classifier.json" });
  found.noise = { message: await said(noise) };
  for (const [title, { file, status, body }] of Object.entries(replaced)) {
    const broken = await open(where, {}, (fresh) =>
      fresh.route(`**/models/drawn/${file}`, (route) =>
        body === undefined ? route.fulfill({ status: status }) : route.fulfill({ path: body }),
      ),
    );
    if (file === "gradient.onnx") await broken.click("#attack");
    if (file === "published.onnx") await defend(broken, 1);
    await broken.waitForSelector("#message:not([hidden])");
    const chosen = await broken.$$eval("#defence input", (choices) => choices.findIndex((choice) => choice.checked));
    found[title] = { message: await said(broken), heading: await broken.innerText("h1"), chosen };
    await broken.context().close();
  }
  errors.length = 0; // a missing file is an error on the console too
  return found;
}

/** What the page's own policy refuses: another origin, and code from text. */
async function isolation({ elsewhere, ...where }) {
  const page = await open(where);
  const refused = await page.evaluate(async (address) => {
    const directives = [];
    document.addEventListener("securitypolicyviolation", (event) => directives.push(event.effectiveDirective));
    await fetch(address).catch(() => undefined);
    const image = new Image();
    await new Promise((done) => {
      image.onload = image.onerror = done;
      image.src = address;
    });
    const script = document.createElement("script");
    script.textContent = "window.ran = true";
    document.head.append(script);
    await new Promise((done) => setTimeout(done, 100));
    return { directives, ran: window.ran === true };
  }, elsewhere);
  requests.length = errors.length = 0; // those that were refused
  return refused;
}

/**
 * The page after a live attack, without what it does not show. tries: how many supplied pictures are attacked, one
 * after the other, until the attack turns a label and the defence brings it back.
 */
async function screenshot({ path, tries, width = 1000, colorScheme = "light", ...where }) {
  const page = await open(where, { viewport: { width, height: 900 }, colorScheme });
  const clean = await page.$$("#gallery label:nth-child(odd)");
  for (let k = 0; k < tries; k++) {
    await clean[k % clean.length].click();
    await idle(page);
    const [without, defended] = await attacked(page);
    if (without.at(-1) === "✗" && defended.at(-1) === "✓") break;
  }
  await page.evaluate(() => {
    document.activeElement.blur();
    scrollTo(0, 0);
  });
  const { y, height } = await page.locator("#page").boundingBox();
  await page.screenshot({ path, fullPage: true, clip: { x: 0, y: 0, width, height: y + height } });
}
